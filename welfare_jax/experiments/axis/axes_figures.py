"""Figures of the comparison axes and of goal tracking; see `figures` for how they are drawn."""

import numpy as np
from matplotlib.figure import Figure

from welfare_jax.experiments.axis.figures import COLOUR, LINE, MODELS, TITLE, VECTORS, chance, pick
from welfare_jax.report import style
from welfare_jax.report.markup import num
from welfare_jax.report.svg import beneath

NAMED = 6  # words named at each end of the emotion scatter


def densities(table) -> Figure:
    """Where held-out trajectories lie along each vector, by final tile; one panel a model and vector."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    panels = figure.subplots(2, 2, squeeze=False)
    for row, model in zip(panels, MODELS, strict=True):
        for ax, vector in zip(row, VECTORS, strict=True):
            mine = pick(table, model=model, vector=vector)
            if not mine or not np.isfinite([*mine["from"], *mine["to"], mine["layer"][0]]).all():
                _empty(ax)
                continue
            for c in ("mold", "gold"):
                look = {"fill": True, "alpha": 0.45, "color": COLOUR[c], "label": f"ends on {TITLE[c]}"}
                ax.stairs(np.nan_to_num(mine[c]), [*mine["from"], mine["to"][-1]], **look)
            layer, d = mine["layer"][0], mine["cohens_d"][0]
            ax.set(title=f"v_{vector}, {model}, layer {layer:.0f}: d = {num(d, sign=True)}", ylabel="density")
            ax.set_xlabel("projection on the unit vector")
    beneath(figure)
    return figure


def axes(table, layer) -> Figure:
    """Cosines of both vectors with every axis at one layer: bars with intervals; grey, what chance reaches."""
    names = list(dict.fromkeys(table["axis"]))
    figure = Figure(figsize=(9, 1.2 + 0.62 * len(names)), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    y = np.arange(len(names))[::-1]
    for ax, vector in zip(panels, VECTORS, strict=True):
        for model, shift, alpha in (("untrained", 0.18, 0.45), ("trained", -0.18, 1.0)):
            for at, name in zip(y, names, strict=True):
                mine = pick(table, model=model, vector=vector, axis=name, layer=layer)
                if not mine or not np.isfinite(mine["value"][0]):
                    continue
                value, low, high = (mine[k][0] for k in ("value", "low", "high"))
                ax.barh(at + shift, value, 0.3, color=COLOUR[vector], alpha=alpha)
                ax.plot([low, high], [at + shift] * 2, color=LINE["trained"]["color"], linewidth=1.2)
                edges = (mine["chance_low"][0], mine["chance_high"][0])
                ax.fill_betweenx([at + shift - 0.19, at + shift + 0.19], *edges, color=style.CHANCE, alpha=0.5,
                                 linewidth=0, zorder=0)  # fmt: skip
                if mine["p"][0] < 0.05:
                    ax.annotate("*", (high if value > 0 else low, at + shift), ha="center", va="center", fontsize=11)
        ax.axvline(0, color=style.CHANCE, linewidth=0.8)
        ax.set(title=f"v_{vector}, layer {layer}: pale untrained, full trained", xlabel="cosine with the axis")
        ax.set_yticks(y, names)
        ax.set_xlim(-1.02, 1.02)
    return figure


def axes_by_layer(table) -> Figure:
    """The same cosines at every layer, one panel an axis."""
    names = list(dict.fromkeys(table["axis"]))
    rows = -(-len(names) // 3)
    figure = Figure(figsize=(9, 2.5 * rows), layout="constrained")
    panels = figure.subplots(rows, 3, sharex=True, sharey=True, squeeze=False).flat
    for ax, name in zip(panels, names, strict=False):
        for vector in VECTORS:
            for model in MODELS:
                mine = pick(table, model=model, vector=vector, axis=name)
                if mine:
                    look = LINE[model] | {"color": COLOUR[vector]}
                    ax.plot(mine["layer"], mine["value"], **look, label=f"v_{vector}, {model}")
                    chance(ax, mine["layer"], mine["chance_low"], mine["chance_high"])
        ax.axhline(0, color=style.CHANCE, linewidth=0.8)
        ax.set(title=name[0].upper() + name[1:], xlabel="layer", ylabel="cosine")
        ax.xaxis.get_major_locator().set_params(integer=True)
    for ax in list(figure.axes)[len(names) :]:
        ax.remove()
    beneath(figure)
    return figure


def emotions(table) -> Figure:
    """Every emotion vector by its cosines with v_mold and v_gold; fitted line, extremes named."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for ax, model in zip(panels, MODELS, strict=True):
        mine = pick(table, model=model)
        x, y = (np.asarray(mine.get(v, []), float) for v in VECTORS)
        known = np.isfinite(x) & np.isfinite(y)
        if known.sum() < 3 or not np.isfinite(mine["layer"][0]):
            _empty(ax)
            continue
        x, y, words = x[known], y[known], np.asarray(mine["word"])[known]
        ax.plot(x, y, "o", color=LINE["trained"]["color"], markersize=3, alpha=0.6)
        slope, start = np.polyfit(x, y, 1) if np.ptp(x) > 0 else (np.nan, np.nan)
        ends = np.array([x.min(), x.max()])
        ax.plot(ends, start + slope * ends, color=COLOUR["rest"], linewidth=1.2)
        order = np.argsort(y - x)
        for i in {*order[:NAMED].tolist(), *order[-NAMED:].tolist()}:
            ax.annotate(words[i], (x[i], y[i]), xytext=(3, 3), textcoords="offset points", fontsize=7)
        r = np.corrcoef(x, y)[0, 1] if np.ptp(x) > 0 and np.ptp(y) > 0 else np.nan
        ax.set(title=f"{model}, layer {mine['layer'][0]:.0f}: slope {num(slope, sign=True)}, r = {num(r, sign=True)}")
        ax.set(xlabel="cosine with v_mold", ylabel="cosine with v_gold")
        for line in (ax.axhline, ax.axvline):
            line(0, color=style.CHANCE, linewidth=0.8)
    return figure


def emotion_components(table) -> Figure:
    """Share of the emotion vectors' variance in their first two principal components, per layer."""
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    for ax, model in zip(figure.subplots(1, 2, sharey=True), MODELS, strict=True):
        mine = pick(table, model=model)
        if not mine:
            _empty(ax)
            continue
        first, second = (np.nan_to_num(np.asarray(mine[k], float)) for k in ("first", "second"))
        ax.bar(mine["layer"], first, color=COLOUR["rest"], label="first component")
        ax.bar(mine["layer"], second, bottom=first, color=COLOUR["path"], label="second component")
        ax.set(title=model, xlabel="layer", ylabel="share of variance", ylim=(0, 1))
        ax.xaxis.get_major_locator().set_params(integer=True)
    beneath(figure)
    return figure


def _empty(ax):
    ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", color=LINE["untrained"]["color"])
