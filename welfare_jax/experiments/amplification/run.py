"""Does RL amplify what pretraining laid down? Formats of solutions before, during and after it (arXiv:2504.07912).

A run is one cell, or several in `cells/NAME/`, each a seed, scale, mixture and KL coefficient. A cell pretrains its
base where none is named, then learns from a verified reward on a pool of problems, and is measured on held-out ones.
"""

import hashlib
import itertools
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from welfare_jax import mesh as mesh_lib
from welfare_jax import runtime
from welfare_jax.errors import InputError
from welfare_jax.experiments.pretraining import run as pretraining
from welfare_jax.models import chat, decoder, hf, stops
from welfare_jax.rl import attempts
from welfare_jax.settings import typed
from welfare_jax.sft import corpus
from welfare_jax.text import arithmetic, tiny_world
from welfare_jax.train import checkpoints, freeform, loop, state, stats, step, training
from welfare_jax.train.algorithms import ALGORITHMS
from welfare_jax.train.settings import FreeText

STYLES = (*arithmetic.FORMATS, arithmetic.OTHER)
SWEPT = ("shape", "mixture", "kl_coef", "seed")  # in the order of a cell's name


class Pool(NamedTuple):
    """Problems as prompts, padded at the left."""

    problems: list
    tokens: np.ndarray  # int32 [P, T]
    mask: np.ndarray  # bool [P, T]


def pool(tokenizer, problems, width: int = 0) -> Pool:
    """The tokens that a document has in common whatever its format: a prompt ends as pretraining had it."""

    def prompt(p):
        told = [arithmetic.document(p, arithmetic.solution(p, style)) for style in arithmetic.FORMATS]
        every = [corpus.encode(tokenizer, tiny_world.Document("", (), text))["tokens"].tolist() for text in told]
        same = itertools.takewhile(lambda at: len(set(at)) == 1, zip(*every))
        return [ids[0] for ids in same]

    found = [prompt(p) for p in problems]
    if width and (longest := max(map(len, found))) > width:
        raise InputError(f"problems: a held-out question has {longest} tokens, those to learn from {width} at most")
    return Pool(list(problems), *chat.pad(found, 8, width=width))


class Written(NamedTuple):
    """An answer as it was read."""

    text: str
    style: str
    answer: int | None
    right: bool

    @classmethod
    def read(cls, text: str, problem):
        found = arithmetic.answer(text)
        return cls(text, arithmetic.classify(text), found, found == problem.answer)


class Programs(NamedTuple):
    sample: Callable
    judge: Callable
    update: Callable


class Cell:
    """One model: its programs, the pools and the state before training.

    `compiled` keeps programs by model and settings, so that cells which differ in data alone compile once.
    """

    def __init__(self, config, base, compiled: dict):
        self.config, self.cfg = config, typed(FreeText, config, "train")
        cfg = self.cfg
        self.mesh = mesh_lib.make(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
        self.lm = hf.load(base, config.model.dtype, self.mesh, config.model.attention, config.model.revision)
        self.graphdef, initial, frozen = loop.start(self.lm, cfg, config.seed)
        self.initial, self.frozen = (state.placed(part, self.mesh) for part in (initial, frozen))
        level = arithmetic.Level(**config.pretrain.level)
        self.train = pool(self.lm.tokenizer, arithmetic.problems(config.seed + 1, config.problems, level))
        measured = arithmetic.problems(config.seed, config.measure.problems, level, held_out=True)
        self.held = pool(self.lm.tokenizer, measured, self.train.tokens.shape[1])
        for which in (self.train, self.held):
            decoder.check_ids(self.lm.spec, which.tokens, "pretrain.level: problems")
        dtype, stop = self.lm.params["embed"].dtype, stops.stop_ids(self.lm.tokenizer)
        self.tx = state.optimizer(cfg)
        self.now = state.State(jnp.int32(0), jax.tree.map(jnp.copy, self.initial), self.tx.init(self.initial))
        places = state.shardings(self.mesh, self.now)
        self.now = jax.device_put(self.now, places)
        key = (self.graphdef, dtype, stop, config.max_new_tokens, cfg)
        if key not in compiled:
            update = freeform.make_update(self.graphdef, self.tx, cfg, dtype)
            compiled[key] = Programs(
                jax.jit(freeform.make_sample(self.graphdef, config.max_new_tokens, stop, dtype)),
                jax.jit(freeform.make_judge(self.graphdef, cfg.micro_batch, dtype)),
                jax.jit(update, donate_argnums=0, out_shardings=(places, mesh_lib.replicated(self.mesh))),
            )
        self.programs = compiled[key]

    def write(self, which: Pool, rows, key, temperature, trainable):
        """(episodes, what was written) for problems `rows` [B] of a pool, in one program; read on the host."""
        prompts, mask = state.spread((which.tokens[rows], which.mask[rows]), self.mesh)
        new, kept = self.programs.sample(
            trainable, self.frozen, prompts, mask, jax.random.split(key, len(rows)), temperature
        )
        texts = freeform.texts(self.lm.tokenizer, new, kept)
        found = [Written.read(text, which.problems[i]) for text, i in zip(texts, rows)]
        rewards = state.spread(np.array([f.right for f in found], np.float32), self.mesh)
        return freeform.episodes(prompts, mask, new, kept, rewards), found

    def play(self, i: int, trainable):
        """(episodes of step i, shares and accuracies by format)."""
        cfg = self.cfg
        rows = np.repeat(freeform.chosen(self.config.seed, i, cfg.groups, len(self.train.problems)), cfg.group_size)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.config.seed), 1), i)
        played, found = self.write(self.train, rows, key, cfg.temperature, trainable)
        return played, attempts.by_format([f.style for f in found], [f.right for f in found], STYLES)

    def measure(self, trainable) -> dict:
        """Formats, accuracy, pass@k, maj@k, token entropy and KL to the base, on held-out problems."""
        cfg, count, total, found = self.config.measure, len(self.held.problems), {}, []
        key = jax.random.fold_in(jax.random.key(self.config.seed), 2)
        greedy = self.write(self.held, np.arange(count), key, 0.0, trainable)[1]
        for a in range(0, count, cfg.batch):
            rows = np.repeat(np.arange(a, a + cfg.batch), cfg.samples)
            keys = jax.random.fold_in(key, a)
            played, own = self.write(self.held, rows, keys, self.config.train.temperature, trainable)
            sums = jax.device_get(self.programs.judge(trainable, self.initial, self.frozen, played))
            total = {name: np.add(total.get(name, 0.0), pair) for name, pair in sums.items()}
            found += own
        truth = [p.answer for p in self.held.problems]
        answers = [[f.answer for f in found[i : i + cfg.samples]] for i in range(0, len(found), cfg.samples)]
        right = np.array([f.right for f in found]).reshape(count, cfg.samples)
        out = attempts.by_format([f.style for f in found], right.ravel(), STYLES)
        out["greedy"] = float(np.mean([f.right for f in greedy]))
        out |= {f"pass_{k}": attempts.pass_at_k(right, k) for k in cfg.ks}
        out |= {f"maj_{k}": attempts.maj_at_k(answers, truth, k) for k in cfg.ks if k > 1}
        out |= {name: float(a / b) for name, (a, b) in total.items()}
        return {f"eval_{name}": value for name, value in out.items()}

    def run(self, workdir) -> dict:
        """Train, or continue; returns the summary of the cell."""
        config, cfg, workdir = self.config, self.cfg, pathlib.Path(workdir)
        needs = cfg.kl_coef or ALGORITHMS[cfg.algorithm].restart
        tokenizer = self.lm.tokenizer
        text = repr((tokenizer.backend_tokenizer.to_str(), stops.stop_ids(tokenizer))).encode()
        text = hashlib.sha256(text).hexdigest()[:16]
        settings = checkpoints.bound(config.to_dict(), weights=checkpoints.digest(self.lm.params), text=text)

        def advance(i, now, _):
            begin = time.perf_counter()
            measured = self.measure(now.trainable) if i % config.measure.every == 0 else {}
            lap = time.perf_counter()
            played, seen = self.play(i, now.trainable)
            lasted = {"sample_seconds": time.perf_counter() - lap, "measure_seconds": lap - begin}
            initial = self.initial if needs else None
            now, metrics = self.programs.update(now, self.frozen, initial, played, cfg.temperature)
            return now, step.values(metrics) | seen | measured | lasted

        finish = lambda now: self.measure(now.trainable)
        shown = {"reward": ("reward", 2)} | {s: (f"share_{s}", 2) for s in STYLES[:3]}
        training.train(workdir, self.now, settings, cfg, advance, finish=finish, shown=shown, label=workdir.name)
        summary = summarise(config, checkpoints.read_metrics(workdir / "metrics.jsonl"))
        runtime.write_json(workdir / "summary.json", summary)
        return summary


def summarise(config, rows) -> dict:
    """Before and after on held-out problems; the winning format is the one with the largest share after."""
    measured = [row for row in rows if "eval_accuracy" in row]
    before, after = (
        {k.removeprefix("eval_"): v for k, v in row.items() if k.startswith("eval_")}
        for row in (measured[0], measured[-1])
    )
    winner = max(arithmetic.FORMATS, key=lambda s: after[f"share_{s}"])
    return {
        "algorithm": config.train.algorithm, **{k: _setting(config, k) for k in SWEPT}, "steps": config.train.steps,
        "winner": winner, "before": before, "after": after, "device": jax.devices()[0].device_kind,
        "seconds": {"training": round(sum(row.get("seconds", 0.0) for row in rows), 1)},
    }  # fmt: skip


def _setting(config, name):
    return config.train.kl_coef if name == "kl_coef" else config[name]


def check(config):
    """Refuse what would otherwise end in an error long after the start."""
    cfg, measure = typed(FreeText, config, "train"), config.measure
    counts = {f"measure.{k}": measure[k] for k in ("every", "problems", "samples", "batch")}
    for name, value in (counts | {"problems": config.problems, "max_new_tokens": config.max_new_tokens}).items():
        if value < 1:
            raise InputError(f"{name}={value}: must be at least 1")
    rows = measure.batch * measure.samples
    if measure.problems % measure.batch or rows % min(cfg.micro_batch, rows):
        raise InputError(
            f"measure.batch={measure.batch}: must divide measure.problems={measure.problems}, and its {rows} answers "
            f"be a multiple of train.micro_batch={cfg.micro_batch}"
        )
    if bad := [k for k in measure.ks if not 1 <= k <= measure.samples]:
        raise InputError(f"measure.ks: {bad[0]} is not in 1..measure.samples={measure.samples}")
    for name, known in (("shape", config.shapes), ("mixture", config.mixtures)):
        for value in config.sweep[name] or [config[name]]:
            if value not in known:
                raise InputError(f"{name}={value!r}: choose one of {', '.join(known)}")


def cells(config) -> dict[str, ConfigDict]:
    """{name: settings} of every combination of what is swept; {"": settings} where nothing is."""
    swept = [name for name in SWEPT if len(config.sweep[name])]
    out = {}
    for values in itertools.product(*(config.sweep[name] for name in swept)):
        own = config.copy_and_resolve_references()
        own.sweep = ConfigDict({name: [] for name in SWEPT})
        for name, value in zip(swept, values):
            (own.train if name == "kl_coef" else own)[name] = value
        own.pretrain.seed = own.seed
        own.pretrain.shape.update(own.shapes[own.shape])
        for style, weight in own.mixtures[own.mixture].items():
            own.pretrain.sources[style].weight = float(weight)
        out["-".join(f"{name.removesuffix('_coef')}_{value}" for name, value in zip(swept, values))] = own
    return out


def base(config, workdir) -> str:
    """The model to start from: the one named, or one that is pretrained here, once for every base that cells share."""
    if config.model.path:
        return config.model.path
    folder = pathlib.Path(workdir) / "bases" / f"{config.shape}-{config.mixture}-{config.seed}"
    return str(pretraining.finished(config.pretrain, folder))


def run(config, workdir) -> dict:
    """All cells of a run, each from its newest checkpoint; returns the summary."""
    check(config)
    begin, workdir, every = time.perf_counter(), pathlib.Path(workdir), cells(config)
    found, compiled = {}, {}
    for name, own in every.items():
        folder = workdir / "cells" / name if name else workdir
        folder.mkdir(parents=True, exist_ok=True)
        found[name] = Cell(own, base(own, workdir), compiled).run(folder)
    for name, one in found.items():
        print(f"{name + ': ' * bool(name)}{said(one)}")
    if "" in found:
        return found[""]
    runtime.write_json(workdir / "config.json", config.to_dict())
    checkpoints.metrics_side_by_side(workdir, list(found))
    summary = {
        "algorithm": config.train.algorithm, "cells": found, "over_seeds": over_seeds(list(found.values())),
        "device": jax.devices()[0].device_kind, "seconds": {"last_call": round(time.perf_counter() - begin, 1)},
    }  # fmt: skip
    runtime.write_json(workdir / "summary.json", summary)
    return summary


def said(cell: dict) -> str:
    """What became of the winning format, in a line."""
    ends = []
    for name in ("share", "accuracy"):
        before, after = (cell[when][f"{name}_{cell['winner']}"] or 0.0 for when in ("before", "after"))
        ends.append(f"{name} {before:.2f} -> {after:.2f}")
    return f"{cell['winner']} won: {', '.join(ends)}"


def over_seeds(found: list[dict]) -> list[dict]:
    """Means over seeds with 95 % t intervals of what cells of otherwise equal settings show; None with one seed.

    `winner_*` are of each seed's own winning format, before and after.
    """
    groups = {}
    for cell in found:
        groups.setdefault(tuple(cell[k] for k in SWEPT if k != "seed"), []).append(cell)
    out = []
    for key, members in groups.items():
        row = dict(zip(SWEPT, key)) | {"seeds": len(members), "winners": [c["winner"] for c in members]}
        for when in ("before", "after"):
            winning = lambda c, k, when=when: c[when][f"{k}_{c['winner']}"]
            own = [c[when] | {f"winner_{k}": winning(c, k) for k in ("share", "accuracy")} for c in members]
            for name in own[0]:
                row[f"{name}_{when}"] = stats.interval([c[name] for c in own if c[name] is not None])
        out.append(row)
    return out
