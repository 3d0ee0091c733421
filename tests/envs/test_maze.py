"""The maze against its description (properties over many keys) and whole episodes against plain Python."""

import dataclasses
import functools

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
            return state, (action, obs, state._replace(grid=None, left=None), reward, terminated, truncated, info)

        end, out = jax.lax.scan(turn, start, jax.random.split(key, params.turns))
        return start, maze.tiles(end, params), *out

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


@pytest.mark.parametrize("size", [9, 100])
def test_without_melting_only_gold_goes(size):
    """Tiles stay as they were, and gold pays once."""
    params = dataclasses.replace(PUSH, size=size, melt=False, wind=0.3)
    start, grids, actions, _, states, _, _, _, info = play(params)
    for i in range(100):
        grid, x, y = start.grid[i].astype(int), start.x[i], start.y[i]
        for t, (a, w) in enumerate(zip(actions[i], states.wind[i])):
            golds = molds = 0
            for d in [a] + [w] * bool(w >= 0):
                to = (x + STEPS[d][0], y + STEPS[d][1])
                inside = 0 <= to[0] < size and 0 <= to[1] < size
                x, y = to if inside else (x, y)
                golds, molds = golds + (inside and grid[y, x] == GOLD), molds + (not inside or grid[y, x] == MOLD)
                grid[y, x] = PATH if grid[y, x] == GOLD else grid[y, x]
            assert (states.x[i, t], states.y[i, t]) == (x, y)
            assert (info["gold"][i, t], info["mold"][i, t]) == (golds, molds)
        assert (grids[i] == grid).all()


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
    obs = maze.observe(state, Params())
    assert (int(state.x), int(state.y)) == (2, 2) and obs.neighbours.tolist() == [GOLD, MOLD, PATH, GOLD]
    assert levels.render(state) == LEVEL.strip()
    assert levels.render(state, player=False) == LEVEL.strip().replace("@", ".")


@pytest.mark.parametrize("size", [8, 31])
def test_levels_there_and_back(size):
    states = RESET(keys(5), Params(size=size))[1]
    for grid, x, y in zip(states.grid, states.x, states.y):
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
