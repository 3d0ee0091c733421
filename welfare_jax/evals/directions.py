"""The vectors that evaluations steer with, and their controls, all as arrays [L, D] beside the layer chosen for each.

L layers, D width. A control is scaled, layer by layer, to the norm of the vector it stands beside, so that both
perturb the residual stream equally (arXiv:2605.30232 §4).
"""

import dataclasses
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax import mesh as mesh_lib
from welfare_jax.envs import walks as walks_lib
from welfare_jax.errors import InputError
from welfare_jax.evals.evaluation import COHORTS
from welfare_jax.evals.settings import Evals
from welfare_jax.interp import extract, geometry, names, null, vectors
from welfare_jax.interp.axes import sentiment as sentiment_axis
from welfare_jax.interp.axes import success
from welfare_jax.interp.axes.settings import AxesSettings
from welfare_jax.interp.names import Vector
from welfare_jax.models import decoder
from welfare_jax.rl import rollout
from welfare_jax.text import pieces
from welfare_jax.text.wording import Wording
from welfare_jax.train.job import Job

KINDS = ("vector", "untrained", *COHORTS)


class Direction(NamedTuple):
    values: np.ndarray  # float32 [L, D]
    layer: int  # where it steers unless the config says otherwise
    kind: str  # one of KINDS
    beside: str  # the name of the vector that it is, or that it is the control of


def direction(what: Vector, values, layer: int) -> Direction:
    """Untrained vectors stand beside the trained ones of their class, all others for themselves."""
    kind = "untrained" if what.model == "untrained" else "vector"
    beside = dataclasses.replace(what, model="trained" if what.model else "")
    return Direction(values, layer, kind, beside.label)


class Bank(NamedTuple):
    directions: dict[str, Direction]
    hook: str  # the one hook point at which all of them act

    def main(self) -> list[str]:
        """The names of the vectors that others are controls of: the trained ones, or the untrained where those are
        all there is."""
        return [name for name, d in self.directions.items() if d.beside == name]


def build(sources, models, evals: Evals, job: Job) -> Bank:
    """Every vector of `sources` with its controls.

    sources: run folders, vector files, "maze" (extracted here from the maze of `job`), or "stories" (success
    against failure in generated accounts). Trained vectors are named v_<class>, untrained ones u_<class>; where both
    are known, u is scaled to v. Then follow beside each as many controls as `evals` says: its like under
    permuted labels (of a lone vector file there are none), random directions, and ones orthogonal to all vectors.
    """
    found, hooks, permuted = {}, set(), {}
    for source in sources:
        hook = "resid_post"
        if source == "maze":
            parts, chance = _from_maze(models, evals, job)
        elif source == "stories":
            parts, chance = _from_stories(models["untrained"], evals, job.text)
        else:
            path = pathlib.Path(source).expanduser()
            parts, hook = _from_files(path, evals.baseline)
            chance = _permuted(path, evals.baseline)
        if same := sorted(parts.keys() & found.keys()):
            raise InputError(f"evals.vectors: {source} brings {same[0]} once more; name one source of it")
        found, hooks, permuted = found | parts, hooks | {hook}, permuted | chance
    if not found:
        raise InputError("evals.vectors: names no source; give a run folder, a vector file, 'maze' or 'stories'")
    if len(hooks) > 1:
        raise InputError(f"evals.vectors: act at {' and '.join(sorted(hooks))}; steer with one hook point at a time")
    spec = decoder.static(models["untrained"].graphdef)[0]
    for name, d in found.items():
        if d.values.shape != (spec.layers, spec.width) or not 0 <= d.layer < spec.layers:
            raise InputError(
                f"evals.vectors: {name} is {d.values.shape} with layer {d.layer}, the model has {spec.layers} layers "
                f"of width {spec.width}"
            )
    permuted = {name: cohort[: evals.permuted] for name, cohort in permuted.items()}
    return Bank(with_controls(found, evals.random, evals.orthogonal, job.seed, permuted), hooks.pop())


def sentiment(sources, model, hook: str, axes: AxesSettings, template) -> tuple[str, np.ndarray | None]:
    """(what they were made from, sentiment directions [A, L, D]): those of a run folder that has some, or else one of
    user messages that differ in their feeling alone. None at other hook points than resid_post, where they are read.
    """
    if hook != "resid_post":
        return f"none at {hook}", None
    spec = decoder.static(model.graphdef)[0]
    for source in sources:
        for file in names.files(pathlib.Path(source).expanduser(), "axes").values():
            arrays, _ = vectors.fitting(file, spec)
            if mine := {name: values for name, values in arrays.items() if name.startswith("sentiment")}:
                return f"{', '.join(mine)} of {file.name}", np.stack([*mine.values()])
    samples = sentiment_axis.prompt_pairs(model.tokenizer, axes.prompts, axes.limit, template)
    decoder.check_ids(spec, samples.tokens, "axes.prompts")
    axis = jax.jit(lambda params, data: sentiment_axis.axis(
        extract.moments(decoder.bind(model.graphdef, params), data, classes=2)
    ))  # fmt: skip
    found = axis(model.params, extract.buckets(samples, axes.batch, 1))
    return "prompts that differ in their feeling", np.asarray(found)[None]


def with_controls(found: dict[str, Direction], random: int, orthogonal: int, seed: int, permuted=None):
    """`found` with untrained vectors scaled to their trained ones, and cohorts beside every vector.

    permuted: {name: [n, L, D]}.
    """
    permuted = permuted or {}
    main = {n: d for n, d in found.items() if d.kind == "vector"}
    main = main or {n: d._replace(beside=n) for n, d in found.items()}
    out = dict(main)
    for name, d in found.items():
        if name not in main:
            other = main.get(d.beside)
            if other is not None:
                scaled = np.asarray(geometry.match_norm(d.values, other.values), np.float32)
                d = Direction(scaled, other.layer, d.kind, d.beside)
            out[name] = d
    span = np.stack([d.values for d in out.values()])
    for i, (name, d) in enumerate(main.items()):
        free, apart = jax.random.split(jax.random.fold_in(jax.random.key(seed), i))
        made = {
            "permuted": geometry.match_norm(permuted[name], d.values) if name in permuted else (),
            "random": null.random(free, d.values, random),
            "orthogonal": null.orthogonal(apart, d.values, span, orthogonal) if orthogonal else (),
        }
        for kind, cohort in made.items():
            for k, values in enumerate(np.asarray(cohort, np.float32)):
                label = dataclasses.replace(Vector.of_label(name), control=f"{kind}_{k}").label
                out[label] = Direction(values, d.layer, kind, name)
    return out


def outline(sources, trained: bool, evals: Evals, layers: int) -> Bank:
    """The directions that `build` would make, by name, kind and place, with nothing in them."""
    found, permuted = {}, {}
    empty = np.zeros((layers, 1), np.float32)
    plain = lambda name, kind, beside: {name: Direction(empty, layers // 2, kind, beside)}
    for source in sources:
        if source == "stories":
            found |= plain("success", "vector", "success")
            permuted["success"] = evals.permuted
        elif source == "maze":
            for c in ("mold", "gold"):
                found |= plain(f"v_{c}", "vector", f"v_{c}") if trained else {}
                found |= plain(f"u_{c}", "untrained", f"v_{c}")
                permuted |= {f"v_{c}": evals.permuted, f"u_{c}": evals.permuted}
        else:
            path = pathlib.Path(source).expanduser()
            parts, _ = _from_files(path, evals.baseline)
            found |= {name: d._replace(values=empty[: len(d.values)]) for name, d in parts.items()}
            permuted |= {name: min(evals.permuted, len(v)) for name, v in _permuted(path, evals.baseline).items()}
    main = {n: d for n, d in found.items() if d.kind == "vector"} or {
        n: d._replace(beside=n) for n, d in found.items()
    }
    out = found | main
    for name, d in main.items():
        for kind, count in zip(COHORTS, (permuted.get(name, 0), evals.random, evals.orthogonal)):
            out |= {f"{kind}_{k}/{name}": Direction(empty, d.layer, kind, name) for k in range(count)}
    return Bank(out, "resid_post")


def _from_files(path, baseline):
    """Vectors of a run folder (its trained and untrained file) or of one file."""
    files = names.files(path) if path.is_dir() else {"": path}
    if not files or not all(f.is_file() for f in files.values()):
        raise InputError(f"evals.vectors: {path} is neither a vector file nor a folder with vectors/*.safetensors")
    out, hooks = {}, set()
    for model, file in files.items():
        arrays, chosen = vectors.named(file, model)
        for what, values in arrays.items():
            hooks.add(what.hook)
            if what.baseline in ("", baseline) and values.ndim == 2:
                layer = chosen.get(what.of, len(values) // 2)
                out[what.label] = direction(what, values, layer)
    if not out:
        raise InputError(f"evals.vectors: {path} holds no vector [layers, width] against the baseline {baseline!r}")
    if len(hooks) > 1:
        raise InputError(f"evals.vectors: the files of {path} act at {' and '.join(sorted(hooks))}")
    return out, hooks.pop()


def _permuted(path, baseline) -> dict:
    """{"v_mold": [n, L, D], ...} of a run's folder: its last model's class vectors under permuted labels."""
    file, models = names.file(path, "permuted"), [*names.files(path)]
    arrays, _ = vectors.named(file, models[0]) if file.is_file() else ({}, {})
    return {what.label: v for what, v in arrays.items() if what.baseline == baseline and v.ndim == 3}


def _from_maze(models, evals: Evals, job: Job):
    """v and u from walks through the maze, as the main job extracts them, and both under permuted labels."""
    lm = models["untrained"]
    table = pieces.build(lm.tokenizer, job.text, job.maze.size, job.template)
    for model in models.values():
        rollout.check_ids(decoder.static(model.graphdef)[0], table, job.extract.question)
    mesh = mesh_lib.make(job.mesh.data, job.mesh.fsdp, job.mesh.tensor)
    data, _ = extract.walk_data(table, job.maze, mesh, job.extract, walks_lib.SEED + 100_000)
    out, chance, targets = {}, {}, (geometry.MOLD, geometry.GOLD)
    make = lambda sums, counts: [geometry.difference_in_means(sums, counts, c, evals.baseline) for c in targets]
    for name, model in models.items():
        for c, values, layer, permuted in zip(targets, *read(model, data, make, targets, evals.permuted)):
            what = Vector(geometry.NAMES[c], evals.baseline, name)
            out[what.label], chance[what.label] = direction(what, values, int(layer)), permuted
    return out, chance


def _from_stories(model, evals: Evals, words: Wording, count: int = 384):
    """Accounts that succeed against accounts that fail, at the last token; a held-out half chooses the layer."""
    samples = success.accounts(model.tokenizer, words, count)
    decoder.check_ids(decoder.static(model.graphdef)[0], samples.tokens, "evals.vectors: the stories")
    data = extract.split(samples, np.arange(count) >= count // 2, 64)
    make = lambda sums, counts: [sums[:, 1] / counts[1] - sums[:, 0] / counts[0]]
    (values,), (layer,), (permuted,) = read(model, data, make, (1,), evals.permuted)
    return {"success": Direction(values, int(layer), "vector", "success")}, {"success": permuted}


def read(model, data, make, targets, permutations: int = 0):
    """(directions, layers, cohorts): of `make(sums, counts)`, for each the layer that a held-out set chooses (§L.1),
    and the same directions [n, L, D] under permuted labels."""

    @jax.jit
    def program(params, data):
        net = decoder.bind(model.graphdef, params)
        found = extract.moments(net, data.fit, permutations=permutations)
        values = make(found.sums, found.counts)
        proj, cosines, labels = extract.scores(net, data.held, jnp.stack(values))
        select = lambda i, c: geometry.select_layer(proj[:, i], cosines[:, i], labels == c, labels >= 0)["layer"]
        chance = jax.vmap(lambda sums: jnp.stack(make(sums, found.counts)), out_axes=1)(found.permuted)
        return values, [select(i, c) for i, c in enumerate(targets)], chance

    return jax.device_get(program(model.params, data))
