"""Intervals and rank correlations against SciPy and by hand."""

import numpy as np
import pytest
import scipy.stats

from welfare_jax.train import stats


def test_interval():
    x = np.random.default_rng(0).normal(3, 2, 40)
    found = stats.interval(x)
    low, high = scipy.stats.t.interval(0.95, len(x) - 1, x.mean(), scipy.stats.sem(x))
    assert found == pytest.approx({"mean": x.mean(), "low": low, "high": high, "n": 40}, rel=1e-4)
    assert stats.interval([2.0]) == {"mean": 2.0, "low": None, "high": None, "n": 1}
    assert stats.interval([]) == {"mean": None, "low": None, "high": None, "n": 0}


@pytest.mark.parametrize(("right", "n"), [(0, 7), (5, 7), (128, 128), (61, 200)])
def test_share(right, n):
    want = scipy.stats.binomtest(right, n).proportion_ci(method="wilson")
    found = stats.share([1.0] * right + [0.0] * (n - right))
    assert found == pytest.approx({"mean": right / n, "low": want.low, "high": want.high, "n": n}, rel=1e-6, abs=1e-9)


def test_rank_correlation():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=50), rng.integers(0, 2, 50)
    assert stats.rank_correlation(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    ranks = [scipy.stats.rankdata(x) for x in (a, b)]  # by its definition: Pearson's of ranks, ties averaged
    assert stats.rank_correlation(a, b) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert stats.rank_correlation([1, 2, 3], [1, 8, 27]) == pytest.approx(1)
    assert stats.rank_correlation([1, 2, 3], [5, 5, 5]) is None and stats.rank_correlation([1], [1]) is None


def test_within_groups():
    """Rising in one group, falling in another, constant in the third; the groups' levels do not enter."""
    a, b = [1, 2, 3, 101, 102, 103, 7, 8], [10, 20, 30, 3, 2, 1, 5, 5]
    found = stats.within(a, b, [0, 0, 0, 1, 1, 1, 2, 2])
    assert (found["mean"], found["n"]) == (pytest.approx(0), 2)
