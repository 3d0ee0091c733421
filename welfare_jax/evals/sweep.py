"""The layer sweep: where in the model does steering act? (arXiv:2605.30232 §4, §P)"""


def sweep(slopes) -> list[dict]:
    """For each evaluation, model and vector that steered at two layers or more: where its slope is steepest.

    Rows {evaluation, metric, model, vector, kind, layers, peak_layer, peak_slope, peak_error, low, high}; low and high
    bound the layers around the peak whose slope has its sign and at least half its size. Over all prompts only.
    """
    out, found = [], {}
    for s in slopes:
        if s["group"] == "all" and s["slope"] is not None:
            name = (s["evaluation"], s["metric"], s["model"], s["vector"], s["kind"], s["where"])
            found.setdefault(name, {})[s["layer"]] = s
    for (evaluation, metric, model, vector, kind, where), at in found.items():
        if len(at) < 2:
            continue
        peak = max(at.values(), key=lambda s: abs(s["slope"]))
        strong = {k for k, s in at.items() if s["slope"] * peak["slope"] > 0
                  and abs(s["slope"]) >= abs(peak["slope"]) / 2}  # fmt: skip
        layers = sorted(at)
        here = layers.index(peak["layer"])
        low = high = here
        while low and layers[low - 1] in strong:
            low -= 1
        while high + 1 < len(layers) and layers[high + 1] in strong:
            high += 1
        out.append({
            "evaluation": evaluation, "metric": metric, "model": model, "vector": vector, "kind": kind,
            "where": where, "layers": len(layers), "peak_layer": peak["layer"], "peak_slope": peak["slope"],
            "peak_error": peak["error"], "low": layers[low], "high": layers[high],
        })  # fmt: skip
    return out
