"""Numbers about samples: means with intervals, rank correlations. None where there is none to give."""

import math

import numpy as np


def clustered(values, groups, level: float = 0.95):
    """(mean, low, high): the mean and its interval by Student's t with one degree of freedom less than groups.

    Samples of one prompt resemble one another, so a group (a prompt) is what is independent: with u_g the sum of the
    deviations in a group and N values, the variance is G / (G - 1) * sum u_g^2 / N^2. The ends are nan with one
    group, all three without values.
    """
    values = np.asarray(values, float)
    if not len(values):
        return (float("nan"),) * 3
    mean = values.mean()
    u = sums(values - mean, groups)
    half = t_quantile(len(u), level) * np.sqrt(len(u) / max(len(u) - 1, 1) * (u**2).sum()) / len(values)
    return float(mean), float(mean - half), float(mean + half)


def sums(values, groups):
    """The sum of each group."""
    return np.bincount(np.unique(groups, return_inverse=True)[1], values)


def t_quantile(groups: int, level: float = 0.95) -> float:
    """How many standard errors from groups the interval reaches to either side; nan with one group."""
    import scipy.stats  # not above: it takes longer than reading settings, which come from evaluations

    return float(scipy.stats.t.ppf((1 + level) / 2, groups - 1)) if groups > 1 else float("nan")


def interval(values) -> dict:
    """{"mean", "low", "high", "n"}: mean of independent numbers and its 95 % interval by Student's t."""
    ends = zip(("mean", "low", "high"), clustered(values, range(len(values))))
    return {name: None if math.isnan(x) else x for name, x in ends} | {"n": len(values)}


def share(values) -> dict:
    """{"mean", "low", "high", "n"}: mean of independent numbers in 0..1, Wilson's 95 % interval, which stays there."""
    mean, n, z = float(np.mean(values)), len(values), 1.959964
    centre, half = mean + z * z / (2 * n), z * math.sqrt(mean * (1 - mean) / n + (z / (2 * n)) ** 2)
    low, high = ((centre + side * half) / (1 + z * z / n) for side in (-1, 1))
    return {"mean": mean, "low": max(low, 0.0), "high": min(high, 1.0), "n": n}


def rank_correlation(a, b) -> float | None:
    """Spearman's; None where one of them does not vary."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if len(a) < 2 or (a == a[0]).all() or (b == b[0]).all():
        return None
    import scipy.stats

    return float(scipy.stats.spearmanr(a, b).statistic)


def within(a, b, groups) -> dict:
    """Rank correlations of a and b in each group in which both vary: their `interval`."""
    a, b, groups = (np.asarray(x) for x in (a, b, groups))
    found = [rank_correlation(a[groups == g], b[groups == g]) for g in np.unique(groups)]
    return interval([c for c in found if c is not None])
