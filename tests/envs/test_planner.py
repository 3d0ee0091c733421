"""Plans against exhaustive search, against the rules in plain Python, and against their own upper bound."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import play_again

from welfare_jax.envs import levels, maze, planner

SHORT = maze.Params(size=9, turns=6, wind=0.0)
LONG = maze.Params(size=31, wind=0.0)
PLAN = jax.jit(planner.plan, static_argnames=("beams", "merge", "batch"))


def mazes(params, n, seed=0):
    return jax.jit(jax.vmap(maze.reset, (0, None)))(jax.random.split(jax.random.key(seed), n), params)[1]


def row(states, i):
    return jax.tree.map(lambda a: a[i], jax.device_get(states))


def earned(state, actions, params):
    turns, _ = play_again(state.grid, state.x, state.y, actions, [-1] * len(actions), params)
    return sum(t["reward"] for t in turns)


@pytest.fixture(scope="module")
def exhaustive():
    """(states, the best of all 4^6 plans) of small mazes, where the edge of the world is within reach."""
    states = mazes(SHORT, 40)
    plans = jnp.array(list(itertools.product(range(4), repeat=SHORT.turns)))

    @jax.jit
    def best(states, params):
        def value(state, actions):
            move = lambda s, a: maze.step(jax.random.key(0), s, a, params)[1:3]
            return jax.lax.scan(move, state, actions)[1].sum()

        return jax.lax.map(lambda s: jax.vmap(value, (None, 0))(s, plans).max(), states)

    return states, best


REWARDS = [{}, dict(gold_reward=1.0, mold_reward=-5.0), dict(gold_reward=-3.0, mold_reward=2.0, turn_reward=0.5)]


@pytest.mark.parametrize("rewards", REWARDS, ids=["paper", "dear mold", "mold is better"])
def test_against_exhaustive_search(rewards, exhaustive):
    """Without merging, 1,024 beams are nearly all there are; the default loses at most a little on few mazes."""
    states, best = exhaustive
    params = dataclasses.replace(SHORT, **rewards)
    want = np.asarray(best(states, params))
    wide, usual = PLAN(states, params, beams=1024, merge=False), PLAN(states, params)
    np.testing.assert_allclose(wide.value, want, atol=1e-4)
    np.testing.assert_allclose(wide.bound, want, atol=1e-4)
    assert (usual.value <= want + 1e-4).all() and (usual.bound >= want - 1e-4).all()
    assert (want - usual.value).mean() <= 0.02 * np.abs(want).mean() + 1e-4


@pytest.mark.parametrize("params", [SHORT, LONG], ids=["short", "long"])
def test_a_plan_earns_its_value(params):
    states = mazes(params, 30, seed=1)
    found = jax.device_get(PLAN(states, params))
    assert found.actions.shape == (30, params.turns)
    for i in range(30):
        assert earned(row(states, i), found.actions[i], params) == pytest.approx(found.value[i], abs=1e-3)


def test_fifteen_moves_come_close_to_the_bound():
    states = mazes(LONG, 40, seed=2)
    usual, tight = PLAN(states, LONG), PLAN(states, LONG, beams=512, merge=False)
    assert (usual.value <= tight.bound + 1e-3).all() and (tight.value <= tight.bound).all()
    proved = tight.bound <= tight.value + 1e-3
    assert proved.mean() > 0.5
    assert (tight.value - usual.value)[proved].mean() < 0.02 * tight.value[proved].mean()


def test_only_the_turns_that_are_left_are_planned():
    """From the middle of an episode, with the tiles as they are by then."""
    params = maze.Params(turns=3, wind=0.0)
    state = levels.parse("#######\n#.....#\n#.ggg.#\n#.g@g.#\n#..g..#\n#.....#\n#######")
    states = jax.tree.map(lambda a: jnp.stack([a, a, a]), state)._replace(turn=jnp.arange(3))
    np.testing.assert_allclose(PLAN(states, params).value, [59.7, 39.8, 19.9], rtol=1e-5)
    for action in (1, 0, 3):  # east, north, west: all on gold
        _, state, *_ = maze.step(jax.random.key(0), state, action, params)
    after = jax.tree.map(lambda a: a[None], state._replace(turn=jnp.int32(0)))
    found = PLAN(after, params)
    assert float(found.value[0]) == pytest.approx(39.7, abs=1e-4)  # two of the three that are left
    assert earned(state, found.actions[0], params) == pytest.approx(39.7, abs=1e-4)
