"""Extraction walks (arXiv:2605.30232 §2.3, §L): over path tiles, with the last step onto a given tile.

N walks, `turns` turns at most. Mazes that allow no such walk are discarded, so walks are drawn by rejection.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax.envs import maze
from welfare_jax.errors import InputError

SEED = 474747  # the first of the paper's generator seeds


class Walks(NamedTuple):
    """Host arrays. What was seen in turn t, and the move made; turns past a walk's length are meaningless."""

    final: np.ndarray  # int32 [N], role of the last tile
    length: np.ndarray  # int32 [N], moves, 1..turns
    observations: maze.Observation  # leaves [N, turns, ...]
    actions: np.ndarray  # int32 [N, turns]


def _attempt(key, final, length, params: maze.Params):
    """One try: (worked, observations, actions), each turn uniform among the neighbours it may step on."""
    k_maze, k_walk = jax.random.split(key)
    _, state = maze.reset(k_maze, params)

    def turn(carry, t):
        state, worked = carry
        obs = maze.observe(state)
        allowed = obs.neighbours == jnp.where(t == length - 1, final, maze.PATH)
        k_pick, k_step = jax.random.split(jax.random.fold_in(k_walk, t))
        action = jnp.argmax(jnp.where(allowed, jax.random.gumbel(k_pick, (4,)), -jnp.inf)).astype(jnp.int32)
        worked &= allowed.any() | (t >= length)
        _, state, *_ = maze.step(k_step, state, action, params)
        return (state, worked), (obs, action)

    (_, worked), (obs, actions) = jax.lax.scan(turn, (state, jnp.bool_(True)), jnp.arange(params.turns))
    return worked, obs, actions


def generate(params: maze.Params, per_length: int, seed: int = SEED, batch: int = 512) -> Walks:
    """`per_length` walks for every final role (path, gold, mold) and every length 1..turns, each in its own maze.

    There is no wind. Walks are ordered by length, then by role. Last moves are spread evenly over N, E, S, W within
    each role and length: thousands of walks come out near a quarter each (§L), a few dozen would not, and where
    classes differ in their letters so do their vectors. Deterministic in `seed`.
    """
    calm = maze.Params(**{**vars(params), "wind": 0.0})
    attempt = jax.jit(jax.vmap(_attempt, (0, 0, 0, None)))
    cells = [(role, length) for length in range(1, params.turns + 1) for role in range(3)]
    found = {cell: [] for cell in cells}
    share = -(-per_length // 4)
    for round_ in range(1000):
        short = [cell for cell in cells if len(found[cell]) < per_length]
        if not short:
            break
        wanted = np.array([short[i % len(short)] for i in range(batch)], np.int32)
        keys = jax.vmap(jax.random.key)(jnp.uint32(seed) + round_ * batch + jnp.arange(batch, dtype=jnp.uint32))
        out = jax.device_get(attempt(keys, wanted[:, 0], wanted[:, 1], calm))
        for i in np.flatnonzero(out[0]):
            cell = tuple(wanted[i].tolist())
            last = [walk[1][cell[1] - 1] for walk in found[cell]]
            if len(last) < per_length and last.count(out[2][i, cell[1] - 1]) < share:
                found[cell].append(jax.tree.map(lambda a, i=i: a[i], out[1:]))
    else:
        raise InputError(f"walks: no {short[0]} (role, length) found in {round_ * batch} mazes; change config.maze")
    rows = [walk for cell in cells for walk in _interleaved(found[cell], cell[1])]
    observations, actions = jax.tree.map(lambda *a: np.stack(a), *rows)
    final, length = np.repeat(np.array(cells, np.int32), per_length, axis=0).T
    return Walks(final, length, observations, actions)


def _interleaved(walks, length):
    """Walks of one role and length with their last moves in turn, so that any first part of them is even too."""
    by_move = [[walk for walk in walks if walk[1][length - 1] == d] for d in range(4)]
    return [walk for group in itertools.zip_longest(*by_move) for walk in group if walk is not None]


def last_moves(walks: Walks) -> dict[str, list[float]]:
    """Share of N, E, S, W among the last moves onto each tile: near a quarter each."""
    moves = walks.actions[np.arange(len(walks.length)), walks.length - 1]
    return {
        name: (np.bincount(moves[walks.final == role], minlength=4) / max((walks.final == role).sum(), 1)).tolist()
        for role, name in enumerate(("path", "gold", "mold"))
    }
