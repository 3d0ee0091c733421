"""What the evaluations' report and its answer share: what was evaluated, and panels over the strength of steering."""

import math

import numpy as np
from matplotlib.figure import Figure

from welfare_jax.interp.names import Vector
from welfare_jax.report import style
from welfare_jax.report.data import Run, dicts, number
from welfare_jax.report.svg import beneath
from welfare_jax.report.tables import Table

ABREAST = 4  # panels in a row of the page
HATCH = {"permuted": "", "random": "....", "orthogonal": "////"}  # of the cohorts' bands
OTHERS = (style.REST, style.PATH_BASELINE, style.WIND, style.SKY)


def found(run: Run) -> dict:
    """What `evals.json` in the run's folder holds; {} where there is none."""
    return run.more.get("evals", {})


def told(run: Run) -> dict:
    """{evaluation: {"metric", "title", "rows"}} of those with a panel or a table of their own, in the run's order. A
    file from before this was written has none: the evaluations' names stand for metric and title."""
    known = found(run).get("evaluations")
    known = {k: v for k, v in known.items() if isinstance(v, dict)} if isinstance(known, dict) else {}
    names = dict.fromkeys(str(r.get("evaluation")) for r in dicts(found(run).get("cells")))
    return {
        name: {k: str(about.get(k, default)) for k, default in (("metric", name), ("title", name), ("rows", "scores"))}
        for name, about in (known | {name: known.get(name, {}) for name in names}).items()
    }


def primary(columns: Table, about: dict) -> list[dict]:
    """The rows of every evaluation's own metric over all prompts; about: as from `told`."""
    rows = columns.rows(group="all")
    return [r for r in rows if r["evaluation"] in about and r["metric"] == about[r["evaluation"]]["metric"]]


def colour(name: str, names) -> str:
    classes = {"gold": style.GOLD, "mold": style.MOLD}
    if Vector.of_label(name).of in classes:
        return classes[Vector.of_label(name).of]
    rest = [n for n in dict.fromkeys(names) if Vector.of_label(n).of not in classes]
    return OTHERS[rest.index(name) % len(OTHERS)] if name in rest else style.UNTRAINED


def crossing(columns: dict, about: dict, chosen: dict, legend: int = 4) -> Figure:
    """A panel a model and evaluation, those of a model side by side: means over strength, controls dashed, cohorts as
    a band; below, the incoherent share. Each vector at its own layer (chosen: {vector: layer}; the first listed where
    that one was not steered), at the first place."""
    rows = primary(columns, about)
    evaluations = [e for e in about if any(r["evaluation"] == e for r in rows)]
    models = list(dict.fromkeys(r["model"] for r in rows))
    wide = min(len(evaluations), ABREAST)
    lines = [(model, evaluations[a : a + wide]) for model in models for a in range(0, len(evaluations), wide)]
    figure = Figure(figsize=(9, 3.7 * len(lines)), layout="constrained")
    axes = figure.subplots(
        2 * len(lines), wide, squeeze=False, sharex=True, gridspec_kw={"height_ratios": (4, 1) * len(lines)}
    )
    for i, (model, shown) in enumerate(lines):
        for k, (top, low) in enumerate(zip(axes[2 * i], axes[2 * i + 1])):
            if k >= len(shown):
                top.axis("off")
                low.axis("off")
                continue
            mine = [r for r in rows if (r["model"], r["evaluation"]) == (model, shown[k])]
            _panel(top, low, mine, chosen)
            top.set_title(f"{about[shown[k]]['title']}\n{model} model", fontsize=8.5)
            low.set(ylim=(0, 1), yticks=(0, 1), xticks=sorted({r["alpha"] for r in rows}))
            low.tick_params(labelbottom=True)
            if k == 0:
                low.set_ylabel("incoherent")
            if i + 1 == len(lines):
                low.set_xlabel("strength \u03b1")
    beneath(figure, legend, fontsize=8)
    return figure


def _panel(top, low, rows, chosen):
    names = [r["vector"] for r in rows if r["kind"] in ("vector", "untrained")]
    zero = [r for r in rows if r["kind"] == "none"]
    steered = {}
    for r in rows:
        if r["vector"]:
            steered.setdefault((r["vector"], r["kind"], r["layer"], r["where"]), []).append(r)
    if not steered:  # strength zero alone: a point, not a line
        at = [r for r in zero if not r["masked"]]
        y = np.array([[number(r[k]) for r in at] for k in ("mean", "low", "high")])
        top.errorbar([r["alpha"] for r in at], y[0], (y[0] - y[1], y[2] - y[0]), fmt="o", color=style.UNTRAINED,
                     label="not steered")  # fmt: skip
        low.bar([r["alpha"] for r in zero], [number(r["incoherence"]) for r in zero], 0.24, color=style.UNTRAINED)
    elsewhere = lambda key: key[2] != chosen.get(key[0])
    one_each = {name: at for name, *at in reversed(sorted(steered, key=elsewhere))}  # the last to be set stays
    cohorts = {}
    for (name, kind, layer, where), mine in steered.items():
        if one_each[name] != [kind, layer, where]:
            continue
        line = sorted(mine + zero, key=lambda r: r["alpha"])
        x = [r["alpha"] for r in line]
        y = [math.nan if r["masked"] else number(r["mean"]) for r in line]
        if kind in HATCH:
            cohorts.setdefault(kind, []).append(dict(zip(x, y)))
            continue
        look = {"color": colour(name, names), "linestyle": "-" if kind == "vector" else "--"}
        top.plot(x, y, marker="o", markersize=3, label=f"{name}, layer {layer}", **look)
        edges = [[math.nan if r["masked"] else number(r[end]) for r in line] for end in ("low", "high")]
        top.fill_between(x, *edges, color=look["color"], alpha=0.12, linewidth=0)
        shift = (list(dict.fromkeys(names)).index(name) - len(set(names)) / 2 + 0.5) * 0.25
        low.bar([a + shift for a in x], [number(r["incoherence"]) for r in line], 0.24, color=look["color"],
                alpha=1 if kind == "vector" else 0.45)  # fmt: skip
    for kind, lines in cohorts.items():
        x = sorted({a for line in lines for a in line})
        grid = np.array([[line.get(a, math.nan) for a in x] for line in lines], float)
        keep = np.isfinite(grid).any(0)
        edges = np.full((2, len(x)), np.nan)
        edges[:, keep] = np.nanquantile(grid[:, keep], [0.025, 0.975], axis=0)
        top.fill_between(x, *edges, color=style.UNTRAINED, alpha=0.25, linewidth=0, hatch=HATCH[kind],
                         label=f"{len(lines)} {kind}, norm-matched")  # fmt: skip


def chosen_layers(run: Run) -> dict:
    vectors = found(run).get("vectors")
    return {k: v.get("layer") for k, v in vectors.items() if isinstance(v, dict)} if isinstance(vectors, dict) else {}
