"""The figures: each draws the columns of one table (see `tables`), 9 inches wide."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from welfare_jax.experiments.axis.tables import BASELINES, MODELS, PAIRS, VECTORS
from welfare_jax.report import style
from welfare_jax.report.svg import beneath, under
from welfare_jax.report.tables import Table

COLOUR = {"gold": style.GOLD, "mold": style.MOLD, "rest": style.REST, "path": style.PATH_BASELINE}
LINE = {
    "trained": {"color": style.TRAINED, "linestyle": "-"},
    "untrained": {"color": style.UNTRAINED, "linestyle": "--"},
}
BASELINE_NAME = {"rest": "one against rest", "path": "against Path"}
TITLE = {"mold": "Mold", "gold": "Gold", "path": "Path"}


def reward(table) -> Figure:
    """Reward per episode over the steps; below, Gold and Mold tiles entered per episode."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    top, low = _axes(figure, 2, 1, height_ratios=(3, 2), sharex=True)
    _line(top, table["step"], table["reward"], color=style.TRAINED)
    top.set(title="Mean reward per episode", ylabel="reward")
    for name in VECTORS:
        _line(low, table["step"], table[name], color=COLOUR[name], label=f"{TITLE[name]} entered")
    low.set(title="Tiles entered per episode", ylabel="tiles", xlabel="training step")
    under(low, ncols=2)
    return figure


def organisms(table) -> Figure:
    """Reward over the steps, a line an organism."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    (ax,) = _axes(figure, 1, 1)
    for i in dict.fromkeys(table["organism"]):
        mine = table.where(organism=i)
        _line(ax, mine["step"], mine["reward"], color=style.CYCLE[i % len(style.CYCLE)], label=f"organism {i}")
    ax.set(title="Mean reward per episode", ylabel="reward", xlabel="training step")
    under(ax, ncols=5)
    return figure


def behaviour(table) -> Figure:
    """Gold taken and Mold avoided as shares of their chances; the entropy of the move."""
    figure = Figure(figsize=(9, 3.0), layout="constrained")
    left, right = _axes(figure, 1, 2)
    _line(left, table["step"], table["gold_taken"], color=style.GOLD, label="Gold taken")
    _line(left, table["step"], table["mold_avoided"], color=style.MOLD, label="Mold avoided", linestyle="--")
    left.set(title="What it does with its chances", ylabel="share of chances", ylim=(-0.02, 1.02))
    left.set(xlabel="training step")
    under(left, ncols=2)
    _line(right, table["step"], table["entropy"], color=style.TRAINED)
    right.set(title="Entropy of the policy", ylabel="nats", xlabel="training step")
    return figure


def optimiser(table) -> Figure:
    """Six health signals of the optimiser over the steps."""
    units = {
        "loss": "loss",
        "grad_norm": "gradient norm",
        "lr": "learning rate",
        "ratio_max": "largest probability ratio",
        "clip_frac": "share of moves clipped",
        "tokens_per_s": "tokens per second",
    }
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    for ax, (name, label) in zip(_axes(figure, 2, 3), units.items(), strict=True):
        _line(ax, table["step"], table[name], color=style.TRAINED)
        ax.set(title=label[0].upper() + label[1:], xlabel="training step")
    return figure


def cosine_by_layer(table, intervals=None) -> Figure:
    """cos(v_mold, v_gold) per layer, untrained and trained, for both baselines, and the differences.

    Where there are intervals they are bands, and what noise alone would read is dotted.
    """
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = _axes(figure, 1, 3)
    for ax, base in zip(axes, BASELINES, strict=False):
        for model in MODELS:
            values = table[f"{base}_{model}"]
            _line(ax, table["layer"], values, **LINE[model], label=f"{model}, mean {_mean(values)}")
            band(ax, pick(intervals, kind=base, model=model), LINE[model]["color"])
        noise = pick(intervals, kind=base, model="trained")
        if noise:
            look = {"color": COLOUR[base], "linestyle": ":", "label": "noise alone", "marker": None}
            _line(ax, noise["layer"], noise["noise"], **look)
            chance(ax, noise["layer"], noise["chance_low"], noise["chance_high"], label="permuted labels")
        ax.set(title=f"Baseline: {BASELINE_NAME[base]}", ylim=(-1.05, 1.05), ylabel="cos(v_mold, v_gold)")
        ax.set_yticks((-1, -0.5, 0, 0.5, 1))
    for base in BASELINES:
        values = table[f"{base}_difference"]
        _line(
            axes[2], table["layer"], values, color=COLOUR[base], label=f"{BASELINE_NAME[base]}, mean {_mean(values)}"
        )
        band(axes[2], pick(intervals, kind=base, model="difference"), COLOUR[base])
    axes[2].set(
        title="Trained minus untrained", ylabel="difference of cosines", ylim=(-1.05, 1.05) if intervals else None
    )
    for ax in axes:
        _layers(ax)
        ax.axhline(0, color=style.CHANCE, linewidth=0.8)
        under(ax)
    return figure


def cosine_over_training(table, means, final) -> Figure:
    """The live cosine: its mean over layers against step and against reward, and a heatmap layer by step.

    final: {baseline: mean over layers of the final figures}, hollow at the right end of the curve.
    """
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    line, scatter, *maps = _axes(figure, 2, 2, height_ratios=(4, 5))
    for base, marker in zip(BASELINES, "os", strict=True):
        y = means[f"mean_{base}"]
        _line(line, means["step"], y, color=COLOUR[base], label=BASELINE_NAME[base], marker=marker)
        scatter.plot(_array(means["reward"]), _array(y), marker, color=COLOUR[base], alpha=0.8, markersize=4)
        if np.isfinite(final.get(base, np.nan)):
            hollow = {"color": COLOUR[base], "markerfacecolor": "white", "markersize": 9, "linestyle": "none"}
            line.plot(max(means["step"]) + 1, final[base], marker, **hollow, label=f"{BASELINE_NAME[base]}, final")
    line.set(title="Mean over layers, step by step", ylabel="mean cosine", xlabel="training step")
    scatter.set(title="Mean over layers against reward", ylabel="mean cosine", xlabel="mean reward per episode")
    steps, layers = np.unique(table["step"]), np.unique(table["layer"])
    cells = (np.searchsorted(layers, table["layer"]), np.searchsorted(steps, table["step"]))
    for ax, base in zip(maps, BASELINES, strict=True):
        grid = np.full((len(layers), len(steps)), np.nan)
        grid[cells] = _array(table[base])
        edges = _edges(steps), _edges(layers)
        image = ax.pcolormesh(*edges, grid, cmap="RdBu", vmin=-1, vmax=1, rasterized=True)
        ax.set(title=f"Every layer, {BASELINE_NAME[base]}", ylabel="layer", xlabel="training step")
        ax.grid(False)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=maps, label="cos(v_mold, v_gold)", shrink=0.9)
    beneath(figure)
    return figure


def separation_over_training(table) -> Figure:
    """Held-out AUROC of both vectors: the mean over layers against step and reward, and a heatmap each."""
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    line, scatter, *maps = _axes(figure, 2, 2, height_ratios=(4, 5))
    steps, layers = np.unique(table["step"]), np.unique(table["layer"])
    cells = (np.searchsorted(layers, table["layer"]), np.searchsorted(steps, table["step"]))
    rewards = dict(zip(table["step"], table["reward"], strict=True))
    for ax, vector, marker in zip(maps, VECTORS, "os", strict=True):
        grid = np.full((len(layers), len(steps)), np.nan)
        grid[cells] = _array(table[f"auroc_{vector}"])
        seen = np.isfinite(grid).any(0)
        means = np.where(seen, np.nansum(grid, 0) / np.maximum(np.isfinite(grid).sum(0), 1), np.nan)
        _line(line, steps, means, color=COLOUR[vector], label=f"v_{vector}", marker=marker)
        scatter.plot(_array([rewards[s] for s in steps]), means, marker, color=COLOUR[vector], alpha=0.8, markersize=4)
        image = ax.pcolormesh(_edges(steps), _edges(layers), grid, cmap="PuOr", vmin=0, vmax=1, rasterized=True)
        ax.set(title=f"Every layer, v_{vector}", ylabel="layer", xlabel="training step")
        ax.grid(False)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
    line.set(title="Mean over layers, step by step", ylabel="mean AUROC", xlabel="training step")
    scatter.set(title="Mean over layers against reward", ylabel="mean AUROC", xlabel="mean reward per episode")
    for ax in (line, scatter):
        ax.axhline(0.5, color=style.CHANCE, linewidth=0.8)
    figure.colorbar(image, ax=maps, label="held-out AUROC", shrink=0.9)
    beneath(figure)
    return figure


def geometry(table, intervals=None) -> Figure:
    """Centred class-mean cosines of the three pairs with their intervals; norms of the vectors and their noise."""
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    *pairs, norms, noise, spare = _axes(figure, 2, 3)
    spare.remove()
    for ax, pair in zip(pairs, PAIRS, strict=True):
        for model in MODELS:
            _line(ax, table["layer"], table[f"{pair}_{model}"], **LINE[model], label=model)
            band(ax, pick(intervals, kind=pair, model=model), LINE[model]["color"])
        first, second = (TITLE[c] for c in pair.split("-"))
        ax.set(title=f"{first} and {second} means, centred", ylim=(-1.05, 1.05), ylabel="cosine")
        ax.axhline(0, color=style.CHANCE, linewidth=0.8)
        ax.axvline(len(table["layer"]) * 2 // 3, color=style.CHANCE, linewidth=0.8, linestyle=":")
    for ax, name in ((norms, "norm"), (noise, "noise")):
        for vector in VECTORS:
            for model in MODELS:
                look = LINE[model] | {"color": COLOUR[vector]}
                _line(ax, table["layer"], table[f"{name}_{vector}_{model}"], **look, label=f"v_{vector}, {model}")
    norms.set(title="Norms of the vectors", ylabel="norm", ylim=(0, None))
    # Where a vector is nearly zero, noise is many times its length: more than all is all.
    noise.set(title="Sampling noise in the vectors", ylabel="share of squared length", ylim=(0, 1.05))
    for ax in (*pairs, norms, noise):
        _layers(ax)
    under(pairs[0], ncols=2)
    under(norms)
    return figure


def selection(table) -> Figure:
    """AUROC, Cohen's d and overlap per layer on held-out samples; a vertical line marks the layer chosen."""
    columns = {"auroc": "AUROC", "cohens_d": "Cohen's d", "overlap": "Overlap"}
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    for k, ax in enumerate(_axes(figure, 2, 3, sharey="col")):
        model, column = ("trained", "untrained")[k // 3], list(columns)[k % 3]
        for vector, style_ in zip(VECTORS, ("-", "--"), strict=True):
            mine = table.rows(model=model, vector=vector)
            chosen = [m["layer"] for m in mine if m["chosen"]]
            label = f"v_{vector}" + (f" (layer {chosen[0]})" if chosen else "")
            look = {"color": COLOUR[vector], "linestyle": style_, "label": label}
            _line(ax, [m["layer"] for m in mine], [m[column] for m in mine], **look)
            if column == "auroc" and mine:
                chance(ax, *([m[name] for m in mine] for name in ("layer", "chance_auroc_low", "chance_auroc_high")))
            for layer in chosen:
                ax.axvline(layer, color=COLOUR[vector], linewidth=1, linestyle=":")
        ax.set(title=f"{columns[column]}, {model}", ylabel=columns[column])
        _layers(ax)
        if k % 3 == 0:
            under(ax)
    return figure


def pick(table, **where) -> Table:
    """The rows of a table where the columns named have the values given; none of no table."""
    return table.where(**where) if table else Table({})


def band(ax, rows, colour):
    """The interval of `pick`ed rows as a band; with one layer as a bar. What it overshoots of the panel is cut."""
    if rows:
        low, high = _array(rows["low"]), _array(rows["high"])
        if len(low) == 1:
            ax.vlines(rows["layer"], low, high, color=colour, alpha=0.4, linewidth=5)
        ax.fill_between(rows["layer"], low, high, color=colour, alpha=0.13, linewidth=0)


def chance(ax, layers, low, high, **look):
    """What would be read by chance, as a grey band."""
    if len(layers) == 1:
        ax.vlines(layers, _array(low), _array(high), color=style.CHANCE, alpha=0.5, linewidth=9, **look)
    elif np.isfinite(_array(low)).any():
        ax.fill_between(layers, _array(low), _array(high), color=style.CHANCE, alpha=0.35, linewidth=0, **look)


def _axes(figure, rows, columns, sharex=False, sharey=False, **grid) -> list:
    return list(
        figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False, gridspec_kw=grid or None).flat
    )


def _array(values) -> np.ndarray:
    """Float array with NaN, which matplotlib leaves blank, for everything that is not finite."""
    values = np.asarray(values, float)
    return np.where(np.isfinite(values), values, np.nan)


def _line(ax, x, y, **look):
    """A line; with few points their marks too. A panel without a single number says so."""
    y = _array(y)
    if np.isfinite(y).any():
        few = np.isfinite(y).sum() <= 12
        ax.plot(_array(x), y, **({"marker": "o" if few else None, "markersize": 3.5} | look))
    elif not ax.texts and not ax.lines:
        ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", color=style.UNTRAINED)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _layers(ax):
    ax.set_xlabel("layer")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _mean(values) -> str:
    values = _array(values)
    return f"{np.nanmean(values):+.2f}".replace("-", "\u2212") if np.isfinite(values).any() else "not measured"


def _edges(centres) -> np.ndarray:
    """Cell borders [n + 1] half-way between n ascending centres; steps need not be evenly spaced."""
    centres = np.asarray(centres, float)
    inner = (centres[1:] + centres[:-1]) / 2
    first = inner[:1] - centres[:1] if len(inner) else np.array([0.5])
    last = centres[-1:] - inner[-1:] if len(inner) else np.array([0.5])
    return np.concatenate([centres[:1] - first, inner, centres[-1:] + last])
