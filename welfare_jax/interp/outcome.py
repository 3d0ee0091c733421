"""The primary outcome: how training changed cos(v_mold, v_gold), over layers and against a baseline fixed beforehand.

Two questions are kept apart. Whether this checkpoint differs from the untrained model is a matter of how many walks
were read. Whether training made the difference is a matter of training runs: any change of the weights moves the
cosine a little, so trained runs are held against shams, adapters of the same size in random directions.
L layers, R replicates (half samples, see `uncertainty`).
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy import stats

from welfare_jax.errors import InputError
from welfare_jax.interp import geometry, uncertainty

SIGNAL = 0.5  # of a vector's squared length at most so much may be noise where a layer counts
POWER = 3.6  # standard errors: a change so large is found in 95 of 100 runs, at 5 % false alarms (1.96 + 1.645)
LAYERS = ("signal", "last_third", "all")


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is fixed before the run: see `config.outcome`."""

    baseline: str = "path"
    layers: str = "signal"
    least: float = 0.1
    shams: int = 0

    def __post_init__(self):
        for name, choices in (("baseline", geometry.BASELINES), ("layers", LAYERS)):
            if getattr(self, name) not in choices:
                raise InputError(f"outcome.{name}: {getattr(self, name)!r} is unknown: choose {', '.join(choices)}")
        if not 0 < self.least < 2:
            raise InputError(f"outcome.least: {self.least} is no change of a cosine: choose one between 0 and 2")
        if self.shams < 0:
            raise InputError(f"outcome.shams: {self.shams} is no count of adapters: choose 0 or more")


class Change(NamedTuple):
    """Mean over layers of trained less untrained cosine, the noise's own part taken out."""

    value: float
    deviations: np.ndarray  # [2, R], see `uncertainty.deviations`


def pair(grams: uncertainty.Grams, baseline: str):
    """Contrasts of v_mold and v_gold."""
    return [uncertainty.contrast(grams.counts, c, baseline) for c in (geometry.MOLD, geometry.GOLD)]


def layers(rule: Rule, models) -> np.ndarray:
    """bool [L]: the layers that count, of `uncertainty.Grams` of all models that are compared."""
    count = len(models[0].means)
    if rule.layers == "signal":
        shares = [uncertainty.noise_share(g, a) for g in models for a in pair(g, rule.baseline)]
        return np.max(shares, axis=0) < SIGNAL
    first = count - max(1, count // 3) if rule.layers == "last_third" else 0
    return np.arange(count) >= first


def change(rule: Rule, trained, untrained, use) -> Change:
    """Of two models' `Grams`, read over the same walks with the same half samples, over the layers `use`."""
    free, moved = (
        [f(g, *pair(g, rule.baseline)) for g in (trained, untrained)]
        for f in (lambda *args: uncertainty.cosine(*args).free, uncertainty.deviations)
    )
    if not use.any():
        return Change(np.nan, np.full(moved[0].shape[:-1], np.nan))
    return Change(float((free[0] - free[1])[use].mean()), (moved[0] - moved[1])[..., use].mean(-1))


def said(low: float, high: float, least: float) -> str:
    """What an interval of a change allows to say: "opposed", "aligned", "small" or "unknown"."""
    if high < 0 or low > 0:
        return "opposed" if high < 0 else "aligned"
    return "small" if -least < low and high < least else "unknown"


def of_run(rule: Rule, trained, untrained) -> dict:
    """The outcome of one checkpoint: whether it differs from the untrained model, and what could have been seen.

    "verdict" is that of `said`, "unknown" too where no layer counts or a vector is noise alone in one that does.
    "detectable" is the change that so many walks find in 95 of 100 runs, "walks_needed" how many a class it takes
    until that is the smallest effect of interest.
    """
    use = layers(rule, (trained, untrained))
    out = {**dataclasses.asdict(rule), "used": np.flatnonzero(use).tolist(), "verdict": "unknown"}
    walks = int(np.min(trained.counts))
    found = change(rule, trained, untrained, use)
    if not np.isfinite(found.value):
        return out | {"walks": walks}
    error = uncertainty.standard_error(found.deviations)
    half = stats.t.ppf(0.975, max(walks // 2 - 1, 1)) * error  # errors come from as many pairs as half the walks
    low, high = float(found.value - half), float(found.value + half)
    detectable = POWER * error
    ends = {
        name: float(uncertainty.cosine(g, *pair(g, rule.baseline)).free[use].mean())
        for name, g in (("untrained", untrained), ("trained", trained))
    }
    return out | ends | {
        "change": found.value, "low": low, "high": high, "verdict": said(low, high, rule.least),
        "detectable": detectable, "walks": walks, "walks_needed": int(np.ceil(walks * (detectable / rule.least) ** 2)),
    }  # fmt: skip


def of_training(rule: Rule, runs, shams=()) -> dict:
    """Whether training changed the cosine: trained runs against shams.

    runs: (trained, untrained) `Grams` of every run; shams: likewise, of adapters in random directions. With two runs
    or more: the mean change less the shams' with its 95 % interval, from the spread of runs and of shams (Welch) and,
    as all read the same walks, from the half samples. With one run only its rank among the shams: p.
    """
    use = layers(rule, [g for pairs in runs for g in pairs])
    out = {**dataclasses.asdict(rule), "used": np.flatnonzero(use).tolist(), "verdict": "unknown", "runs": len(runs)}
    trained, random = ([change(rule, after, before, use) for after, before in group] for group in (runs, shams))
    values, null = (np.array([c.value for c in group]) for group in (trained, random))
    if not np.isfinite([*values, *null]).all():
        return out
    out |= {"changes": values.tolist(), "sham_changes": null.tolist()}
    effect = values.mean() - (null.mean() if len(null) else 0.0)
    out["change"] = float(effect)
    if len(values) > 1:
        together = np.mean([c.deviations for c in trained], 0)
        if len(random):
            together = together - np.mean([c.deviations for c in random], 0)
        low, high = _welch(effect, values, null, together)
        out |= {"low": low, "high": high, "verdict": said(low, high, rule.least)}
    elif len(null):
        out["p"] = rank(values[0], null)
        if out["p"] < 0.05:
            out["verdict"] = "opposed" if effect < 0 else "aligned"
    return out


def rank(value: float, null) -> float:
    """Two-sided p of `value` among `null`: the share, itself counted in, that lies as far from their median."""
    middle = np.median(null)
    return float((1 + (np.abs(null - middle) >= abs(value - middle)).sum()) / (1 + len(null)))


def _welch(effect: float, values, null, together) -> tuple[float, float]:
    parts = [(x.var(ddof=1) / len(x), len(x) - 1) for x in (values, null) if len(x) > 1]
    total = sum(v for v, _ in parts) + uncertainty.standard_error(together) ** 2
    free = total**2 / max(sum(v**2 / n for v, n in parts), 1e-30)
    half = float(stats.t.ppf(0.975, min(free, 1e9)) * np.sqrt(total))
    return effect - half, effect + half
