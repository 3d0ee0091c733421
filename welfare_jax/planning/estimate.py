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
from ml_collections import ConfigDict

from welfare_jax import hosts
from welfare_jax import mesh as mesh_lib
from welfare_jax.envs import maze
from welfare_jax.errors import InputError
from welfare_jax.models import decoder, hf, layers
from welfare_jax.models.spec import Spec
from welfare_jax.planning import cost, devices
from welfare_jax.rl.rollout import check_ids
from welfare_jax.sft import planned
from welfare_jax.text import pieces as text
from welfare_jax.train import loop, organisms, state, step, supervised
from welfare_jax.train.algorithms import ALGORITHMS

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


def source(config) -> Source:
    """The architecture and the text of `config.model.path`; `InputError` where nothing is known of it."""
    folder = hf.resolve(config.model.path, weights=False, revision=config.model.revision)
    spec = dataclasses.replace(hf.read_config(folder)[0], attention=config.model.attention)
    if hf.has_tokenizer(folder):
        pieces = loop.tables(config, folder)
        check_ids(spec, pieces)
        return Source(spec, pieces, "", {})
    return Source(spec, text.stand_in(config.maze.size), "no tokenizer at hand: texts as long as Qwen3's", {})


def start(spec: Spec, config):
    """(graphdef, the model's parameters, trained ones, frozen ones) as shapes, by what a run starts with."""
    graphdef, shapes = decoder.structure(spec, None, config.model.dtype)
    found = []

    def parts(params):
        graph, trainable, frozen = loop.start(hf.LM(graphdef, params, spec, None, ""), config)
        found.append(graph)
        return trainable, frozen

    trainable, frozen = jax.eval_shape(parts, shapes)
    return found[0], shapes, trainable, frozen


def resident(spec: Spec, config, mesh) -> tuple[int, int, int]:
    """(weights, trained parameters with their first copy, optimiser state): bytes on each device."""
    _, shapes, trainable, _ = start(spec, config)
    opt_state = jax.eval_shape(state.optimizer(config.train).init, trainable)
    now = state.State(jax.ShapeDtypeStruct((), jnp.int32), trainable, opt_state)
    own = jax.tree.map(_share, now, state.shardings(mesh, now))
    flat = {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in jax.tree.leaves_with_path(shapes)}
    weights = sum(_share(leaf, mesh_lib.sharding(mesh, path, leaf.shape)) for path, leaf in flat.items())
    several = len(organisms.configs(config))
    trained, optimiser = (several * sum(jax.tree.leaves(part)) for part in (own.trainable, own.opt_state))
    # The copy from before training: of one model, leaves of the loaded type are the loaded arrays themselves.
    shared = {k for k, leaf in trainable.items() if k in flat and flat[k].dtype == leaf.dtype and several == 1}
    first = several * sum(count for k, count in own.trainable.items() if k not in shared)
    return weights, trained + first, optimiser


def _share(leaf, sharding) -> int:
    """Bytes of one device's part of an array."""
    return cost.size(jax.ShapeDtypeStruct(sharding.shard_shape(leaf.shape), leaf.dtype))


def local(spec: Spec, config, mesh) -> tuple[Spec, ConfigDict]:
    """The decoder and the settings as one device sees them: its heads and neurons, its share of every batch."""
    rows, tensor, out = mesh.shape["data"] * mesh.shape["fsdp"], mesh.shape["tensor"], ConfigDict(config.to_dict())
    cfg = out.train
    if spec.kv_heads % tensor == 0:
        spec = dataclasses.replace(spec, heads=spec.heads // tensor, kv_heads=spec.kv_heads // tensor)
    spec = dataclasses.replace(spec, mlp=spec.mlp // (tensor if spec.mlp % tensor == 0 else 1))
    kept, episodes = cfg.groups * min(cfg.keep_best, cfg.group_size), cfg.groups * cfg.group_size // rows
    members = episodes if kept else math.gcd(cfg.group_size, episodes)  # of a maze, on one device
    cfg.update(
        groups=episodes // members, group_size=members, rollout_batch=cfg.rollout_batch // rows,
        micro_batch=max(cfg.micro_batch // rows, 1), keep_best=kept // rows,
    )  # fmt: skip
    out.sft.batch = max(out.sft.batch // rows, 1)
    return spec, out


def rollout(spec: Spec, pieces: text.Pieces, config) -> tuple[cost.Cost, int, tuple]:
    """(cost, bytes of the cache, shapes of the episodes) of one device's rollout; spec and config as `local`."""
    cfg, params, dtype = config.train, maze.Params(**config.maze.to_dict()), jnp.dtype(config.model.dtype)
    graphdef, _, trainable, frozen = start(spec, config)
    program = step.make_collect(
        graphdef, pieces, params, cfg.groups, cfg.group_size, cfg.merge_lora, None, dtype, cfg.rollout_batch
    )
    args = (trainable, frozen, jax.eval_shape(lambda: jax.random.key(0)), 0, cfg.temperature)
    at_once = cfg.rollout_batch or cfg.groups * cfg.group_size
    slots = pieces.slots(params.turns, params.calm)
    cache = jax.eval_shape(lambda: decoder.empty_cache(spec, at_once, slots, dtype))
    found, results = cost.traced(program, *args)
    return found, cost.tree_size(cache), results[0]


def update(spec: Spec, pieces: text.Pieces, config, episodes) -> cost.Cost:
    """The cost of one device's update; spec and config as `local`, episodes as `rollout` gives them."""
    cfg, dtype, algorithm = config.train, jnp.dtype(config.model.dtype), ALGORITHMS[config.train.algorithm]
    graphdef, _, trainable, frozen = start(spec, config)
    tx = state.optimizer(cfg)
    now = state.State(jax.ShapeDtypeStruct((), jnp.int32), trainable, jax.eval_shape(tx.init, trainable))
    if algorithm.planned:
        turns = config.maze.turns
        program = supervised.make_imitate(graphdef, pieces, tx, cfg, pieces.slots(turns, calm=True), dtype)
        shape = functools.partial(jax.ShapeDtypeStruct, (config.sft.batch, turns))
        wide = jax.ShapeDtypeStruct((config.sft.batch, turns, 4), jnp.int8)
        rows = planned.Planned(shape(jnp.int8), wide, shape(jnp.int16), shape(jnp.int16), wide, shape(jnp.float32))
        args = (frozen, rows, episodes if config.sft.policy_samples else None)
    else:
        params = maze.Params(**config.maze.to_dict())
        program = step.make_update(graphdef, pieces, tx, cfg, params, dtype)
        args = (frozen, trainable if cfg.kl_coef or algorithm.restart else None, episodes, cfg.temperature)
    return cost.of(program, now, *args, donated=True)


def _once(known: Source, kind: str, spec: Spec, config, beside: dict, make):
    """`make(config)`, remembered for these settings; those in `beside` do not matter to it."""
    config = ConfigDict(config.to_dict())
    config.train.update(beside)
    key = kind, spec, config.model.dtype, str(config.maze), str(config.train), str(config.sft)
    if key not in known.seen:
        with layers.for_accelerators():
            known.seen[key] = make(config)
    return known.seen[key]


def make(config, topology: str, known: Source) -> Plan:
    """The plan of a run on a named topology. Raises `InputError` where its batches cannot be cut among the devices."""
    chip, count = devices.topology(topology)
    mesh = mesh_lib.imagined(count, config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    loop.check_batch(config, mesh)
    spec, own = local(known.spec, config, mesh)
    collect, cache, episodes = _once(
        known, "rollout", spec, own, {"micro_batch": 1, "remat": True}, lambda c: rollout(spec, known.pieces, c)
    )
    learn = _once(
        known, "update", spec, own, {"rollout_batch": 0, "merge_lora": False},
        lambda c: update(spec, known.pieces, c, episodes),
    )  # fmt: skip
    several, cfg = len(organisms.configs(config)), own.train
    # Every pass reads all weights: a turn of a rollout, a gradient pass forward, again where recomputed, and back.
    weights = cost.tree_size(start(spec, own)[1])
    rows = cfg.groups * cfg.group_size
    parts = rows // (cfg.rollout_batch or rows)
    examples = own.sft.batch if ALGORITHMS[cfg.algorithm].planned else cfg.keep_best or rows
    passes = cfg.epochs * -(-examples // cfg.micro_batch) * (2 + cfg.remat)
    read = (parts * (config.maze.turns * weights + several * cache * config.maze.turns / 2), passes * weights)
    flops = (several * collect.flops, several * learn.flops)
    # XLA:TPU makes room for the cache twice, on what grounds its text does not say: docs/benchmarks.md has the sizes.
    cached = cache * (2 if chip.kind[0].startswith("TPU") else 1)
    seconds = tuple(max(f / chip.flops, b / chip.bandwidth) for f, b in zip(flops, read))
    return Plan(
        tuple(mesh.shape.values()), chip.memory, *resident(known.spec, config, mesh), several * cached,
        several * (collect.bytes + cached - cache), several * learn.bytes, flops, seconds,
    )  # fmt: skip


def changed(config, changes: dict) -> ConfigDict:
    out = ConfigDict(config.to_dict())
    out.update_from_flattened_dict(changes)
    return out


def relief(config, plan: Plan) -> dict:
    """The setting to change where a plan does not fit: the one that costs least where most is missing; or {}."""
    cfg, (data, fsdp, _) = config.train, plan.axes
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


def fitted(config, topology: str, known: Source) -> tuple[dict, Plan]:
    """(changes, plan): as it is, or with what makes it fit; with the last settings tried where nothing does."""
    changes = {}
    while True:
        now = changed(config, changes)
        plan = make(now, topology, known)
        step = {} if plan.fits else relief(now, plan)
        if not step:
            return changes, plan
        changes |= step


def _flags(config, changes: dict) -> str:
    was = config.to_dict()
    new = {k: v for k, v in changes.items() if was[k.split(".")[0]][k.split(".")[1]] != v}
    return " ".join(f"--config.{k}={v}" for k, v in new.items())


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f}"


def describe(config, name: str, plan: Plan) -> list[str]:
    """One plan in words."""
    cfg, at_once = config.train, config.train.rollout_batch or config.train.groups * config.train.group_size
    activations = "recomputing activations" if cfg.remat else "keeping activations"
    rows = (
        (plan.weights, f"weights, {config.model.dtype}"),
        (plan.trained, "trained parameters and their copy from before training, float32"),
        (plan.optimiser, "optimiser"),
        (plan.rollout, f"rollout: {_gb(plan.cache)} of cache for {at_once} episodes at once, its growth, activations"),
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


def row(config, name: str, known: Source) -> str:
    """A line of the table, with the settings that make it fit; or why it cannot run."""
    try:
        changes, plan = fitted(config, name, known)
    except InputError as error:
        return f"{name:>12} {error}"
    sizes = (plan.weights, plan.trained, plan.optimiser, plan.cache, plan.rollout, plan.update, plan.most, plan.memory)
    cells = (name, "x".join(map(str, plan.axes)), *map(_gb, sizes), f"{sum(plan.seconds):.2f}")
    fits = f"fits {_flags(config, changes)}".rstrip() if plan.fits else "does not fit"
    return "".join(f"{cell:>{12 if i == 0 else 10}}" for i, cell in enumerate(cells)) + f"  {fits}"


def lines(config):
    """What `--config.plan=True` prints of memory, a line at a time: of `config.topology`, or a table of the common
    ones where none is named. A generator whose value is the named machine's `Plan`, as fitted; else None."""
    loop.check(config)
    known, name = source(config), config.topology
    _, _, trainable, frozen = start(known.spec, config)
    total, count = (sum(v.size for v in part.values()) for part in (frozen | trainable, trainable))
    slots = known.pieces.slots(config.maze.turns, not config.maze.wind)
    episodes = config.train.groups * config.train.group_size
    work = f"{episodes} episodes of {slots} slots a step"
    note = f" ({known.note})" if known.note else ""
    yield f"{hf.named(config.model)}: {total:,} parameters, {count:,} trained; {work}{note}"
    if not name:
        yield "".join(f"{name:>{12 if i == 0 else 10}}" for i, name in enumerate(COLUMNS)) + "  (GB a device)"
        for each in devices.COMMON:
            yield row(config, each, known)
        return None
    plan = make(config, name, known)
    yield from describe(config, name, plan)
    if plan.fits:
        return plan
    changes, better = fitted(config, name, known)
    flags = _flags(config, changes)
    if better.fits:
        yield f"It fits with {flags}"
        yield from describe(changed(config, changes), name, better)
    else:
        yield f"No setting makes it fit: {_gb(better.most)} GB with {flags or 'these'}; take more devices."
    return better


def ready(config) -> ConfigDict:
    """The settings with which the run fits the devices here: as they are or, with `config.fit`, changed.

    Raises `InputError`, before anything is loaded, where they do not fit. Nothing is asked where the devices are CPUs,
    and nothing of users who `config.confirm`.
    """
    if config.confirm or jax.local_devices()[0].platform == "cpu":
        return config
    known = source(config)
    plan = make(config, devices.HERE, known)
    if plan.fits:
        return config
    changes, better = fitted(config, devices.HERE, known)
    flags, need = _flags(config, changes), f"{_gb(plan.most)} GB of each device here, which has {_gb(plan.memory)}"
    anyway = "--config.confirm=True starts it anyway"
    if not better.fits:
        raise InputError(f"the run would take {need}; no setting makes it fit: take more devices; {anyway}")
    if not config.fit:
        raise InputError(f"the run would take {need}; it fits with {flags}, which --config.fit=True sets; {anyway}")
    if hosts.first():
        print(f"fitted to {_gb(better.most)} of {_gb(plan.memory)} GB a device with {flags}", flush=True)
    return changed(config, changes)
