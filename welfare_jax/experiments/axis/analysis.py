"""What a run reads and plays after training: walks, vectors of both models, lens, steered text, episodes."""

import dataclasses
import functools
import itertools
import json
import pathlib

import jax
import numpy as np
from tqdm import tqdm

from welfare_jax import hosts, settings
from welfare_jax.envs import walks as walks_lib
from welfare_jax.experiments.axis.parts import Parts, content
from welfare_jax.interp import extract, geometry, names, outcome, reading, vectors
from welfare_jax.interp.axes import comparison
from welfare_jax.interp.axes.settings import AxesSettings
from welfare_jax.interp.names import Vector
from welfare_jax.models import chat, decoder, generate, hf, interventions, stops
from welfare_jax.rl import baselines, episodes
from welfare_jax.text import pieces as text
from welfare_jax.train import checkpoints


def steer(graphdef, models: dict, tokenizer, directions: dict, chosen: dict, config, *, template, key) -> list[dict]:
    """Text of every (model, class, strength, prompt), all cells of one model in one batch (§4).

    models: name -> params; directions: class -> [L, D]; chosen: class -> layer.
    """
    cells = [(c, a, p) for c in ("mold", "gold") for a in config.alphas for p in config.prompts]
    tokens, mask = chat.encode(tokenizer, [p for _, _, p in cells], template)
    layer = np.array([chosen[c] for c, _, _ in cells], np.int32)
    push = np.stack([directions[c][chosen[c]] for c, _, _ in cells])
    # The prompt's own tokens stay as they are: the generation prompt's last token is where the answer begins.
    where = np.zeros_like(mask)
    where[:, -1] = True
    iv = interventions.add(push, layer, np.array([a for _, a, _ in cells]), where)
    stop, (_, end) = stops.stop_ids(tokenizer, template), text.around_answers(template or {})
    ends = stops.stop_strings(tokenizer, end) if end else None
    out = []
    for name, params in models.items():
        new, kept = hosts.get(generate.generate(
            graphdef, params, tokens, mask, key, max_new_tokens=config.max_new_tokens, temperature=config.temperature,
            stop=stop, stop_strings=ends, interventions=iv,
        ))  # fmt: skip
        for (c, a, prompt), ids, keep in zip(cells, new, kept):
            said = tokenizer.decode(stops.without_end(ids[keep], stop), skip_special_tokens=True)
            said = said.split(end)[0] if end else said
            out.append({"model": name, "vector": c, "layer": chosen[c], "alpha": a, "prompt": prompt, "text": said})
    return out


def replays(played, grids, temperature, pieces, title: str, group_size: int, count: int = 2, melt: bool = True):
    """The first episode of each of `count` groups, as the report draws them, and what the whole batch earned."""
    played, grids = hosts.get((played, grids))
    drawn = [
        episodes.episode(
            played,
            grids[group],
            pieces.wording,
            row=group * group_size,
            temperature=temperature,
            title=f"{title}, maze {group + 1}",
            melt=melt,
        )  # fmt: skip
        for group in range(min(count, len(grids)))
    ]
    return drawn, float(played.rewards.sum(-1).mean())


def axis_texts(setup, config):
    """What `config.axes` names, read and tokenised; None where it asks for nothing. Raises for a bad file."""
    axes = settings.typed(AxesSettings, config, "axes")
    if not axes.asked:
        return None
    p, question = setup.pieces, config.extract.question
    return comparison.load(axes, p.tokenizer, p.template, p.wording, question, setup.lm.spec)


def resampling():
    """The random key of half samples, one for all runs: what is read over the same walks is resampled alike."""
    return jax.random.key(0)


def read_models(setup, models: dict, data, config, *, join, parts, progress=lambda: None, known=None):
    """({model: what `reading.make` found}, {model: comparison axes or None}), models: {name: trainable parameters}.

    parts: what has been read before, and is kept. known: as the result, of models that have been read over the same
    walks and are not read again.
    """
    cfg, tokenizer = settings.typed(AxesSettings, config, "axes"), setup.pieces.tokenizer
    template = setup.pieces.template
    draws = config.extract.replicates
    program = reading.make(setup.graphdef, join, draws, permutations=config.extract.permutations)
    texts = axis_texts(setup, config)
    key, found, axes = jax.random.key(config.seed), {}, {}
    asked = content((texts, config.axes.to_dict(), config.seed, template)) if texts is not None else ""
    for name, trainable in models.items():
        if known and name in known[0]:
            found[name], axes[name] = (part[name] for part in known)
            progress()
            continue
        axes[name], weights = None, checkpoints.digest(trainable)
        if texts is not None:
            full = join(trainable, setup.frozen)
            axes[name] = parts.axes(f"axes_{name}", {"weights": weights, "asked": asked}, functools.partial(
                comparison.read, setup.graphdef, full, texts, tokenizer, cfg, key, template=template, draws=draws
            ))  # fmt: skip
        others = comparison.compared(axes[name], setup.lm.spec, draws)
        bound = {"weights": weights, "axes": content(others)}
        found[name] = parts.tree(name, bound, program, trainable, setup.frozen, data, others, resampling())
        progress()
    return found, axes


def read_shams(setup, shams, data, config, *, join, parts, progress) -> dict:
    """{"shams": their `uncertainty.Grams`}, read as `read_models` reads a model."""
    program = reading.make_grams(setup.graphdef, join, config.extract.replicates)
    grams = []
    for i, trainable in enumerate(shams):
        bound = {"weights": checkpoints.digest(trainable)}
        grams.append(parts.tree(f"sham_{i}", bound, program, trainable, setup.frozen, data.fit, resampling()))
        progress()
    return {"shams": grams}


def outcomes(config, runs: list[dict], shuffled=()):
    """(what can be said of the one checkpoint, what of training) from what `run` returned for every trained run.

    The first is None where there are several runs; the second where there is one and no sham beside it. shuffled: a
    bool a run, whether its rewards were and others' were not. Such runs are what those are held against besides, under
    "shuffled".
    """
    rule = outcome.Rule(**config.outcome)
    one = outcome.of_run(rule, runs[0]["trained"], runs[0]["untrained"]) if len(runs) == 1 else None
    apart = list(itertools.compress(runs, shuffled))
    kept = list(itertools.compress(runs, [not x for x in shuffled])) if apart else runs
    ends = lambda some: [(run["trained"], run["untrained"]) for run in some]
    shams = [(sham, run["untrained"]) for run in kept for sham in run["shams"]]
    if one and not shams:
        return one, None
    found = outcome.of_training(rule, ends(kept), shams)
    if apart:
        found["shuffled"] = outcome.of_training(rule, ends(kept), ends(apart))
    return one, found


def store(setup, join, trainable, data, folder):
    """All activations at resid_post, as `<folder>/fit/*.safetensors` and `<folder>/held/*.safetensors`."""
    program = jax.jit(lambda t, f, part: extract.activations(decoder.bind(setup.graphdef, join(t, f)), part))
    for name, part in data._asdict().items():
        extract.store(functools.partial(program, trainable, setup.frozen), part, folder / name)


def describe(out, axes, tokenizer) -> dict:
    """The report's part of one model."""
    result = reading.numbers(out, tokenizer, tuple(axes.named) if axes else ())
    if axes:
        result["axes"] |= axes.facts
        if axes.words:
            layer = int(np.argmax(sum(np.asarray(s["auroc"]) for s in result["selection"].values())))
            pair = {v: out["vectors"][Vector(v, "rest").entry] for v in ("mold", "gold")}
            result["emotions"] = comparison.scatter(axes, pair, layer)
    return result


def save_vectors(workdir, model: str, out, axes, *, chosen: dict, position: str, about: dict):
    """`<model>.safetensors` with the class vectors, read at `position`, and what is left of them beside the axes; and
    the axes' own file."""
    named = dict(out["vectors"])
    if axes and axes.named:
        stack = np.stack(list(axes.named.values()))
        for rest in (Vector(v, "rest") for v in ("mold", "gold")):
            left = geometry.residualise(named[rest.entry], stack)
            named[dataclasses.replace(rest, baseline=names.RESIDUAL).entry] = np.asarray(left)
        kind = {"operation": "comparison axis", "layers": {}}
        vectors.save(names.file(workdir, model, "axes"), axes.named, **kind, **about)
    vectors.save(names.file(workdir, model), named, layers=chosen, position=position, **about)


def run(setup, trained, config, workdir, collect, *, join, shams=(), live_seed_skip: int = 100_000, known=None):
    """Everything after training. Writes `vectors/*.safetensors` and `analysis.json`; returns the summary's part and
    the `uncertainty.Grams` {"untrained", "trained", "shams": a list} that outcomes are worked out from.

    `trained` may be None: then the untrained model is read alone, and nothing is played. shams: parameters, see
    train/shams.py. known: a dictionary that runs with one and the same untrained model share, so that it is read once
    for all whose walks are the same.
    """
    workdir, layers, cfg = pathlib.Path(workdir), setup.lm.spec.layers, config.extract
    models = {"untrained": setup.initial} | ({} if trained is None else {"trained": trained})
    bar = tqdm(
        total=2 + (2 if collect else 1) * len(models) + len(shams),
        desc="analysis",
        unit="part",
        disable=not hosts.first(),
    )
    which, seed = settings.typed(extract.WalkSettings, config, "extract"), walks_lib.SEED + live_seed_skip
    data, facts = extract.walk_data(setup.pieces, setup.maze, setup.mesh, which, seed)
    bar.update()
    known = {} if known is None else known
    parts = Parts(workdir / "parts", setup.frozen, walks=facts, extract=cfg.to_dict(), text=setup.pieces.digest)
    found, axes = read_models(
        setup, models, data, config, join=join, parts=parts, progress=bar.update, known=known.get(facts["data"])
    )
    known.setdefault(facts["data"], tuple({"untrained": of["untrained"]} for of in (found, axes)))
    grams = {name: out["grams"] for name, out in found.items()}
    for name, trainable in models.items() if cfg.store else ():
        store(setup, join, trainable, data, workdir / "activations" / name)
    tokenizer, last = setup.pieces.tokenizer, list(models)[-1]
    result: dict = {"layers": layers, "hook": "resid_post", "classes": ["mold", "gold", "path"], **facts}
    chosen = {}  # of the last model
    for name in models:
        result[name] = describe(found[name], axes[name], tokenizer)
        chosen = {v: result[name]["selection"][v]["layer"] for v in ("mold", "gold")}
        about = {"model": f"{hf.named(config.model)} ({name})", "hook": "resid_post", "data": facts["data"]}
        save_vectors(workdir, name, found[name], axes[name], chosen=chosen, position=facts["position"], about=about)
        if name == last:
            kind = {"operation": "difference in means under permuted labels", "layers": chosen}
            vectors.save(names.file(workdir, "permuted"), found[name]["permuted"], **kind, **about)
    if trained is not None:
        result["change"] = reading.compare(found["trained"], found["untrained"])
        grams |= read_shams(setup, shams, data, config, join=join, parts=parts, progress=bar.update)
        result["outcome"], result["training"] = outcomes(config, [grams])
    directions = {v: found[last]["vectors"][Vector(v, "rest").entry] for v in ("mold", "gold")}
    full = {name: join(trainable, setup.frozen) for name, trainable in models.items()}
    result["samples"] = steer(
        setup.graphdef, full, tokenizer, directions, chosen, config.steer, template=setup.pieces.template,
        key=jax.random.key(config.seed),
    )  # fmt: skip
    bar.update()
    result["episodes"], rewards = [], {}
    seed = jax.random.fold_in(jax.random.key(config.seed), 2)  # mazes that training never drew
    for name, trainable in models.items() if collect else ():
        played, starts = collect(trainable, setup.frozen, seed, 0, config.train.temperature)
        shown, rewards[f"reward_held_out_{name}"] = replays(
            played,
            starts.grid,
            config.train.temperature,
            setup.pieces,
            name,
            config.train.group_size,
            melt=setup.maze.melt,
        )
        result["episodes"] += shown
        bar.update()
    result["baselines"] = baselines.table(setup.maze)
    (workdir / "analysis.json").write_text(json.dumps(result))
    bar.close()
    ends = (("rest", ""), ("path", "_path"))
    cosines = {f"cos_{name}{end}": result[name]["cos"][base] for name in models for base, end in ends}
    return cosines | {"layer_mold": chosen["mold"], "layer_gold": chosen["gold"]} | rewards, grams
