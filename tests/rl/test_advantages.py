"""Advantages against plain loops over episodes and turns."""

import jax.numpy as jnp
import numpy as np
import pytest

from welfare_jax.rl import advantages as adv

G, B, N = 4, 12, 5
REWARDS = np.random.default_rng(0).normal(size=(B, N)).astype("f4") * 10


def groups():
    return [range(i, i + G) for i in range(0, B, G)]


def test_returns_to_go():
    for gamma in (1.0, 0.9):
        want = [[sum(gamma ** (s - t) * REWARDS[i, s] for s in range(t, N)) for t in range(N)] for i in range(B)]
        np.testing.assert_allclose(adv.returns_to_go(jnp.asarray(REWARDS), gamma), want, rtol=1e-4, atol=1e-4)


def test_group_advantages():
    """Return minus the group's mean; GRPO divides by the group's deviation; REINFORCE does so turn by turn."""
    plain, normal, turn = (
        np.asarray(f(jnp.asarray(REWARDS), G)) for f in (adv.group_advantage, adv.group_normalised, adv.turn_advantage)
    )
    for rows in groups():
        returns = {i: REWARDS[i].sum() for i in rows}
        mean, std = np.mean(list(returns.values())), np.std(list(returns.values()))
        for i in rows:
            np.testing.assert_allclose(plain[i], returns[i] - mean, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(normal[i], (returns[i] - mean) / std, rtol=1e-4, atol=1e-4)
            for t in range(N):
                want = REWARDS[i, t:].sum() - np.mean([REWARDS[j, t:].sum() for j in rows])
                assert turn[i, t] == pytest.approx(want, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("f", [adv.group_advantage, adv.group_normalised, adv.turn_advantage])
def test_equal_rewards_and_groups_of_one_give_exactly_nothing(f):
    equal = jnp.tile(jnp.array([[-0.1, 19.9, -10.1, 1 / 3]]), (12, 1))
    assert (f(equal, 4) == 0).all() and (f(equal, 12) == 0).all()
    assert (f(jnp.asarray(REWARDS), 1) == 0).all()
    assert (adv.whitened(equal[:, :1]) == 0).all()


def test_gae():
    """Against the definition: sums of discounted one-step errors; its two ends are TD(0) and Monte Carlo."""
    values = np.random.default_rng(1).normal(size=(B, N)).astype("f4")
    gamma, lam = 0.9, 0.8
    got, targets = (np.asarray(a) for a in adv.gae(jnp.asarray(REWARDS), jnp.asarray(values), gamma, lam))
    for i in range(B):
        delta = [REWARDS[i, t] + gamma * (values[i, t + 1] if t + 1 < N else 0) - values[i, t] for t in range(N)]
        want = [sum((gamma * lam) ** (s - t) * delta[s] for s in range(t, N)) for t in range(N)]
        np.testing.assert_allclose(got[i], want, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(targets, got + values, atol=1e-4)
    monte_carlo = adv.gae(jnp.asarray(REWARDS), jnp.asarray(values), 1.0, 1.0)[0]
    np.testing.assert_allclose(monte_carlo, adv.returns_to_go(jnp.asarray(REWARDS)) - values, rtol=1e-4, atol=1e-4)


def test_whitened():
    got = np.asarray(adv.whitened(jnp.asarray(REWARDS)))
    assert got.mean() == pytest.approx(0, abs=1e-6) and got.std() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(got, (REWARDS - REWARDS.mean()) / REWARDS.std(), rtol=1e-4, atol=1e-5)


def test_best_distinct_by_hand():
    """Two groups of four; copies of a better episode are passed over, and a group may run out."""
    kinds = np.array([0, 1, 0, 2, 3, 3, 3, 3])
    returns = jnp.array([5.0, 1.0, 5.0, 3.0, 2.0, 2.0, 2.0, 2.0])
    rows, kept = adv.best_distinct(returns, lambda i, j: jnp.asarray(kinds)[i] == jnp.asarray(kinds)[j], 4, 3)
    assert rows[:3].tolist() == [0, 3, 1] and kept.tolist() == [True, True, True, True, False, False]
    assert int(rows[3]) == 4
