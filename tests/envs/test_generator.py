"""Fresh mazes against their description: properties over many keys, and the drawn part against the whole."""

import functools
from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import STEPS

from welfare_jax.envs import generator, maze
from welfare_jax.envs.generator import BEYOND, GOLD, MOLD, PATH

SIGMAS = 5.0


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


@functools.partial(jax.jit, static_argnums=(2, 3))
def MAKE(keys, ratio, size, reach=None):
    return jax.vmap(lambda k: generator.generate(k, ratio, size, reach))(keys)


@functools.lru_cache
def many(size, ratio=0.2):
    """(grids [n, size, size], start x, start y) of 96 fresh mazes, of 1,500 at size 31."""
    return jax.device_get(MAKE(keys(1500 if size == 31 else 96), ratio, size))


@pytest.mark.parametrize("size", [100, 31, 8])
def test_ring_and_counts(size):
    grids, _, _ = many(size)
    inside, cells = grids[:, 1:-1, 1:-1], (size - 2) ** 2
    ring = np.ones((size, size), bool)
    ring[1:-1, 1:-1] = False
    assert grids.shape[1:] == (size, size) and (grids[:, ring] == MOLD).all()
    assert set(np.unique(inside)) == {PATH, GOLD, MOLD}
    mold, gold = (inside == MOLD).sum((1, 2)), (inside == GOLD).sum((1, 2))
    if size > 8:
        assert (mold > 0.1 * cells).all() and (mold < 0.5 * cells).all()
    else:  # so small a maze may be walked through, and then the walk decides how little is left
        assert (mold <= 0.5 * cells).all()
    assert (gold == np.maximum(1, mold // 5)).all()


def test_gold_ratio_of_the_published_code():
    grids, _, _ = many(31, ratio=0.5)
    inside = grids[:, 1:-1, 1:-1]
    assert ((inside == GOLD).sum((1, 2)) == (inside == MOLD).sum((1, 2)) // 2).all()


def test_mold_share_is_uniform():
    grids, _, _ = many(31)
    share = np.sort((grids[:, 1:-1, 1:-1] == MOLD).mean((1, 2)))
    uniform = (share - 0.1) / 0.4
    distance = np.abs(uniform - (np.arange(1500) + 0.5) / 1500).max()
    assert distance < 1.95 / 1500**0.5  # Kolmogorov-Smirnov at one in a thousand


def test_gold_lies_anywhere_on_the_path():
    """In the left third as often as its share of open cells says, all mazes together."""
    grids, _, _ = many(31)
    inside = grids[:, 1:-1, 1:-1]
    share = (inside != MOLD)[:, :, :10].sum((1, 2)) / (inside != MOLD).sum((1, 2))
    golds = (inside == GOLD).sum((1, 2))
    found = (inside == GOLD)[:, :, :10].sum()
    sigma = np.sqrt((golds * share * (1 - share)).sum())
    assert abs(found - (golds * share).sum()) < SIGMAS * sigma


@functools.lru_cache
def walk(side):
    """(cells [40, length, 2] as x, y) of 40 walks."""
    cells = np.asarray(jax.jit(lambda k: generator._walk(k, side))(keys(40))).T
    return np.stack([cells % side, cells // side], -1)


@pytest.mark.parametrize("side", [98, 5])
def test_walk_stays_inside_and_steps_evenly(side):
    """One cell at a time in every direction alike; a step that would leave is a turn spent in place."""
    walks = walk(side)
    assert walks.shape == (40, 15 * side + 1, 2) and walks.min() == 0 and walks.max() == side - 1
    step, here = np.diff(walks, axis=1).reshape(-1, 2), walks[:, :-1].reshape(-1, 2)
    assert (np.abs(step).sum(-1) <= 1).all()
    still = (step == 0).all(-1)
    walls = (here == 0).sum(-1) + (here == side - 1).sum(-1)
    assert not still[walls == 0].any()
    for number in (1, 2):
        among = walls == number
        assert abs(still[among].mean() - number / 4) < SIGMAS * np.sqrt(0.25 / among.sum())
    moved = [(step[walls == 0] == s).all(-1).mean() for s in STEPS]
    assert np.abs(np.array(moved) - 0.25).max() < SIGMAS * np.sqrt(0.1875 / (walls == 0).sum())


def test_what_was_walked_is_open():
    """At least 5 x side steps of the walk that belongs to the key, none of them on mold."""
    size, side = 31, 29
    grids, _, _ = many(size)
    walks = np.asarray(
        jax.jit(lambda k: generator._walk(k, side))(jax.vmap(lambda k: jax.random.split(k, 4)[0])(keys(1500)))
    )
    for cells, grid in zip(walks.T[:50], grids):
        sure = cells[: 5 * side + 1]
        assert (grid[sure // side + 1, sure % side + 1] != MOLD).all()


def nearest_path(grid):
    """Breadth-first search from the centre, N, E, S, W first."""
    size = len(grid)
    queue, seen = deque([(size // 2, size // 2)]), {(size // 2, size // 2)}
    while queue:
        x, y = queue.popleft()
        if grid[y][x] == PATH:
            return x, y
        for dx, dy in STEPS:
            cell = (x + dx, y + dy)
            if 0 <= cell[0] < size and 0 <= cell[1] < size and cell not in seen:
                seen.add(cell)
                queue.append(cell)


@pytest.mark.parametrize("size", [100, 31, 8])
def test_start_is_the_nearest_path_cell(size):
    grids, xs, ys = (a[:100] for a in many(size))
    assert [nearest_path(g) for g in grids] == list(zip(xs, ys))
    assert len(set(zip(xs, ys))) > 1


@pytest.mark.parametrize("size", [100, 31, 8])
def test_what_is_drawn_is_a_part_of_the_whole(size):
    """Everything the player can see is there and as in the whole maze of the same key."""
    reach = 31
    whole, xs, ys = jax.device_get(MAKE(keys(96), 0.2, size))
    part, x, y = jax.device_get(MAKE(keys(96), 0.2, size, reach))
    assert (x == xs).all() and (y == ys).all()
    assert (part == whole)[part != BEYOND].all() and ((part == BEYOND).any() == (size == 100))
    grid_y, grid_x = np.mgrid[:size, :size]
    near = np.abs(grid_x - xs[:, None, None]) + np.abs(grid_y - ys[:, None, None]) <= reach
    assert (part[near] != BEYOND).all()


def test_reset_draws_the_whole_maze_on_request():
    some = keys(20)
    reset = jax.jit(jax.vmap(maze.reset, (0, None)))
    whole, part = (reset(some, maze.Params(whole=w))[1].grid for w in (True, False))
    assert (whole != BEYOND).all() and (part == BEYOND).any() and ((part == whole) | (part == BEYOND)).all()


def test_one_maze_alone_is_the_same_maze():
    one = jax.jit(lambda k: generator.generate(k, 0.2, 31, 31))
    grids = MAKE(keys(5), 0.2, 31, 31)[0]
    for key, grid in zip(keys(5), grids):
        assert (one(key)[0] == grid).all()


def test_any_set_of_cells_is_as_likely_as_any_other():
    """All 3-of-6 subsets of the eligible cells alike, in the first cells and around a stop between two blocks."""
    n, cells = 60_000, 2 * generator.BLOCK
    eligible = np.zeros(cells, bool)
    eligible[[0, 3, 14, 15, 16, 31]] = True
    uniform = generator._uniforms(jax.random.bits(jax.random.key(0), (2, n)), cells)
    chosen = jax.jit(generator._choose)(
        uniform, jnp.broadcast_to(eligible[:, None], (cells, n)), jnp.full(n, 6), jnp.full(n, 3)
    )
    chosen = np.asarray(chosen)
    assert (chosen.sum(0) == 3).all() and not chosen[~eligible].any()
    _, counts = np.unique(chosen[eligible], axis=1, return_counts=True)
    assert len(counts) == 20 and ((counts - n / 20) ** 2 / (n / 20)).sum() < 45.3  # chi square, 19 degrees, 0.0006


def test_the_numbers_are_uniform_and_independent():
    """Along cells, along mazes and between the two draws of one cell."""
    n = 2000
    seeds = jax.random.bits(jax.random.key(1), (2, 2, n))
    a, b = (np.asarray(generator._uniforms(s, 500)) - 0.5 for s in (seeds[0], seeds[1]))
    assert (
        abs(a.mean()) < SIGMAS / np.sqrt(12 * a.size) and abs((a**2).mean() - 1 / 12) < SIGMAS * 0.0746 / a.size**0.5
    )
    for u, v in ((a[1:], a[:-1]), (a[2:], a[:-2]), (a[16:], a[:-16]), (a[:, 1:], a[:, :-1]), (a, b)):
        assert abs((u * v).mean()) < SIGMAS / 12 / u.size**0.5
    counts = np.histogram(a, 1000, (-0.5, 0.5))[0]
    assert abs(((counts - a.size / 1000) ** 2 / (a.size / 1000)).sum() - 999) < SIGMAS * np.sqrt(2 * 999)
    following = generator._uniforms(jnp.stack([jnp.arange(n), jnp.zeros(n)]).astype(jnp.uint32), 500) - 0.5
    assert abs((following[:, 1:] * following[:, :-1]).mean()) < SIGMAS / 12 / following.size**0.5
