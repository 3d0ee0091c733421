"""Several adapters trained side by side over one frozen base: seeds, tiles, rates, coefficients, shuffled rewards.

Every array of theirs has a leading axis of N organisms; what they share has none, and `each` does the rest. Each
leaves a folder of its own, `organisms/<i>/`, that is a run's folder like any other and can be gone on with alone.
"""

import copy
import dataclasses
import pathlib

import jax
import jax.numpy as jnp

from welfare_jax import hosts, runtime
from welfare_jax.models import layers
from welfare_jax.settings import changed
from welfare_jax.text import pieces as text
from welfare_jax.train import checkpoints
from welfare_jax.train.job import Job


def jobs(job: Job) -> list[Job]:
    """What each organism would be as a run of its own; one, the run's, where there are none."""
    given = job.organisms.given
    out = []
    for own in zip(*given.values()):
        own, whole = dict(zip(given, own)), copy.deepcopy(job.whole)
        whole["organisms"] = dict.fromkeys(whole["organisms"], ())
        whole["seed"] = own.pop("seed", job.seed)
        if "tiles" in own:
            whole["text"]["tiles"] = [job.text.tiles[k] for k in own.pop("tiles")]
        whole["train"] = changed(whole["train"], own)
        out.append(Job.of(whole))
    return out or [job]


def tiles(job: Job, own: list[Job]):
    """int32 [N, 3]: the role whose emoji each role shows."""
    return jnp.array([[job.text.tiles.index(t) for t in c.text.tiles] for c in own], jnp.int32)


def one_by_one() -> bool:
    """Whether organisms take turns within a step. On CPU they do: batched products of thin matrices run there on a
    single core, and three organisms of 135M parameters side by side took four times as long as one after another."""
    return layers.on_cpu()


def each(program, in_axes):
    """`program` over the leading axis of the arguments whose entry in `in_axes` is 0; the others (None) are shared."""
    if not one_by_one():
        return jax.vmap(program, in_axes=in_axes)

    def run(*args):
        def one(own):
            own = iter(own)
            return program(*(a if axis is None else next(own) for a, axis in zip(args, in_axes, strict=True)))

        return jax.lax.map(one, tuple(a for a, axis in zip(args, in_axes, strict=True) if axis is not None))

    return run


def stack(trees):
    return jax.tree.map(lambda *a: jnp.stack(a), *trees)


def take(tree, i: int):
    return jax.tree.map(lambda a: a[i], tree)


def own_setup(setup, job: Job, initial):
    """The `Setup` of one organism: its tiles, its parameters before training."""
    wording = dataclasses.replace(setup.pieces.wording, tiles=job.text.tiles)
    shown = jnp.array([setup.pieces.wording.tiles.index(t) for t in wording.tiles], jnp.int32)
    pieces = dataclasses.replace(setup.pieces, table=text.permuted(setup.pieces.table, shown), wording=wording)
    return dataclasses.replace(setup, pieces=pieces, initial=initial)


def one_model(a: dict, b: dict) -> bool:
    """Whether two sets of flat parameters are the same model: equal, but for first factors of adapters (their A) where
    the second (B) is zero in both."""
    silent = {n for n in a if n.endswith("/lora_b") and not hosts.get(jnp.any(a[n]) | jnp.any(b[n]))}
    parts = [n for n in a if n.removesuffix("a") + "b" not in silent]
    return a.keys() == b.keys() and all(hosts.get(jnp.array_equal(a[n], b[n])) for n in parts)


def folder(workdir, i: int) -> pathlib.Path:
    return pathlib.Path(workdir) / "organisms" / str(i)


def rewarded(own: list[Job]) -> list[int]:
    """The numbers of the organisms that speak for the run: those whose rewards are not shuffled, or else all."""
    return [i for i, job in enumerate(own) if not job.train.shuffle_rewards] or list(range(len(own)))


def mean_row(rows: list[dict], own: list[Job]) -> dict:
    """The means over the organisms that are `rewarded` of everything that is a number, and under `organisms` each
    one's own."""
    numbers = {k: [rows[i][k] for i in rewarded(own) if isinstance(rows[i].get(k), int | float)] for k in rows[0]}
    return {k: sum(v) / len(v) for k, v in numbers.items() if v} | {"organisms": rows}


def write(workdir, own: list[Job], state, step: int, weights: str):
    """Each organism's settings, metrics and newest checkpoint in its folder; weights: the digest of the base's."""
    rows = checkpoints.read_metrics(pathlib.Path(workdir) / "metrics.jsonl")
    for i, job in enumerate(own):
        place = folder(workdir, i)
        place.mkdir(parents=True, exist_ok=True)
        lines = [{k: v for k, v in row.items() if k != "organisms"} | row["organisms"][i] for row in rows]
        checkpoints.write_metrics(place / "metrics.jsonl", lines)
        runtime.write_json(place / "config.json", job.whole)
        saved = checkpoints.Checkpoints(place, 1)
        if step not in saved.manager.all_steps():
            saved.save(step, take(state, i), checkpoints.bound(job.whole, weights=weights))
        saved.close()
