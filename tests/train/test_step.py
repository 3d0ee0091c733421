"""The training step: its gradient against the textbook's, its bookkeeping, and the sampler against the trainer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import worlds

from welfare_jax.envs import maze
from welfare_jax.models import decoder
from welfare_jax.rl import objectives
from welfare_jax.train import state, step

CFG = worlds.train_config()
SEED = jax.random.key(0)


@pytest.fixture(scope="module")
def world(tiny_tokenizer):
    return worlds.make(tiny_tokenizer)


@pytest.fixture(scope="module")
def collect(world):
    program = worlds.collector(world, CFG)
    return lambda trainable=world.trainable, seed=SEED, i=0: program(trainable, world.frozen, seed, i, CFG.temperature)


@pytest.fixture(scope="module")
def played(collect):
    return collect()[0]


@pytest.fixture(scope="module")
def gradient(world):
    """`gradient(trajectory, reference=None, **settings) -> (gradient, metrics)`, each setting compiled once.

    With plain SGD of rate one the update is the gradient; Adam would hide a wrong factor.
    """
    sgd = optax.sgd(1.0)

    @functools.cache
    def program(**settings):
        return worlds.updater(world, worlds.train_config(**settings), sgd)

    def run(played, reference=None, **settings):
        now, metrics = program(**settings)(worlds.fresh(world, sgd), world.frozen, reference, played, CFG.temperature)
        return {k: np.asarray(world.trainable[k] - v) for k, v in now.trainable.items()}, step.values(metrics)

    return run


def answers(world, trainable, played, episode):
    """Log-probabilities [N, 4] of one episode: its real tokens alone, the whole vocabulary, then four of them."""
    mask = np.asarray(played.mask[episode])
    tokens = played.tokens[episode][mask][None]
    logits = decoder.forward(world.graphdef, state.join(trainable, world.frozen), tokens).logits[0]
    at = np.cumsum(mask)[played.read[episode]] - 1
    return jax.nn.log_softmax(logits[at][:, np.asarray(world.pieces.table.letters)] / CFG.temperature)


def test_gradient_is_the_textbook_policy_gradient(world, played, gradient):
    """While the ratio is one: minus the mean over episodes of A * grad log pi + coef * grad H, summed, over Z."""
    returns = np.asarray(played.rewards).sum(1).reshape(2, 4)
    gain = (returns - returns.mean(1, keepdims=True)).reshape(-1)

    def loss(trainable):
        total = 0.0
        for i in range(8):
            logps = answers(world, trainable, played, i)
            total += gain[i] * logps[np.arange(worlds.TURNS), np.asarray(played.actions[i])].sum()
            total += CFG.entropy_coef * objectives.equalised_entropy(logps, played.neighbours[i]).sum()
        return -total / (8 * CFG.z)

    want = jax.grad(loss)(world.trainable)
    got, metrics = gradient(played)
    scale = max(np.abs(v).max() for v in want.values())
    assert scale > 1e-4
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=1e-3 * scale, err_msg=name)
    norm = np.sqrt(sum((np.asarray(v) ** 2).sum() for v in want.values()))
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-3)
    assert metrics["ratio"] == pytest.approx(1, abs=1e-5) and metrics["clip_frac"] == 0


def test_micro_batches_add_up(world, played, gradient):
    """One pass or four; the entropy term too, and maxima are maxima."""
    off = played._replace(logits=played.logits + 0.5 * np.random.default_rng(0).normal(size=played.logits.shape))
    want, one = gradient(off)
    got, four = gradient(off, micro_batch=2)
    assert four == pytest.approx(one, rel=1e-4, abs=1e-6) and one["ratio_error_max"] > 0.2
    scale = max(np.abs(v).max() for v in want.values())
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=1e-4 * scale, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"micro_batch": 4}, {"micro_batch": 1}, {"remat": True}, {"micro_batch": 100}])
def test_other_ways_to_the_same_gradient(settings, world, played, gradient):
    want, one = gradient(played)
    got, other = gradient(played, **settings)
    assert other == pytest.approx(one, rel=1e-4, abs=1e-5)
    scale = max(np.abs(v).max() for v in want.values())
    assert all(np.allclose(got[k], want[k], atol=1e-4 * scale) for k in want)


def learn(world, collect, steps):
    """(list of metrics, list of trainable parameters, trajectories) of a short training run with AdamW."""
    tx = state.optimizer(CFG)
    program, now, rows, seen, episodes = worlds.updater(world, CFG, tx), worlds.fresh(world, tx), [], [], []
    seen.append(now.trainable)
    for i in range(steps):
        played, _ = collect(now.trainable, SEED, i)
        now, metrics = program(now, world.frozen, None, played, CFG.temperature)
        rows.append(step.values(metrics))
        seen.append(now.trainable)
        episodes.append(played)
    assert int(now.step) == steps
    return rows, seen, episodes


def check_ratio(rows, episodes):
    """Each batch is learnt from once, so the trainer must find the very probabilities that were sampled from."""
    assert max(row["ratio_error_max"] for row in rows) < 1e-4, rows
    assert np.abs(episodes[-1].logits[:, 0] - episodes[0].logits[:, 0]).max() > 1e-3  # the policy did move


def test_short_training(world, collect):
    """Ratios of one at every step, every adapter moves and nothing else, the schedule ends at zero."""
    before = jax.tree.map(np.array, (world.trainable, world.frozen))
    rows, seen, episodes = learn(world, collect, CFG.schedule_steps)
    check_ratio(rows, episodes)
    for name, value in before[0].items():
        assert not np.allclose(seen[1][name], value, atol=1e-5), name
        np.testing.assert_allclose(seen[-1][name], seen[-2][name], atol=1e-8, err_msg=name)
    for name, value in (before[0] | before[1]).items():
        np.testing.assert_array_equal((world.trainable | world.frozen)[name], value, err_msg=name)
    factor = [0.5 * (1 + np.cos(np.pi * i / 4)) for i in range(5)]
    np.testing.assert_allclose([r["lr"] for r in rows], CFG.lr * np.array(factor), atol=1e-8)
    np.testing.assert_allclose([r["entropy_coef"] for r in rows], CFG.entropy_coef * np.array(factor), atol=1e-7)


@pytest.mark.slow
def test_ratio_of_gemma(tiny_tokenizer):
    """Windows, two rotary bases and post norms through the cache and without."""
    world = worlds.make(tiny_tokenizer, "gemma3")
    program = worlds.collector(world, CFG)
    rows, _, episodes = learn(world, lambda t, k, i: program(t, world.frozen, k, i, CFG.temperature), 3)
    check_ratio(rows, episodes)


def test_merged_adapters_play_the_same_episodes(world, played, collect):
    program = worlds.collector(world, CFG, merged=True)
    merged, _ = program(world.trainable, world.frozen, SEED, 0, CFG.temperature)
    np.testing.assert_allclose(merged.logits, played.logits, atol=1e-4)
    for name in set(played._fields) - {"logits"}:
        np.testing.assert_array_equal(getattr(merged, name), getattr(played, name), err_msg=name)
    bare, _ = collect({k: 0 * v for k, v in world.trainable.items()})
    assert np.abs(bare.logits - played.logits)[:, 0].max() > 0.01  # the adapters say something


def test_episodes_follow_from_seed_and_step(collect, played):
    again, starts = collect()
    assert jax.tree.all(jax.tree.map(jnp.array_equal, again, played))
    assert starts.grid.shape == (2, 15, 15)
    assert (played.x[:4, 0] == played.x[0, 0]).all() and (played.order[:4, 0] == played.order[0, 0]).all()
    for other in (collect(i=1)[0], collect(seed=jax.random.key(1))[0]):
        assert not jnp.array_equal(other.tokens, played.tokens)
    keys = jax.random.key_data(step.episode_keys(SEED, 3, 2, 4)[1])
    assert len(np.unique(keys, axis=0)) == 8


def test_kl_to_the_reference(world, played, gradient):
    """Exact, over four actions; nothing at the reference itself."""
    free, without = gradient(played)
    held, here = gradient(played, world.trainable, kl_coef=50.0)
    assert here["loss"] == pytest.approx(without["loss"], abs=1e-6)
    assert all(np.allclose(held[k], free[k], atol=1e-5) for k in free)
    zero = {k: 0 * v for k, v in world.trainable.items()}
    away = gradient(played, zero, kl_coef=50.0)[1]
    kl = 0.0
    for i in range(8):
        p, q = (np.asarray(answers(world, t, played, i)) for t in (world.trainable, zero))
        kl += (np.exp(p) * (p - q)).sum()
    assert kl > 1e-4
    assert away["loss"] - without["loss"] == pytest.approx(50.0 * kl / CFG.z / 8, rel=1e-2)


@pytest.mark.parametrize("wind", [0.0, 0.3])
def test_turns_are_as_wide_as_they_can_get(wind, world):
    """Without wind no slot is kept for its sentence; the first turn, which nothing precedes, has its own width."""
    params = maze.Params(size=15, turns=worlds.TURNS, wind=wind)
    collect = worlds.collector(world._replace(maze=params), CFG)
    out = jax.device_get(collect(world.trainable, world.frozen, SEED, 0, CFG.temperature)[0])
    assert out.tokens.shape == out.mask.shape == (8, world.pieces.slots(worlds.TURNS, calm=wind == 0))
    ends = world.pieces.first_width - 1 + np.arange(worlds.TURNS) * world.pieces.widths(calm=wind == 0)[1]
    assert (out.read == ends).all() and out.mask[:, ends].all()
    for i in range(8):
        logps = answers(world, world.trainable, out, i)
        np.testing.assert_allclose(objectives.policy_logps(out.logits[i], CFG.temperature), logps, atol=1e-4)


def test_cut_and_uncut():
    """Consecutive rows stay together, on every device that shares them."""
    rows = np.arange(24)
    np.testing.assert_array_equal(step.cut(rows, 8), rows.reshape(3, 8))
    two = step.cut(rows, 8, 2)
    np.testing.assert_array_equal(two[0], [0, 1, 2, 3, 12, 13, 14, 15])
    np.testing.assert_array_equal(step.uncut(two, 2), rows)
    np.testing.assert_array_equal(step.cut(rows, 100), rows[None])


def test_metrics_of_a_batch(played, gradient):
    metrics = gradient(played)[1]
    returns = np.asarray(played.rewards).sum(1)
    logps = np.asarray(objectives.policy_logps(played.logits, CFG.temperature))
    want = dict(
        reward=returns.mean(), reward_std=returns.std(), gold=np.asarray(played.gold).sum() / 8,
        mold=np.asarray(played.mold).sum() / 8, tokens=np.asarray(played.mask).sum(),
        entropy=-(np.exp(logps) * logps).sum(-1).mean(),
    )  # fmt: skip
    for name, value in want.items():
        assert metrics[name] == pytest.approx(value, rel=1e-4), name


def test_values():
    """Pairs are means, an empty count has none, a maximum is itself."""
    metrics = {"a": (jnp.float32(3), jnp.float32(2)), "b": (jnp.float32(0), jnp.int32(0)), "c_max": jnp.float32(0.5)}
    assert step.values(metrics) == {"a": 1.5, "b": None, "c_max": 0.5}
