"""The layer sweep: where in the model does steering act? (arXiv:2605.30232 §4, §P)"""

from welfare_jax.evals import directions
from welfare_jax.interp import null


def sweep(slopes) -> list[dict]:
    """For each evaluation, model and vector that steered at two layers or more: where its slope is steepest.

    Rows {evaluation, metric, model, vector, kind, layers, peak_layer, peak_slope, peak_error, low, high, p}; low and
    high bound the layers around the peak whose slope has its sign and at least half its size. p is corrected for
    having picked the peak: permuted vectors that steered at the same layers pick theirs. Over all prompts only.
    """
    out, found, permuted = [], {}, {}
    for s in slopes:
        if s["group"] == "all" and s["slope"] is not None:
            name = (s["evaluation"], s["metric"], s["model"], s["vector"], s["kind"], s["where"])
            found.setdefault(name, {})[s["layer"]] = s
            if s["kind"] == "permuted":
                beside = (s["evaluation"], s["metric"], s["model"], s["beside"], s["where"])
                permuted.setdefault(beside, {}).setdefault(s["vector"], {})[s["layer"]] = s["slope"]
    for (evaluation, metric, model, vector, kind, where), at in found.items():
        if len(at) < 2:
            continue
        peak = max(at.values(), key=lambda s: abs(s["slope"]))
        strong = {k for k, s in at.items() if s["slope"] * peak["slope"] > 0
                  and abs(s["slope"]) >= abs(peak["slope"]) / 2}  # fmt: skip
        layers = sorted(at)
        cohort = permuted.get((evaluation, metric, model, peak["beside"], where), {}).values()
        cohort = [[c[k] for k in layers] for c in cohort if c.keys() >= at.keys()]
        p = None
        if cohort and kind not in directions.COHORTS:
            p = float(null.family([at[k]["slope"] for k in layers], cohort).min())
        here = layers.index(peak["layer"])
        low = high = here
        while low and layers[low - 1] in strong:
            low -= 1
        while high + 1 < len(layers) and layers[high + 1] in strong:
            high += 1
        out.append({
            "evaluation": evaluation, "metric": metric, "model": model, "vector": vector, "kind": kind,
            "where": where, "layers": len(layers), "peak_layer": peak["layer"], "peak_slope": peak["slope"],
            "peak_error": peak["error"], "low": layers[low], "high": layers[high], "p": p,
        })  # fmt: skip
    return out
