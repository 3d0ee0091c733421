"""The algorithms on the small decoder of the package: three seeds side by side get better at the maze."""

import dataclasses
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from test_structure import ROOT

from welfare_jax import mesh as mesh_lib
from welfare_jax.envs import maze
from welfare_jax.sft import planned
from welfare_jax.train import loop, organisms, state, step, supervised
from welfare_jax.train.job import Job

CONFIGS = runpy.run_path(str(ROOT.parent / "configs" / "tiny.py"))
SEEDS, TURNS = 3, 2
SMALL = {"maze.turns": TURNS, "train.groups": 4, "train.schedule_steps": 1000, "organisms.seed": list(range(SEEDS))}


def settings(name, **changes):
    cfg = CONFIGS["get_config"](name)
    cfg.update_from_flattened_dict(SMALL | changes)
    return Job.of(cfg)


def build(cfg):
    """The setup on one device: eight virtual ones only share the same two cores."""
    setup, device = loop.build(cfg), jax.devices()[:1]
    mesh = jax.make_mesh((1, 1, 1), mesh_lib.AXES, devices=device, axis_types=(AxisType.Auto,) * 3)
    lm = dataclasses.replace(setup.lm, params=jax.device_put(setup.lm.params, device[0]))
    initial, frozen = jax.device_put((setup.initial, setup.frozen), device[0])
    return dataclasses.replace(setup, lm=lm, initial=initial, frozen=frozen, mesh=mesh)


@pytest.fixture(scope="module")
def shared():
    """(setup, collect): the model, the pieces and the rollout are the same for all algorithms."""
    cfg = settings("dr_grpo")
    setup = build(cfg)
    return setup, loop.collector(setup, cfg, True)


def rewards(shared, trainable, cfg, batches=6):
    """Mean reward [seeds] over the same held-out mazes each time."""
    setup, collect = shared
    keys, tiles = jax.vmap(jax.random.key)(100 + jnp.arange(SEEDS)), jnp.tile(jnp.arange(3), (SEEDS, 1))
    played = [collect(trainable, setup.frozen, keys, i, cfg.train.temperature, tiles)[0] for i in range(batches)]
    return np.mean([np.asarray(p.rewards).sum(2).mean(1) for p in played], axis=0)


def check_gain(before, after):
    """Each seed gains more than its sampling error could, and all of them together far more than they differ."""
    gain = after - before
    assert gain.min() > 2 and gain.mean() > 5 * gain.std(ddof=1) / SEEDS**0.5, (before, after)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dr_grpo", "grpo", "reinforce", "all_actions", "ppo", "expert_iteration", "rl_fft"])
def test_reinforcement_learning_improves_the_reward(name, shared):
    setup, collect = shared
    # Expert Iteration starts from the base each round, with the best episodes alone: more of them, and few rounds.
    rounds, more = (2, {"train.groups": 16}) if name == "expert_iteration" else (12, {})
    cfg = settings(name, **more)
    own, tx = loop.runs(setup, cfg), state.optimizer(cfg.train)
    if name == "rl_fft":  # other parameters are trained: another structure
        setup = build(cfg)
        own, collect = loop.runs(setup, cfg), loop.collector(setup, cfg, True)
    now, places = loop.fresh(own, tx, setup.mesh)
    update = loop.updater(setup, cfg, tx, places, True)
    play = loop.collector(setup, cfg, True) if more else collect
    before = rewards((setup, collect), now.trainable, cfg)
    for i in range(rounds):
        played, _ = play(now.trainable, setup.frozen, own.keys, i, cfg.train.temperature, own.tiles)
        now, metrics = update(now, setup.frozen, own.initial, None, played, own.knobs)
    assert np.isfinite(np.asarray(metrics["loss"][0])).all()
    check_gain(before, rewards((setup, collect), now.trainable, cfg))


@pytest.fixture(scope="module")
def plans(shared):
    setup, _ = shared
    params = maze.Params(**{**vars(setup.maze), "size": 31})
    train, held = (planned.generate(params, n, seed, 16) for n, seed in ((1024, 0), (256, supervised.HELD_OUT)))
    return train, held, max(planned.longest(setup.pieces, part) for part in (train, held))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", "inverse_soft_q"])
def test_imitation_improves_the_reward_and_takes_the_gold(name, shared, plans):
    """On held-out mazes: where the plan takes an adjacent Gold, the most likely move does in nine of ten cases."""
    setup, _ = shared
    train, held, width = plans
    cfg = settings(name)
    initial = organisms.stack([loop.start(setup.lm, settings("dr_grpo").train, i)[1] for i in range(SEEDS)])
    tx = state.optimizer(cfg.train)
    imitate = supervised.make_imitate(setup.graphdef, setup.pieces, tx, cfg.train, width)
    update = jax.jit(jax.vmap(imitate, in_axes=(0, None, None)))
    now = state.State(jnp.zeros(SEEDS, jnp.int32), initial, jax.vmap(tx.init)(initial))
    before = rewards(shared, initial, cfg)
    batches = planned.pipeline(train, 0, 32)
    for _ in range(30):
        now, _ = update(now, setup.frozen, next(batches))
    check_gain(before, rewards(shared, now.trainable, cfg))
    look, _ = supervised.make_judge(setup.graphdef, setup.pieces, cfg.train, width)
    rules = planned.rules(train, held)
    for i in range(SEEDS):
        found = supervised.agreement(look, organisms.take(now.trainable, i), setup.frozen, held)
        start = supervised.agreement(look, organisms.take(initial, i), setup.frozen, held)
        assert found["gold_agreement"] >= 0.9 > start["gold_agreement"], (found, start)
        assert start["log_likelihood"] < found["log_likelihood"] < 0 and max(rules.values()) < 0


def test_every_algorithm_has_a_tiny_twin():
    found = {CONFIGS["get_config"](name).train.algorithm for name in CONFIGS["VARIANTS"]}
    assert found == set(loop.ALGORITHMS)


def test_expert_iteration_restarts_and_learns_from_the_best(tiny_tokenizer):
    """The update does not depend on where the parameters were, and only the episodes that are kept matter."""
    import worlds

    world = worlds.make(tiny_tokenizer)
    cfg = worlds.train_config(algorithm="expert_iteration", keep_best=2, epochs=2, minibatches=2)
    played, _ = worlds.collector(world, cfg)(world.trainable, world.frozen, jax.random.key(0), 0, 0.7)
    tx = state.optimizer(cfg)
    program = worlds.updater(world, cfg, tx)
    elsewhere = {k: v + 1 for k, v in world.trainable.items()}
    ends = []
    for trainable in (world.trainable, elsewhere):
        now = state.State(jnp.int32(0), trainable, tx.init(trainable))
        ends.append(program(now, world.frozen, world.trainable, played, 0.7)[0].trainable)
    assert all((ends[0][k] == ends[1][k]).all() for k in ends[0])
    returns, trace = np.asarray(played.rewards).sum(1), np.concatenate([played.actions, played.x, played.y], 1)
    kept = []
    for group in (range(4), range(4, 8)):
        first = [i for i in group if not any((trace[i] == trace[j]).all() for j in group if j < i)]
        kept += sorted(first, key=lambda i: -returns[i])[:2]
    others = np.setdiff1d(np.arange(8), kept)
    assert len(others) >= 4
    tokens = played.tokens.at[others].set(1)
    now = program(worlds.fresh(world, tx), world.frozen, world.trainable, played._replace(tokens=tokens), 0.7)[0]
    assert all((now.trainable[k] == ends[0][k]).all() for k in ends[0])
    assert step.values(program(worlds.fresh(world, tx), world.frozen, world.trainable, played, 0.7)[1])["loss"] > 0
