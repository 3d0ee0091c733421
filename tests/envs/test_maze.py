"""The maze against its description (properties over many keys) and whole episodes against plain Python."""

import dataclasses
import functools
from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import STEPS, play_again

from welfare_jax.envs import levels, maze
from welfare_jax.envs.maze import GOLD, MOLD, PATH, Params
from welfare_jax.errors import InputError

SIGMAS = 5.0
LEVEL = """
#####
#.g.#
#g@##
#...#
#####
"""


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


RESET = jax.jit(jax.vmap(maze.reset, (0, None)))


@functools.lru_cache
def many(size, ratio=0.2):
    """(grids [n, size, size], start x, start y) of 96 fresh mazes, of 1,500 at size 31."""
    states = RESET(keys(1500 if size == 31 else 96), Params(size=size, gold_ratio=ratio))[1]
    return np.asarray(states.grid), np.asarray(states.x), np.asarray(states.y)


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


@pytest.mark.parametrize("side", [98, 5])
def test_walk_stays_inside_and_steps_evenly(side):
    """One cell at a time in every direction alike; a step that would leave is a turn spent in place."""
    n = 15 * side
    walks = np.asarray(jax.jit(jax.vmap(lambda k: maze._walk(k, side, n)))(keys(40)))
    assert walks.shape == (40, n, 2) and walks.min() == 0 and walks.max() == side - 1
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
    size = 31
    grids, _, _ = many(size)

    @jax.jit
    @jax.vmap
    def walk(key):
        return maze._walk(jax.random.split(jax.random.split(key)[0], 5)[0], size - 2, 15 * (size - 2) + 1)

    for cells, grid in zip(np.asarray(walk(keys(1500)[:50])), grids):
        sure = cells[: 5 * (size - 2) + 1] + 1
        assert (grid[sure[:, 1], sure[:, 0]] != MOLD).all()


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


def test_same_key_same_maze():
    """Whatever its place in a batch."""
    some = keys(96, seed=7)
    a, b = (RESET(k, Params(size=8))[1] for k in (some, some[::-1]))
    assert jax.tree.all(jax.tree.map(lambda x, y: jnp.array_equal(x, y[::-1]), a, b))
    assert len({g.tobytes() for g in np.asarray(a.grid)}) == 96


@jax.jit
def _play(keys, params):
    def episode(key):
        k_maze, key = jax.random.split(key)
        _, start = maze.reset(k_maze, params)

        def turn(state, key):
            k_act, k_step = jax.random.split(key)
            action = jax.random.randint(k_act, (), 0, 4)
            obs, state, reward, terminated, truncated, info = maze.step(k_step, state, action, params)
            return state, (action, obs, state._replace(grid=None), reward, terminated, truncated, info)

        end, out = jax.lax.scan(turn, start, jax.random.split(key, params.turns))
        return start, end.grid, *out

    return jax.vmap(episode)(keys)


@functools.lru_cache
def play(params):
    """Episodes of uniform moves, 2,000 or at full size 100: (start states, last grids, actions, and of every turn:
    observation, state after, reward, terminated, truncated, info)."""
    return jax.device_get(_play(keys(100 if params.size == 100 else 2000, seed=1), params))


PUSH, REPLACE = Params(size=9), Params(size=9, turns=11, wind_mode="replace", order="fixed")


@pytest.mark.parametrize(
    "params",
    [
        Params(),
        dataclasses.replace(PUSH, wind=0.5),
        dataclasses.replace(PUSH, wind=0.0, turn_reward=-1.0, gold_reward=3.0, mold_reward=-0.5),
        dataclasses.replace(REPLACE, wind=0.6),
    ],
    ids=["paper", "windy", "calm", "replace"],
)
def test_episodes_again_in_plain_python(params):
    start, grids, actions, obs, states, rewards, _, _, info = play(params)
    met = dict(gold=0, edge=0, wind=0)
    for i in range(100):
        turns, grid = play_again(start.grid[i], start.x[i], start.y[i], actions[i], states.wind[i], params)
        for name in ("x", "y"):
            assert [t[name] for t in turns] == list(getattr(states, name)[i]) == list(getattr(obs, name)[i])
        for name in ("gold", "mold"):
            assert [t[name] for t in turns] == list(info[name][i])
        assert [t["landed"] for t in turns] == [tuple(c) for c in info["landed"][i]]
        assert [t["neighbours"] for t in turns] == obs.neighbours[i].tolist()
        np.testing.assert_allclose([t["reward"] for t in turns], rewards[i], rtol=1e-6)
        assert grid == grids[i].tolist()
        met["gold"] += sum(t["gold"] for t in turns)
        met["edge"] += sum(t["x"] in (0, params.size - 1) for t in turns)
        met["wind"] += (states.wind[i] >= 0).sum()
    assert met["gold"] and (met["wind"] > 0) == (params.wind > 0) and (met["edge"] > 0) == (params.size < 10)


@pytest.mark.parametrize("params", [Params(), REPLACE], ids=["15", "11"])
def test_always_the_same_number_of_turns(params):
    _, _, _, _, states, _, terminated, truncated, _ = play(params)
    assert not terminated.any() and (states.turn == np.arange(1, params.turns + 1)).all()
    assert (truncated == (np.arange(params.turns) == params.turns - 1)).all()


@pytest.mark.parametrize("params", [PUSH, REPLACE], ids=["push", "replace"])
def test_wind_frequency_and_direction(params):
    _, _, actions, _, states, *_ = play(params)
    wind, p = states.wind, 0.1
    assert abs((wind >= 0).mean() - p) < SIGMAS * np.sqrt(p * (1 - p) / wind.size)
    assert np.abs((wind >= 0).mean(0) - p).max() < SIGMAS * np.sqrt(p * (1 - p) / len(wind))  # in every turn alike
    blown = wind[wind >= 0]
    assert np.abs(np.bincount(blown, minlength=4) - len(blown) / 4).max() < SIGMAS * np.sqrt(len(blown) * 3 / 16)
    together = np.bincount(4 * actions[wind >= 0] + blown, minlength=16)  # and whatever the move was
    assert np.abs(together - len(blown) / 16).max() < SIGMAS * np.sqrt(len(blown) / 16)


@pytest.mark.parametrize("wind", [0.0, 1.0])
def test_no_wind_and_nothing_but_wind(wind):
    states = play(dataclasses.replace(PUSH, wind=wind))[4]
    assert ((states.wind >= 0) == (wind == 1.0)).all()


@pytest.mark.parametrize("params", [PUSH, REPLACE, Params(size=9, order="turn")], ids=lambda p: p.order)
def test_listing_order(params):
    start, _, _, obs, *_ = play(params)
    orders = np.concatenate([start.order[:, None], obs.order], 1)
    assert (np.sort(orders, -1) == np.arange(4)).all()
    if params.order == "fixed":
        assert (orders == np.arange(4)).all()
        return
    if params.order == "maze":
        assert (orders == orders[:, :1]).all()
    else:
        assert (orders[:, 1:] != orders[:, :-1]).any(-1).mean() > 0.9
    _, counts = np.unique(orders[:, -1], axis=0, return_counts=True)
    assert len(counts) == 24 and np.abs(counts - 2000 / 24).max() < SIGMAS * np.sqrt(2000 / 24)


def test_rewards_and_wind_are_data():
    """Changing numbers does not compile again; changing structure does."""
    step = jax.jit(lambda key, state, params: maze.step(key, state, 1, params))
    state = levels.parse(LEVEL)
    for i in range(3):
        step(jax.random.key(i), state, Params(size=9, wind=0.2 * i, gold_reward=1.0 * i, turn_reward=0.5))
    assert step._cache_size() == 1
    step(jax.random.key(0), state, Params(size=9, wind_mode="replace"))
    assert step._cache_size() == 2


@pytest.mark.parametrize(
    "bad",
    [dict(size=6), dict(turns=0), dict(order="random"), dict(wind_mode="gust"), dict(wind=1.5), dict(gold_ratio=-0.1)],
)
def test_parameters_out_of_range(bad):
    with pytest.raises(InputError) as error:
        Params(**bad).check()
    assert str(next(iter(bad.values()))) in str(error.value) and "\n" not in str(error.value)


def test_level_from_ascii():
    state = levels.parse(LEVEL)
    obs = maze.observe(state)
    assert (int(state.x), int(state.y)) == (2, 2) and obs.neighbours.tolist() == [GOLD, MOLD, PATH, GOLD]
    assert levels.render(state) == LEVEL.strip()
    assert levels.render(state, player=False) == LEVEL.strip().replace("@", ".")


@pytest.mark.parametrize("size", [8, 31])
def test_levels_there_and_back(size):
    for grid, x, y in list(zip(*many(size)))[:5]:
        text = levels.render(levels.parse(LEVEL)._replace(grid=grid, x=x, y=y))
        back = levels.parse(text)
        assert (back.grid == grid).all() and (back.x, back.y) == (x, y)


def test_a_level_played_by_hand():
    """Gold is eaten once, the way back has melted, the wall of the world counts as mold."""
    state, params = levels.parse(LEVEL), Params(wind=0.0)
    step, rewards = jax.jit(maze.step), []
    for move in "NSWWW":  # gold; melted; gold; ring; against the edge
        _, state, reward, *_ = step(jax.random.key(0), state, "NESW".index(move), params)
        rewards.append(round(float(reward), 3))
    assert rewards == [19.9, -10.1, 19.9, -10.1, -10.1]
    assert levels.render(state) == "#####\n#.#.#\n@####\n#...#\n#####"


@pytest.mark.parametrize(
    "text",
    ["", "###\n#@#", "###\n#@.\n##", "###\n#.#\n###", "@##\n#@#\n###", "###\n#x#\n##@", "###\n# #\n##@"],
    ids=["empty", "not square", "ragged", "no player", "two players", "odd sign", "space"],
)
def test_bad_levels_are_refused(text):
    with pytest.raises(InputError) as error:
        levels.parse(text)
    assert str(error.value).startswith("level:") and "\n" not in str(error.value)
