"""Maximum likelihood and inverse soft-Q against plain loops in float64, and what padding may not do."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from welfare_jax.sft import imitation as o

B, T, OPTIONS = 5, 7, 4


def sequences(seed=0, ends="right"):
    """(logits, choices, mask, terminal): real tokens at the left, at the right or anywhere; one empty row."""
    rng = np.random.default_rng(seed)
    lengths = np.array([T, 3, 1, 0, 5])
    slot = np.arange(T)
    mask = slot < lengths[:, None] if ends == "right" else slot >= T - lengths[:, None]
    mask = rng.random((B, T)) < 0.6 if ends == "anywhere" else mask
    return 2 * rng.normal(size=(B, T, OPTIONS)), rng.integers(0, OPTIONS, (B, T)), mask, rng.random(B) < 0.5


def loop(logits, choices, mask, terminal, lam, gamma, weights=None):
    """(mean over real tokens, implied rewards) one token at a time."""
    total, rewards = 0.0, np.full((B, T), np.nan)
    for b in range(B):
        real = np.flatnonzero(mask[b])
        for k, t in enumerate(real):
            q, v = logits[b, t, choices[b, t]], logsumexp(logits[b, t])
            total -= (q - v) * (1 if weights is None else weights[b, t])
            if k + 1 < len(real):
                rewards[b, t] = q - gamma * logsumexp(logits[b, real[k + 1]])
            elif terminal[b]:
                rewards[b, t] = q
            if not np.isnan(rewards[b, t]):
                total += lam * rewards[b, t] ** 2
    return total / mask.sum(), rewards


def parts(logits, choices):
    v = jax.nn.logsumexp(logits, -1)
    return jnp.take_along_axis(logits, choices[..., None], -1)[..., 0] - v, v


@pytest.mark.parametrize("ends", ["right", "left", "anywhere"])
@pytest.mark.parametrize(("lam", "gamma"), [(0.3, 1.0), (0.1, 0.9), (0.0, 1.0)])
def test_soft_q_loss_and_implied_rewards_equal_a_loop(ends, lam, gamma):
    logits, choices, mask, terminal = sequences(1, ends)
    weights = np.random.default_rng(2).random((B, T))
    want, rewards = loop(logits, choices, mask, terminal, lam, gamma, weights)
    logp, v = parts(jnp.asarray(logits), choices)
    numerator, denominator, delta, defined = o.soft_q_loss(
        logp, v, jnp.asarray(mask), jnp.asarray(terminal), lam=lam, gamma=gamma, weights=jnp.asarray(weights)
    )
    assert float(numerator / denominator) == pytest.approx(want, rel=1e-5)
    np.testing.assert_array_equal(defined, ~np.isnan(rewards))
    np.testing.assert_allclose(delta, np.nan_to_num(rewards), rtol=1e-4, atol=1e-5)


def test_gradient_by_finite_differences():
    logits, choices, mask, terminal = sequences(3)
    want, step = np.zeros_like(logits), 1e-6
    for i in np.ndindex(logits.shape):
        up, down = logits.copy(), logits.copy()
        up[i], down[i] = up[i] + step, down[i] - step
        ends = [loop(x, choices, mask, terminal, 0.2, 0.95)[0] for x in (up, down)]
        want[i] = (ends[0] - ends[1]) / (2 * step)

    def loss(x):
        logp, v = parts(x, choices)
        out = o.soft_q_loss(logp, v, jnp.asarray(mask), jnp.asarray(terminal), lam=0.2, gamma=0.95)
        return out[0] / out[1]

    with jax.enable_x64(True):
        got = jax.grad(loss)(jnp.asarray(logits))
    np.testing.assert_allclose(got, want, atol=1e-8)
    assert (np.asarray(got)[~mask] == 0).all() and np.abs(want).max() > 1e-2


@pytest.mark.parametrize("fill", [1e30, -1e30, np.inf, np.nan])
def test_padding_never_leaks_into_a_value(fill):
    logits, choices, mask, terminal = sequences(4)
    rubbish = np.where(mask[..., None], logits, fill)
    results = []
    for x in (logits, rubbish):
        logp, v = parts(jnp.asarray(x, jnp.float32), choices)
        out = o.soft_q_loss(logp, v, jnp.asarray(mask), jnp.asarray(terminal), lam=0.5)
        results.append(jax.device_get(out))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def batch(seed=0):
    logits, choices, mask, _ = sequences(seed)
    x = jnp.asarray(logits, jnp.float32)
    b = SimpleNamespace(actions=choices, mask=mask, weights=None, soft_values=jax.nn.logsumexp(x, -1))
    return b, jax.nn.log_softmax(x)


def test_lambda_zero_is_maximum_likelihood_exactly():
    """Loss and gradient, bit for bit."""

    def run(objective, x):
        b, _ = batch()
        b.soft_values = jax.nn.logsumexp(x, -1)
        return objective(b, jax.nn.log_softmax(x), SimpleNamespace(soft_q=0.0, gamma=1.0))[0]

    x = jnp.asarray(sequences()[0], jnp.float32)
    for f in (lambda g: g, jax.grad):
        a, b = (np.asarray(f(lambda x, g=g: run(g, x))(x)) for g in (o.maximum_likelihood, o.inverse_soft_q))
        np.testing.assert_array_equal(a, b)


def test_objectives_of_the_maze():
    """The last turn of a maze is terminal; the policy's own samples (weight zero) only enter the implied rewards."""
    b, logps = batch(5)
    logits, choices, mask, _ = sequences(5)
    numerator, denominator, metrics = o.inverse_soft_q(b, logps, SimpleNamespace(soft_q=0.3, gamma=0.9))
    want, rewards = loop(logits, choices, mask, np.ones(B, bool), 0.3, 0.9)
    assert float(numerator / denominator) == pytest.approx(want, rel=1e-5)
    assert float(metrics["implied_reward"][0]) == pytest.approx(np.nansum(rewards), rel=1e-4)
    logp = np.take_along_axis(np.asarray(logps), choices[..., None], -1)[..., 0]
    assert float(metrics["log_likelihood"][0] / metrics["log_likelihood"][1]) == pytest.approx(logp[mask].mean(), 1e-5)
    b.weights = np.zeros((B, T))
    b.weights[:2] = 2.0
    numerator, denominator, metrics = o.maximum_likelihood(b, logps, None)
    assert float(numerator) == pytest.approx(-2 * (logp * mask)[:2].sum(), rel=1e-5)
    assert int(denominator) == mask.sum() and int(metrics["accuracy"][1]) == mask[:2].sum()
