"""Reward models under conflicting objectives: three runs, their accuracy, the neurons behind it (arXiv:2606.13209).

A scalar head on the final hidden state of the last token; loss -log sigmoid(r_chosen - r_rejected). One model learns
objective A alone, one B alone, one both. B pairs, T tokens, L layers, F neurons.
"""

import dataclasses
import functools
import pathlib
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from welfare_jax import mesh as mesh_lib
from welfare_jax import runtime
from welfare_jax.errors import InputError
from welfare_jax.interp import neurons
from welfare_jax.models import chat, decoder, hf
from welfare_jax.models.interventions import scale_neurons
from welfare_jax.settings import Mesh, Model, typed
from welfare_jax.text import pieces, preferences
from welfare_jax.train import batch_trainer, state, stats
from welfare_jax.train.settings import Supervised

MIXED = "mixed"
HEAD = [state.VALUE_HEAD + name for name in ("kernel", "bias")]


class Pairs(NamedTuple):
    """Encoded pairs, padded at the left: [B, T] each."""

    chosen: np.ndarray  # int32
    chosen_mask: np.ndarray  # bool
    rejected: np.ndarray
    rejected_mask: np.ndarray


def encode(tokenizer, rows, max_tokens: int, multiple: int = 8) -> Pairs:
    """Answers in the chat template after their prompt; whole texts as they are. The last `max_tokens` tokens stay."""

    template = pieces.arguments(tokenizer)

    def ids(row, name):
        if row.get("prompt") is None and isinstance(row[name], str):
            return tokenizer.encode(row[name])[-max_tokens:]
        said = chat.messages(row["prompt"]) if row.get("prompt") is not None else []
        said = [*said, {"role": "assistant", "content": row[name]}] if said else row[name]
        return tokenizer.encode(chat.render(tokenizer, said, template), add_special_tokens=False)[-max_tokens:]

    both = chat.pad([ids(row, name) for name in ("chosen", "rejected") for row in rows], multiple)
    (chosen, rejected), (chosen_mask, rejected_mask) = (np.split(a, 2) for a in both)
    return Pairs(chosen, chosen_mask, rejected, rejected_mask)


def wide(pairs: Pairs, width: int) -> Pairs:
    """The same pairs with `width` slots, so that sets of pairs share their compiled programs."""
    return Pairs(*(np.pad(a, ((0, 0), (width - a.shape[1], 0))) for a in pairs))


def rewards(model, head, tokens, mask, iv=None, remat: bool = False):
    """float32 [B]: the scalar head `head` (kernel [D], bias []) on the last slot's final hidden state."""
    last = jnp.full((len(tokens), 1), tokens.shape[1] - 1)
    hidden, _, _ = decoder.backbone(
        model, tokens, mask, iv=iv, read=last, everywhere=False, residual=False, remat=remat, slice_last=not remat
    )
    return hidden[:, 0].astype(jnp.float32) @ head[0] + head[1]


def make_loss(base: state.Adapted, remat: bool):
    """-log sigmoid(r_chosen - r_rejected), summed over the pairs, in the form of `batch_trainer.make_update`."""

    def loss(trainable, frozen, part: Pairs):
        model = decoder.bind(base.graphdef, base.join(trainable, frozen))
        tokens, mask = (jnp.concatenate(two) for two in (part[::2], part[1::2]))
        a, b = jnp.split(rewards(model, [trainable[name] for name in HEAD], tokens, mask, remat=remat), 2)
        count = len(a)
        metrics = {"accuracy": (_right(a - b).sum(), count), "margin": (jnp.sum(a - b), count)}
        return -jnp.sum(jax.nn.log_sigmoid(a - b)), (count, metrics)

    return loss


def _right(margin):
    """1 where the chosen answer is ahead, 1/2 on a draw."""
    return (jnp.sign(margin) + 1) / 2


class Models:
    """The base with its head, the pairs of every objective, and the compiled programs that look at models."""

    def __init__(self, config):
        cfg, self.config, self.cfg = config.pairs, config, typed(Supervised, config, "train")
        base = batch_trainer.load(typed(Model, config, "model"), typed(Mesh, config, "mesh"), self.cfg, config.seed)
        head = state.placed(state.value_head(base.lm.spec.width), base.mesh)
        self.base = dataclasses.replace(base, initial=base.initial | head)
        self.sources = {_name(s): s for s in (cfg.a, cfg.b)}
        if len(self.sources) < 2 or MIXED in self.sources:
            raise InputError(
                f"pairs.a={cfg.a}, pairs.b={cfg.b}: need two objectives of different names, not {MIXED!r}"
            )
        rows = {
            name: preferences.load(source, cfg.count, cfg.held_out, config.seed, cfg.conflict)
            for name, source in self.sources.items()
        }
        encoded = {
            name: [encode(base.lm.tokenizer, part, cfg.max_tokens) for part in both] for name, both in rows.items()
        }
        for name, both in encoded.items():
            for part in both:
                for side in ("chosen", "rejected"):
                    decoder.check_ids(base.lm.spec, getattr(part, side), f"pairs: {side} answers of {name}")
        width = max(part.chosen.shape[1] for both in encoded.values() for part in both)
        self.held = {name: wide(both[1], width) for name, both in encoded.items()}
        self.train = {name: wide(both[0], width) for name, both in encoded.items()}
        both = [self.train[name] for name in self.sources]
        self.train[MIXED] = Pairs(*(np.concatenate(a) for a in zip(*both)))
        self.conflict = {name: np.array([bool(r.get("conflict")) for r in part[1]]) for name, part in rows.items()}
        self.shape = base.lm.spec.layers, base.lm.spec.neurons
        self.margin_of = jax.jit(self._margins)
        self.sums_of = jax.jit(self._sums)

    @property
    def names(self) -> list[str]:
        """The models: each objective alone, then both."""
        return [*self.sources, MIXED]

    @functools.cached_property
    def trainer(self):
        return batch_trainer.BatchTrainer(self.base, make_loss(self.base, self.cfg.remat), self.cfg)

    def trained(self, workdir, name: str) -> dict:
        """The parameters of one of `names`, trained as far as they are not yet."""
        cfg, pairs = self.config, self.train[name]
        order = batch_trainer.shuffled(len(pairs.chosen), cfg.seed, cfg.train.batch)
        settings = {k: v for k, v in cfg.to_dict().items() if k in ("seed", "model", "mesh", "pairs", "train")}
        batch = lambda i: jax.tree.map(lambda a: a[order[i]], pairs)
        return self.trainer(pathlib.Path(workdir) / name, settings | {"learns": name}, pairs, batch, name)

    def _margins(self, trainable, frozen, pairs: Pairs, factors):
        """r_chosen - r_rejected [B] with every neuron's activation times `factors` [L, F]."""
        model, head = decoder.bind(self.base.graphdef, self.base.join(trainable, frozen)), [trainable[n] for n in HEAD]
        iv = scale_neurons(factors)
        return rewards(model, head, *pairs[:2], iv) - rewards(model, head, *pairs[2:], iv)

    def _sums(self, trainable, initial, frozen, tokens, mask):
        ours, theirs = (self.base.join(t, frozen) for t in (trainable, initial))
        return neurons.sums(self.base.graphdef, ours, theirs, tokens, mask)

    def margins(self, trainable, objective: str, chosen=None) -> np.ndarray:
        """Margins [n] on an objective's held-out pairs with the neurons `chosen` (bool [L, F]) silenced."""
        factors = neurons.factors(np.zeros(self.shape, bool) if chosen is None else chosen)
        out = [
            self.margin_of(trainable, self.base.frozen, part, factors)[:n]
            for part, n in self._parts(self.held[objective])
        ]
        return np.concatenate(jax.device_get(out))

    def right(self, trainable, objective: str, chosen=None) -> np.ndarray:
        """1 for every held-out pair that is ordered right, 1/2 for a draw."""
        return np.asarray(_right(self.margins(trainable, objective, chosen)))

    def scores(self, trainable, objective: str) -> dict:
        """{"activation", "change"}: means over the real tokens of an objective's pairs, [L, F] each.

        They are training pairs, as many as are held out: what silencing costs is measured on others. Tokens of chosen
        and of rejected answers are averaged apart, then the two means.
        """
        out = {name: np.zeros(self.shape) for name in neurons.SCORES}
        for side in (0, 2):
            total, count = dict.fromkeys(out, 0.0), 0
            for part, n in self._parts(self.train[objective], self.config.pairs.held_out):
                mask = part[side + 1] & (np.arange(len(part[side])) < n)[:, None]
                found, tokens = jax.device_get(
                    self.sums_of(trainable, self.base.initial, self.base.frozen, part[side], mask)
                )
                total, count = {k: total[k] + found[k].astype(float) for k in total}, count + int(tokens)
            out = {k: out[k] + total[k] / count / 2 for k in out}
        return out

    def _parts(self, pairs: Pairs, count: int | None = None):
        """(a batch of the first `count` pairs, how many of it count)."""
        mesh, count = self.base.mesh, min(count or len(pairs.chosen), len(pairs.chosen))
        for rows, n in batch_trainer.parts(count, self.config.neurons.batch, mesh):
            yield jax.device_put(jax.tree.map(lambda a, rows=rows: a[rows], pairs), mesh_lib.rows(mesh)), n


def _name(source: str) -> str:
    return source if source in preferences.OBJECTIVES else pathlib.Path(source).stem


def accuracies(models: Models, model: str, trainable) -> list[dict]:
    """Accuracy of a model on every objective: all held-out pairs, those that conflict, and the rest."""
    out = []
    for objective in models.sources:
        right, conflict = models.right(trainable, objective), models.conflict[objective]
        for pairs, rows in (("all", conflict | ~conflict), ("conflict", conflict), ("rest", ~conflict)):
            if rows.any() and (pairs == "all" or conflict.any()):
                out.append({"model": model, "objective": objective, "pairs": pairs} | stats.share(right[rows]))
    return out


def sets(scores, percent: float, draws: int, seed: int) -> dict:
    """{(set, draw): bool [L, F]}: each single model's top neurons, what they have alone and together, and for each of
    these sets random ones of its size. scores: those of the two single models."""
    a, b = (neurons.top(s, percent, seed) for s in scores)
    plain = {"top_a": a, "top_b": b} | neurons.parts(a, b)
    out = {(name, -1): chosen for name, chosen in plain.items()}
    for name, chosen in plain.items():
        if not name.endswith("_b"):  # top_b and only_b are as large as top_a and only_a
            like = "random_" + name.removesuffix("_a")
            out |= {(like, k): neurons.random(chosen, seed + k) for k in range(draws)}
    return out


def ablations(models: Models, model: str, trainable, scores, settings, seed: int) -> list[dict]:
    """Accuracy of a model with sets of neurons silenced, beside its accuracy with none: a row each.

    scores: {model: {score: [L, F]}}. At `settings.percent` all sets of `sets`; at the percentages of `settings.sweep`
    the model's own top neurons and as many random ones. Intervals of `change` are of the paired differences.
    """
    plan = []
    for kind in neurons.SCORES:
        at = sets([scores[name][kind] for name in models.sources], settings.percent, settings.random, seed)
        plan += [(kind, settings.percent, name, draw, chosen) for (name, draw), chosen in at.items()]
        for percent in settings.sweep:
            plan.append((kind, percent, "own", -1, neurons.top(scores[model][kind], percent, seed)))
    for percent in settings.sweep:
        own = neurons.top(scores[model]["change"], percent, seed)
        plan += [("none", percent, "random", k, neurons.random(own, seed + k)) for k in range(settings.random)]
    before, out = {objective: models.right(trainable, objective) for objective in models.sources}, []
    for kind, percent, name, draw, chosen in tqdm(plan, desc=f"ablations of {model}", unit="set"):
        for objective in models.sources:
            right = models.right(trainable, objective, chosen)
            change = stats.interval(right - before[objective])
            out.append({
                "model": model, "score": kind, "percent": percent, "set": name, "draw": draw,
                "neurons": int(chosen.sum()), "objective": objective, "accuracy": float(right.mean()),
                "change": change["mean"], "low": change["low"], "high": change["high"],
            })  # fmt: skip
    return out


def overlaps(models: Models, scores, settings, seed: int) -> list[dict]:
    """Jaccard overlap of every two models' top neurons, at every percentage and score."""
    out = []
    pairs = [(a, b) for i, a in enumerate(models.names) for b in models.names[i + 1 :]]
    for kind in neurons.SCORES:
        for percent in sorted({settings.percent, *settings.sweep}):
            own = {name: neurons.top(scores[name][kind], percent, seed) for name in models.names}
            for a, b in pairs:
                ties = max(neurons.tied(scores[name][kind], own[name]) for name in (a, b))
                row = {"a": a, "b": b, "score": kind, "percent": percent, "neurons": int(own[a].sum()), "tied": ties}
                out.append(row | neurons.overlap(own[a], own[b]))
    return out


def check(config):
    cfg, n = config.pairs, config.neurons
    if cfg.held_out < 2 or (cfg.count < 1 and {cfg.a, cfg.b} & set(preferences.OBJECTIVES)):
        raise InputError(f"pairs.held_out={cfg.held_out}, pairs.count={cfg.count}: need at least 2 and 1")
    for percent in (n.percent, *n.sweep):
        if not 0 < percent <= 100:
            raise InputError(f"neurons.percent, neurons.sweep: {percent} is no percentage above 0")


def run(config, workdir) -> dict:
    """Train the three models, measure, and leave `analysis.json` and `summary.json`. Returns the summary."""
    check(config)
    workdir, begin = pathlib.Path(workdir), time.perf_counter()
    models, scores, accuracy, ablation = Models(config), {}, [], []
    for name in models.names:  # one model is held at a time: what has trained is read back below
        trainable = models.trained(workdir, name)
        # A model's own neurons: on the pairs that it learnt from, or on those of both objectives.
        found = [models.scores(trainable, o) for o in ([name] if name in models.sources else models.sources)]
        scores[name] = {kind: np.mean([f[kind] for f in found], 0) for kind in neurons.SCORES}
    runtime.write_json(workdir / "config.json", config.to_dict())
    batch_trainer.join_metrics(workdir, models.names)
    seconds = {"train": round(time.perf_counter() - begin, 2)}
    for name in models.names:
        trainable = models.trained(workdir, name)
        accuracy += accuracies(models, name, trainable)
        ablation += ablations(models, name, trainable, scores, config.neurons, config.seed)
    analysis = {
        "objectives": list(models.sources), "models": models.names,
        "layers": models.shape[0], "neurons": models.shape[1],
        "percent": config.neurons.percent, "accuracy": accuracy, "ablation": ablation,
        "overlap": overlaps(models, scores, config.neurons, config.seed),
    }  # fmt: skip
    runtime.write_json(workdir / "analysis.json", analysis)
    seconds["analysis"] = round(time.perf_counter() - begin - seconds["train"], 2)
    whole = {f"{r['model']} on {r['objective']}": r["mean"] for r in accuracy if r["pairs"] == "all"}
    device = jax.devices()[0].device_kind
    summary = {"model": hf.named(config.model), "device": device, "seconds": seconds, "accuracy": whole}
    runtime.write_json(workdir / "summary.json", summary)
    for name, value in whole.items():
        print(f"accuracy of {name}: {value:.3f}")
    return summary
