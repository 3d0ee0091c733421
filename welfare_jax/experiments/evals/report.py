"""The evaluations in the report: X-shaped panels, layer sweep, read-outs, answers side by side; all as tables."""

import functools
import math

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from welfare_jax.experiments.evals import panels, temporal
from welfare_jax.experiments.evals.answer import answer as answer
from welfare_jax.interp.names import Vector
from welfare_jax.report.data import Run, dicts, number
from welfare_jax.report.markup import Missing, attempt, details, heading, joined, note, num, table, texts
from welfare_jax.report.svg import embed
from welfare_jax.report.tables import Table

CELL = ("evaluation", "metric", "group", "model", "vector", "kind", "beside", "layer", "alpha", "where")
NUMBERS = ("mean", "low", "high", "n", "used", "incoherence", "unparseable", "masked")
SLOPE = ("evaluation", "metric", "group", "model", "vector", "kind", "beside", "layer", "where")
SHARED = ("scores", "cells", "slopes", "sweep", "answers", "temporal")  # rows that have parts of the page already


def tables(run: Run) -> dict:
    """`evals.json` as tables {name: {column: list}}; figures draw from these."""

    def columns(rows, names):
        return Table({n: [_plain(r.get(n)) for r in dicts(rows)] for n in names})

    evals = panels.found(run)
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
    for name in own(panels.told(run)):
        names = dict.fromkeys(
            k for r in dicts(evals.get(name)) for k, v in r.items() if not isinstance(v, (dict, list))
        )
        out[f"evals_{name}"] = columns(evals.get(name), names)
    return {name: table for name, table in out.items() if table} | temporal.tables(evals.get("temporal"))


def _plain(value):
    return math.nan if value is None else " ".join(f"{v:g}" for v in value) if isinstance(value, list) else value


def own(about: dict) -> dict:
    """{table: title} of the evaluations that have one of their own."""
    return {a["rows"]: a["title"] for a in about.values() if a["rows"].isidentifier() and a["rows"] not in SHARED}


def sweep(columns: dict, about: dict) -> Figure:
    """Slope on the strength, layer by evaluation: a panel for every vector that steered at several layers."""
    rows = [r for r in panels.primary(columns, about) if r["kind"] in ("vector", "untrained")]
    each = {}
    for r in rows:
        each.setdefault((r["model"], r["vector"]), []).append(r)
    each = {k: v for k, v in each.items() if len({r["layer"] for r in v}) > 1}
    evaluations = [e for e in about if any(r["evaluation"] == e for r in rows)]
    top = {e: max([abs(number(r["slope"])) for r in rows if r["evaluation"] == e and number(r["slope"]) == r["slope"]],
                  default=0) or 1 for e in evaluations}  # fmt: skip
    count = max(len(each), 1)
    figure = Figure(figsize=(9, 0.9 + 1.9 * -(-count // 2)), layout="constrained")
    axes = figure.subplots(-(-count // 2), 2, squeeze=False)
    for ax in axes.flat[len(each) :]:
        ax.axis("off")
    image = None
    for ax, ((model, vector), mine) in zip(axes.flat, each.items()):
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
    about = panels.told(run)
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
        (panels.crossing, cells, about, panels.chosen_layers(run)),
        "Behaviour over the strength of steering",
        "Each metric against the strength of steering. Where the axis is real, Mold and Gold cross like an X at "
        "strength zero and leave the grey band of norm-matched random directions. Dashed: the same from the untrained "
        "model, with equal norm. Shaded: 95 % intervals over prompts. The bars below show how many answers were "
        f"incoherent; means of cells above {panels.found(run).get('mask', 0.9):.0%} are left out.",
        "evals_cells",
    )


def _sweep(slopes, about) -> Markup:
    return embed(
        (sweep, slopes, about),
        "How steeply each layer steers",
        "Slope of every metric on the strength, layer by layer; colours are scaled within each evaluation.",
        "evals_slopes",
    )


def _judged(run) -> Markup:
    evals = panels.found(run)
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
    rows = panels.primary(columns, about)
    shown = []
    for r in rows:
        if r["kind"] not in ("vector", "untrained"):
            continue
        beaten = []
        for kind in panels.HATCH:
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
        *(f"steeper than {kind}" for kind in panels.HATCH),
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
