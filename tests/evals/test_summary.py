"""Slopes against their controls: what is called by chance, and what is planted and found."""

import numpy as np
import pytest

from welfare_jax.evals import summary, sweep

EVALUATIONS, LAYERS = ("sentiment", "confidence"), (1, 2, 3)
METRICS = dict.fromkeys(EVALUATIONS, "score")


def slopes(rng, planted=0.0, draws=20, kind="permuted"):
    """Rows as of `summary.slopes`: two vectors at three layers in two evaluations, each with its controls, all drawn
    alike; draw k steers alike in all evaluations, as one direction does."""
    size = {e: 10.0**i for i, e in enumerate(EVALUATIONS)}  # of different units
    out = []
    for v in ("v_mold", "v_gold"):
        names = [(v, "vector"), *((f"{kind}_{k}/{v}", kind) for k in range(draws))]
        own = {name: rng.normal(size=len(LAYERS)) for name, _ in names}
        for e in EVALUATIONS:
            for name, kind_ in names:
                for i, layer in enumerate(LAYERS):
                    push = planted * (name == "v_mold") * (layer == 2)
                    out.append({
                        "evaluation": e, "metric": "score", "group": "all", "model": "trained", "vector": name,
                        "kind": kind_, "beside": v, "layer": layer, "where": "assistant", "error": 0.1,
                        "slope": size[e] * (own[name][i] + 0.5 * rng.normal() + push),
                    })  # fmt: skip
    summary.against_controls(out, METRICS)
    return out


def test_p_counts_the_controls_of_the_same_place():
    found = slopes(np.random.default_rng(0))
    for row in found:
        if row["kind"] == "permuted":
            assert row["p"] is row["p_family"] is row["null"] is None
            continue
        same = [abs(r["slope"]) for r in found if r["kind"] == "permuted"
                and all(r[k] == row[k] for k in ("evaluation", "beside", "layer"))]  # fmt: skip
        assert row["p"] == (1 + sum(s >= abs(row["slope"]) for s in same)) / 21 and row["null"] == "permuted"
        assert row["p_family"] >= row["p"]
    (other,) = {r["null"] for r in slopes(np.random.default_rng(0), kind="random") if r["kind"] == "vector"}
    assert other == "random"
    assert all(r["p"] is None for r in slopes(np.random.default_rng(0), draws=0))


def called(found, name):
    return min(r[name] for r in found if r["kind"] == "vector") < 0.05


@pytest.mark.slow
def test_one_family_of_slopes_in_twenty_is_called_by_chance_and_a_planted_one_is_found():
    rng = np.random.default_rng(1)
    sets = [slopes(rng) for _ in range(400)]
    alarms = np.mean([called(found, "p_family") for found in sets])
    assert 0.03 <= alarms <= 0.07, alarms
    assert np.mean([called(found, "p") for found in sets]) > 0.2  # what the correction is for
    assert np.mean([called(slopes(rng, planted=8.0), "p_family") for _ in range(100)]) > 0.95


@pytest.mark.slow
def test_the_peak_of_a_sweep_is_held_against_peaks():
    rng, alarms, found = np.random.default_rng(2), [], []
    for _ in range(400):
        rows = sweep.sweep(slopes(rng))
        assert {r["p"] for r in rows if r["kind"] == "permuted"} == {None}
        alarms += [r["p"] < 0.05 for r in rows if r["vector"] == "v_mold" and r["evaluation"] == "sentiment"]
    for _ in range(100):
        (row,) = [
            r for r in sweep.sweep(slopes(rng, 8.0)) if r["vector"] == "v_mold" and r["evaluation"] == "sentiment"
        ]
        found.append(row["p"] < 0.05 and row["peak_layer"] == 2)
    assert len(alarms) == 400 and 0.03 <= np.mean(alarms) <= 0.07 and np.mean(found) > 0.95
