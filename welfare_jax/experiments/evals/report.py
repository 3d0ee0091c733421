"""The evaluations in the report: X-shaped panels, layer sweep, read-outs, answers side by side; all as tables."""

import functools
import math

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from welfare_jax.experiments.evals import temporal
from welfare_jax.interp.names import Vector
from welfare_jax.report import style
from welfare_jax.report.data import Run, dicts, number
from welfare_jax.report.markup import Missing, attempt, details, heading, joined, note, num, table, texts
from welfare_jax.report.svg import embed
from welfare_jax.report.tables import Table

CELL = ("evaluation", "metric", "group", "model", "vector", "kind", "beside", "layer", "alpha", "where")
NUMBERS = ("mean", "low", "high", "n", "used", "incoherence", "unparseable", "masked")
SLOPE = ("evaluation", "metric", "group", "model", "vector", "kind", "beside", "layer", "where")
HATCH = {"permuted": "", "random": "....", "orthogonal": "////"}  # of the cohorts' bands
SHARED = ("scores", "cells", "slopes", "sweep", "answers", "temporal")  # rows that have parts of the page already
ABREAST = 4  # panels in a row of the page
OTHERS = (style.REST, style.PATH_BASELINE, style.WIND, "#56b4e9")


def found(run: Run) -> dict:
    """What `evals.json` in the run's folder holds; {} where there is none."""
    return run.more.get("evals", {})


def tables(run: Run) -> dict:
    """`evals.json` as tables {name: {column: list}}; figures draw from these."""

    def columns(rows, names):
        return Table({n: [_plain(r.get(n)) for r in dicts(rows)] for n in names})

    evals = found(run)
    peaks = ("evaluation", "metric", "model", "vector", "kind", "where", "layers", "peak_layer", "peak_slope",
             "peak_error", "low", "high", "p")  # fmt: skip
    out = {
        "evals_cells": columns(evals.get("cells"), CELL + NUMBERS),
        "evals_slopes": columns(
            evals.get("slopes"),
            (*SLOPE, "slope", "error", "low", "high", "prompts", "n", "strengths", "masked", "null", "p", "p_family"),
        ),
        "evals_sweep": columns(evals.get("sweep"), peaks),
        "evals_answers": columns(
            evals.get("samples"), ("evaluation", "model", "vector", "layer", "alpha", "where", "prompt", "text")
        ),
    }
    for name in own(told(run)):
        names = dict.fromkeys(
            k for r in dicts(evals.get(name)) for k, v in r.items() if not isinstance(v, (dict, list))
        )
        out[f"evals_{name}"] = columns(evals.get(name), names)
    return {name: table for name, table in out.items() if table} | temporal.tables(evals.get("temporal"))


def _plain(value):
    return math.nan if value is None else " ".join(f"{v:g}" for v in value) if isinstance(value, list) else value


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


def own(about: dict) -> dict:
    """{table: title} of the evaluations that have one of their own."""
    return {a["rows"]: a["title"] for a in about.values() if a["rows"].isidentifier() and a["rows"] not in SHARED}


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


def crossing(columns: dict, about: dict, chosen: dict) -> Figure:
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
    handles = {}
    for ax in axes[::2].flat:
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels())))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
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


def _chosen(run: Run) -> dict:
    vectors = found(run).get("vectors")
    return {k: v.get("layer") for k, v in vectors.items() if isinstance(v, dict)} if isinstance(vectors, dict) else {}


def sweep(columns: dict, about: dict) -> Figure:
    """Slope on the strength, layer by evaluation: a panel for every vector that steered at several layers."""
    rows = [r for r in primary(columns, about) if r["kind"] in ("vector", "untrained")]
    panels = {}
    for r in rows:
        panels.setdefault((r["model"], r["vector"]), []).append(r)
    panels = {k: v for k, v in panels.items() if len({r["layer"] for r in v}) > 1}
    evaluations = [e for e in about if any(r["evaluation"] == e for r in rows)]
    top = {e: max([abs(number(r["slope"])) for r in rows if r["evaluation"] == e and number(r["slope"]) == r["slope"]],
                  default=0) or 1 for e in evaluations}  # fmt: skip
    count = max(len(panels), 1)
    figure = Figure(figsize=(9, 0.9 + 1.9 * -(-count // 2)), layout="constrained")
    axes = figure.subplots(-(-count // 2), 2, squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    image = None
    for ax, ((model, vector), mine) in zip(axes.flat, panels.items()):
        layers = sorted({r["layer"] for r in mine})
        grid = np.full((len(evaluations), len(layers)), np.nan)
        for r in mine:
            if r["where"] == mine[0]["where"]:
                at = evaluations.index(r["evaluation"]), layers.index(r["layer"])
                grid[at] = number(r["slope"]) / top[r["evaluation"]]
        image = ax.imshow(grid, aspect="auto", cmap="RdBu", vmin=-1, vmax=1, interpolation="nearest")
        ax.set_yticks(range(len(evaluations)), evaluations, fontsize=7.5)
        step = max(1, len(layers) // 12)
        ax.set_xticks(range(0, len(layers), step), layers[::step])
        ax.set(title=f"{vector}, {model} model", xlabel="layer")
        ax.grid(False)
    if image is not None:
        figure.colorbar(image, ax=axes, label="slope, as a share of the steepest", shrink=0.9)
    return figure


def section(run: Run, built: dict) -> Markup:
    about = told(run)
    parts = (  # the tables that a part needs, and how it is drawn from them
        (("evals_cells",), lambda cells: _crossing(run, cells, about)),
        (("evals_slopes",), lambda slopes: _slopes(slopes, about)),  # a single strength has none
        (("evals_slopes", "evals_sweep"), lambda slopes, _: _sweep(slopes, about)),
        (("evals_cells",), lambda cells: details("Raw read-outs, parts and groups", _groups(cells, about))),
        *((("evals_" + name,), functools.partial(_own, title)) for name, title in own(about).items()),
        (temporal.NEEDED, lambda *_: temporal.section(built)),
        (("evals_answers",), _answers),
    )
    drawn = [(draw, [built[n] for n in names]) for names, draw in parts if built.keys() >= {*names}]
    if not drawn:
        raise Missing("evals.json is not there: run configs/evals.py in this folder")
    return joined(attempt(draw, *columns) for draw, columns in [(_judged, [run]), *drawn])


def _crossing(run, cells, about) -> Markup:
    return embed(
        (crossing, cells, about, _chosen(run)),
        "Each metric against the strength of steering. Where the axis is real, Mold and Gold cross like an X at "
        "strength zero and leave the grey band of norm-matched random directions. Dashed: the same from the untrained "
        "model, with equal norm. Shaded: 95 % intervals over prompts. The bars below show how many answers were "
        f"incoherent; means of cells above {found(run).get('mask', 0.9):.0%} are left out.",
        "evals_cells",
    )


def _sweep(slopes, about) -> Markup:
    return embed(
        (sweep, slopes, about),
        "Slope of every metric on the strength, layer by layer; colours are scaled within each evaluation.",
        "evals_slopes",
    )


def _judged(run) -> Markup:
    evals = found(run)
    judge = evals.get("judge") if isinstance(evals.get("judge"), dict) else {}
    lost = judge.get("unparseable") or {}
    of = judge.get("scored") or {}
    said = "; ".join(f"{e}: {lost.get(e, 0)} of {n}" for e, n in of.items())
    notes = evals.get("notes") if isinstance(evals.get("notes"), list) else []
    lines = [f"{note}." for note in notes]
    lines.append(
        f"Judge: {judge.get('name', 'not recorded')}. Answers whose verdict could not be read: {said or 'none'}. Hook "
        f"point: {evals.get('hook', 'not recorded')}."
    )
    return joined(map(note, lines)) + _agreement(judge)


def _agreement(judge) -> Markup:
    """How far a second judge agrees, where one is given."""
    rows = [
        (r.get("evaluation"), *(num(number(r.get(k)), d) for k, d in (("both", 0), ("percent", 1))),
         *(num(number(r.get(k)), 2) for k in ("kappa", "kappa_low", "kappa_high", "pearson")))
        for r in dicts(judge.get("agreement"))
    ]  # fmt: skip
    if not rows:
        return Markup()
    head = ("evaluation", "answers of both", "% the same", "kappa", "low", "high", "Pearson")
    about = note(f"Beside it a second judge ({judge.get('second')}); 95 % intervals over prompts.")
    return about + table(head, rows, numeric=range(1, 7))


def _slopes(columns, about) -> Markup:
    rows = primary(columns, about)
    shown = []
    for r in rows:
        if r["kind"] not in ("vector", "untrained"):
            continue
        beaten = []
        for kind in HATCH:
            same = [s for s in rows if s["kind"] == kind and s["beside"] == r["beside"] and s["layer"] == r["layer"]
                    and (s["evaluation"], s["model"]) == (r["evaluation"], r["model"])]  # fmt: skip
            sizes = [abs(s["slope"]) for s in same if math.isfinite(number(s["slope"]))]
            below = sum(abs(number(r["slope"])) > s for s in sizes)
            beaten.append(f"{below} of {len(sizes)}" if sizes else "\u2014")
        shown.append([
            r["evaluation"], r["model"], r["vector"], num(r["layer"], 0), r["where"],
            num(r["slope"], 3, sign=True), *(num(r[k], 3, sign=True) for k in ("low", "high")), *beaten,
            *(num(number(r[k]), 3) for k in ("p", "p_family")), r["masked"] or "",
        ])  # fmt: skip
    head = (
        *("evaluation", "model", "vector", "layer", "steered", "slope", "low", "high"),
        *(f"steeper than {kind}" for kind in HATCH),
        *("p", "p, all vectors and evaluations", "masked \u03b1"),
    )
    about = note(
        "low, high: 95 % interval over prompts. It says how sure the slope is, not that the direction "
        "matters: most directions of that norm move a model somehow. What speaks for a vector is p, the share (itself "
        "counted in) of vectors made from the same walks under permuted labels that are as steep; where there are "
        "none, of random directions. The second p is corrected for all vectors, layers and evaluations of the model."
    )
    return heading("Slopes on the strength") + about + table(head, shown, numeric=(3, 5, 6, 7, 11, 12), css="tall")


def _groups(columns, about) -> Markup:
    rows = [r for r in columns.rows() if r["vector"] == r["beside"]]  # unsteered, and no controls
    drawn = {(name, a["metric"], "all") for name, a in about.items()}
    rows = [r for r in rows if (r["evaluation"], r["metric"], r["group"]) not in drawn]
    shown = [
        [*(r[k] for k in ("evaluation", "metric", "group", "model")), r["vector"] or "none",
         num(r["layer"], 0), num(r["alpha"], 1, sign=True), *(num(r[k], 3) for k in ("mean", "low", "high")),
         num(r["used"], 0)]
        for r in rows
    ]  # fmt: skip
    head = ("evaluation", "metric", "group", "model", "vector", "layer", "\u03b1", "mean", "low", "high", "n")
    return table(head, shown[:2000], numeric=range(5, 11), css="tall")


def _own(title: str, columns) -> Markup:
    """The table of one evaluation, without controls."""
    rows = [r for r in columns.rows() if r.get("kind", "vector") in ("vector", "untrained")]
    numeric = [i for i, name in enumerate(columns) if any(number(r[name]) == r[name] for r in rows)]
    cell = lambda v: num(v, 0 if isinstance(v, int) else 2) if isinstance(v, (int, float)) else v
    shown = [[cell(v) for v in r.values()] for r in rows]
    return heading(title) + table([name.replace("_", " ") for name in columns], shown, numeric, css="tall")


def _answers(columns) -> Markup:
    """A table a prompt: a row a vector, model and layer, a column a strength."""
    out, prompts = [heading("Answers side by side")], {}
    for r in columns.rows():
        prompts.setdefault((r["evaluation"], r["prompt"]), []).append(r)
    for (evaluation, prompt), rows in prompts.items():
        alphas = sorted({r["alpha"] for r in rows})
        lines = []
        for key in dict.fromkeys((r["vector"], r["model"], r["layer"], r["where"]) for r in rows if r["vector"]):
            vector, model, layer, where = key
            said = {r["alpha"]: r["text"] for r in rows if r["model"] == model and (
                not r["vector"] or (r["vector"], r["layer"], r["where"]) == (vector, layer, where))}  # fmt: skip
            mark = of if (of := Vector.of_label(vector).of) in ("mold", "gold") else ""
            lines.append((mark, (vector, model, f"layer {layer}"), [[said.get(a, "")] for a in alphas]))
        out.append(details(f"{evaluation}: {prompt[:90]}", texts(alphas, lines)))
    return joined(out)


SECTIONS = (("evals", "Behaviour under steering", section),)
