"""The training stage: build the programs, resume, step, log, save."""

import dataclasses
import math
import pathlib
import re
import time

import jax
import jax.numpy as jnp
from tqdm import tqdm

from welfare_jax import mesh as mesh_lib
from welfare_jax import runtime
from welfare_jax.envs import maze
from welfare_jax.errors import InputError
from welfare_jax.models import hf, lora
from welfare_jax.models.layers import Lora
from welfare_jax.text import pieces as text
from welfare_jax.text.wording import Wording
from welfare_jax.train import checkpoints, state, step
from welfare_jax.train.algorithms import ALGORITHMS


@dataclasses.dataclass
class Setup:
    """Everything that the stages of a run share: the model in two parts, the text tables, the maze."""

    lm: hf.LM  # as loaded: the untrained model
    graphdef: object  # with adapters
    initial: dict  # trainable parameters before training, flat
    frozen: dict
    pieces: text.Pieces
    maze: maze.Params
    mesh: object

    def join(self, trainable, frozen) -> dict:
        """The decoder's parameters, in the type in which the model was loaded."""
        return state.join(trainable, frozen, self.lm.params["embed"].dtype)


def build(config) -> Setup:
    """Load the model, attach adapters, prove the pieces. Raises `InputError` before anything is written."""
    check(config)
    mesh = mesh_lib.make(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    params = maze.Params(**config.maze.to_dict()).check()
    words = config.text.to_dict()
    template = words.pop("template")
    wording = Wording(**{k: tuple(v) if isinstance(v, list | tuple) else v for k, v in words.items()})
    folder = hf.resolve(config.model.path)
    pieces = text.build(hf.load_tokenizer(folder), wording, params.size, template)
    lm = hf.load(folder, config.model.dtype, mesh, config.model.attention)
    adapters = Lora(config.train.lora.rank, config.train.lora.alpha, config.train.lora.targets)
    graphdef, full = lm.graphdef, lm.params
    if adapters.rank:
        graphdef, full = lora.attach(graphdef, full, adapters, jax.random.key(config.seed))
    trainable, frozen = state.split(full, config.train.trainable)
    if ALGORITHMS[config.train.algorithm].value_head:
        trainable |= state.value_head(lm.spec.width)
    trainable, frozen = (
        {k: jax.device_put(v, mesh_lib.sharding(mesh, k, v.shape)) for k, v in part.items()}
        for part in (trainable, frozen)
    )
    check_batch(config.train, mesh)
    return Setup(lm, graphdef, trainable, frozen, pieces, params, mesh)


NAMES = {
    "algorithm": ALGORITHMS,
    "optimizer": state.OPTIMIZERS,
    "schedule": ("cosine", "linear", "constant"),
    "entropy": ("equalised", "plain"),
    "kl": ("exact", "k3"),
    "kl_in": ("loss", "reward"),
}


def check(config):
    """Refuse what would otherwise end in an error long after the start."""
    cfg, walks, curve = config.train, config.extract, config.curve
    positive = ("steps", "groups", "group_size", "micro_batch", "epochs", "minibatches", "checkpoint_every")
    counts = {f"train.{k}": cfg[k] for k in positive}
    counts |= {"extract.per_length": walks.per_length, "extract.batch": walks.batch}
    counts |= {"curve.per_length": curve.per_length} if curve.every else {}
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name}={value}: must be at least 1")
    for name, known in NAMES.items():
        if cfg[name] not in known:
            raise InputError(f"train.{name}={cfg[name]!r}: choose one of {', '.join(known)}")
    if cfg.lr <= 0:
        raise InputError(f"train.lr={cfg.lr}: must be positive")
    for name, pattern in (("train.trainable", cfg.trainable), ("train.lora.targets", cfg.lora.targets)):
        try:
            re.compile(pattern)
        except re.error as error:
            raise InputError(f"{name}={pattern!r}: not a regular expression ({error})") from None
    if not 0 < round(walks.per_length * (1 - walks.held_out)) < walks.per_length:
        raise InputError(
            f"extract.held_out={walks.held_out}: of {walks.per_length} walks a cell (extract.per_length) at least one "
            f"must be held out and one kept"
        )


def check_batch(config, mesh):
    """Episodes of an optimiser step must be cut evenly into gradient passes, and those among the devices."""
    kept = min(config.keep_best or config.group_size, config.group_size)
    episodes = config.groups * kept // config.minibatches
    part = min(config.micro_batch, episodes)
    rows = mesh.shape["data"] * mesh.shape["fsdp"]
    if config.groups * kept % config.minibatches:
        raise InputError(
            f"train.minibatches={config.minibatches}: must divide the {config.groups * kept} episodes of a step"
        )
    if episodes % part or part % rows:
        raise InputError(
            f"train.micro_batch={config.micro_batch}: must divide the {episodes} episodes of an optimiser step "
            f"and be a multiple of the {rows} devices that share them"
        )


def describe(setup: Setup, config) -> str:
    count = sum(v.size for v in setup.initial.values())
    total = count + sum(v.size for v in setup.frozen.values())
    said = "append-only" if setup.pieces.append_only else "rewrites its history: turns are kept as they were shown"
    return (
        f"{config.model.path}: {total:,} parameters, {count:,} trained; chat template {said}; "
        f"{setup.pieces.width} slots a turn; {jax.device_count()} x {jax.devices()[0].device_kind}"
    )


def collector(setup: Setup, config):
    """The compiled rollout, for training and for looking at episodes afterwards."""
    cfg = config.train
    return jax.jit(step.make_collect(
        setup.graphdef, setup.pieces, setup.maze, cfg.groups, cfg.group_size, cfg.merge_lora, setup.mesh,
        setup.lm.params["embed"].dtype,
    ))  # fmt: skip


def train(setup: Setup, config, workdir, collect, curve=None) -> dict:
    """Train for `config.train.steps` steps; returns the trained parameters (flat).

    `curve(trainable, frozen) -> dict of lists` runs every `config.curve.every` steps and its result joins the
    metrics. A run that was killed continues from its newest checkpoint with the same metrics.
    """
    cfg, workdir = config.train, pathlib.Path(workdir)
    tx = state.optimizer(cfg)
    fresh = jax.tree.map(jnp.copy, setup.initial)  # the update gives its input's memory away
    now = state.State(jnp.int32(0), fresh, tx.init(fresh))
    places = state.shardings(setup.mesh, now)
    now = jax.device_put(now, places)
    dtype = setup.lm.params["embed"].dtype
    update = step.make_update(setup.graphdef, setup.pieces, tx, cfg, setup.maze.turns, dtype)
    update = jax.jit(update, donate_argnums=(0,), out_shardings=(places, mesh_lib.replicated(setup.mesh)))
    saved = checkpoints.Checkpoints(workdir, cfg.keep)
    start, now = saved.restore(now, config.to_dict())  # refuses other settings before anything is written
    runtime.write_json(workdir / "config.json", config.to_dict())
    initial = setup.initial if cfg.kl_coef or ALGORITHMS[cfg.algorithm].restart else None
    seed = jax.random.fold_in(jax.random.key(config.seed), 1)
    log = checkpoints.MetricsLog(workdir / "metrics.jsonl", start)
    bar = tqdm(range(start, cfg.steps), desc="training", initial=start, total=cfg.steps, unit="step")
    for i in bar:
        begin = time.perf_counter()
        row = {"step": i}
        if curve is not None and i % config.curve.every == 0:
            row |= curve(now.trainable, setup.frozen)
        curve_seconds = time.perf_counter() - begin
        played, _ = collect(now.trainable, setup.frozen, seed, i, cfg.temperature)
        jax.block_until_ready(played)
        rollout_seconds = time.perf_counter() - begin - curve_seconds
        now, metrics = update(now, setup.frozen, initial, played, cfg.temperature)
        row |= step.values(metrics)
        seconds = time.perf_counter() - begin
        row |= timing(row, cfg, seconds, rollout_seconds, curve_seconds)
        if not math.isfinite(row["loss"]) or not math.isfinite(row["grad_norm"]):
            raise InputError(
                f"step {i}: loss {row['loss']}, gradient norm {row['grad_norm']}; lower train.lr and run again"
            )
        log.write(row)
        bar.set_postfix(
            reward=f"{row['reward']:.1f}", gold=f"{row['gold_taken'] or 0:.2f}", mold=f"{row['mold_avoided'] or 0:.2f}"
        )
        if (i + 1) % cfg.checkpoint_every == 0 or i + 1 == cfg.steps:
            saved.save(i + 1, now, config.to_dict())
    log.close()
    saved.close()
    return now.trainable


def restored(setup: Setup, config, folder) -> dict:
    """The trained parameters (flat) in the newest checkpoint of a run that was made with these settings."""
    folder = pathlib.Path(folder).expanduser()
    if not (folder / "checkpoints").is_dir():
        raise InputError(f"{folder}: has no checkpoints; name the --workdir of a run that has trained")
    now = state.State(jnp.int32(0), setup.initial, state.optimizer(config.train).init(setup.initial))
    saved = checkpoints.Checkpoints(folder, config.train.keep)
    start, now = saved.restore(jax.device_put(now, state.shardings(setup.mesh, now)), config.to_dict())
    saved.close()
    if not start:
        raise InputError(f"{folder}: has no finished checkpoint; run it further")
    return now.trainable


def timing(row, cfg, seconds, rollout_seconds, curve_seconds) -> dict:
    return {
        "seconds": seconds,
        "rollout_seconds": rollout_seconds,
        "curve_seconds": curve_seconds,
        "episodes_per_s": cfg.groups * cfg.group_size / (seconds - curve_seconds),
        "tokens_per_s": row["tokens"] / (seconds - curve_seconds),
    }


def ends(workdir, count: int = 5) -> dict:
    """Means over the first and the last `count` steps of what the summary compares."""
    rows = checkpoints.read_metrics(pathlib.Path(workdir) / "metrics.jsonl")
    out = {"steps": len(rows)}
    for name in ("reward", "gold_taken", "mold_avoided"):
        for end, part in (("first", rows[:count]), ("last", rows[-count:])):
            found = [row[name] for row in part if row.get(name) is not None]
            out[f"{name}_{end}"] = sum(found) / len(found) if found else None
    return out
