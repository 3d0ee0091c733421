"""State or read-out: effects by exposure, their ratio, the rank of a direction among its controls, and the verdicts.

F task families, R resamples of them, N controls. An effect is an array [F], the mean over the prompts of each family
of what steering changed, nan where a family has none: differences are paired by family, and families are what is
resampled, for prompts of one family resemble one another. NumPy.
"""

import dataclasses
import math

import numpy as np

from welfare_jax.errors import InputError
from welfare_jax.evals import stats
from welfare_jax.settings import setting

CLAIMS = ("control while applied", "persistence", "specificity")
SUPPORTED, NOT, UNDECIDED = "supported", "not supported", "undecided"


@dataclasses.dataclass(frozen=True)
class Rules:
    """Of the verdicts."""

    level: float = setting(0.95, "of intervals")
    least: float = setting(0.1, "nats: control while applied")
    persists: float = setting(0.25, "ratio early / read-out: persistence")
    larger: float = setting(0.05, "share of controls as large: specificity")

    def __post_init__(self):
        for name, value, low in (("level", self.level, 0.5), ("larger", self.larger, 0.0)):
            if not low < value < 1:
                raise InputError(f"{name}={value}: need a share between {low} and 1.0")
        for name, value in (("least", self.least), ("persists", self.persists)):
            if not value > 0:
                raise InputError(f"{name}={value}: need a number above 0")


def told(rules: Rules) -> dict:
    """The rule of every claim, as a sentence."""
    level, least, persists, larger = rules.level, rules.least, rules.persists, rules.larger
    return dict(zip(CLAIMS, (
        f"what the dose at the read-out adds to the log-odds of the words: supported where its {level:.0%} interval "
        f"lies above {least:g} nats, not supported where it lies below, undecided otherwise",
        f"the effect of the early, withdrawn dose over that of the same dose at the read-out: supported where its "
        f"{level:.0%} interval (Fieller) lies above {persists:g}, not supported where it lies below, undecided "
        f"otherwise and wherever control while applied is not supported",
        f"the share of random and orthogonal directions whose effect at the read-out is at least as large: not "
        f"supported where it is above {larger:g} among those of equal norm or among those of equal divergence, "
        f"supported where its {level:.0%} interval lies at or below that in both, undecided otherwise and with fewer "
        f"than {math.ceil(1 / larger) - 1} of them",
    )))  # fmt: skip


def resamples(families: int, draws: int, seed: int) -> np.ndarray:
    """int [R, F]: how often each family is drawn in each resample."""
    return np.random.default_rng(seed).multinomial(families, np.full(families, 1 / max(families, 1)), draws)


def means(effects, weights) -> np.ndarray:
    """Means [..., R] of effects [..., F] under weights [R, F]; nan where no family with a value is drawn."""
    known = np.isfinite(effects)
    total = np.where(known, effects, 0.0) @ weights.T
    count = known.astype(float) @ weights.T
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def interval(effect, weights, level: float) -> dict:
    """{"mean", "low", "high", "families"} of an effect [F]: percentiles of the bootstrap; nan with one family."""
    known = int(np.isfinite(effect).sum())
    mean = float(np.nanmean(effect)) if known else math.nan
    low, high = _middle(means(effect, weights), level) if known > 1 else (math.nan, math.nan)
    return {"mean": mean, "low": low, "high": high, "families": known}


def _middle(draws, level):
    low, high = np.nanquantile(draws, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def fieller(over, under, level: float) -> dict:
    """{"ratio", "low", "high"} of the means of two effects [F], paired by family (Fieller 1954).

    The interval holds every r for which mean(over - r * under) is not far from zero by Student's t. It has no bounds
    where the denominator's own interval holds zero.
    """
    both = np.isfinite(over) & np.isfinite(under)
    n, nothing = int(both.sum()), {"ratio": math.nan, "low": -math.inf, "high": math.inf}
    if n < 2:
        return nothing
    a, b = float(over[both].mean()), float(under[both].mean())
    cov = np.cov(over[both], under[both]) / n * stats.t_quantile(n, level) ** 2
    square, cross, rest = b * b - cov[1, 1], a * b - cov[0, 1], a * a - cov[0, 0]
    ratio = a / b if b else math.nan
    if square <= 0:
        return nothing | {"ratio": ratio}
    half = math.sqrt(max(cross**2 - square * rest, 0.0))
    return {"ratio": ratio, "low": (cross - half) / square, "high": (cross + half) / square}


def rank(effect, controls, weights, level: float) -> dict:
    """{"share", "low", "high", "n"}: how large a share of controls [N, F], the effect [F] itself counted in, moves the
    answer at least as much in either direction; the interval by resampling the families of all of them together."""
    if not len(controls) or np.isfinite(effect).sum() < 2:
        return {"share": math.nan, "low": math.nan, "high": math.nan, "n": len(controls)}
    share = lambda own, others: (1 + (np.abs(others) >= np.abs(own)).sum(0)) / (1 + len(controls))
    one = np.isfinite(effect).astype(int)[None]
    low, high = _middle(share(means(effect, weights), means(controls, weights)), level)
    found = float(share(means(effect, one), means(controls, one))[0])
    return {"share": found, "low": low, "high": high, "n": len(controls)}


def control(rules: Rules, at_readout, weights) -> dict:
    """The verdict on the effect [F] of the dose at the read-out."""
    found = interval(at_readout, weights, rules.level)
    return _verdict(found["mean"], found["low"], found["high"], rules.least)


def persistence(rules: Rules, early, at_readout, controls: bool) -> dict:
    """The verdict on the ratio of the effects [F]; controls: whether control while applied is supported."""
    found = fieller(early, at_readout, rules.level)
    verdict = _verdict(found["ratio"], found["low"], found["high"], rules.persists)
    return verdict if controls else verdict | {"verdict": UNDECIDED}


def specificity(rules: Rules, ranks: dict) -> dict:
    """The verdict on ranks {matching: as of `rank`}; value, low and high are those of the matching that says least.

    So few controls that their share could not be small enough say nothing.
    """
    found = [r for r in ranks.values() if math.isfinite(r["share"]) and 1 <= rules.larger * (1 + r["n"])]
    worst = max(found, key=lambda r: (r["share"], r["high"]), default={"share": math.nan, "low": math.nan})
    low, high = worst["low"], max((r["high"] for r in found), default=math.nan)
    verdict = UNDECIDED
    if found and worst["share"] > rules.larger:
        verdict = NOT
    elif len(found) == len(ranks) and found and high <= rules.larger:
        verdict = SUPPORTED
    return {"verdict": verdict, "value": worst["share"], "low": low, "high": high}


def _verdict(value, low, high, line) -> dict:
    verdict = SUPPORTED if low > line else NOT if high < line else UNDECIDED
    return {"verdict": verdict, "value": value, "low": low, "high": high}
