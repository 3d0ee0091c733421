"""From scored rows to tables: one line a cell, one slope a vector and layer, incoherence beside everything."""

import math
from collections import defaultdict

import numpy as np

from welfare_jax.evals import stats
from welfare_jax.evals.evaluation import COHORTS
from welfare_jax.interp.names import Vector


def score(evaluation, row, metrics, incoherent, unparseable, groups=()) -> dict:
    """One scored row: `metrics` name -> value or None; its groups are all, its category, and `groups`."""
    item = row["item"]
    return {
        "evaluation": evaluation, "cell": row["cell"], "item": item.id, "sample": row["sample"],
        "groups": ["all", *([item.category] if item.category else []), *groups], "metrics": metrics,
        "incoherent": bool(incoherent), "unparseable": bool(unparseable),
    }  # fmt: skip


def by_cell(scores, bank) -> list[dict]:
    """One row for every evaluation, metric, group and cell: mean, interval, and how many answers it rests on.

    `n` counts answers, `used` those with a value. Incoherence is a share of the parseable answers; `masked` where it
    exceeds `stats.MASK`, and where no value is left.
    """
    out = []
    for (evaluation, metric, group, cell), rows in _grouped(scores).items():
        values = [(r["metrics"][metric], r["item"]) for r in rows if r["metrics"].get(metric) is not None]
        mean, low, high = stats.interval([v for v, _ in values], [i for _, i in values])
        rate = incoherence(rows)
        out.append({
            "evaluation": evaluation, "metric": metric, "group": group, **cell._asdict(), **_kind(bank, cell.vector),
            "mean": null(mean), "low": null(low), "high": null(high), "n": len(rows), "used": len(values),
            "incoherence": null(rate), "unparseable": sum(r["unparseable"] for r in rows),
            "masked": bool(rate > stats.MASK or not values),
        })  # fmt: skip
    return out


def slopes(scores, bank) -> list[dict]:
    """Least-squares slope of every metric on the strength, one for each vector, layer, model, place and group.

    Strength zero, which all vectors of a model share, is part of each. Masked cells are left out: `strengths` lists
    what remains, `masked` what does not.
    """
    cells = defaultdict(dict)
    for (evaluation, metric, group, cell), rows in _grouped(scores).items():
        cells[evaluation, metric, group, cell.model][cell] = rows
    out = []
    for (evaluation, metric, group, model), found in cells.items():
        zero = next((c for c in found if not c.vector), None)
        for vector, layer, where in dict.fromkeys((c.vector, c.layer, c.where) for c in found if c.vector):
            mine = [c for c in found if (c.vector, c.layer, c.where) == (vector, layer, where)]
            mine += [zero] if zero is not None else []
            rates = {c.alpha: incoherence(found[c]) for c in mine}
            used = [
                (c.alpha, r["metrics"][metric], r["item"])
                for c in mine if rates[c.alpha] <= stats.MASK
                for r in found[c] if r["metrics"].get(metric) is not None
            ]  # fmt: skip
            x, y, items = zip(*used) if used else ((), (), ())
            b, error = stats.slope(x, y, items)
            half = stats.t_quantile(len(set(items))) * error
            out.append({
                "evaluation": evaluation, "metric": metric, "group": group, "model": model, "vector": vector,
                **_kind(bank, vector), "layer": layer, "where": where, "slope": null(b), "error": null(error),
                "low": null(b - half), "high": null(b + half), "prompts": len(set(items)),
                "n": len(x), "strengths": sorted(set(x)), "masked": sorted(set(rates) - set(x)),
                "incoherence": null(max(rates.values())),
            })  # fmt: skip
    return out


def against_controls(slopes, metrics):
    """Adds to every vector's slope "null", the kind of its controls that it is held against, "p" and "p_family".

    The null is its like under permuted labels where there is such a cohort, else random or orthogonal directions. p is
    the share, the vector itself counted in, whose slope is as steep; p_family is corrected for all vectors, layers and
    evaluations of a model (metrics: {evaluation: its own metric}; other metrics have none), see `interp.null.family`.
    """
    from welfare_jax.interp import null as chance  # not above: settings are read from evaluations without JAX

    cohorts, families = defaultdict(dict), defaultdict(list)
    place = lambda s: (s["evaluation"], s["metric"], s["group"], s["model"], s["beside"], s["layer"], s["where"])
    for s in slopes:
        if s["kind"] in COHORTS and s["slope"] is not None:
            cohorts[place(s), s["kind"]][Vector.of_label(s["vector"]).control] = s["slope"]
    for s in slopes:
        s |= {"null": None, "p": None, "p_family": None}
        found = next(((kind, c) for kind in COHORTS if (c := cohorts.get((place(s), kind)))), None)
        if s["kind"] in COHORTS or s["slope"] is None or not found:
            continue
        s["null"], cohort = found
        s["p"] = float(chance.at_least(abs(s["slope"]), np.abs([*cohort.values()])))
        if s["metric"] == metrics.get(s["evaluation"]):
            families[s["model"], s["group"], s["where"], s["kind"], s["null"], tuple(cohort)].append((s, cohort))
    for members in families.values():
        values, null = zip(*((s["slope"], [*cohort.values()]) for s, cohort in members))
        for (s, _), p in zip(members, chance.family(values, np.transpose(null))):
            s["p_family"] = float(p)


def incoherence(rows) -> float:
    """Share of incoherent among the parseable rows; 0 where none is parseable (the count says so)."""
    told = [r["incoherent"] for r in rows if not r["unparseable"]]
    return float(np.mean(told)) if told else 0.0


def _grouped(scores) -> dict:
    out = defaultdict(list)
    for r in scores:
        for metric in r["metrics"]:
            for group in dict.fromkeys(r["groups"]):
                out[r["evaluation"], metric, group, r["cell"]].append(r)
    return out


def _kind(bank, vector) -> dict:
    d = bank.directions.get(vector)
    return {"kind": d.kind if d else "none", "beside": d.beside if d else ""}


def null(x):
    return None if x is None or math.isnan(x) else x
