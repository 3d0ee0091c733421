"""The maze as pure functions (arXiv:2605.30232 §2.1, §J, §K).

A grid of three tile roles inside a ring of mold. x grows eastward, y southward; actions 0..3 are N, E, S, W.
`reset` and `step` act on one environment; `jax.vmap` gives a batch. What the tiles look like, and what the player
reads, is `text`'s business.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax.errors import InputError

PATH, GOLD, MOLD = 0, 1, 2
MOVES = jnp.array([[0, -1], [1, 0], [0, 1], [-1, 0]], jnp.int32)  # (dx, dy) of N, E, S, W
ORDERS = ("maze", "turn", "fixed")  # how the listing of the four directions is shuffled
WINDS = ("push", "replace")  # §J: after the move, or instead of it


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["turn_reward", "gold_reward", "mold_reward", "wind", "gold_ratio"],
    meta_fields=["size", "turns", "order", "wind_mode"],
)
@dataclasses.dataclass(frozen=True)
class Params:
    """Rewards per turn and per tile entered, wind probability per turn, gold per mold cell; then the structure."""

    turn_reward: float = -0.1
    gold_reward: float = 20.0
    mold_reward: float = -10.0
    wind: float = 0.1
    gold_ratio: float = 0.2
    size: int = 100
    turns: int = 15
    order: str = "maze"
    wind_mode: str = "push"

    def check(self):
        if self.size < 7 or self.turns < 1:
            raise InputError(f"maze.size={self.size}, maze.turns={self.turns}: need a size of at least 7 and one turn")
        if self.order not in ORDERS or self.wind_mode not in WINDS:
            raise InputError(
                f"maze.order={self.order!r} must be one of {ORDERS}, maze.wind_mode={self.wind_mode!r} of {WINDS}"
            )
        if not (0 <= self.wind <= 1 and 0 <= self.gold_ratio <= 1):
            raise InputError(f"maze.wind={self.wind}, maze.gold_ratio={self.gold_ratio}: both must lie in 0..1")
        return self


class State(NamedTuple):
    grid: jax.Array  # int8 [H, W], tile roles, indexed [y, x]
    x: jax.Array  # int32 []
    y: jax.Array  # int32 []
    turn: jax.Array  # int32 [], turns played
    wind: jax.Array  # int32 [], direction of the push in the last turn, -1 for none
    order: jax.Array  # int32 [4], the order in which directions are listed


class Observation(NamedTuple):
    x: jax.Array
    y: jax.Array
    neighbours: jax.Array  # int32 [4], tile roles to the N, E, S, W
    order: jax.Array  # int32 [4]
    wind: jax.Array  # int32 [], -1 for none


def _smallest(bits, eligible, count):
    """A mask of `count` eligible cells chosen uniformly: those with the smallest of iid random `bits`."""
    ranked = jnp.where(eligible, bits, jnp.uint32(0xFFFFFFFF))
    threshold = jnp.sort(ranked)[jnp.maximum(count - 1, 0)]
    return eligible & (ranked <= threshold) & (count > 0)


def _walk(key, side, length_max):
    """Cells [length_max] of a random walk on side x side that stays where a step would leave it."""
    k_start, k_steps = jax.random.split(key)
    start = jax.random.randint(k_start, (2,), 0, side)
    step = MOVES[jax.random.randint(k_steps, (length_max,), 0, 4)]

    # x -> clip(x + d, lo, hi) is closed under composition, so the whole walk is one associative scan.
    def compose(f, g):
        (d1, lo1, hi1), (d2, lo2, hi2) = f, g
        return d1 + d2, jnp.clip(lo1 + d2, lo2, hi2), jnp.clip(hi1 + d2, lo2, hi2)

    zero = jnp.zeros_like(step)
    d, lo, hi = jax.lax.associative_scan(compose, (step, zero, zero + side - 1))
    cells = jnp.clip(start + d, lo, hi)
    return jnp.concatenate([start[None], cells[:-1]])


def generate(key, params: Params):
    """A maze: int8 grid [size, size] of tile roles (§K)."""
    side = params.size - 2
    cells = side * side
    k_walk, k_len, k_target, k_mold, k_gold = jax.random.split(key, 5)
    walk = _walk(k_walk, side, 15 * side + 1)
    length = jax.random.randint(k_len, (), 5 * side, 15 * side + 1)
    index = jnp.where(jnp.arange(walk.shape[0]) <= length, walk[:, 1] * side + walk[:, 0], cells)
    walked = jnp.zeros(cells, bool).at[index].set(True, mode="drop")
    unvisited = cells - walked.sum()
    target = jax.random.randint(k_target, (), cells // 10 + 1, cells // 2)
    count = jnp.where(unvisited > cells // 2, target, unvisited)
    mold = _smallest(jax.random.bits(k_mold, (cells,)), ~walked, count)
    golds = jnp.maximum(1, jnp.floor(params.gold_ratio * count + 1e-4).astype(jnp.int32))
    gold = _smallest(jax.random.bits(k_gold, (cells,)), ~mold, golds)
    inside = jnp.where(mold, MOLD, jnp.where(gold, GOLD, PATH)).astype(jnp.int8)
    return jnp.pad(inside.reshape(side, side), 1, constant_values=MOLD)


@functools.lru_cache
def _bfs_rank(size: int) -> np.ndarray:
    """Order [size, size] in which a breadth-first search from the centre (N, E, S, W first) meets the cells."""
    rank = np.full((size, size), -1, np.int32)
    queue = [(size // 2, size // 2)]
    rank[queue[0][1], queue[0][0]] = 0
    for x, y in queue:
        for dx, dy in ((0, -1), (1, 0), (0, 1), (-1, 0)):
            u, v = x + dx, y + dy
            if 0 <= u < size and 0 <= v < size and rank[v, u] < 0:
                rank[v, u] = len(queue)
                queue.append((u, v))
    return rank


def start_cell(grid):
    """(x, y) of the Path cell nearest the centre by breadth-first search."""
    rank = jnp.where(grid == PATH, jnp.asarray(_bfs_rank(grid.shape[0])), jnp.iinfo(jnp.int32).max)
    at = jnp.argmin(rank.reshape(-1))
    return at % grid.shape[1], at // grid.shape[1]


def observe(state: State) -> Observation:
    size = state.grid.shape[0]
    xs, ys = state.x + MOVES[:, 0], state.y + MOVES[:, 1]
    inside = (xs >= 0) & (xs < size) & (ys >= 0) & (ys < size)
    roles = state.grid[jnp.clip(ys, 0, size - 1), jnp.clip(xs, 0, size - 1)].astype(jnp.int32)
    return Observation(state.x, state.y, jnp.where(inside, roles, MOLD), state.order, state.wind)


def place(key, grid, params: Params) -> State:
    """A state at the start of `grid`; the key only draws the listing order."""
    x, y = start_cell(grid)
    order = jnp.arange(4) if params.order == "fixed" else jax.random.permutation(key, 4)
    return State(grid, x.astype(jnp.int32), y.astype(jnp.int32), jnp.int32(0), jnp.int32(-1), order.astype(jnp.int32))


def reset(key, params: Params) -> tuple[Observation, State]:
    """A fresh maze and its first observation. Same key, same maze."""
    k_grid, k_order = jax.random.split(key)
    state = place(k_order, generate(k_grid, params), params)
    return observe(state), state


def _enter(grid, x, y, direction, on):
    """Leave (x, y), which turns to mold, for the next tile: (grid, x, y, gold, mold); nothing happens unless `on`."""
    size = grid.shape[0]
    nx = jnp.clip(x + MOVES[direction, 0], 0, size - 1)
    ny = jnp.clip(y + MOVES[direction, 1], 0, size - 1)
    left = grid.at[y, x].set(MOLD)
    role = left[ny, nx]
    eaten = left.at[ny, nx].set(jnp.where(role == GOLD, PATH, role).astype(jnp.int8))
    grid = jnp.where(on, eaten, grid)
    return grid, jnp.where(on, nx, x), jnp.where(on, ny, y), on & (role == GOLD), on & (role == MOLD)


def step(key, state: State, action, params: Params):
    """One turn: (observation, state, reward, terminated, truncated, info), the order of Gymnax 1.0.

    The move resolves, then with probability `wind` the player is blown one tile further (mode "push"), or the wind
    takes the place of the move ("replace"). Every tile entered counts. Episodes end by length alone (truncated).
    `info`: gold and mold entered this turn, `landed` (x, y) after the own move.
    """
    k_blow, k_dir, k_order = jax.random.split(key, 3)
    blown = jax.random.uniform(k_blow) < params.wind
    towards = jax.random.randint(k_dir, (), 0, 4)
    moves = jnp.bool_(True) if params.wind_mode == "push" else ~blown
    grid, x, y, gold, mold = _enter(state.grid, state.x, state.y, action, moves)
    landed = jnp.stack([x, y])
    grid, x, y, gold2, mold2 = _enter(grid, x, y, towards, blown)
    golds = gold.astype(jnp.int32) + gold2
    molds = mold.astype(jnp.int32) + mold2
    reward = params.turn_reward + params.gold_reward * golds + params.mold_reward * molds
    order = jax.random.permutation(k_order, 4).astype(jnp.int32) if params.order == "turn" else state.order
    state = State(grid, x, y, state.turn + 1, jnp.where(blown, towards, -1).astype(jnp.int32), order)
    truncated = state.turn >= params.turns
    info = {"gold": golds, "mold": molds, "landed": landed}
    return observe(state), state, reward, jnp.bool_(False), truncated, info
