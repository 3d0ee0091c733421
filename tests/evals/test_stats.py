"""Intervals, slopes and agreement against closed forms and scikit-learn."""

import math

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics

from welfare_jax.evals import stats

RNG = np.random.default_rng(0)


def test_interval_of_independent_values_is_students():
    values = RNG.normal(2.0, 3.0, 12)
    want = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert stats.interval(values, np.arange(12)) == pytest.approx((values.mean(), *want))


def test_interval_is_over_prompts_not_samples():
    """Ten prompts answered alike twenty times are ten observations, not two hundred."""
    prompt = RNG.normal(size=10)
    values, groups = np.repeat(prompt, 20), np.repeat(np.arange(10), 20)
    alone = stats.interval(prompt, np.arange(10))
    assert stats.interval(values, groups) == pytest.approx(alone)
    naive = stats.interval(values, np.arange(200))
    assert alone[2] - alone[1] > 3 * (naive[2] - naive[1])
    assert all(map(math.isnan, stats.interval([], [])))
    mean, *ends = stats.interval([3.0, 4.0], ["a", "a"])
    assert mean == 3.5 and all(map(math.isnan, ends))


@pytest.mark.parametrize("prompts", [4, 7, 40])
def test_few_prompts_are_covered_too(prompts):
    """Unlike two errors or a percentile bootstrap, which with seven prompts call a tenth of nothing something."""
    x = np.tile([-4.0, -2, 0, 2, 4], prompts)
    groups = np.repeat(np.arange(prompts), 5)
    means, slopes = 0, 0
    for _ in range(2000):
        y = RNG.normal(size=prompts)[groups] + RNG.normal(size=5 * prompts)
        _, low, high = stats.interval(y, groups)
        means += low > 0 or high < 0
        b, error = stats.slope(x, y, groups)
        slopes += abs(b) > stats.t_quantile(prompts) * error
    assert 0.03 < means / 2000 < 0.07 and 0.03 < slopes / 2000 < 0.07


def test_slope_of_a_line_with_an_error_by_hand():
    """Balanced: the slope is the mean of the prompts' slopes, and its error their standard error."""
    x = np.tile([-4, -2, 0, 2, 4], 12)
    groups = np.repeat(np.arange(12), 5)
    own = RNG.normal(0.5, 0.2, 12)
    y = RNG.normal(size=12)[groups] + own[groups] * x + RNG.normal(size=60)
    each = np.array([np.polyfit(x[groups == g], y[groups == g], 1)[0] for g in range(12)])
    b, error = stats.slope(x, y, groups)
    assert b == pytest.approx(np.polyfit(x, y, 1)[0]) == pytest.approx(each.mean())
    assert error == pytest.approx(each.std(ddof=1) / np.sqrt(12))
    assert stats.slope(x, 3 * x + 1, groups) == pytest.approx((3, 0), abs=1e-12)
    assert math.isnan(stats.slope([1, 1], [2, 3], [0, 1])[0]) and math.isnan(stats.slope([], [], [])[0])


def test_agreement():
    a, b = RNG.choice(list("xyz"), 200), RNG.choice(list("xyz"), 200, p=[0.6, 0.3, 0.1])
    b[:90] = a[:90]
    assert stats.kappa(a, b) == pytest.approx(metrics.cohen_kappa_score(a, b))
    assert stats.percent(a, b) == (a == b).mean()
    assert stats.kappa(["x"] * 3, ["x"] * 3) != stats.kappa([1, 2], [1, 2]) == 1  # nan: chance explains it
    u, v = RNG.normal(size=(2, 50))
    assert stats.pearson(u, u + v) == pytest.approx(np.corrcoef(u, u + v)[0, 1])
    assert math.isnan(stats.pearson([1, 1], [1, 2]))


def test_kappa_over_prompts():
    """The interval covers the truth where prompts are what is independent."""
    rng, inside = np.random.default_rng(3), 0
    truth = 0.5  # of a judge that copies the other in half of all prompts and draws anew, evenly, in the rest
    for _ in range(200):
        groups = np.repeat(np.arange(40), 3)
        a = rng.integers(0, 2, 120)
        b = np.where(np.repeat(rng.random(40) < 0.5, 3), a, rng.integers(0, 2, 120))
        value, low, high = stats.kappa_interval(list(a), list(b), list(groups))
        assert value == pytest.approx(metrics.cohen_kappa_score(a, b))
        inside += low < truth < high
    assert 0.9 <= inside / 200 <= 0.99
    assert all(map(math.isnan, stats.kappa_interval(["x", "y"], ["x", "x"], ["p", "p"])[1:]))
    assert all(map(math.isnan, stats.kappa_interval([], [], [])))


def test_separation():
    a, b = RNG.integers(0, 5, 40), RNG.integers(1, 7, 30)
    truth = np.r_[np.ones(40), np.zeros(30)]
    assert stats.auroc(a, b) == pytest.approx(metrics.roc_auc_score(truth, np.r_[a, b]))
    pooled = np.sqrt((39 * a.var(ddof=1) + 29 * b.var(ddof=1)) / 68)
    assert stats.cohens_d(a, b) == pytest.approx((a.mean() - b.mean()) / pooled)
    assert math.isnan(stats.cohens_d([1], [2, 3])) and math.isnan(stats.auroc([], [1]))


def test_tertiles():
    assert stats.tertiles([5.0, 1.0, 3.0, 3.0, 9.0, 0.0]).tolist() == [2, 0, 1, 1, 2, 0]
    assert np.bincount(stats.tertiles(RNG.normal(size=100))).tolist() == [34, 33, 33]
