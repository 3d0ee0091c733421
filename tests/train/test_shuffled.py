"""Rewards shuffled between tiles: the same episodes, as much reward to be had, and no tile better than another."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import worlds

from welfare_jax.envs import maze
from welfare_jax.train import shuffled, step

PARAMS = maze.Params(turn_reward=-0.5, gold_reward=7.0, mold_reward=-3.0)


def test_orders_are_drawn_for_every_maze_step_and_seed():
    episodes, size = 6000, 4
    worth = lambda seed, at=0: np.asarray(shuffled.worth(PARAMS, jnp.uint32(seed), at, episodes, size))
    plain = np.asarray(maze.worth(PARAMS))
    assert (worth(0) == plain).all()
    found = worth(1)
    mazes = found.reshape(-1, size, 3)
    assert (mazes == mazes[:, :1]).all() and (np.sort(found, -1) == np.sort(plain)).all()
    orders, counts = np.unique(mazes[:, 0], axis=0, return_counts=True)
    assert len(orders) == 6 and np.abs(counts - 250).max() < 5 * np.sqrt(250)  # of 1,500 mazes
    assert np.abs(found.mean(0) - plain.mean()).max() < 5 * plain.std() / np.sqrt(episodes / size)
    for other in (worth(2), worth(1, 1)):
        assert 0.7 < (other.reshape(-1, size, 3)[:, 0] != mazes[:, 0]).any(-1).mean() < 0.95  # 5 of 6
    assert (worth(1) == found).all()


@pytest.fixture(scope="module")
def world(tiny_tokenizer):
    return worlds.make(tiny_tokenizer)


@pytest.mark.parametrize("mode", maze.WINDS)
def test_rewards_are_those_of_the_tiles_entered(mode, world):
    """In their true order they are what the maze paid; in another, what it pays under rules with that order."""
    params = dataclasses.replace(PARAMS, size=15, turns=6, wind=0.5, wind_mode=mode)
    cfg = worlds.train_config()
    play = lambda rules: worlds.collector(world._replace(maze=rules), cfg)(
        world.trainable, world.frozen, jax.random.key(3), 0, 1.0
    )[0]  # fmt: skip
    played = play(params)
    true = jnp.tile(maze.worth(params), (len(played.rewards), 1))
    np.testing.assert_allclose(shuffled.rewards(played, true, params), played.rewards, atol=1e-5)
    swapped = true[:, jnp.array([0, 2, 1])]
    again = play(dataclasses.replace(params, gold_reward=params.mold_reward, mold_reward=params.gold_reward))
    assert (np.asarray(again.actions) == np.asarray(played.actions)).all()
    np.testing.assert_allclose(shuffled.rewards(played, swapped, params), again.rewards, atol=1e-5)
    assert np.abs(np.asarray(again.rewards - played.rewards)).max() > 1


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["dr_grpo", "all_actions"])
def test_the_update_learns_from_the_shuffled_rewards(algorithm, world):
    """With seed 0 the gradient is that of the rewards as they are; else that of an episode whose tiles pay so."""
    cfg, sgd = worlds.train_config(algorithm=algorithm), optax.sgd(1.0)
    update = worlds.updater(world, cfg, sgd)
    played, _ = worlds.collector(world, cfg)(world.trainable, world.frozen, jax.random.key(0), 0, cfg.temperature)
    run = lambda played, shuffle: update(
        worlds.fresh(world, sgd), world.frozen, None, played, cfg.temperature,
        step.Knobs(cfg.lr, cfg.entropy_coef, shuffle),
    )  # fmt: skip
    plain, off, on = (run(played, s) for s in (None, jnp.uint32(0), jnp.uint32(1)))
    same = lambda a, b: max(float(jnp.abs(a[0].trainable[k] - b[0].trainable[k]).max()) for k in a[0].trainable)
    assert same(plain, off) < 1e-6 < same(plain, on)
    assert step.values(on[1])["reward"] == pytest.approx(step.values(plain[1])["reward"])  # what was really earned
    if algorithm == "dr_grpo":
        worth = shuffled.worth(world.maze, jnp.uint32(1), 0, len(played.rewards), cfg.group_size)
        paid = played._replace(rewards=shuffled.rewards(played, worth, world.maze))
        assert same(run(paid, None), on) < 1e-6
