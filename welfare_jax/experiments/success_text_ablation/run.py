"""Does the axis need the words? The same maze RL on bases that did and did not read of success, failure and feeling.

A cell is an arm (what pretraining ended with) and a seed; a seed's arms share what was read before. A base is trained
in the maze as organisms that differ in which tile plays which role. A contrast of Gold and Mold read off one of them
is mostly the contrast of two tiles; every tile plays every role once, so in the mean over organisms that part cancels.
What is left differs between Gold and Mold in the mazes themselves (Gold is rarer), or was put there by reward: the
change with training tells. L layers, D width.
"""

import dataclasses
import functools
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from welfare_jax import runtime, settings, textfiles
from welfare_jax.envs import walks as walks_lib
from welfare_jax.errors import InputError
from welfare_jax.experiments.pretraining import run as pretraining
from welfare_jax.experiments.success_text_ablation.settings import Point
from welfare_jax.interp import extract, geometry, reading, vectors
from welfare_jax.interp.axes import comparison
from welfare_jax.interp.axes.settings import AxesSettings
from welfare_jax.interp.names import Vector
from welfare_jax.models import decoder
from welfare_jax.rl import rollout
from welfare_jax.settings import RENTING
from welfare_jax.sft import corpus
from welfare_jax.train import checkpoints, loop, organisms, stats
from welfare_jax.train.job import Job

TILES = ([0, 1, 2], [1, 2, 0], [2, 0, 1])  # every tile in every role
READ = 200_000  # seeds of the walks that are read, apart from those of training and of its curve


def cells(config) -> dict[str, ConfigDict]:
    """{name: settings of a main job}, an arm and a seed each."""
    out = {}
    for arm in config.words.arms:
        for seed in config.words.seeds:
            own = config.copy_and_resolve_references()
            own.job, own.seed, own.words.pretrain.seed = "rl", seed, seed
            own.organisms.tiles = [list(t) for t in TILES]
            out[f"{arm}-{seed}"] = own
    return out


def check(config):
    if not config.words.arms or not config.words.seeds or not config.words.questions:
        raise InputError("words.arms, words.seeds, words.questions: name at least one of each")


def base(config, arm: str, folder) -> pathlib.Path:
    """The base of a cell: what its seed pretrained for all arms, gone on with on the arm's documents."""
    common, own, every = (config.words.pretrain.copy_and_resolve_references() for _ in range(3))
    every.phases = []
    words = folder / f"tokenizer-{config.seed}"
    corpus.make_tokenizer(corpus.Mixture.of(every), words)  # that knows the words of all arms
    common.tokenizer.path = str(words)
    own.start = str(pretraining.finished(common, folder / f"common-{config.seed}"))
    own.update(phases=[], **{name: config.words[name] for name in ("steps", "warmup")})
    for name, source in own.sources.items():
        source.weight = float(config.words.arms[arm].get(name, 0.0))
    return pretraining.finished(own, folder / f"{arm}-{config.seed}")


class Reading:
    """Walks with one question (or none), and what is read off a model there: `reading(params, axes) -> dict`."""

    def __init__(self, setup, config, question: str):
        rollout.check_ids(setup.lm.spec, setup.pieces, question)
        make = functools.partial(extract.walk_data, setup.pieces, setup.maze, setup.mesh)
        which = settings.typed(extract.WalkSettings, config, "extract", question=question)
        few = dataclasses.replace(which, per_length=config.curve.per_length, held_out=0.25)
        (self.data, _), (self.few, _) = make(which, walks_lib.SEED + READ), make(few, walks_lib.SEED)
        p = setup.pieces
        self.asked = settings.typed(AxesSettings, config, "axes")
        self.texts = comparison.load(self.asked, p.tokenizer, p.template, p.wording, question, setup.lm.spec)
        self.graphdef, self.pieces, self.config = setup.graphdef, p, config

    def axes(self, params) -> dict:
        """{name: [L, D]} of whole parameters."""
        key, p = jax.random.key(self.config.seed), self.pieces
        asked = self.graphdef, params, self.texts, p.tokenizer, self.asked, key
        return comparison.read(*asked, template=p.template, draws=0).named

    def __call__(self, params) -> dict:
        axes = self.axes(params)
        found = jax.device_get(_read(self.graphdef, params, self.data, np.stack(list(axes.values()))))
        return found | {"axes": axes}


@functools.partial(jax.jit, static_argnames="graphdef")
def _read(graphdef, params, data, axes):
    """Class vectors of both baselines [L, D], their AUROC [L], Gold against Mold along every axis: d [A, L]."""
    model = decoder.bind(graphdef, params)
    found = extract.moments(model, data.fit)
    v = vectors.of_classes(found.sums, found.counts)
    lines = jnp.concatenate([jnp.stack([v[Vector(name, "rest").entry] for name in ("mold", "gold")]), axes])
    proj, _, labels = extract.scores(model, data.held, lines)
    gold, mold = labels == geometry.GOLD, labels == geometry.MOLD
    auroc = {
        n: geometry.auroc(proj[:, i], m, labels >= 0) for i, (n, m) in enumerate((("mold", mold), ("gold", gold)))
    }
    d = jnp.stack([geometry.cohens_d(proj[:, 2 + i], gold, gold | mold) for i in range(len(axes))])
    return {"vectors": v, "auroc": auroc, "d": d}


def numbers(found: list[dict]) -> dict:
    """Of what was read off every organism: lists [L].

    `cos_*`: mold with gold, mean over organisms. `averaged_*`: of the means of their vectors over organisms, where
    tiles cancel. `averaged_share`: the norm of the mean contrast Gold - Mold over the mean norm. `along/AXIS`: cosine
    of the mean contrast with the mean axis. `d/AXIS`: Gold against Mold along the axis, mean over organisms.
    """
    each = {Vector.of_entry(k): np.stack([f["vectors"][k] for f in found]) for k in found[0]["vectors"]}
    mean = {k: v.mean(0) for k, v in each.items()}
    out = {}
    for b in geometry.BASELINES:
        mold, gold = Vector("mold", b), Vector("gold", b)
        out[f"cos_{b}"] = np.mean(geometry.cosine(each[mold], each[gold]), 0)
        out[f"averaged_{b}"] = geometry.cosine(mean[mold], mean[gold])
    contrasts = each[Vector("gold", "path")] - each[Vector("mold", "path")]
    contrast, size = contrasts.mean(0), np.linalg.norm(contrasts, axis=-1).mean(0)
    out["averaged_share"] = np.linalg.norm(contrast, axis=-1) / np.maximum(size, 1e-12)
    for c in ("mold", "gold"):
        out[f"auroc_{c}"] = np.mean([f["auroc"][c] for f in found], 0)
    for i, name in enumerate(found[0]["axes"]):
        out[f"along/{name}"] = geometry.cosine(contrast, np.mean([f["axes"][name] for f in found], 0))
        out[f"d/{name}"] = np.mean([f["d"][i] for f in found], 0)
    return {k: np.asarray(v, float).round(6).tolist() for k, v in out.items()}


def cell(config, arm: str, folder) -> dict:
    """Pretrain, train, read; returns the cell's part of the summary. A finished cell is only read from its file."""
    own = config.copy_and_resolve_references()
    own.model.path = str(base(config, arm, folder / "bases"))
    made = textfiles.json_object(pathlib.Path(own.model.path).parent / "summary.json")
    questions = config.words.questions
    with own.unlocked():
        del own.words
    place = folder / "cells" / f"{arm}-{config.seed}"
    done = place / "summary.json"
    stamp = json.loads(json.dumps(own.to_dict() | {"questions": list(questions)}))
    stamp = checkpoints.bound(stamp, base=made["sha256"])
    found = textfiles.json_object(done) if done.is_file() else {}
    was, stamp = ({k: v for k, v in (s or {}).items() if k not in RENTING} for s in (found.get("settings"), stamp))
    if was and checkpoints.CONTENT not in was:
        checkpoints.say(f"{done}: does not name its base by content: taken to be what is there now")
        was = was | {checkpoints.CONTENT: stamp[checkpoints.CONTENT]}
    if was == stamp:
        return found
    job = Job.of(own)
    setup = loop.build(job)
    runs = loop.runs(setup, job)
    each = [organisms.own_setup(setup, c, organisms.take(runs.initial, i)) for i, c in enumerate(runs.jobs)]
    readings = [{q: Reading(s, own, q) for q in questions} for s in each]
    full = lambda s, trainable: s.join(trainable, s.frozen)
    before = [{q: r(full(s, s.initial)) for q, r in mine.items()} for s, mine in zip(each, readings)]
    program = reading.live_program(setup.graphdef, setup.join)
    curves = [_curve(program, mine, found) for mine, found in zip(readings, before)]
    trained = loop.train(setup, job, place, loop.collector(setup, job, True), curves)
    after = [
        {q: r(full(s, organisms.take(trained, i))) for q, r in mine.items()}
        for i, (s, mine) in enumerate(zip(each, readings))
    ]
    summary = {
        "arm": arm, "seed": config.seed, "settings": stamp, **loop.ends(place),
        "base": made,
        "read": {
            name: {q: numbers([f[q] for f in found]) for q in questions}
            for name, found in (("untrained", before), ("trained", after))
        },
    }  # fmt: skip
    runtime.write_json(done, summary)
    return summary


def _curve(program, readings: dict, found: dict):
    """The live curve of every question in one, with the untrained model's axes."""
    live = {q: reading.make_live(program, r.few, found[q]["axes"]) for q, r in readings.items()}

    def curve(trainable, frozen):
        return {Point(k, q).name: v for q, one in live.items() for k, v in one(trainable, frozen).items()}

    return curve


def over_seeds(found: list[dict]) -> dict:
    """{arm: {what: {question: {number: intervals over seeds, one a layer}}}}.

    what: the untrained and the trained model; "change" of each seed; and for every arm but the first "difference", of
    the first arm's change less this arm's with the same seed.
    """
    arms = dict.fromkeys(c["arm"] for c in found)
    read = {(c["arm"], c["seed"]): c["read"] for c in found}
    change = {k: _less(r["trained"], r["untrained"]) for k, r in read.items()}
    first, out = next(iter(arms)), {}
    for arm in arms:
        seeds = [s for a, s in read if a == arm]
        parts = {name: [read[arm, s][name] for s in seeds] for name in ("untrained", "trained")}
        parts["change"] = [change[arm, s] for s in seeds]
        pairs = [(change[first, s], change[arm, s]) for s in seeds if (first, s) in change]
        if arm != first and pairs:
            parts["difference"] = [_less(a, b) for a, b in pairs]
        out[arm] = {name: _intervals(rows) for name, rows in parts.items()}
    return out


def _less(a: dict, b: dict) -> dict:
    return {q: {k: np.subtract(v, b[q][k]).tolist() for k, v in own.items()} for q, own in a.items()}


def _intervals(rows: list[dict]) -> dict:
    return {
        q: {k: [stats.interval(x) for x in zip(*(r[q][k] for r in rows))] for k in own} for q, own in rows[0].items()
    }


def run(config, workdir) -> dict:
    """All cells, each from where it stopped; returns the summary."""
    check(config)
    begin, workdir = time.perf_counter(), pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    runtime.write_json(workdir / "config.json", config.to_dict())
    found = {name: cell(own, name.rpartition("-")[0], workdir) for name, own in cells(config).items()}
    checkpoints.metrics_side_by_side(workdir, list(found))
    summary = {
        "cells": {name: {k: v for k, v in c.items() if k != "settings"} for name, c in found.items()},
        "over_seeds": over_seeds(list(found.values())), "device": jax.devices()[0].device_kind,
        "seconds": {"last_call": round(time.perf_counter() - begin, 1)},
    }  # fmt: skip
    runtime.write_json(workdir / "summary.json", summary)
    for name, one in found.items():
        print(f"{name}: reward {one['reward_first']:.1f} -> {one['reward_last']:.1f}")
    return summary
