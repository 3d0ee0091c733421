"""The plain-language paragraphs on top of the report, worked out from the numbers and no kinder than they are."""

import math

from welfare_jax.experiments.axis import outcome
from welfare_jax.report.data import Run, dig, finite, mean, number
from welfare_jax.report.markup import num, share

NAMES = outcome.BASELINE


def endpoints(run: Run, name: str) -> tuple:
    """First and last value of a metric: from the summary where it has them, else the first and last step's."""
    seen = finite([number(m.get(name)) for m in run.metrics])
    first, last = number(run.summary.get(f"{name}_first")), number(run.summary.get(f"{name}_last"))
    fallback = (seen[0], seen[-1]) if seen else (math.nan, math.nan)
    return tuple(b if math.isnan(a) else a for a, b in zip((first, last), fallback, strict=True))


def cosines(tables) -> dict:
    """{baseline: (untrained, trained, difference)}, each averaged over the layers; NaN where not measured."""
    table = tables.get("cosine_by_layer", {})
    columns = ("untrained", "trained", "difference")
    return {base: tuple(mean(table.get(f"{base}_{c}", [])) for c in columns) for base in NAMES}


def rest_from_path(c: float) -> float:
    """The cosine one against rest where it is `c` against Path, for equal norms (arXiv:2605.30232 §C.8)."""
    return (1.25 * c - 1) / (1.25 - c)


def paragraphs(run: Run, tables: dict) -> list:
    """Plain-text paragraphs: the primary outcome, what was learned, what else the two vectors did, how to read it."""
    found = (
        outcome.training(run), outcome.checkpoint(run), _learning(run), _vectors(tables), _noise(run, tables),
        _caveat(tables),
    )  # fmt: skip
    return [p for p in found if p]


def _learning(run) -> str:
    words = []
    if run.metrics:
        steps = len(run.metrics)
        words.append(f"The run recorded {steps} training step{'s' if steps > 1 else ''}.")
    first, last = endpoints(run, "reward")
    if math.isfinite(first) and math.isfinite(last):
        words.append(
            f"Mean reward per episode went from {num(first, 1)} to {num(last, 1)}" + _beside_noise(run, last - first)
        )
    for name, start in (("gold_taken", "Gold was taken on"), ("mold_avoided", "Mold was avoided on")):
        first, last = endpoints(run, name)
        if math.isfinite(first) and math.isfinite(last):
            words.append(f"{start} {share(first)} of the chances at first and on {share(last)} at the end.")
    return " ".join(words)


def scatter(run: Run, name: str, ends: int = 5) -> tuple:
    """95 % interval of a metric's change from its first to its last five steps, (nan, nan) of fewer than ten: their
    means by the scatter from one step to the next. It says nothing of other seeds."""
    seen, (first, last) = finite([number(m.get(name)) for m in run.metrics]), endpoints(run, name)
    half = 1.96 * _jumps(seen) * math.sqrt(2 / ends) if len(seen) >= 2 * ends else math.nan
    return last - first - half, last - first + half


def overall(tables, base) -> tuple:
    """95 % interval over walks of the change of the mean over all layers; (nan, nan) where it is not known."""
    found = tables.get("cosine_overall")
    rows = found.rows(baseline=base, layers="all", model="difference") if found else ()
    return next(((row["low"], row["high"]) for row in rows), (math.nan, math.nan))


def live_and_final(run: Run, means, final: dict) -> str:
    """Whether the curve's last point and the final figures are one, and if not why, for the caption of the curve."""
    step = max(means["step"])
    row = means.rows(step=step)[0]
    pairs = {b: (row[f"mean_{b}"], final[b]) for b in NAMES}
    pairs = {b: p for b, p in pairs.items() if len(finite(p)) == 2}
    if not pairs:
        return "There are no final figures to compare it with."
    each = "; ".join(f"{NAMES[b]} {num(a, sign=True)} and {num(z, sign=True)}" for b, (a, z) in pairs.items())
    far = max(abs(a - z) for a, z in pairs.values())
    steps = max(m["step"] for m in run.metrics) + 1
    why = f"The curve's last point is read before step {step} learns, the final figures after all {steps} steps"
    few, many = (number(dig(run.config, part, "per_length")) for part in ("curve", "extract"))
    if math.isfinite(few) and math.isfinite(many):
        why += f"; and from {num(few, 0)} walks of each class and length, the final figures from {num(many, 0)}"
    agree = "agree to 0.05" if far <= 0.05 else f"differ by up to {num(far)}"
    return f"Hollow: the final figures. They and the curve's last point {agree} ({each}). {why}."


def _beside_noise(run, change) -> str:
    """The change against the scatter from one step to the next, where there are enough steps to tell."""
    seen = finite([number(m.get("reward")) for m in run.metrics])
    if len(seen) < 8:
        return "."
    noise = _jumps(seen)
    verdict = "well above" if abs(change) > 3 * noise else "no clear change beside"
    return f" ({num(change, 1, sign=True)}; {verdict} the step-to-step scatter of about {num(noise, 1)})."


def _jumps(seen) -> float:
    """Standard deviation of one step's value, from how it differs from the next one's."""
    jumps = [b - a for a, b in zip(seen, seen[1:], strict=False)]
    return math.sqrt(sum(j * j for j in jumps) / len(jumps) / 2)


def _vectors(tables) -> str:
    values = {b: v for b, v in cosines(tables).items() if any(map(math.isfinite, v))}
    if not values:
        return ""
    parts = []
    for base, (untrained, trained, difference) in values.items():
        parts.append(
            f"{NAMES[base]} {num(untrained, sign=True)} untrained, {num(trained, sign=True)} trained "
            f"(difference {num(difference, sign=True)}{_interval(tables, base)})"
        )
    said = f"Secondary, as others report it: cos(v_mold, v_gold), averaged over all layers: {'; '.join(parts)}."
    return " ".join(filter(None, (said, _last_third(tables))))


def _interval(tables, base) -> str:
    """The 95 % interval of the change over all layers, where it is known."""
    low, high = overall(tables, base)
    known = len(finite((low, high))) == 2
    return f", 95 % interval over walks {num(low, sign=True)} to {num(high, sign=True)}" if known else ""


def _noise(run, tables) -> str:
    """How much of the vectors is sampling noise, and whether they tell held-out classes apart."""
    table, words = tables.get("geometry", {}), []
    for model in ("untrained", "trained"):
        shares = [(v, mean(table.get(f"noise_{v}_{model}", []))) for v in ("mold", "gold")]
        if all(math.isfinite(x) for _, x in shares):
            words.append(f"{model} " + ", ".join(f"v_{v} {share(min(x, 1.0))}" for v, x in shares))
    if not words:
        return ""
    said = f"Of the vectors' squared length this much is sampling noise (mean over layers): {'; '.join(words)}."
    rows = tables["selection"].rows(model="trained", chosen=1) if "selection" in tables else ()
    for r in (r for r in rows if math.isfinite(r["p"])):
        beyond = "better" if r["p"] < 0.05 else "no better"
        said += (
            f" At its steering layer {r['layer']} the trained v_{r['vector']} tells held-out trajectories apart with "
            f"AUROC {num(r['auroc'])}, {beyond} than permuted labels at their best layers (95 % stay below "
            f"{num(r['chosen_chance'])}; p = {num(r['p'], 3)})."
        )
    return said


def _last_third(tables) -> str:
    """The same cosines over the last third of the layers, where others have reported theirs."""
    table = tables["cosine_by_layer"]
    first = len(table["layer"]) - max(1, len(table["layer"]) // 3)
    parts = []
    for base, name in NAMES.items():
        before, after = (mean(table[f"{base}_{model}"][first:]) for model in ("untrained", "trained"))
        if math.isfinite(before) and math.isfinite(after):
            parts.append(f"{name} {num(before, sign=True)} \u2192 {num(after, sign=True)}")
    return f"Over the last third of the layers only: {'; '.join(parts)}." if parts else ""


def _caveat(tables) -> str:
    values = cosines(tables)
    if not any(math.isfinite(v) for group in values.values() for v in group):
        return ""
    words = (
        "How to read the cosine: the baseline one against rest builds a negative value in. With equal norms, a "
        "cosine c against Path reads (1.25c \u2212 1) / (1.25 \u2212 c) one against rest, so that vectors with "
        "c = +0.39 already read \u22120.60. "
    )
    before = values["path"][0]
    if math.isfinite(before):
        by_rule = num(rest_from_path(before), sign=True)
        words += f"Here the untrained {num(before, sign=True)} against Path would read {by_rule} by that rule alone. "
    return words + (
        "Therefore both baselines are shown, and what counts is the difference between trained and untrained."
    )
