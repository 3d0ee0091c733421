"""Effects, ratios, ranks and verdicts: by hand, and on simulated data sets in which the truth is planted."""

import math

import numpy as np
import pytest

from welfare_jax.evals import stats, temporal_stats

RULES = temporal_stats.Rules()
FAMILIES, CONTROLS = 64, 200


def simulate(rng, kind):
    """(effects [F] at the read-out and early, controls [N, F] by matching, where those were read).

    Families respond differently and every read-out has its own noise. Controls are read on a quarter of them. `last`:
    nothing of an early dose arrives; `carried`: all of it; `any`: every direction moves the answer as much, up to a
    tenth, to one side or the other.
    """
    response = 1 + 0.3 * rng.normal(size=FAMILIES)
    noise = lambda *shape: 0.3 * rng.normal(size=(*shape, FAMILIES))
    read = np.where(np.arange(FAMILIES) % 4 == 0, 0.0, np.nan)
    alike = lambda *shape: 2.0 * (1 + 0.1 * rng.normal(size=shape))
    size = alike() if kind == "any" else 2.0
    controls = {}
    for matching in ("norm", "divergence"):
        push = alike(CONTROLS, 1) * rng.choice((-1, 1), (CONTROLS, 1)) if kind == "any" else 0.3 * rng.normal(
            size=(CONTROLS, 1)
        )  # fmt: skip
        controls[matching] = push * response + noise(CONTROLS) + read
    early = size * response if kind == "carried" else np.zeros(FAMILIES)
    return size * response + noise(), early + noise(), controls, read


@pytest.mark.parametrize(
    ("kind", "want"),
    [
        ("last", ("supported", "not supported", "supported")),
        ("carried", ("supported", "supported", "supported")),
        ("any", ("supported", "not supported", "not supported")),
    ],
)
def test_planted_truths_are_found_in_95_of_100_data_sets(kind, want):
    rng, weights = np.random.default_rng(0), temporal_stats.resamples(FAMILIES, 500, 0)
    right, opposite = np.zeros(3, int), np.zeros(3, int)
    for _ in range(200):
        late, early, controls, read = simulate(rng, kind)
        applied = temporal_stats.control(RULES, late, weights)
        held = applied["verdict"] == "supported"
        ranks = {m: temporal_stats.rank(late + read, c, weights, RULES.level) for m, c in controls.items()}
        found = (applied, temporal_stats.persistence(RULES, early, late, held),
                 temporal_stats.specificity(RULES, ranks))  # fmt: skip
        said = [f["verdict"] for f in found]
        right += [a == b for a, b in zip(said, want)]
        opposite += [a != b and a != "undecided" for a, b in zip(said, want)]
    assert (right >= 190).all(), right
    assert (opposite <= 2).all(), opposite


def test_where_nothing_moves_nothing_is_claimed():
    """A dose without any effect: no control while applied, persistence never decided on a ratio of noise."""
    rng, weights = np.random.default_rng(1), temporal_stats.resamples(FAMILIES, 500, 0)
    for _ in range(100):
        late, early = 0.1 * rng.normal(size=(2, FAMILIES))
        assert temporal_stats.control(RULES, late, weights)["verdict"] == "not supported"
        assert temporal_stats.persistence(RULES, early, late, False)["verdict"] == "undecided"


def test_the_interval_of_a_ratio():
    """It solves Fieller's equation at both ends, and has none where the denominator may be zero."""
    rng = np.random.default_rng(0)
    under = 2 + rng.normal(size=40)
    over = 0.5 * under + 0.3 * rng.normal(size=40)
    found = temporal_stats.fieller(over, under, 0.95)
    assert found["ratio"] == pytest.approx(over.mean() / under.mean())
    for end in (found["low"], found["high"]):
        apart = over - end * under
        assert abs(apart.mean()) / (apart.std(ddof=1) / math.sqrt(40)) == pytest.approx(stats.t_quantile(40))
    assert found["low"] < 0.5 < found["high"]
    none = temporal_stats.fieller(over, rng.normal(size=40), 0.95)
    assert (none["low"], none["high"]) == (-math.inf, math.inf)
    missing = np.where(np.arange(40) < 39, np.nan, over)
    assert math.isnan(temporal_stats.fieller(missing, under, 0.95)["ratio"])
    exact = temporal_stats.fieller(np.full(5, 1.0), np.full(5, 2.0), 0.95)
    assert (exact["low"], exact["ratio"], exact["high"]) == pytest.approx((0.5, 0.5, 0.5))


def test_fieller_covers():
    rng, inside = np.random.default_rng(2), 0
    for _ in range(400):
        under = 1 + rng.normal(size=30)
        found = temporal_stats.fieller(0.4 * under + rng.normal(size=30), under, 0.95)
        inside += found["low"] <= 0.4 <= found["high"]
    assert 0.92 <= inside / 400 <= 0.98


def test_families_without_a_value_do_not_count():
    weights = temporal_stats.resamples(4, 1000, 0)
    found = temporal_stats.interval(np.array([1.0, np.nan, 1.0, 1.0]), weights, 0.95)
    assert found == {"mean": 1.0, "low": 1.0, "high": 1.0, "families": 3}
    nothing = temporal_stats.interval(np.full(4, np.nan), weights, 0.95)
    assert nothing["families"] == 0 and all(math.isnan(nothing[k]) for k in ("mean", "low", "high"))
    assert math.isnan(temporal_stats.interval(np.array([1.0, *[np.nan] * 3]), weights, 0.95)["low"])


def test_the_interval_of_a_mean_covers():
    rng, weights, inside = np.random.default_rng(3), temporal_stats.resamples(FAMILIES, 400, 0), 0
    for _ in range(400):
        found = temporal_stats.interval(0.5 + rng.normal(size=FAMILIES), weights, 0.95)
        inside += found["low"] <= 0.5 <= found["high"]
    assert 0.92 <= inside / 400 <= 0.98


def test_ranks():
    weights = temporal_stats.resamples(6, 300, 0)
    controls = np.repeat([[0.5], [-3.0], [1.0], [2.0]], 6, axis=1)
    found = temporal_stats.rank(np.full(6, -2.0), controls, weights, 0.95)
    assert found == {"share": 3 / 5, "low": 3 / 5, "high": 3 / 5, "n": 4}  # itself, -3 and 2
    assert math.isnan(temporal_stats.rank(np.full(6, 1.0), controls[:0], weights, 0.95)["share"])


def test_specificity_needs_every_matching():
    rank = lambda share, high: {"share": share, "low": share, "high": high, "n": 200}
    of = lambda **ranks: temporal_stats.specificity(RULES, ranks)["verdict"]
    assert of(norm=rank(0.005, 0.02), divergence=rank(0.005, 0.04)) == "supported"
    assert of(norm=rank(0.005, 0.02), divergence=rank(0.005, 0.2)) == "undecided"
    assert of(norm=rank(0.005, 0.02), divergence=rank(0.2, 0.4)) == "not supported"
    few = {"share": 0.2, "low": 0.2, "high": 0.2, "n": 4}
    assert of(norm=few, divergence=few) == "undecided"  # 0.2 is the least that four controls can say
    assert of() == "undecided" and of(norm=rank(0.005, 0.02), divergence=rank(math.nan, math.nan)) == "undecided"
