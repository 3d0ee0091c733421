"""Numbers about samples: means with intervals, rank correlations. None where there is none to give."""

import math

import numpy as np
import scipy.stats


def interval(values) -> dict:
    """{"mean", "low", "high", "n"}: mean of independent numbers and its 95 % interval by Student's t."""
    values = np.asarray(values, float)
    mean, count = float(values.mean()) if len(values) else None, len(values)
    if count < 2:
        return {"mean": mean, "low": None, "high": None, "n": count}
    half = float(scipy.stats.t.ppf(0.975, count - 1) * values.std(ddof=1)) / math.sqrt(count)
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": count}


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
    return float(scipy.stats.spearmanr(a, b).statistic)


def within(a, b, groups) -> dict:
    """Rank correlations of a and b in each group in which both vary: their `interval`."""
    a, b, groups = (np.asarray(x) for x in (a, b, groups))
    found = [rank_correlation(a[groups == g], b[groups == g]) for g in np.unique(groups)]
    return interval([c for c in found if c is not None])
