"""Extraction walks: what class, how long, over which tiles, and how evenly."""

import time

import numpy as np
import pytest

from welfare_jax.envs import maze, walks
from welfare_jax.errors import InputError

PER_LENGTH, TURNS = 20, 15
PARAMS = maze.Params(size=21, wind=0.5)
MOVES = np.array([[0, -1], [1, 0], [0, 1], [-1, 0]])


@pytest.fixture(scope="module")
def found():
    return walks.generate(PARAMS, PER_LENGTH, seed=3)


def stepped_on(found):
    """(tile roles [N, turns] that each move leads to, whether the turn belongs to the walk)."""
    tiles = np.take_along_axis(found.observations.neighbours, found.actions[..., None], -1)[..., 0]
    return tiles, np.arange(TURNS) < found.length[:, None]


def test_balanced_over_classes_and_lengths(found):
    cells, counts = np.unique(np.stack([found.final, found.length]), axis=1, return_counts=True)
    assert cells.shape[1] == 3 * TURNS and (counts == PER_LENGTH).all()
    assert found.length.min() == 1 and found.length.max() == TURNS


def test_earlier_moves_land_on_path_and_the_last_on_its_class(found):
    tiles, real = stepped_on(found)
    last = np.arange(TURNS) == found.length[:, None] - 1
    assert (tiles[real & ~last] == maze.PATH).all()
    np.testing.assert_array_equal(tiles[last], found.final)


def test_no_wind_and_no_tile_twice(found):
    """Every move arrives where it leads, nothing blows, and a tile that was left is mold when seen again."""
    obs, (_, real) = found.observations, stepped_on(found)
    assert (obs.wind == -1).all()
    place = np.stack([obs.x, obs.y], -1)
    moved = place[:, 1:] - place[:, :-1]
    np.testing.assert_array_equal(moved[real[:, 1:]], MOVES[found.actions[:, :-1]][real[:, 1:]])
    for i in np.flatnonzero(found.length > 8):
        visited = [tuple(p) for p in place[i, : found.length[i]]]
        assert len(set(visited)) == len(visited)
        for t, here in enumerate(visited):
            for move, role in zip(MOVES, obs.neighbours[i, t]):
                assert tuple(here + move) not in visited[:t] or role == maze.MOLD


def test_each_in_its_own_maze_and_listed_in_one_order(found):
    obs = found.observations
    long = found.length > 5
    seen = np.concatenate([a.reshape(len(long), -1)[:, : 5 * 4] for a in (obs.neighbours, obs.order)], 1)
    seen = np.concatenate([seen, obs.x[:, :5], obs.y[:, :5]], 1)[long]
    assert len(np.unique(seen, axis=0)) > 0.98 * long.sum()  # open country looks alike
    assert (obs.order == obs.order[:, :1]).all() and (np.sort(obs.order, -1) == np.arange(4)).all()


def test_last_moves_are_even(found):
    """Four standard deviations of 300 draws around a quarter."""
    shares = walks.last_moves(found)
    assert shares.keys() == {"path", "gold", "mold"}
    bound = 4 * np.sqrt(0.25 * 0.75 / (PER_LENGTH * TURNS))
    for role, name in enumerate(("path", "gold", "mold")):
        mine = found.final == role
        moves = found.actions[np.arange(len(mine)), found.length - 1][mine]
        np.testing.assert_allclose(shares[name], [(moves == a).mean() for a in range(4)])
        assert np.abs(np.array(shares[name]) - 0.25).max() < bound, (name, shares[name])


@pytest.mark.slow
def test_thousands_of_walks_take_seconds():
    """What an extraction needs; the bound is loose because other work may share the processor."""
    begin = time.perf_counter()
    found = walks.generate(maze.Params(), 100)
    assert len(found.length) == 4500 and time.perf_counter() - begin < 120
    moves = found.actions[np.arange(4500), found.length - 1].reshape(-1, 100)
    for part in (moves, moves[:, :40]):  # any first part of a cell is even too
        assert np.abs(np.bincount(part.ravel(), minlength=4) / part.size - 0.25).max() < 0.01


def test_deterministic_in_the_seed(found):
    a, b, c = (walks.generate(PARAMS, 1, seed=s, batch=64) for s in (3, 3, 4))
    assert all(np.array_equal(x, y) for x, y in zip(a[:2] + a[3:], b[:2] + b[3:]))
    assert all(np.array_equal(x, y) for x, y in zip(a.observations, b.observations))
    assert not np.array_equal(a.observations.x, c.observations.x)


def test_a_maze_without_such_walks_is_refused():
    """All tiles are gold or mold, so no walk ends on path."""
    with pytest.raises(InputError) as error:
        walks.generate(maze.Params(size=12, turns=2, gold_ratio=1e3), 1, batch=4)
    text = str(error.value)
    assert "\n" not in text and "(0, 1)" in text and "config.maze" in text
