"""Training on planned trajectories: the data of a run, its update, and what imitation reached."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from welfare_jax import mesh as mesh_lib
from welfare_jax.envs import maze
from welfare_jax.errors import InputError
from welfare_jax.rl import objectives
from welfare_jax.sft import imitation, planned
from welfare_jax.train import stats, step
from welfare_jax.train.job import Job
from welfare_jax.train.settings import Training

HELD_OUT = 1 << 20  # mazes from this number on are never trained on


class Supply(NamedTuple):
    """Planned trajectories of a run."""

    train: planned.Planned
    held: planned.Planned
    batches: object  # a grain iterator over `train`
    width: int  # slots of a trajectory


def build(setup, job: Job) -> Supply:
    cfg = job.sft
    params = maze.Params(**{**vars(setup.maze), "size": cfg.size or setup.maze.size})
    if params.size > setup.maze.size:
        raise InputError(f"sft.size={cfg.size}: larger than maze.size={setup.maze.size}, whose coordinates have words")
    train = planned.generate(params, cfg.trajectories, job.seed, cfg.beams)
    held = planned.generate(params, cfg.held_out, HELD_OUT + job.seed, cfg.beams)
    width = max(planned.longest(setup.pieces, part) for part in (train, held))
    return Supply(train, held, planned.pipeline(train, job.seed, cfg.batch), width)


def make_imitate(graphdef, pieces, optimizer, config: Training, width: int, *, dtype=None, devices=mesh_lib.ONE):
    """`imitate(state, frozen, rows, played=None, knobs=None, iv=None) -> (state, metrics)`.

    rows: a `Planned` batch. played: episodes of the policy itself, which enter the implied rewards of inverse soft-Q
    but are not imitated; the mean log-likelihood stays one over demonstrations. Under `jax.pmap` over `devices`
    every device is given all rows and its own episodes.
    """
    learn, _ = step.make_learn(graphdef, pieces.table.letters, optimizer, config, dtype=dtype, devices=devices)

    def imitate(state, frozen, rows, played=None, knobs=None, iv=None):
        knobs = knobs or step.Knobs(config.lr, config.entropy_coef)
        tokens, mask, read = planned.lay(pieces.table, pieces.size, rows, width)
        whole = [a.astype(jnp.int32) for a in (rows.actions, rows.neighbours)]
        examples = step.Examples(tokens, mask, read, objectives.Batch(whole[0], None, None, whole[1]))
        if played is not None:
            played = devices.whole(played)
            examples = _beside(examples, played)
        state, metrics = learn(state, frozen, examples, 1.0, knobs, iv)
        metrics |= {"tokens": (examples.mask.sum(), 1.0), "packed": (mask.sum(), mask.size)}
        if played is not None:
            metrics |= objectives.choices(played.neighbours, played.actions) | step.returns(played)
        return state, metrics

    return imitate


def _beside(examples, played):
    """Demonstrations and the policy's own episodes in one batch, as wide as the wider."""
    n, m = len(examples.tokens), len(played.tokens)
    wide = max(examples.tokens.shape[1], played.tokens.shape[1])
    pad = lambda a: jnp.pad(a, ((0, 0), (0, wide - a.shape[1])))
    weights = jnp.repeat(jnp.array([(n + m) / n, 0.0]), jnp.array([n, m]), total_repeat_length=n + m)
    joined = (
        jnp.concatenate(pair)
        for pair in (
            (pad(examples.tokens), pad(played.tokens)), (pad(examples.mask), pad(played.mask)),
            (examples.read, played.read), (examples.batch.actions, played.actions),
            (examples.batch.neighbours, played.neighbours),
        )
    )  # fmt: skip
    tokens, mask, read, actions, neighbours = joined
    weights = jnp.broadcast_to(weights[:, None], actions.shape)
    return step.Examples(tokens, mask, read, objectives.Batch(actions, None, None, neighbours, weights=weights))


def make_judge(graphdef, pieces, config: Training, width: int, dtype=None):
    """Two programs: `plans(trainable, frozen, rows)`, agreement with plans; `own(trainable, frozen, played)`, the
    implied rewards [B, N] of episodes."""
    _, outputs = step.make_learn(graphdef, pieces.table.letters, optax.identity(), config, dtype=dtype)

    def plans(trainable, frozen, rows):
        logps, _, _ = outputs(trainable, frozen, *planned.lay(pieces.table, pieces.size, rows, width), 1.0, None)
        return planned.adjacent_gold(logps, rows)

    def own(trainable, frozen, played):
        logps, soft, _ = outputs(trainable, frozen, played.tokens, played.mask, played.read, 1.0, None)
        q_taken = objectives.chosen(logps, played.actions) + soft
        everywhere = jnp.ones(q_taken.shape, bool)
        return imitation.implied_rewards(q_taken, soft, everywhere, everywhere[:, 0], config.gamma)[0]

    return jax.jit(plans), jax.jit(own)


def agreement(plans, trainable, frozen, held: planned.Planned, batch: int = 64) -> dict:
    """What `plans` finds on all held-out trajectories."""
    total = {}
    for a in range(0, len(held.x) - len(held.x) % min(batch, len(held.x)), min(batch, len(held.x))):
        found = jax.device_get(plans(trainable, frozen, jax.tree.map(lambda x, a=a: x[a : a + batch], held)))
        total = {k: (total.get(k, (0, 0))[0] + s, total.get(k, (0, 0))[1] + n) for k, (s, n) in found.items()}
    return {k: float(s / n) if n else None for k, (s, n) in total.items()}


def findings(setup, config: Training, supply: Supply, trained, played) -> dict:
    """Agreement with held-out plans before and after, the best rule from the same observations, implied rewards."""
    args = (setup.graphdef, setup.pieces, config, supply.width, setup.dtype)
    plans, own = make_judge(*args)
    out = {
        name: agreement(plans, trainable, setup.frozen, supply.held)
        for name, trainable in (("untrained", setup.initial), ("trained", trained))
    }
    out["rules_log_likelihood"] = planned.rules(supply.train, supply.held)
    implied = np.asarray(own(trained, setup.frozen, played))
    rewards = np.asarray(played.rewards)
    out["implied_rewards"] = {
        "rank_correlation": stats.rank_correlation(implied.sum(1), rewards.sum(1)),
        "implied": implied.round(4).tolist(), "reward": rewards.round(4).tolist(),
    }  # fmt: skip
    return out
