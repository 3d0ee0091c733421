"""What policies without a model earn, against closed forms, plain Python and one another."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import play_again

from welfare_jax.envs import maze
from welfare_jax.rl import baselines

PARAMS = maze.Params(size=15, turns=4)
FEW = {name: (policy, 200) for name, (policy, _) in baselines.POLICIES.items()}


@pytest.fixture(scope="module")
def rows():
    return {row["policy"]: row for row in baselines.table(PARAMS, policies=FEW)}


def test_better_policies_earn_more(rows):
    """By more than their errors, and more gold with it."""
    uniform, greedy, planner = (rows[name] for name in ("uniform", "greedy on neighbours", "planner"))
    for worse, better in ((uniform, greedy), (greedy, planner)):
        assert better["reward"] - worse["reward"] > 2 * np.hypot(better["reward_error"], worse["reward_error"])
        assert better["gold"] > worse["gold"]


def test_a_row_adds_up(rows):
    """Reward is arithmetic on the tiles entered; errors are those of the mean of 200 episodes."""
    for row in rows.values():
        turns = PARAMS.turns * PARAMS.turn_reward
        assert row["reward"] == pytest.approx(turns + 20 * row["gold"] - 10 * row["mold"], abs=0.01)
        assert row["episodes"] == 200 and 0 < row["reward_error"] < 3


def test_one_turn_in_closed_form():
    """A uniform move without wind: the shares of gold and mold around the start, counted in the same mazes."""
    params = dataclasses.replace(PARAMS, turns=1, wind=0.0)
    keys = jax.random.split(jax.random.key(3), 2000)
    got = np.asarray(jax.jit(baselines.returns, static_argnums=0)(baselines.uniform, keys, params))
    obs, _ = jax.vmap(lambda k: maze.reset(jax.random.split(k)[0], params))(keys)
    near = np.asarray(obs.neighbours)
    want = -0.1 + 20 * (near == maze.GOLD).mean() - 10 * (near == maze.MOLD).mean()
    assert abs(got[:, 0].mean() - want) < 5 * got[:, 0].std() / 2000**0.5


def test_the_planner_knows_what_it_takes():
    """Without wind its episodes earn what plain Python makes of its moves, and as much as it planned at the start."""
    from welfare_jax.envs import planner

    params = dataclasses.replace(PARAMS, wind=0.0)
    keys = jax.random.split(jax.random.key(5), 20)
    got = np.asarray(jax.jit(baselines.returns, static_argnums=0)(baselines.planned, keys, params))
    _, states = jax.vmap(lambda k: maze.reset(jax.random.split(k)[0], params))(keys)
    found = jax.jit(lambda s: planner.plan(s, params, beams=32))(states)
    for i, actions in enumerate(np.asarray(found.actions)):
        turns, _ = play_again(states.grid[i], states.x[i], states.y[i], actions, [-1] * params.turns, params)
        assert sum(t["reward"] for t in turns) == pytest.approx(float(found.value[i]), abs=1e-3)
    assert (got[:, 0] >= np.asarray(found.value) - 1e-3).all()  # planning again never gives up what was planned
