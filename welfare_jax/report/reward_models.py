"""Reward models in the report: accuracy per objective, what silencing neurons costs, overlap of the sets."""

import math

from matplotlib.figure import Figure

from welfare_jax.report import style
from welfare_jax.report.data import Run, dicts, number, rows_of
from welfare_jax.report.markup import Missing, esc, num, share, table
from welfare_jax.report.svg import embed

ACCURACY = ("model", "objective", "pairs", "mean", "low", "high", "n")
ABLATION = ("model", "score", "percent", "set", "draw", "neurons", "objective", "accuracy", "change", "low", "high")
OVERLAP = ("score", "percent", "a", "b", "neurons", "tied", "shared", "jaccard", "jaccard_by_chance")
COLOURS = (style.REST, style.PATH_BASELINE)
SCORE = {"activation": "mean activation", "change": "squared change from the base"}
SETS = ("top_a", "top_b", "random_top", "only_a", "only_b", "random_only", "shared", "random_shared")


def tables(run: Run) -> dict:
    """`analysis.json` of a run of reward models as tables {name: {column: list}}."""
    if run.config.get("job") != "reward_model":
        return {}

    def columns(name, names):
        rows = dicts(run.analysis.get(name))
        return {n: [math.nan if r.get(n) is None else r[n] for r in rows] for n in names}

    found = {
        "reward_accuracy": columns("accuracy", ACCURACY),
        "reward_ablation": columns("ablation", ABLATION),
        "reward_overlap": columns("overlap", OVERLAP),
        "reward_training": {
            n: [m.get(n, math.nan) for m in run.metrics] for n in ("step", "run", "run_step", "loss", "accuracy")
        },
    }
    return {name: t for name, t in found.items() if next(iter(t.values()), None)}


def named(run: Run, name: str) -> str:
    """A set's name with the objectives in place of a and b."""
    objectives = run.analysis.get("objectives") or ["a", "b"]
    kind, _, which = name.partition("_")
    text = {"random": f"random, as many as {which}", "shared": "shared"}.get(kind, kind)
    return f"{kind} {objectives['ab'.index(which)]}" if which in ("a", "b") else text


def pooled(rows) -> dict:
    """A set's row; of several random draws their mean, with the lowest and highest draw for an interval."""
    if len(rows) == 1:
        return rows[0]
    changes = [number(r["change"]) for r in rows]
    mean = lambda name: sum(number(r[name]) for r in rows) / len(rows)
    return rows[0] | {
        "change": mean("change"),
        "accuracy": mean("accuracy"),
        "low": min(changes),
        "high": max(changes),
    }


def ablation(run: Run, columns: dict) -> Figure:
    """A row a score, a column a model: change of both objectives' accuracy with each set of neurons silenced."""
    rows = [r for r in rows_of(columns, percent=run.analysis.get("percent")) if r["set"] in SETS]
    models, scores = ([*dict.fromkeys(r[k] for r in rows)] for k in ("model", "score"))
    sets = [s for s in SETS if any(r["set"] == s for r in rows)]
    objectives = list(dict.fromkeys(r["objective"] for r in rows))
    figure = Figure(figsize=(9, 0.6 + 2.7 * len(scores)), layout="constrained")
    axes = figure.subplots(len(scores), len(models), squeeze=False, sharey=True, sharex=True)
    for i, score in enumerate(scores):
        for k, model in enumerate(models):
            ax = axes[i][k]
            for j, objective in enumerate(objectives):
                found = [
                    pooled([r for r in rows if (r["score"], r["model"], r["set"], r["objective"])
                            == (score, model, s, objective)])
                    for s in sets
                ]  # fmt: skip
                y = [n + (j - 0.5) * 0.3 for n in range(len(sets))]
                _points(ax, y, found, COLOURS[j % 2], f"on {objective} pairs")
            ax.axvline(0, color="#b5bcc2", linewidth=0.8)
            ax.set_title(f"{model} model\n{SCORE.get(score, score)}", fontsize=8.5)
            ax.set_yticks(range(len(sets)), [named(run, s) for s in sets])
            if i + 1 == len(scores):
                ax.set_xlabel("change of accuracy, points")
    axes[0][0].invert_yaxis()
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def _points(ax, y, rows, colour, label):
    x = [100 * number(r["change"]) for r in rows]
    for where, r in zip(y, rows, strict=True):
        ax.plot([100 * number(r["low"]), 100 * number(r["high"])], [where, where], color=colour, linewidth=1.2)
    ax.plot(x, y, "o", color=colour, markersize=4, label=label)


def sweep(run: Run, columns: dict, overlap: dict) -> Figure:
    """Accuracy over the share of the model's own top neurons that is silenced; at the right, overlap of the sets."""
    rows = [r for r in rows_of(columns) if r["set"] in ("own", "random")]
    models, objectives = ([*dict.fromkeys(r[k] for r in rows)] for k in ("model", "objective"))
    figure = Figure(figsize=(9, 0.6 + 2.4 * len(objectives)), layout="constrained")
    axes = figure.subplots(len(objectives), len(models) + 1, squeeze=False)
    looks = {"activation": (style.REST, "-"), "change": (style.PATH_BASELINE, "-"), "none": (style.UNTRAINED, "--")}
    for i, objective in enumerate(objectives):
        for k, model in enumerate(models):
            ax = axes[i][k]
            for score, (colour, line) in looks.items():
                mine = [r for r in rows if (r["objective"], r["model"], r["score"]) == (objective, model, score)]
                at = sorted({r["percent"] for r in mine})
                y = [pooled([r for r in mine if r["percent"] == p])["accuracy"] for p in at]
                label = {"none": "random neurons"}.get(score, f"own, {SCORE.get(score)}")
                ax.plot(at, y, line, color=colour, marker="o", markersize=3, label=label)
            ax.set(ylim=(-0.02, 1.02), title=f"{model} model")
            ax.set_ylabel(f"accuracy on {objective}" if k == 0 else "")
            ax.set_xlabel("per cent silenced" if i + 1 == len(objectives) else "")
    for ax, score in zip([row[-1] for row in axes], SCORE):
        _jaccard(ax, rows_of(overlap, score=score))
        ax.set_title(f"Overlap, {SCORE[score]}", fontsize=6.5)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _jaccard(ax, rows):
    for k, pair in enumerate(dict.fromkeys((r["a"], r["b"]) for r in rows)):
        mine = [r for r in rows if (r["a"], r["b"]) == pair]
        x, label = [r["percent"] for r in mine], " and ".join(pair)
        ax.plot(x, [number(r["jaccard"]) for r in mine], marker="o", markersize=3, color=f"C{k}", label=label)
        if k == 0:
            ax.plot(x, [number(r["jaccard_by_chance"]) for r in mine], ":", color=style.UNTRAINED, label="by chance")
    ax.set(ylim=(-0.02, 1.02), xlabel="per cent")
    ax.legend(fontsize=6.5)


def section(run: Run, built: dict) -> str:
    """Accuracy, ablations, sweep and overlap of a run of reward models."""
    if "reward_accuracy" not in built:
        raise Missing("analysis.json has no accuracy of reward models")
    out = _accuracy(built["reward_accuracy"])
    if "reward_ablation" in built:
        out += embed(
            (lambda t: ablation(run, t), built["reward_ablation"]),
            f"The top {num(run.analysis.get('percent'), 0)} per cent of the neurons of each single model, what they "
            "have alone and together, and random sets of the same sizes, silenced in each model. Bars: 95 % intervals "
            "of the paired differences; of random sets, the lowest and highest draw.",
            "reward_ablation",
        )
    if {"reward_ablation", "reward_overlap"} <= built.keys():
        out += embed(
            (lambda t, o: sweep(run, t, o), built["reward_ablation"], built["reward_overlap"]),
            "Each model's own top neurons, silenced, against as many random ones. At the right, the Jaccard overlap "
            "of two models' sets and what two random sets would share.",
            "reward_overlap",
        )
    return out + _ablation(run, built.get("reward_ablation"))


def _accuracy(columns) -> str:
    shown = [
        (esc(r["model"]), esc(r["objective"]), esc(r["pairs"]), share(r["mean"]),
         f"{share(r['low'])} to {share(r['high'])}", num(r["n"], 0))
        for r in rows_of(columns)
    ]  # fmt: skip
    head = ("model trained on", "accuracy on", "pairs", "accuracy", "95 % interval", "n")
    note = (
        '<p class="sub">Share of held-out pairs in which the chosen answer has the higher reward; a draw counts half. '
        "Pairs conflict where the other objective prefers the answer that this one rejects.</p>"
    )
    return "<h3>Accuracy</h3>" + note + table(head, shown, numeric=(3, 4, 5))


def _ablation(run, columns) -> str:
    if not columns:
        return ""
    groups = {}
    for r in rows_of(columns):
        groups.setdefault((r["model"], r["score"], r["percent"], r["set"], r["objective"]), []).append(r)
    shown = []
    for (model, score, percent, name, objective), rows in groups.items():
        r = pooled(rows)
        points = [num(100 * number(r[k]), 1, sign=True) for k in ("change", "low", "high")]
        shown.append((esc(model), esc(SCORE.get(score, "")), num(percent, 0), esc(named(run, name)),
                      num(r["neurons"], 0), esc(objective), share(r["accuracy"]), *points))  # fmt: skip
    head = ("model", "score", "%", "silenced", "neurons", "accuracy on", "accuracy", "change, points", "low", "high")
    return "<h3>Every ablation</h3>" + table(head, shown, numeric=(2, 4, 6, 7, 8, 9), css="tall")
