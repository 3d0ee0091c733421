"""What tiles are worth, exchanged anew for every maze and step: training as long as any other, with nothing to learn.

The causal null of "reward did it". Episodes, objective and optimiser are those of the run; only which tile earns what
is drawn afresh, so that over many mazes no tile is better than another. B episodes, N turns.
"""

import jax
import jax.numpy as jnp

from welfare_jax.envs import maze


def worth(params: maze.Params, shuffle, step, episodes: int, group_size: int):
    """float32 [B, 3]: `maze.worth` for each of the B episodes, in an order drawn for each maze of `group_size` ones.

    shuffle uint32 []: the seed of the orders, 1 or more; with 0 every episode has the order of `maze.worth`.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), shuffle), step)
    drawn = jax.vmap(lambda k: jax.random.permutation(k, 3))(jax.random.split(key, episodes // group_size))
    order = jnp.where(shuffle > 0, drawn, jnp.arange(3))
    return jnp.repeat(maze.worth(params)[order], group_size, 0)


def taken(worth, roles):
    """What tiles of `roles` [B, ...] are worth: `worth` [3] for all episodes, or [B, 3]."""
    if worth.ndim == 1:
        return worth[roles]
    return jax.vmap(lambda own, at: own[at])(worth, roles)


def rewards(played, worth, params: maze.Params):
    """float32 [B, N]: what the turns of a `rollout.Trajectory` would have earned, were tiles `worth` [B, 3] that.

    As in `maze.step` every tile entered counts, and a turn costs `turn_reward` once. A push enters a second tile.
    """
    tiles = worth - params.turn_reward
    entered = 1 + ((played.wind >= 0) if params.wind_mode == "push" else 0)
    counts = jnp.stack([entered - played.gold - played.mold, played.gold, played.mold], -1)  # [B, N, 3]
    return params.turn_reward + jnp.einsum("bnr,br->bn", counts.astype(jnp.float32), tiles)
