"""The training stage: build the programs, resume, step, log, save."""

import dataclasses
import pathlib
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from welfare_jax import hosts
from welfare_jax import mesh as mesh_lib
from welfare_jax.envs import maze
from welfare_jax.errors import InputError
from welfare_jax.models import hf
from welfare_jax.rl import objectives, rollout
from welfare_jax.text import pieces as text
from welfare_jax.train import checkpoints, intervene, organisms, parallel, state, step, supervised, training
from welfare_jax.train.algorithms import ALGORITHMS
from welfare_jax.train.job import Job
from welfare_jax.train.settings import Planned, Training


@dataclasses.dataclass
class Setup(state.Adapted):
    """Everything that the stages of a run share: the model, the text tables, the maze."""

    pieces: text.Pieces
    maze: maze.Params

    def settings(self, job: Job) -> dict:
        """What a checkpoint is bound to: the settings, and by content the model, the texts and what intervenes."""
        digests = {"weights": checkpoints.digest(self.lm.params), "text": self.pieces.digest}
        if job.train.intervene.vectors:
            digests["vectors"] = checkpoints.file_digest(job.train.intervene.vectors)
        return checkpoints.bound(job.whole, **digests)


def start(lm, cfg: Training, seed: int):
    """(graphdef, trainable, frozen) of a loaded model with the settings' adapters, fresh from the seed."""
    graphdef, trainable, frozen = state.adapted(lm, cfg.lora, cfg.trainable, seed)
    if ALGORITHMS[cfg.algorithm].value_head:
        trainable |= state.value_head(lm.spec.width)
    return graphdef, trainable, frozen


def tables(job: Job, folder) -> text.Pieces:
    """The piece tables of a folder's tokenizer in the settings' wording."""
    return text.build(hf.load_tokenizer(folder), job.text, job.maze.size, job.template)


def build(job: Job) -> Setup:
    """Load the model, attach adapters, prove the pieces. Raises `InputError` before anything is written."""
    organisms.jobs(job)  # each organism's settings are checked as those of a run
    mesh = mesh_lib.make(job.mesh.data, job.mesh.fsdp, job.mesh.tensor)
    parallel.devices(job.parallel, mesh)
    folder = hf.resolve(job.model.path, revision=job.model.revision)
    pieces = tables(job, folder)
    lm = hf.load(folder, job.model.dtype, mesh, job.model.attention)
    rollout.check_ids(lm.spec, pieces, job.extract.question)
    intervene.build(job.train.intervene, lm.spec)
    graphdef, trainable, frozen = start(lm, job.train, job.seed)
    trainable, frozen = (state.placed(part, mesh) for part in (trainable, frozen))
    check_batch(job.train, job.sft, mesh)
    return Setup(lm, graphdef, trainable, frozen, mesh, pieces=pieces, maze=job.maze)


def check_batch(cfg: Training, sft: Planned, mesh):
    """Examples of an optimiser step must be cut evenly into gradient passes, and those among the devices."""
    total, name = cfg.learnt, "episodes"
    if ALGORITHMS[cfg.algorithm].planned:
        own = cfg.groups * cfg.group_size if sft.policy_samples else 0
        total, name = sft.batch + own, "trajectories (sft.batch)" + " and episodes" * bool(own)
    if total % cfg.minibatches:
        raise InputError(f"train.minibatches={cfg.minibatches}: must divide the {total} {name} of a step")
    examples = total // cfg.minibatches
    part = min(cfg.micro_batch, examples)
    rows = mesh.shape["data"] * mesh.shape["fsdp"]
    if examples % part or part % rows:
        raise InputError(
            f"train.micro_batch={cfg.micro_batch}: must divide the {examples} {name} of an optimiser step "
            f"and be a multiple of the {rows} devices that share them"
        )
    episodes = cfg.groups * cfg.group_size
    part = min(cfg.rollout_batch, episodes) or episodes
    if episodes % part or part % rows:
        raise InputError(
            f"train.rollout_batch={cfg.rollout_batch}: must divide the {episodes} episodes of a step and be a "
            f"multiple of the {rows} devices that share them; 0 plays all at once"
        )


def describe(setup: Setup, job: Job) -> str:
    count = sum(v.size for v in setup.initial.values())
    total = count + sum(v.size for v in setup.frozen.values())
    said = "append-only" if setup.pieces.append_only else "rewrites its history: turns are kept as they were shown"
    said += f", writes the date {job.text.date} (text.date)" * setup.pieces.dated
    first, later = setup.pieces.widths(setup.maze.calm)
    slots = f"{first} slots in the first turn, {later} in the others"
    extra = intervene.describe(job.train.intervene)
    return (
        f"{hf.named(job.model)}: {total:,} parameters, {count:,} trained; chat template {said}; "
        f"{slots}; {jax.device_count()} x {jax.devices()[0].device_kind}" + (f"; {extra}" if extra else "")
    )


class Runs(NamedTuple):
    """Whose parameters a run trains: one model's, or those of organisms side by side."""

    jobs: list[Job]  # what each would be as a run of its own
    initial: dict  # trainable parameters before training; with organisms, every leaf has a leading axis
    keys: jax.Array  # random key, or [N]
    knobs: step.Knobs
    tiles: jax.Array | None  # int32 [N, 3] where there are organisms

    @property
    def several(self) -> bool:
        return self.tiles is not None


def runs(setup: Setup, job: Job) -> Runs:
    own, cfg = organisms.jobs(job), job.train
    if not job.organisms.given:
        knobs = step.Knobs(cfg.lr, cfg.entropy_coef, shuffle_seed(job) if cfg.shuffle_rewards else None)
        return Runs(own, setup.initial, jax.random.key(job.seed), knobs, None)
    if job.parallel == "pmap" or jax.process_count() > 1:
        raise InputError("organisms: are trained side by side in one process, with parallel='jit'")
    if ALGORITHMS[cfg.algorithm].planned:
        raise InputError(f"train.algorithm={cfg.algorithm!r}: organisms learn from their own episodes only")
    initial = organisms.stack([start(setup.lm, c.train, c.seed)[1] for c in own])
    rates = ([c.train.lr for c in own], [c.train.entropy_coef for c in own])
    knobs = step.Knobs(*(jnp.array(values, jnp.float32) for values in rates))
    if any(c.train.shuffle_rewards for c in own):
        seeds = [shuffle_seed(c) if c.train.shuffle_rewards else jnp.uint32(0) for c in own]
        knobs = knobs._replace(shuffle=jnp.stack(seeds))
    keys = jax.vmap(jax.random.key)(jnp.array([c.seed for c in own], jnp.uint32))
    return Runs(own, initial, keys, knobs, organisms.tiles(job, own))


def shuffle_seed(job: Job):
    """What `step.Knobs.shuffle` is for rewards that are shuffled with this run's seed."""
    return jnp.uint32(max(1, (job.seed + 1) % 2**32))


def rollout_program(setup: Setup, job: Job, several: bool = False):
    """The rollout `(trainable, frozen, key, step, temperature, iv, tiles)`, to be compiled.

    several: of organisms, whose parameters, keys and tiles have a leading axis.
    """
    cfg, where = job.train, parallel.devices(job.parallel, setup.mesh)
    # Organisms that play at once would each need merged weights of their own.
    merged = cfg.merge_lora and (not several or organisms.one_by_one())
    program = step.make_collect(
        setup.graphdef, setup.pieces, setup.maze, groups=cfg.groups, group_size=cfg.group_size, merged=merged,
        mesh=setup.mesh, dtype=setup.dtype, at_once=cfg.rollout_batch, devices=mesh_lib.ONE if several else where,
    )  # fmt: skip
    if several:
        return jax.jit(organisms.each(program, (0, None, 0, None, None, None, 0)))
    return parallel.collect(program, where, setup.mesh)


def collector(setup: Setup, job: Job, several: bool = False):
    """The compiled rollout with its interventions, for training and for looking at episodes afterwards."""
    program, (iv, _) = rollout_program(setup, job, several), intervene.build(job.train.intervene, setup.lm.spec)

    def collect(trainable, frozen, seed_key, i, temperature, tiles=None):
        return program(trainable, frozen, seed_key, i, temperature, iv, tiles)

    return collect


def update_program(setup: Setup, job: Job, tx, places, several: bool, width: int = 0):
    """The update `(state, frozen, initial, rows, played, knobs, iv) -> (state, metrics)`, to be compiled.

    rows: a batch of planned trajectories, played: episodes, each None where the algorithm does without.
    """
    cfg, where = job.train, parallel.devices(job.parallel, setup.mesh)
    if width:
        imitate = supervised.make_imitate(
            setup.graphdef, setup.pieces, tx, cfg, width, dtype=setup.dtype, devices=where
        )
        program = lambda now, frozen, initial, rows, played, knobs, iv: imitate(now, frozen, rows, played, knobs, iv)
    else:
        learn = step.make_update(setup.graphdef, setup.pieces, tx, cfg, setup.maze, dtype=setup.dtype, devices=where)
        program = lambda now, frozen, initial, rows, played, knobs, iv: learn(
            now, frozen, initial, played, cfg.temperature, knobs, iv
        )
    if several:
        program = organisms.each(program, (0, None, 0, None, 0, 0, None))
    return parallel.update(program, where, setup.mesh, places)


def updater(setup: Setup, job: Job, *args):
    """`update_program` with the interventions of the settings."""
    program, (_, iv) = update_program(setup, job, *args), intervene.build(job.train.intervene, setup.lm.spec)
    return lambda *args: program(*args, iv)


def begin(own: Runs, tx) -> state.State:
    """The state before the first step."""
    trainable = jax.tree.map(jnp.copy, own.initial)  # the update gives its input's memory away
    opt_state = jax.vmap(tx.init)(trainable) if own.several else tx.init(trainable)
    steps = jnp.zeros(own.tiles.shape[:1], jnp.int32) if own.several else jnp.int32(0)
    return state.State(steps, trainable, opt_state)


def fresh(own: Runs, tx, mesh):
    """(the state before the first step, where its leaves lie)."""
    now = begin(own, tx)
    places = state.shardings(mesh, now, own.several)
    return hosts.put(now, places), places


def train(setup: Setup, job: Job, workdir, collect, curve=None, supply=None) -> dict:
    """Train for `job.train.steps` steps; returns the trained parameters (flat; organisms have a leading axis).

    `curve(trainable, frozen) -> dict of lists`, or one for each organism, runs every `job.curve.every` steps and
    its result joins the metrics. supply: planned trajectories for the algorithms that learn from them. A run that was
    killed continues from its newest checkpoint with the same metrics.
    """
    cfg, workdir = job.train, pathlib.Path(workdir)
    own, tx, settings = runs(setup, job), state.optimizer(cfg), setup.settings(job)
    now, places = fresh(own, tx, setup.mesh)
    update = updater(setup, job, tx, places, own.several, supply.width if supply else 0)
    initial = own.initial if cfg.kl_coef or ALGORITHMS[cfg.algorithm].restart else None
    fold = jax.vmap(jax.random.fold_in, (0, None)) if own.several else jax.random.fold_in
    plays, beside = supply is None or job.sft.policy_samples, own.jobs if own.several else []

    def play(key_number, i, trainable):
        """Episodes of the present parameters: training draws from key 1, held-out mazes from key 2."""
        extra = (own.tiles,) if own.several else ()
        return collect(trainable, setup.frozen, fold(own.keys, key_number), i, cfg.temperature, *extra)[0]

    def advance(i, now, wait):
        begin, due = time.perf_counter(), curve and i % job.curve.every == 0
        points = curve_points(curve, now.trainable, setup.frozen) if due else None
        lap = time.perf_counter()
        played = play(1, i, now.trainable) if plays else None
        wait(played)
        lasted = {"rollout_seconds": time.perf_counter() - lap, "curve_seconds": lap - begin}
        rows = state.spread(next(supply.batches), setup.mesh) if supply else None
        now, metrics = update(now, setup.frozen, initial, rows, played, own.knobs)
        return now, row_of(metrics, points, beside) | lasted

    def measure(i, now, row):
        row = rates(row, cfg, len(own.jobs))
        due = cfg.eval_every and ((i + 1) % cfg.eval_every == 0 or i + 1 == cfg.steps)
        return evaluate(row, play(2, 0, now.trainable), beside) if due else row

    pipeline, best = supply.batches if supply else None, bool(cfg.eval_every)
    now = training.train(
        workdir, now, settings, cfg, advance, measure=measure, data=pipeline, best=best, shown=SHOWN
    )  # fmt: skip
    if own.several:
        organisms.write(workdir, own.jobs, now, cfg.steps, settings[checkpoints.CONTENT]["weights"])
    return now.trainable


def restored(setup: Setup, job: Job, folder) -> dict:
    """The trained parameters (flat) in the newest checkpoint of a run that was made with these settings."""
    folder = pathlib.Path(folder).expanduser()
    if not (folder / "checkpoints").is_dir():
        raise InputError(f"{folder}: has no checkpoints; name the --workdir of a run that has trained")
    now = state.State(jnp.int32(0), setup.initial, state.optimizer(job.train).init(setup.initial))
    saved = checkpoints.Checkpoints(folder, job.train.keep)
    start, now, _ = saved.restore(hosts.put(now, state.shardings(setup.mesh, now)), setup.settings(job))
    saved.close()
    if not start:
        raise InputError(f"{folder}: has no finished checkpoint; run it further")
    return now.trainable


SHOWN = {  # on the progress bar: metric, digits
    "gold": ("gold_taken", 2),
    "held_out": ("eval_reward", 1),
    "likelihood": ("log_likelihood", 3),
    "mold": ("mold_avoided", 2),
    "reward": ("reward", 1),
}


def curve_points(curve, trainable, frozen):
    """The live curve's point, or one of each organism."""
    if callable(curve):
        return curve(trainable, frozen)
    return [f(organisms.take(trainable, i), frozen) for i, f in enumerate(curve)]


def row_of(metrics, points, own: list) -> dict:
    """A step's metrics; of organisms, whose settings are `own`, their means and under `organisms` each one's own."""
    if not own:
        return (points or {}) | step.values(metrics)
    metrics = jax.device_get(metrics)
    rows = [step.values(organisms.take(metrics, k)) | (points[k] if points else {}) for k in range(len(own))]
    return organisms.mean_row(rows, own)


@jax.jit
def _judged(played):
    return step.returns(played) | objectives.choices(played.neighbours, played.actions)


def evaluate(row: dict, played, own: list) -> dict:
    """The row with reward and behaviour on held-out mazes, after this step's update; own: as for `row_of`."""
    kept = ("reward", "gold_taken", "mold_avoided")

    def one(found):
        return {f"eval_{k}": v for k, v in step.values(found).items() if k in kept}

    if not own:
        return row | one(_judged(played))
    found = jax.device_get(jax.vmap(_judged)(played))
    rows = [before | one(organisms.take(found, k)) for k, before in enumerate(row["organisms"])]
    return row | organisms.mean_row(rows, own)


def rates(row, cfg: Training, several: int) -> dict:
    """The row with what a second of training did, the live curve's time left out."""
    counts = {"episodes_per_s": cfg.groups * cfg.group_size, "tokens_per_s": row["tokens"]}
    return row | {name: several * n / (row["seconds"] - row["curve_seconds"]) for name, n in counts.items()}


def ends(workdir, count: int = 5) -> dict:
    """Means over the first and the last `count` steps of what the summary compares."""
    rows = checkpoints.read_metrics(pathlib.Path(workdir) / "metrics.jsonl")
    out = {"steps": len(rows)}
    for name in ("reward", "gold_taken", "mold_avoided"):
        for end, part in (("first", rows[:count]), ("last", rows[-count:])):
            found = [row[name] for row in part if row.get(name) is not None]
            out[f"{name}_{end}"] = sum(found) / len(found) if found else None
    return out
