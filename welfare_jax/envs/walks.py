"""Extraction walks (arXiv:2605.30232 §2.3, §L): over path tiles, with the last step onto a given tile.

N walks, `turns` turns at most. Mazes that allow no such walk are discarded, so walks are drawn by rejection.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax.envs import maze
from welfare_jax.errors import InputError

ROLES = 3  # of the tile that a walk ends on
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
        obs = maze.observe(state, params)
        allowed = obs.neighbours == jnp.where(t == length - 1, final, maze.PATH)
        k_pick, k_step = jax.random.split(jax.random.fold_in(k_walk, t))
        action = jnp.argmax(jnp.where(allowed, jax.random.gumbel(k_pick, (4,)), -jnp.inf)).astype(jnp.int32)
        worked &= allowed.any() | (t >= length)
        _, state, *_ = maze.step(k_step, state, action, params)
        return (state, worked), (obs, action)

    (_, worked), (obs, actions) = jax.lax.scan(turn, (state, jnp.bool_(True)), jnp.arange(params.turns))
    return worked, obs, actions


def generate(params: maze.Params, per_length: int, seed: int = SEED, batch: int = 2048) -> Walks:
    """`per_length` walks for every final role (path, gold, mold) and every length 1..turns, each in its own maze.

    There is no wind. Walks are ordered by length, then by role. Last moves are spread evenly over N, E, S, W within
    each role and length: thousands of walks come out near a quarter each (§L), a few dozen would not, and where
    classes differ in their letters so do their vectors. Deterministic in `seed`: maze i grows from seed + i. At most
    `batch` mazes are tried at a time, fewer where few walks are wanted.
    """
    calm = dataclasses.replace(params, wind=0.0, wind_mode="replace")  # no wind either way, and half as far to see
    attempt = jax.jit(jax.vmap(_attempt, (0, 0, 0, None)))
    cells = [(role, length) for length in range(1, params.turns + 1) for role in range(3)]
    batch = min(batch, 4 * per_length * len(cells))
    found = np.zeros((len(cells), 4), int)  # by last move
    share, kept = -(-per_length // 4), []  # kept: (cell, last move, round, row)
    rounds = []
    while (found.sum(1) < per_length).any():
        if len(rounds) == 1000:
            missing = cells[int(np.argmax(found.sum(1) < per_length))]
            raise InputError(f"walks: no {missing} (role, length) found in {1000 * batch} mazes; change config.maze")
        wanted = np.resize(np.flatnonzero(found.sum(1) < per_length), batch)
        numbers = np.arange(len(rounds) * batch, (len(rounds) + 1) * batch, dtype=np.uint32) + np.uint32(seed)
        final, length = np.array(cells, np.int32)[wanted].T
        worked, *seen = jax.device_get(attempt(jax.vmap(jax.random.key)(numbers), final, length, calm))
        last = seen[1][np.arange(batch), length - 1]
        rows = []
        for row in np.flatnonzero(worked):
            cell, move = wanted[row], last[row]
            if found[cell].sum() < per_length and found[cell, move] < share:
                found[cell, move] += 1
                rows.append(row)
        kept += [(wanted[row], last[row]) for row in rows]
        rounds.append(jax.tree.map(lambda a, rows=rows: a[rows], seen))
    observations, actions = jax.tree.map(lambda *a: np.concatenate(a), *rounds)
    order = _dealt(*np.array(kept).T)
    final, length = np.repeat(np.array(cells, np.int32), per_length, axis=0).T
    return Walks(final, length, jax.tree.map(lambda a: a[order], observations), actions[order])


def _dealt(cell, move):
    """An order of walks by cell in which last moves take turns, so that any first part of a cell is even too."""
    key, nth = cell * 4 + move, np.zeros(len(cell), int)
    by_key = np.argsort(key, kind="stable")
    begins = np.searchsorted(key[by_key], key[by_key])
    nth[by_key] = np.arange(len(cell)) - begins
    return np.lexsort((move, nth, cell))


def last_moves(walks: Walks) -> dict[str, list[float]]:
    """Share of N, E, S, W among the last moves onto each tile: near a quarter each."""
    moves = walks.actions[np.arange(len(walks.length)), walks.length - 1]
    return {
        name: (np.bincount(moves[walks.final == role], minlength=4) / max((walks.final == role).sum(), 1)).tolist()
        for role, name in enumerate(("path", "gold", "mold"))
    }
