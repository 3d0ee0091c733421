"""The maze as pure functions (arXiv:2605.30232 §2.1, §J, §K).

A grid of three tile roles inside a ring of mold. x grows eastward, y southward; actions 0..3 are N, E, S, W.
`reset` and `step` act on one environment; `jax.vmap` gives a batch. What the tiles look like, and what the player
reads, is `text`'s business; how a maze comes about is `generator`'s.
"""

import dataclasses
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from welfare_jax.envs import generator
from welfare_jax.envs.generator import BEYOND, GOLD, MOLD, PATH  # noqa: F401
from welfare_jax.errors import InputError

MOVES = np.array([[0, -1], [1, 0], [0, 1], [-1, 0]], np.int32)  # (dx, dy) of N, E, S, W
LISTINGS = np.array(list(itertools.permutations(range(4))), np.int32)
LANES = 16  # of vector instructions over int16: the cells left are padded to whole vectors
ORDERS = ("maze", "episode", "turn", "fixed")  # how often the listing of the four directions is shuffled
WINDS = ("push", "replace")  # §J: after the move, or instead of it


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["turn_reward", "gold_reward", "mold_reward", "wind", "gold_ratio"],
    meta_fields=["size", "turns", "order", "wind_mode", "melt", "whole"],
)
@dataclasses.dataclass(frozen=True)
class Params:
    """Rewards per turn and per tile entered, wind probability per turn, gold per mold cell; then the structure.

    order: one listing of the directions a "maze" (its group shares it), an "episode" or a "turn", or "fixed" N, E, S,
    W. wind_mode: the wind blows after the move ("push") or takes its place ("replace"). melt: tiles that were left
    turn to mold; without it they stay, and gold turns to path. whole: draw also the tiles that the player cannot
    reach or see, which takes three times as long and changes nothing that is met.
    """

    turn_reward: float = -0.1
    gold_reward: float = 20.0
    mold_reward: float = -10.0
    wind: float = 0.1
    gold_ratio: float = 0.2
    size: int = 100
    turns: int = 15
    order: str = "maze"
    wind_mode: str = "push"
    melt: bool = True
    whole: bool = False

    def check(self):
        if not 7 <= self.size <= 181 or self.turns < 1:
            raise InputError(f"maze.size={self.size}, maze.turns={self.turns}: need a size of 7..181 and one turn")
        if self.order not in ORDERS or self.wind_mode not in WINDS:
            raise InputError(
                f"maze.order={self.order!r} must be one of {ORDERS}, maze.wind_mode={self.wind_mode!r} of {WINDS}"
            )
        if not (0 <= self.wind <= 1 and 0 <= self.gold_ratio <= 1):
            raise InputError(f"maze.wind={self.wind}, maze.gold_ratio={self.gold_ratio}: both must lie in 0..1")
        return self

    @property
    def calm(self) -> bool:
        """Whether no wind will ever blow, as far as that is known before the program runs."""
        return not isinstance(self.wind, jax.Array) and self.wind == 0

    @property
    def steps(self) -> int:
        """The most tiles that can be entered in an episode."""
        return self.turns * (2 if self.wind_mode == "push" else 1)


class State(NamedTuple):
    """The grid never changes; what the player did to it follows from the cells left, so a step copies no grid."""

    grid: jax.Array  # int8 [H, W], tile roles at the start, indexed [y, x]; `tiles` gives those of now
    left: jax.Array  # int16 [steps, rounded up], cells y * W + x that were left, the newest last, -1 for none
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


def worth(params: Params):
    """float32 [3]: what a turn earns that enters a tile of each role, before any wind."""
    return params.turn_reward + jnp.stack([jnp.float32(0), params.gold_reward, params.mold_reward])


def start(grid, x, y, order, params: Params) -> State:
    """The state of an episode that begins at (x, y) of `grid`."""
    x, y, zero = jnp.int32(x), jnp.int32(y), jnp.int32(0)
    left = jnp.full(-(-params.steps // LANES) * LANES, -1, jnp.int16)
    return State(jnp.asarray(grid, jnp.int8), left, x, y, zero, zero - 1, order)


def _look(state: State, places, just, params: Params) -> list:
    """Roles, int32 [] each, of the tiles at `places` [(x, y), ...] as they are now; mold outside the world.

    just: per place, cells that were left since and are not in the state yet. All places are looked up in one pass over
    the cells left, a bit each: a loop that a compiler turns into vector instructions.
    """
    height, width = state.grid.shape
    flat, cells, roles = state.grid.reshape(-1), [], []
    for x, y in places:
        cell = jnp.clip(y, 0, height - 1) * width + jnp.clip(x, 0, width - 1)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        roles.append(jnp.where(inside, flat[cell].astype(jnp.int32), MOLD))
        cells.append(cell.astype(jnp.int16))
    bits = [jnp.where(state.left == cell, jnp.int16(1 << i), jnp.int16(0)) for i, cell in enumerate(cells)]
    bits = lax.reduce(functools.reduce(jnp.bitwise_or, bits), np.int16(0), lax.bitwise_or, (0,))
    for i, cell in enumerate(cells):
        gone = functools.reduce(jnp.bitwise_or, (cell == c for c in just[i]), (bits >> i & 1) == 1)
        roles[i] = jnp.where(gone, MOLD if params.melt else jnp.where(roles[i] == GOLD, PATH, roles[i]), roles[i])
    return roles


def _beside(x, y) -> list:
    return [(x + int(dx), y + int(dy)) for dx, dy in MOVES]


def observe(state: State, params: Params) -> Observation:
    near = _look(state, _beside(state.x, state.y), [()] * 4, params)
    return Observation(state.x, state.y, jnp.stack(near), state.order, state.wind)


def tiles(state: State, params: Params):
    """int8 [H, W], the grid as it is now."""
    height, width = state.grid.shape
    at = jnp.append(jnp.where(state.left < 0, height * width, state.left), state.y * width + state.x)
    flat = state.grid.reshape(-1)
    eaten = flat.at[at].set(jnp.where(flat[at] == GOLD, PATH, flat[at]).astype(jnp.int8), mode="drop")
    return (eaten.at[at[:-1]].set(MOLD, mode="drop") if params.melt else eaten).reshape(height, width)


def listing(key):
    """A random order of the four directions, int32 [4]."""
    return jnp.asarray(LISTINGS)[jax.random.randint(key, (), 0, len(LISTINGS))]


def reset(key, params: Params) -> tuple[Observation, State]:
    """A fresh maze and its first observation. Same key, same maze; tiles out of reach are BEYOND unless `whole`."""
    k_grid, k_order = jax.random.split(key)
    grid, x, y = generator.generate(k_grid, params.gold_ratio, params.size, None if params.whole else params.steps + 1)
    state = start(grid, x, y, jnp.arange(4) if params.order == "fixed" else listing(k_order), params)
    return observe(state, params), state


def step(key, state: State, action, params: Params):
    """One turn: (observation, state, reward, terminated, truncated, info), the order of Gymnax 1.0.

    The move resolves, then with probability `wind` the player is blown one tile further (mode "push"), or the wind
    takes the place of the move ("replace"). Every tile entered counts. Episodes end by length alone (truncated).
    `info`: gold and mold entered this turn, `landed` (x, y) after the own move.
    """
    if state.left.shape[-1] < params.steps:
        raise InputError(
            f"state: made for {state.left.shape[-1]} steps, maze.turns={params.turns} needs {params.steps}"
        )
    word = jax.random.bits(key)  # one draw a step: 24 bits whether it blows, 2 bits where to
    blown = (word >> 8).astype(jnp.float32) * 2.0**-24 < params.wind
    towards = (word & 3).astype(jnp.int32)
    push, always = params.wind_mode == "push", jnp.bool_(True)
    moves = [(action, always), (towards, blown)] if push else [(jnp.where(blown, towards, action), always)]
    height, width = state.grid.shape
    path, ahead, left = [(state.x, state.y)], [], []
    for direction, on in moves:  # at the edge of the world the player stays, on mold
        x, y = path[-1]
        left.append(jnp.where(on, y * width + x, -1).astype(jnp.int16))
        north, east, south, west = (jnp.where(direction == d, 1, 0) for d in range(4))
        to_x, to_y = x + east - west, y + south - north
        ahead.append((to_x, to_y))
        to_x, to_y = jnp.clip(to_x, 0, width - 1), jnp.clip(to_y, 0, height - 1)
        path.append((jnp.where(on, to_x, x), jnp.where(on, to_y, y)))
    x, y = path[-1]
    just = [left[: i + 1] for i in range(len(moves))] + [left] * 4
    roles = _look(state, [*ahead, *_beside(x, y)], just, params)
    gold, mold = (
        sum((on & (role == tile)).astype(jnp.int32) for (_, on), role in zip(moves, roles)) for tile in (GOLD, MOLD)
    )
    reward = params.turn_reward + params.gold_reward * gold + params.mold_reward * mold
    wind = jnp.where(blown, towards, -1)
    order = listing(jax.random.fold_in(key, 1)) if params.order == "turn" else state.order
    obs = Observation(x, y, jnp.stack(roles[len(moves) :]), order, wind)
    left = jnp.append(state.left[len(left) :], jnp.stack(left))
    state = State(state.grid, left, x, y, state.turn + 1, wind, order)
    here, landed = jnp.stack(path[0]), jnp.stack(path[1])
    info = {"gold": gold, "mold": mold, "landed": landed if push else jnp.where(blown, here, landed)}
    return obs, state, reward, jnp.bool_(False), state.turn >= params.turns, info
