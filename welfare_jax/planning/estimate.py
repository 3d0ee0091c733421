"""What a run needs of every device, before anything is loaded: bytes and arithmetic, from shapes alone.

Parameters, optimiser and cache are the shapes that the run itself would allocate, cut as its mesh cuts them. What the
rollout and the update need beside them is read off the programs' jaxprs at the sizes that one device sees (see
`cost.py`). Floor times leave out all communication.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from welfare_jax import hosts
from welfare_jax import mesh as mesh_lib
from welfare_jax.errors import InputError
from welfare_jax.models import decoder, hf, layers
from welfare_jax.models.spec import Spec
from welfare_jax.planning import cost, devices
from welfare_jax.rl.rollout import check_ids
from welfare_jax.sft import planned
from welfare_jax.text import pieces as text
from welfare_jax.train import loop, organisms, state, step, supervised
from welfare_jax.train.algorithms import ALGORITHMS
from welfare_jax.train.job import Job

USABLE = 0.9  # of a device's memory; the rest is the runtime's (`runtime.claim_gpu`), the programs', or in fragments


class Source(NamedTuple):
    """What is known of a model without its weights."""

    spec: Spec
    pieces: text.Pieces
    note: str  # what had to be assumed
    seen: dict  # costs that were already found


class Plan(NamedTuple):
    """Bytes and FLOPs on each device."""

    axes: tuple[int, int, int]  # mesh: data, fsdp, tensor
    memory: float  # of a device
    weights: int
    trained: int  # what is trained, and its copy from before training
    optimiser: int
    cache: int  # keys and values of the episodes played at once
    rollout: int  # the most that the rollout holds, cache included
    update: int  # the most that the update holds beside weights and state
    flops: tuple[float, float]  # rollout, update
    seconds: tuple[float, float]  # at the device's stated rates

    @property
    def resident(self) -> int:
        return self.weights + self.trained + self.optimiser

    @property
    def most(self) -> int:
        return self.resident + max(self.rollout, self.update)

    @property
    def fits(self) -> bool:
        return self.most <= USABLE * self.memory


def source(job: Job) -> Source:
    """The architecture and the text of `job.model.path`; `InputError` where nothing is known of it."""
    folder = hf.resolve(job.model.path, weights=False, revision=job.model.revision)
    spec = dataclasses.replace(hf.read_config(folder)[0], attention=job.model.attention)
    if hf.has_tokenizer(folder):
        pieces = loop.tables(job, folder)
        check_ids(spec, pieces)
        return Source(spec, pieces, "", {})
    return Source(spec, text.stand_in(job.maze.size), "no tokenizer at hand: texts as long as Qwen3's", {})


def start(spec: Spec, job: Job):
    """(graphdef, the model's parameters, trained ones, frozen ones) as shapes, by what a run starts with."""
    graphdef, shapes = decoder.structure(spec, None, job.model.dtype)
    found = []

    def parts(params):
        graph, trainable, frozen = loop.start(hf.LM(graphdef, params, spec, None, ""), job.train, job.seed)
        found.append(graph)
        return trainable, frozen

    trainable, frozen = jax.eval_shape(parts, shapes)
    return found[0], shapes, trainable, frozen


def resident(spec: Spec, job: Job, mesh) -> tuple[int, int, int]:
    """(weights, trained parameters with their first copy, optimiser state): bytes on each device."""
    _, shapes, trainable, _ = start(spec, job)
    opt_state = jax.eval_shape(state.optimizer(job.train).init, trainable)
    now = state.State(jax.ShapeDtypeStruct((), jnp.int32), trainable, opt_state)
    own = jax.tree.map(_share, now, state.shardings(mesh, now))
    flat = {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in jax.tree.leaves_with_path(shapes)}
    weights = sum(_share(leaf, mesh_lib.sharding(mesh, path, leaf.shape)) for path, leaf in flat.items())
    several = len(organisms.jobs(job))
    trained, optimiser = (several * sum(jax.tree.leaves(part)) for part in (own.trainable, own.opt_state))
    # The copy from before training: of one model, leaves of the loaded type are the loaded arrays themselves.
    shared = {k for k, leaf in trainable.items() if k in flat and flat[k].dtype == leaf.dtype and several == 1}
    first = several * sum(count for k, count in own.trainable.items() if k not in shared)
    return weights, trained + first, optimiser


def _share(leaf, sharding) -> int:
    """Bytes of one device's part of an array."""
    return cost.size(jax.ShapeDtypeStruct(sharding.shard_shape(leaf.shape), leaf.dtype))


def local(spec: Spec, job: Job, mesh) -> tuple[Spec, Job]:
    """The decoder and the settings as one device sees them: its heads and neurons, its share of every batch."""
    rows, tensor, cfg = mesh.shape["data"] * mesh.shape["fsdp"], mesh.shape["tensor"], job.train
    if spec.kv_heads % tensor == 0:
        spec = dataclasses.replace(spec, heads=spec.heads // tensor, kv_heads=spec.kv_heads // tensor)
    spec = dataclasses.replace(spec, mlp=spec.mlp // (tensor if spec.mlp % tensor == 0 else 1))
    kept, episodes = cfg.groups * min(cfg.keep_best, cfg.group_size), cfg.groups * cfg.group_size // rows
    members = episodes if kept else math.gcd(cfg.group_size, episodes)  # of a maze, on one device
    train = dataclasses.replace(
        cfg, groups=episodes // members, group_size=members, rollout_batch=cfg.rollout_batch // rows,
        micro_batch=max(cfg.micro_batch // rows, 1), keep_best=kept // rows,
    )  # fmt: skip
    sft = dataclasses.replace(job.sft, batch=max(job.sft.batch // rows, 1))
    return spec, dataclasses.replace(job, train=train, sft=sft)


def rollout(spec: Spec, pieces: text.Pieces, job: Job) -> tuple[cost.Cost, int, tuple]:
    """(cost, bytes of the cache, shapes of the episodes) of one device's rollout; spec and job as `local`."""
    cfg, params, dtype = job.train, job.maze, jnp.dtype(job.model.dtype)
    graphdef, _, trainable, frozen = start(spec, job)
    program = step.make_collect(
        graphdef, pieces, params, groups=cfg.groups, group_size=cfg.group_size, merged=cfg.merge_lora, dtype=dtype,
        at_once=cfg.rollout_batch,
    )  # fmt: skip
    args = (trainable, frozen, jax.eval_shape(lambda: jax.random.key(0)), 0, cfg.temperature)
    at_once = cfg.rollout_batch or cfg.groups * cfg.group_size
    slots = pieces.slots(params.turns, params.calm)
    cache = jax.eval_shape(lambda: decoder.empty_cache(spec, at_once, slots, dtype))
    found, results = cost.traced(program, *args)
    return found, cost.tree_size(cache), results[0]


def update(spec: Spec, pieces: text.Pieces, job: Job, episodes) -> cost.Cost:
    """The cost of one device's update; spec and job as `local`, episodes as `rollout` gives them."""
    cfg, dtype, algorithm = job.train, jnp.dtype(job.model.dtype), ALGORITHMS[job.train.algorithm]
    graphdef, _, trainable, frozen = start(spec, job)
    tx = state.optimizer(cfg)
    now = state.State(jax.ShapeDtypeStruct((), jnp.int32), trainable, jax.eval_shape(tx.init, trainable))
    if algorithm.planned:
        turns = job.maze.turns
        program = supervised.make_imitate(graphdef, pieces, tx, cfg, pieces.slots(turns, calm=True), dtype=dtype)
        shape = functools.partial(jax.ShapeDtypeStruct, (job.sft.batch, turns))
        wide = jax.ShapeDtypeStruct((job.sft.batch, turns, 4), jnp.int8)
        rows = planned.Planned(shape(jnp.int8), wide, shape(jnp.int16), shape(jnp.int16), wide, shape(jnp.float32))
        args = (frozen, rows, episodes if job.sft.policy_samples else None)
    else:
        program = step.make_update(graphdef, pieces, tx, cfg, job.maze, dtype=dtype)
        args = (frozen, trainable if cfg.kl_coef or algorithm.restart else None, episodes, cfg.temperature)
    return cost.of(program, now, *args, donated=True)


def _once(known: Source, kind: str, spec: Spec, job: Job, beside: dict, make):
    """`make(job)`, remembered for these settings; those in `beside` do not matter to it."""
    job = dataclasses.replace(job, train=dataclasses.replace(job.train, **beside))
    key = kind, spec, job.model.dtype, job.maze, job.train, job.sft
    if key not in known.seen:
        with layers.for_accelerators():
            known.seen[key] = make(job)
    return known.seen[key]


def make(job: Job, topology: str, known: Source) -> Plan:
    """The plan of a run on a named topology. Raises `InputError` where its batches cannot be cut among the devices."""
    chip, count = devices.topology(topology)
    mesh = mesh_lib.imagined(count, job.mesh.data, job.mesh.fsdp, job.mesh.tensor)
    loop.check_batch(job.train, job.sft, mesh)
    spec, own = local(known.spec, job, mesh)
    collect, cache, episodes = _once(
        known, "rollout", spec, own, {"micro_batch": 1, "remat": True}, lambda c: rollout(spec, known.pieces, c)
    )
    learn = _once(
        known, "update", spec, own, {"rollout_batch": 0, "merge_lora": False},
        lambda c: update(spec, known.pieces, c, episodes),
    )  # fmt: skip
    several, cfg = len(organisms.jobs(job)), own.train
    # Every pass reads all weights: a turn of a rollout, a gradient pass forward, again where recomputed, and back.
    weights = cost.tree_size(start(spec, own)[1])
    rows = cfg.groups * cfg.group_size
    parts = rows // (cfg.rollout_batch or rows)
    examples = own.sft.batch if ALGORITHMS[cfg.algorithm].planned else cfg.keep_best or rows
    passes = cfg.epochs * -(-examples // cfg.micro_batch) * (2 + cfg.remat)
    read = (parts * (job.maze.turns * weights + several * cache * job.maze.turns / 2), passes * weights)
    flops = (several * collect.flops, several * learn.flops)
    played = collect.bytes + cache * chip.tpu  # XLA:TPU makes room for the cache twice (docs/benchmarks.md)
    seconds = tuple(max(f / chip.flops, b / chip.bandwidth) for f, b in zip(flops, read))
    return Plan(
        tuple(mesh.shape.values()), chip.memory, *resident(known.spec, job, mesh), several * cache,
        several * played, several * learn.bytes, flops, seconds,
    )  # fmt: skip


def relief(job: Job, plan: Plan) -> dict:
    """The setting to change where a plan does not fit: the one that costs least where most is missing; or {}."""
    cfg, (data, fsdp, _) = job.train, plan.axes
    rows, limit = data * fsdp, USABLE * plan.memory
    spread = {"mesh.data": 0, "mesh.fsdp": 2 * fsdp} if data % 2 == 0 else {}
    if plan.resident > limit / 2 and spread:
        return spread
    if plan.resident + plan.rollout > limit:
        if cfg.merge_lora:
            return {"train.merge_lora": False}
        at_once = cfg.rollout_batch or cfg.groups * cfg.group_size
        return {"train.rollout_batch": at_once // 2} if at_once % (2 * rows) == 0 else spread
    if not cfg.remat:
        return {"train.remat": True}
    if cfg.remat_keeps != "nothing":
        return {"train.remat_keeps": "nothing"}
    return {"train.micro_batch": cfg.micro_batch // 2} if cfg.micro_batch % (2 * rows) == 0 else spread


def fitted(job: Job, topology: str, known: Source) -> tuple[dict, Plan]:
    """(changes, plan): as it is, or with what makes it fit; with the last settings tried where nothing does."""
    changes = {}
    while True:
        now = job.changed(changes)
        plan = make(now, topology, known)
        step = {} if plan.fits else relief(now, plan)
        if not step:
            return changes, plan
        changes |= step


def _flags(job: Job, changes: dict) -> str:
    new = {k: v for k, v in changes.items() if job.whole[k.split(".")[0]][k.split(".")[1]] != v}
    return " ".join(f"--config.{k}={v}" for k, v in new.items())


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f}"


def describe(job: Job, name: str, plan: Plan) -> list[str]:
    """One plan in words."""
    cfg, at_once = job.train, job.train.rollout_batch or job.train.groups * job.train.group_size
    activations = "recomputing activations" if cfg.remat else "keeping activations"
    cache = _gb(plan.cache) + " (held twice by XLA:TPU)" * devices.topology(name)[0].tpu
    rows = (
        (plan.weights, f"weights, {job.model.dtype}"),
        (plan.trained, "trained parameters and their copy from before training, float32"),
        (plan.optimiser, "optimiser"),
        (plan.rollout, f"rollout: {cache} of cache for {at_once} episodes at once, its growth, activations"),
        (plan.update, f"update: gradients and activations of {cfg.micro_batch} episodes a pass, {activations}"),
        (plan.most, f"at most at once, of {_gb(plan.memory)}: {'fits' if plan.fits else 'does not fit'}"),
    )
    work = " + ".join(f"{f * devices.topology(name)[1] / 1e15:.3g}" for f in plan.flops)
    floor = "" if math.isnan(sum(plan.seconds)) else f", at least {sum(plan.seconds):.2f} s without communication"
    return [
        f"{name}, mesh {' x '.join(map(str, plan.axes))}, on each device:",
        *(f"{_gb(count):>9} GB  {what}" for count, what in rows),
        f"{work} PFLOP a step (rollout + update){floor}",
    ]


COLUMNS = ("topology", "mesh", "weights", "trained", "optimiser", "cache", "rollout", "update", "most", "of", "s/step")


def row(job: Job, name: str, known: Source) -> str:
    """A line of the table, with the settings that make it fit; or why it cannot run."""
    try:
        changes, plan = fitted(job, name, known)
    except InputError as error:
        return f"{name:>12} {error}"
    sizes = (plan.weights, plan.trained, plan.optimiser, plan.cache, plan.rollout, plan.update, plan.most, plan.memory)
    cells = (name, "x".join(map(str, plan.axes)), *map(_gb, sizes), f"{sum(plan.seconds):.2f}")
    fits = f"fits {_flags(job, changes)}".rstrip() if plan.fits else "does not fit"
    return "".join(f"{cell:>{12 if i == 0 else 10}}" for i, cell in enumerate(cells)) + f"  {fits}"


def lines(job: Job):
    """What `--config.plan=True` prints of memory, a line at a time: of the machine named, or a table of common ones if
    none is. A generator whose value is the named machine's `Plan`, as fitted; else None."""
    known, name = source(job), job.renting.topology
    _, _, trainable, frozen = start(known.spec, job)
    total, count = (sum(v.size for v in part.values()) for part in (frozen | trainable, trainable))
    slots = known.pieces.slots(job.maze.turns, not job.maze.wind)
    episodes = job.train.groups * job.train.group_size
    work = f"{episodes} episodes of {slots} slots a step"
    note = f" ({known.note})" if known.note else ""
    yield f"{hf.named(job.model)}: {total:,} parameters, {count:,} trained; {work}{note}"
    if not name:
        yield "".join(f"{name:>{12 if i == 0 else 10}}" for i, name in enumerate(COLUMNS)) + "  (GB a device)"
        for each in devices.COMMON:
            yield row(job, each, known)
        return None
    plan = make(job, name, known)
    yield from describe(job, name, plan)
    if plan.fits:
        return plan
    changes, better = fitted(job, name, known)
    flags = _flags(job, changes)
    if better.fits:
        yield f"It fits with {flags}"
        yield from describe(job.changed(changes), name, better)
    else:
        yield f"No setting makes it fit: {_gb(better.most)} GB with {flags or 'these'}; take more devices."
    return better


def ready(job: Job) -> Job:
    """The settings with which the run fits the devices here: as they are or, with `job.renting.fit`, changed.

    Raises `InputError`, before anything is loaded, where they do not fit. Nothing is asked where the devices are CPUs,
    and nothing of users who `confirm`.
    """
    if job.renting.confirm or jax.local_devices()[0].platform == "cpu":
        return job
    known = source(job)
    plan = make(job, devices.HERE, known)
    if plan.fits:
        return job
    changes, better = fitted(job, devices.HERE, known)
    flags, need = _flags(job, changes), f"{_gb(plan.most)} GB of each device here, which has {_gb(plan.memory)}"
    anyway = "--config.confirm=True starts it anyway"
    if not better.fits:
        raise InputError(f"the run would take {need}; no setting makes it fit: take more devices; {anyway}")
    if not job.renting.fit:
        raise InputError(f"the run would take {need}; it fits with {flags}, which --config.fit=True sets; {anyway}")
    if hosts.first():
        print(f"fitted to {_gb(better.most)} of {_gb(plan.memory)} GB a device with {flags}", flush=True)
    return job.changed(changes)
