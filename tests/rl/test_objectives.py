"""Advantages and the Dr. GRPO objective against plain loops over episodes and turns."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from welfare_jax.rl import objectives as o

B, N = 6, 5
SETTINGS = o.Surrogate(clip=0.2, dual_clip=3.0, z=2048.0, entropy_coef=0.3, kl_coef=0.7)


def random_batch(seed=0, shift=0.4, ref=True):
    """(batch, logits of the new policy) in float64, ratios on both sides of every clip."""
    rng = np.random.default_rng(seed)
    old, other = rng.normal(size=(2, B, N, 4))
    new = old + shift * rng.normal(size=(B, N, 4))
    batch = o.Batch(
        actions=rng.integers(0, 4, (B, N)), old_logps=log_softmax(old, -1), advantages=3 * rng.normal(size=(B, N)),
        neighbours=rng.integers(0, 3, (B, N, 4)), ref_logps=log_softmax(other, -1) if ref else None,
    )  # fmt: skip
    return batch, new


def tile_entropy(logits, near):
    """Entropy of the softmax over the actions of each tile role that two or more actions lead to, summed."""
    groups = [[logits[a] for a in range(4) if near[a] == role] for role in range(3)]
    return sum(entropy(softmax(g)) for g in groups if len(g) >= 2)


def loop(batch, logits, s):
    """(sum of the token losses / Z, metrics) one token at a time."""
    total, ratios, bonus, entropies = 0.0, [], [], []
    for b in range(B):
        for n in range(N):
            new, old, a, gain = (
                log_softmax(logits[b, n]),
                batch.old_logps[b, n],
                batch.actions[b, n],
                batch.advantages[b, n],
            )
            ratio = math.exp(min(max(new[a] - old[a], -20), 20))
            worth = min(ratio * gain, min(max(ratio, 1 - s.clip), 1 + s.clip) * gain)
            if gain < 0:
                worth = max(worth, s.dual_clip * gain)
            bonus.append(tile_entropy(logits[b, n], batch.neighbours[b, n]))
            total += -worth - s.entropy_coef * bonus[-1]
            if batch.ref_logps is not None:
                total += s.kl_coef * entropy(np.exp(new), np.exp(batch.ref_logps[b, n]))
            ratios.append(ratio)
            entropies.append(entropy(np.exp(new)))
    far = np.abs(np.array(ratios) - 1)
    metrics = dict(
        ratio=np.mean(ratios), clip_frac=np.mean(far > s.clip), entropy=np.mean(entropies),
        equalised_entropy=np.mean(bonus), ratio_error_max=far.max(),
    )  # fmt: skip
    return total / s.z, metrics


def objective(batch, logits, s=SETTINGS):
    return o.dr_grpo(batch, o.policy_logps(logits, 1.0), s)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ref", [True, False])
def test_loss_and_metrics_equal_a_loop(seed, ref):
    batch, logits = random_batch(seed, ref=ref)
    numerator, denominator, metrics = objective(batch, jnp.asarray(logits, jnp.float32))
    want, numbers = loop(batch, logits, SETTINGS)
    assert denominator == B and metrics.keys() == numbers.keys()
    assert float(numerator) == pytest.approx(want, rel=1e-5)
    for name, value in metrics.items():
        found = value if name.endswith("_max") else value[0] / value[1]
        assert float(found) == pytest.approx(numbers[name], rel=1e-5), name
    assert 0.2 < numbers["clip_frac"] < 0.9  # both sides of the clip were visited


def test_gradient_by_finite_differences():
    batch, logits = random_batch(4)
    step, want = 1e-6, np.zeros_like(logits)
    for i in np.ndindex(logits.shape):
        up, down = logits.copy(), logits.copy()
        up[i], down[i] = up[i] + step, down[i] - step
        want[i] = (loop(batch, up, SETTINGS)[0] - loop(batch, down, SETTINGS)[0]) / (2 * step)
    with jax.enable_x64(True):
        got = jax.grad(lambda x: objective(batch, x)[0])(jnp.asarray(logits))
    np.testing.assert_allclose(got, want, atol=1e-8)
    assert np.abs(want).max() > 1e-4


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.1, 2.0, -2.2, -2.0),  # inside the clip: -A * ratio
        (1.5, 2.0, -2.4, 0.0),  # clipped at 1.2
        (0.5, 2.0, -1.0, -2.0),  # a good action that became rare is always pulled back
        (0.5, -2.0, 1.6, 0.0),  # clipped at 0.8
        (2.0, -2.0, 4.0, 2.0),
        (10.0, -2.0, 6.0, 0.0),  # the dual clip: 3 * 2
    ],
)
def test_clipped_surrogate_by_hand(ratio, advantage, loss, slope):
    f = lambda r: o.clipped_surrogate(r, jnp.float32(advantage), 0.2, 3.0)
    assert float(f(ratio)) == pytest.approx(loss, rel=1e-6)
    assert float(jax.grad(f)(ratio)) == pytest.approx(slope, abs=1e-6)


def test_loss_is_bounded_where_the_advantage_is_negative():
    ratio = jnp.exp(jnp.linspace(-20, 20, 401))
    loss = o.clipped_surrogate(ratio, jnp.full(401, -1.5), 0.2, 3.0)
    assert float(loss.max()) == pytest.approx(4.5) and float(loss.min()) == pytest.approx(1.2)


@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_ratios_stay_finite(sign):
    """50 nats apart either way: the ratio stops at exp(+-20), and gradients are numbers."""
    batch, _ = random_batch(0)
    old = np.zeros((B, N, 4))
    old[..., 0] = -50.0 * sign
    batch = batch._replace(old_logps=jnp.asarray(log_softmax(old, -1)), actions=np.zeros((B, N), int))
    (value, metrics), grad = jax.value_and_grad(
        lambda x: (lambda out: (out[0], out[2]))(objective(batch, x)), has_aux=True
    )(jnp.asarray(-old, jnp.float32))
    assert np.isfinite(value) and np.isfinite(grad).all()
    assert all(np.isfinite(np.asarray(v)).all() for v in jax.tree.leaves(metrics))
    assert float(metrics["ratio"][0] / (B * N)) == pytest.approx(math.exp(20 * sign), rel=1e-4)


def test_equal_rewards_give_no_advantage_and_no_gradient():
    rewards = jnp.tile(jnp.array([[-0.1, 19.9, -10.1]]), (8, 1))
    advantages = o.group_advantage(rewards, 4)
    assert (advantages == 0).all()
    batch, logits = random_batch(ref=False)
    batch = batch._replace(advantages=jnp.zeros((B, N)))
    grad = jax.grad(lambda x: objective(batch, x, o.Surrogate())[0])(jnp.asarray(logits))
    assert (grad == 0).all()


def test_group_advantage():
    """Return minus the group's mean, at every turn, not divided by the group's deviation."""
    rewards = np.random.default_rng(0).normal(size=(12, 5)).astype("f4") * 10
    got = np.asarray(o.group_advantage(jnp.asarray(rewards), 4))
    for i in range(12):
        group = rewards[i // 4 * 4 : i // 4 * 4 + 4]
        np.testing.assert_allclose(got[i], rewards[i].sum() - group.sum(1).mean(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got.reshape(3, 4, 5).sum(1), 0, atol=1e-4)
    np.testing.assert_allclose(o.group_advantage(jnp.asarray(7 * rewards), 4), 7 * got, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("near", "logits", "want"),
    [
        ([0, 0, 0, 0], [3.0, 3.0, 3.0, 3.0], math.log(4)),
        ([1, 0, 0, 0], [9.0, 2.0, 2.0, 2.0], math.log(3)),
        ([0, 0, 2, 2], [5.0, 5.0, -5.0, -5.0], 2 * math.log(2)),
        ([0, 1, 2, 2], [5.0, 1.0, 0.0, 0.0], math.log(2)),
        ([0, 1, 2, 2], [5.0, 1.0, 0.0, -60.0], 0.0),
        ([0, 1, 0, 1], [0.0, 0.0, math.log(3), 0.0], math.log(2) + math.log(4) - 0.75 * math.log(3)),
    ],
)
def test_equalised_entropy_by_hand(near, logits, want):
    got = o.equalised_entropy(o.policy_logps(jnp.array(logits), 1.0), jnp.array(near))
    assert float(got) == pytest.approx(want, abs=1e-6)


def test_equalised_entropy_never_moves_mass_between_different_tiles():
    batch, logits = random_batch(2)
    grad = jax.grad(lambda x: o.equalised_entropy(o.policy_logps(x, 1.0), batch.neighbours).sum())(jnp.asarray(logits))
    for role in range(3):
        member = batch.neighbours == role
        np.testing.assert_allclose((grad * member).sum(-1), 0, atol=1e-6)
        assert (np.abs(grad)[member & (member.sum(-1) == 1)[..., None]] < 1e-6).all()
    assert np.abs(grad).max() > 0.05


def test_policy_logps_are_those_of_the_sampled_distribution():
    logits = np.random.default_rng(1).normal(size=(7, 4))
    np.testing.assert_allclose(o.policy_logps(jnp.asarray(logits), 0.7), log_softmax(logits / 0.7, -1), rtol=1e-5)
    greedy = o.policy_logps(jnp.asarray(logits), 0.0)
    assert np.isfinite(greedy).all() and (np.exp(greedy).max(-1) == 1).all()


def test_kl_is_zero_at_the_reference():
    batch, logits = random_batch()
    here = o.policy_logps(jnp.asarray(logits, jnp.float32), 1.0)
    free = objective(batch._replace(ref_logps=None), jnp.asarray(logits, jnp.float32))[0]
    same = objective(batch._replace(ref_logps=here), jnp.asarray(logits, jnp.float32))[0]
    away = objective(batch, jnp.asarray(logits, jnp.float32))[0]
    assert float(same) == pytest.approx(float(free), abs=1e-7) and float(away) > float(free) + 1e-4


@pytest.mark.parametrize("total", [2, 81, 500])
def test_cosine_schedule(total):
    steps = np.arange(total + 50)
    got = np.asarray(o.cosine(jnp.asarray(steps), total))
    np.testing.assert_allclose(got, 0.5 * (1 + np.cos(np.pi * np.minimum(steps / (total - 1), 1))), atol=1e-6)
    assert got[0] == 1 and (np.abs(got[total - 1 :]) < 1e-6).all()
    assert float(o.cosine(total - 1, total, 0.5)) == pytest.approx(0.5, abs=1e-6)


def test_choices_by_hand():
    played = SimpleNamespace(
        neighbours=jnp.array([[[1, 0, 2, 0], [0, 0, 0, 0], [2, 2, 2, 2]], [[1, 1, 2, 2], [2, 0, 0, 0], [1, 2, 0, 0]]]),
        actions=jnp.array([[0, 1, 2], [3, 0, 2]]),
    )
    found = {k: tuple(map(int, v)) for k, v in o.choices(played).items()}
    # Gold beside the player in three turns, taken in one; a choice between mold and other tiles in four, right in two.
    assert found == {"gold_taken": (1, 3), "mold_avoided": (2, 4)}
