"""One training step as two pure programs: `collect` plays the episodes, `update` learns from them.

Both see the same decoder function, so at the first update the probability ratio is one up to rounding.
"""

import jax
import jax.numpy as jnp
import optax

from welfare_jax import mesh as mesh_lib
from welfare_jax.envs import maze
from welfare_jax.models import decoder, lora
from welfare_jax.rl import objectives, rollout
from welfare_jax.text.pieces import Pieces
from welfare_jax.train.state import State, join


def episode_keys(seed_key, step, groups: int, group_size: int):
    """(maze key, one key an episode [B]) of a training step: everything random follows from the seed and the step."""
    k_maze, k_play = jax.random.split(jax.random.fold_in(seed_key, step))
    return k_maze, jax.random.split(k_play, groups * group_size)


def make_collect(graphdef, pieces: Pieces, params: maze.Params, groups, group_size, merged: bool, mesh=None):
    """`collect(trainable, frozen, seed_key, step, temperature) -> (Trajectory, start grids [groups, H, W])`.

    With `merged`, adapters are folded into the kernels first: less work a token, at the cost of a second copy of
    the weights for as long as the rollout runs.
    """
    rows = None if mesh is None or mesh.size == 1 else mesh_lib.rows(mesh)

    def collect(trainable, frozen, seed_key, step, temperature):
        graph, weights = graphdef, join(trainable, frozen)
        if merged:
            graph, weights = lora.merge(graph, weights)
        model = decoder.bind(graph, weights)
        k_maze, keys = episode_keys(seed_key, step, groups, group_size)
        states = rollout.group_states(k_maze, groups, group_size, params)
        grids = states.grid[::group_size]
        if rows is not None:
            states, keys = jax.lax.with_sharding_constraint((states, keys), rows)
        policy = rollout.from_model(model, pieces.table.letters)
        cache = rollout.first_cache(model, groups * group_size)
        played = rollout.play(
            policy, cache, pieces.table, pieces.size, pieces.width, params, states, keys, temperature
        )
        return played, grids

    return collect


def make_update(graphdef, pieces: Pieces, optimizer, config, turns: int):
    """`update(state, frozen, reference, trajectory, temperature) -> (state, metrics)`, metrics as (sum, count) pairs.

    `reference` holds the trainable parameters before training where there is a KL term, else None.
    Gradients of `config.micro_batch` episodes at a time are added up; numerators and denominators stay apart until
    all are in.
    """
    objective, advantage = objectives.OBJECTIVES[config.algorithm]
    letters = pieces.table.letters

    def logps(trainable, frozen, tokens, mask, temperature):
        model = decoder.bind(graphdef, join(trainable, frozen))
        logits = rollout.replay_logits(model, tokens, mask, letters, turns, remat=config.remat)
        return objectives.policy_logps(logits, temperature)

    def loss(trainable, frozen, reference, part, numbers, temperature):
        tokens, mask, batch = part
        if config.kl_coef:
            batch = batch._replace(ref_logps=logps(reference, frozen, tokens, mask, temperature))
        new = logps(trainable, frozen, tokens, mask, temperature)
        numerator, denominator, metrics = objective(batch, new, numbers)
        return numerator, (denominator, metrics)

    def update(state: State, frozen, reference, played: rollout.Trajectory, temperature):
        entropy_coef = config.entropy_coef * objectives.cosine(state.step, config.schedule_steps)
        numbers = objectives.Surrogate(config.clip, config.dual_clip, config.z, entropy_coef, config.kl_coef)
        old = objectives.policy_logps(played.logits, temperature)
        batch = objectives.Batch(
            played.actions, old, advantage(played.rewards, config.group_size), played.neighbours, None
        )
        parts = jax.tree.map(
            lambda a: a.reshape(-1, min(config.micro_batch, a.shape[0]), *a.shape[1:]),
            (played.tokens, played.mask, batch),
        )
        grad = jax.value_and_grad(loss, has_aux=True)

        def one(part):
            return grad(state.trainable, frozen, reference, part, numbers, temperature)

        def body(total, part):
            return jax.tree_util.tree_map_with_path(_gather, total, one(part)), None

        zero = jax.tree.map(
            lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(one, jax.tree.map(lambda a: a[0], parts))
        )
        ((numerator, (denominator, metrics)), grads), _ = jax.lax.scan(body, zero, parts)
        grads = jax.tree.map(lambda g: g / denominator, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        metrics |= {"loss": (numerator, denominator), "entropy_coef": (entropy_coef, 1.0)}
        metrics |= {
            "grad_norm": (optax.tree.norm(grads), 1.0),
            "lr": (config.lr * objectives.cosine(state.step, config.schedule_steps), 1.0),
        }
        metrics |= objectives.choices(played) | _returns(played)
        trainable = optax.apply_updates(state.trainable, updates)
        return State(state.step + 1, trainable, opt_state), metrics

    return update


def _gather(path, a, b):
    is_max = any(str(getattr(p, "key", "")).endswith("_max") for p in path)
    return jnp.maximum(a, b) if is_max else a + b


def _returns(played):
    episodes = played.rewards.shape[0]
    returns = played.rewards.sum(-1)
    return {
        "reward": (returns.sum(), episodes),
        "reward_std": (jnp.std(returns), 1.0),
        "gold": (played.gold.sum(), episodes),
        "mold": (played.mold.sum(), episodes),
        "tokens": (played.mask.sum(), 1.0),
    }


def values(metrics) -> dict:
    """Host numbers from (sum, count) pairs and maxima; an empty count gives None."""
    out = {}
    for name, value in jax.device_get(metrics).items():
        if isinstance(value, tuple):
            out[name] = float(value[0] / value[1]) if value[1] else None
        else:
            out[name] = float(value)
    return out
