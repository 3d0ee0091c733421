"""Means with intervals, slopes with errors, agreement of two judges. NumPy; N observations in G groups (prompts)."""

import numpy as np

from welfare_jax.train import stats

interval, t_quantile = stats.clustered, stats.t_quantile
MASK = 0.9  # cells with a higher rate of incoherent answers say nothing about the metric


def slope(x, y, groups):
    """(slope, standard error) of y on x by least squares; the error is robust to correlation within groups.

    With G groups and u_g = sum over the group of (x - mean x) * residual, the variance is G / (G - 1) * sum u_g^2 /
    Sxx^2. (nan, nan) unless x varies; the error is nan with one group.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    centred = x - x.mean() if len(x) else x
    sxx = (centred**2).sum()
    if not sxx > 0:
        return float("nan"), float("nan")
    b = (centred * y).sum() / sxx
    residual = y - y.mean() - b * centred
    u = stats.sums(centred * residual, groups)
    g = len(u)
    error = np.sqrt(g / (g - 1) * (u**2).sum()) / sxx if g > 1 else float("nan")
    return float(b), float(error)


def cohens_d(a, b) -> float:
    """Difference of the means of two samples over their pooled standard deviation; nan where nothing varies."""
    varies = len(a) > 1 and len(b) > 1 and (np.ptp(a) > 0 or np.ptp(b) > 0)
    return _of_two("cohens_d", a, b) if varies else float("nan")


def auroc(a, b) -> float:
    """Probability that a member of `a` exceeds one of `b`; ties count half."""
    return _of_two("auroc", a, b) if len(a) and len(b) else float("nan")


def _of_two(name, a, b) -> float:
    from welfare_jax.interp import geometry  # not above: settings are read from evaluations without JAX

    return float(getattr(geometry, name)(np.array([*a, *b], float), np.arange(len(a) + len(b)) < len(a)))


def tertiles(values) -> np.ndarray:
    """0, 1 or 2 for the lowest, middle and highest third by rank; ties keep their order."""
    rank = np.argsort(np.argsort(np.asarray(values, float), kind="stable"), kind="stable")
    return rank * 3 // max(len(rank), 1)


def percent(a, b) -> float:
    """Share of equal entries."""
    return float(np.mean([x == y for x, y in zip(a, b, strict=True)])) if len(a) else float("nan")


def kappa(a, b) -> float:
    """Cohen's kappa of two lists of labels: agreement beyond chance; nan where chance alone explains all."""
    labels = sorted({*a, *b}, key=str)
    if not labels:
        return float("nan")
    chance = sum((list(a).count(k) / len(a)) * (list(b).count(k) / len(b)) for k in labels)
    return float((percent(a, b) - chance) / (1 - chance)) if chance < 1 else float("nan")


def kappa_interval(a, b, groups, level: float = 0.95):
    """(kappa, low, high): the interval by Student's t from kappas that leave out one group (a prompt) at a time.

    The ends are nan where they cannot be told: with one group, or where what is left has no kappa.
    """
    a, b, groups = (np.asarray(list(x), object) for x in (a, b, [str(g) for g in groups]))
    names, value = sorted(set(groups)), kappa(a, b)
    without = np.array([kappa(a[groups != g], b[groups != g]) for g in names])
    if len(names) < 2:
        return value, float("nan"), float("nan")
    spread = (len(names) - 1) * without.var()  # the jackknife's estimate of kappa's variance
    half = t_quantile(len(names), level) * np.sqrt(spread)
    return value, float(value - half), float(value + half)


def pearson(a, b) -> float:
    """Correlation of two lists of numbers; nan where one does not vary."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if len(a) < 2 or not a.std() > 0 or not b.std() > 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
