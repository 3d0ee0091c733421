"""The answer on top of the main job's report and of an analysis alone: one sentence, one figure."""

import math

import numpy as np
from matplotlib.figure import Figure

from welfare_jax.experiments.axis import headline, outcome
from welfare_jax.experiments.axis.figures import COLOUR, LINE, band, chance, pick
from welfare_jax.experiments.axis.tables import MODELS, VECTORS
from welfare_jax.report import style
from welfare_jax.report.answer import SIZE, Answer
from welfare_jax.report.data import Run, dig, finite, number, numbers
from welfare_jax.report.markup import Missing, interval, num
from welfare_jax.report.svg import beneath

QUESTION = "Does reward turn what a model reads from Gold and from Mold against each other?"
LONE = "Where do the vectors of Gold and Mold lie beside feelings, sentiment and assent?"
UNKNOWN = "cannot be told"


def answer(run: Run, tables: dict) -> Answer:
    """Raises Missing where neither a reward nor a vector is known yet."""
    if run.config.get("job") == "axes":
        return _alone(run, tables)
    said, verdict, sure = _change(run)
    first, last = headline.endpoints(run, "reward")
    parts = [said] if said else []
    if math.isfinite(first) and math.isfinite(last):
        parts.insert(0, f"Reward per episode went from {num(first, 1)} to {num(last, 1)}")
    if not parts:
        raise Missing("neither a reward nor an outcome is there")
    if not said:
        parts.append("the vectors of Gold and Mold were not compared")
    training = dig(run.analysis, "training")
    return Answer(
        QUESTION, f"{'; '.join(parts)}.", verdict=verdict or "vectors not compared",
        interval=sure or "not measured", seeds=_seeds(run),
        drawing=(both, tables.get("reward"), tables.get("cosine_by_layer"), tables.get("cosine_intervals"), training),
        shows="Left, reward over training. Right, how far the vectors of Gold and Mold agree, against the Path mean",
    )  # fmt: skip


def _change(run: Run) -> tuple[str, str, str]:
    """What became of the cosine of v_mold and v_gold: a clause, a verdict, its interval; "" three times if unknown."""
    training, one = dig(run.analysis, "training"), dig(run.analysis, "outcome")
    runs = finite(numbers(dig(training, "changes")))
    several = len(runs) > 1
    found = training if several else one
    if not isinstance(found, dict) or not found:
        return "", "", ""
    change, low, high, least = (number(found.get(k)) for k in ("change", "low", "high", "least"))
    over = "over runs and walks" if several else "over walks"
    base = outcome.BASELINE.get(str(found.get("baseline")), "")
    sure = f"change of cos(v_mold, v_gold) {base} {interval(change, low, high, sign=True)} {over}"
    shams, verdict = finite(numbers(dig(training, "sham_changes"))), str(found.get("verdict"))
    if math.isnan(change) or verdict not in (*outcome.MORE, "small"):
        sure = "too little signal for one" if math.isnan(change) else sure
        return f"whether it moved the vectors of Gold and Mold {UNKNOWN}", UNKNOWN, sure
    if verdict == "small":
        told = f"moved the vectors of Gold and Mold by less than {num(least)}"
        return f"{'training' if several else 'this checkpoint'} {told}", f"moved by less than {num(least)}", sure
    who = "the trained vectors of Gold and Mold are" if several else "this checkpoint's vectors of Gold and Mold are"
    who = "training left the vectors of Gold and Mold" if several and shams else who
    return f"{who} {outcome.MORE[verdict]} than the untrained model's", outcome.MORE[verdict], sure


def _seeds(run: Run) -> str:
    runs = len(finite(numbers(dig(run.analysis, "training", "changes")))) or max(len(_organisms(run)), 1)
    shams = len(finite(numbers(dig(run.analysis, "training", "sham_changes"))))
    beside = f"{shams} shams (random adapters of the same size)" if shams else "no shams"
    apart = len(finite(numbers(dig(run.analysis, "training", "shuffled", "sham_changes"))))
    more = f", {apart} of shuffled rewards" if apart else ""
    return f"{runs} training run{'s' * (runs > 1)}, {beside}{more}"


def _organisms(run: Run) -> list:
    found = run.summary.get("organisms")
    return found if isinstance(found, list) else []


def both(reward, cosines, intervals, training) -> Figure:
    """Reward over the steps; at its right the changes of runs and shams, or the cosine per layer before and after."""
    figure = Figure(figsize=SIZE, layout="constrained")
    left, right = figure.subplots(1, 2)
    if reward:
        left.plot(reward["step"], reward["reward"], color=style.TRAINED)
    left.set(title="Reward per episode", xlabel="training step", ylabel="reward")
    arms = (("changes",), ("sham_changes",), ("shuffled", "sham_changes"))
    arms = [finite(numbers(dig(training, *keys))) for keys in arms]
    if len(arms[0]) > 1 or not cosines:
        _changes(right, *arms, [number(dig(training, k)) for k in ("change", "low", "high")])
    else:
        layers(right, cosines, intervals)
    beneath(figure)
    return figure


def _changes(ax, runs, shams, shuffled, difference):
    """The change of every run, sham and run of shuffled rewards; the interval of the difference of runs and shams."""
    shown = [
        (f"{len(runs)}\nruns", runs, style.MOLD), (f"{len(shams)}\nshams", shams, style.UNTRAINED),
        (f"{len(shuffled)}\nshuffled", shuffled, style.WIND),
    ]  # fmt: skip
    shown = [group for group in shown if group[1]]
    for x, (_, values, colour) in enumerate(shown):
        spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
        ax.plot(x + spread, values, "o", color=colour, markersize=5)
    names = [name for name, *_ in shown]
    if len(finite(difference)) == 3:
        mean, low, high = difference
        ax.errorbar(len(names), mean, [[mean - low], [high - mean]], fmt="D", color=style.TRAINED, capsize=4)
        names.append("runs less\nshams" if shams else "mean")
    ax.axhline(0, color=style.CHANCE, linewidth=0.8)
    ax.set(title="Change of the cosine", xlim=(-0.5, max(len(names), 1) - 0.5), ylabel="cos(v_mold, v_gold)")
    ax.set_xticks(range(len(names)), names, fontsize="small")
    if not names:
        ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", color=style.UNTRAINED)


def layers(ax, cosines, intervals):
    """cos(v_mold, v_gold) against the Path mean per layer, before and after, with intervals and permuted labels."""
    for model in MODELS:
        y = np.asarray(cosines[f"path_{model}"], float)
        if np.isfinite(y).any():
            ax.plot(cosines["layer"], y, marker="o", markersize=3, label=model, **LINE[model])
        band(ax, pick(intervals, kind="path", model=model), LINE[model]["color"])
    noise = pick(intervals, kind="path", model="trained")
    if noise:
        chance(ax, noise["layer"], noise["chance_low"], noise["chance_high"], label="permuted labels")
    ax.axhline(0, color=style.CHANCE, linewidth=0.8)
    ax.set(title="Cosine, by layer", xlabel="layer", ylabel="cos(v_mold, v_gold)", ylim=(-1.05, 1.05))
    ax.xaxis.get_major_locator().set_params(integer=True)


def _alone(run: Run, tables: dict) -> Answer:
    """Of an analysis without training of its own: where both vectors lie beside the comparison axes."""
    said, verdict, sure = _change(run)
    found = tables.get("axes")
    known = [model for model in MODELS if found and model in found["model"]]
    seeds = _seeds(run) if run.config.get("run") else "one model, untrained"
    if not known:
        if not said and "cosine_by_layer" not in tables:
            raise Missing("analysis.json has neither cosines nor comparison axes")
        sentence = said or "the vectors were read; no comparison axes were asked for"
        drawing = (alone, tables.get("cosine_by_layer"), tables.get("cosine_intervals"))
        return Answer(
            QUESTION if said else LONE, f"{sentence[0].upper()}{sentence[1:]}.",
            verdict=verdict or "no comparison axes", interval=sure or "not measured", seeds=seeds, drawing=drawing,
            shows="How far the vectors of Gold and Mold agree",
        )  # fmt: skip
    model, layer = known[-1], steering_layer(run, found)
    rows = found.rows(model=model, layer=layer)
    names = list(dict.fromkeys(r["axis"] for r in rows))
    on = {v: {r["axis"]: r for r in rows if r["vector"] == v} for v in VECTORS}
    two = {n: [on[v][n] for v in VECTORS] for n in names if all(n in on[v] for v in VECTORS)}
    claimed = [n for n, (a, b) in two.items() if max(a["p"], b["p"]) < 0.05 and a["value"] * b["value"] < 0]
    told = ", ".join(claimed)
    clause = (
        f"in the {model} model the vectors of Gold and Mold lie on opposite sides of {len(claimed)} of {len(names)} "
        f"comparison axes ({told})"
        if claimed
        else f"none of {len(names)} comparison axes has the {model} model's vectors of Gold and Mold on its opposite "
        "sides, beyond what mislabelled texts give"
    )
    sentence = "; ".join(filter(None, (clause, said)))
    apart = lambda n: abs(number(on["gold"].get(n, {}).get("value")) - number(on["mold"].get(n, {}).get("value")))
    widest = max(claimed or [n for n in names if apart(n) == apart(n)] or names, key=apart)
    ends = "; ".join(
        f"v_{v} {interval(*(number(on[v].get(widest, {}).get(k)) for k in ('value', 'low', 'high')), sign=True)}"
        for v in VECTORS
    )
    return Answer(
        LONE, f"{sentence[0].upper()}{sentence[1:]}.", verdict=f"{len(claimed)} of {len(names)} axes",
        interval=f"cosine with {widest}: {ends}", seeds=seeds, drawing=(beside, found, model, layer),
        shows="How far the vectors of Gold and Mold point along each comparison axis",
    )  # fmt: skip


def steering_layer(run: Run, columns) -> int:
    """The mean of the two steering layers of the model that was trained, or of the only one."""
    for model in reversed(MODELS):
        chosen = (dig(run.analysis, model, "selection", v, "layer") for v in VECTORS)
        known = [layer for layer in chosen if isinstance(layer, int)]
        if known and sum(known) // len(known) in columns["layer"]:
            return sum(known) // len(known)
    return 0


def alone(cosines, intervals) -> Figure:
    """The cosine per layer alone."""
    figure = Figure(figsize=SIZE, layout="constrained")
    if cosines:
        layers(figure.subplots(), cosines, intervals)
        beneath(figure)
    return figure


def beside(table, model: str, layer: int) -> Figure:
    """Cosine of both vectors with every axis at one layer, with intervals; grey, what mislabelled texts give."""
    names = list(dict.fromkeys(table["axis"]))[::-1]
    figure = Figure(figsize=(SIZE[0], 1.2 + 0.34 * len(names)), layout="constrained")
    ax = figure.subplots()
    for vector, shift, sign in (("mold", 0.14, "o"), ("gold", -0.14, "D")):
        for y, name in enumerate(names):
            for r in table.rows(model=model, vector=vector, axis=name, layer=layer):
                if not math.isfinite(number(r["value"])):
                    continue
                label = f"v_{vector}" if y == 0 else None
                ax.plot([r["low"], r["high"]], [y + shift] * 2, color=COLOUR[vector], linewidth=1.4)
                ax.plot(r["value"], y + shift, sign, color=COLOUR[vector], markersize=5, label=label)
                ax.fill_betweenx([y + shift - 0.12, y + shift + 0.12], r["chance_low"], r["chance_high"],
                                 color=style.CHANCE, alpha=0.5, linewidth=0, zorder=0)  # fmt: skip
    ax.axvline(0, color=style.CHANCE, linewidth=0.8)
    ax.set_yticks(range(len(names)), names)
    ax.set(title=f"{model} model, layer {layer}; grey: mislabelled texts", xlabel="cosine with the axis")
    beneath(figure)
    return figure
