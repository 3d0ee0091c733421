"""Bases with and without accounts of success in the report: what RL in the maze made of each."""

from markupsafe import Markup
from matplotlib.figure import Figure

from welfare_jax.experiments.success_text_ablation.settings import Point
from welfare_jax.report import style
from welfare_jax.report.data import Run, dig, finite, mean, number
from welfare_jax.report.markup import Missing, code, note, num, table
from welfare_jax.report.svg import embed
from welfare_jax.report.tables import Table

COLOURS = (style.REST, style.PATH_BASELINE, style.MOLD, style.GOLD)
FINAL = "the final letter"
MEANING = {
    "cos_rest": "cos(v_mold, v_gold)", "cos_path": "cos(v_mold, v_gold), Path",
    "averaged_path": "that of the averages", "averaged_share": "share left in the average",
    "auroc_mold": "AUROC of Mold", "auroc_gold": "of Gold",
}  # fmt: skip

WHEN = {
    "untrained": "{arm}, before", "trained": "{arm}, after", "difference": "change of {first} less {arm}",
}  # fmt: skip


def _where(question: str) -> str:
    return f"\u201c{question}\u201d" if question else FINAL


def tables(run: Run) -> dict:
    """Every number of every cell and layer; the live curve; means over seeds."""
    if not isinstance(run.summary.get("cells"), dict):
        return {}
    read, curve, seeds = [], [], []
    for name, cell in run.summary["cells"].items():
        about = {"cell": name, "arm": cell["arm"], "seed": cell["seed"]}
        for model, own in cell["read"].items():
            for question, found in own.items():
                for layer in range(len(found["cos_rest"])):
                    place = {"model": model, "read": question or FINAL, "layer": layer}
                    read.append(about | place | {k: v[layer] for k, v in found.items()})
        for row in run.metrics:
            mine = dig(row, "cells", name)
            curve += [about | line for line in _points(row["step"], mine)] if mine else []
    for arm, models in (run.summary.get("over_seeds") or {}).items():
        for model, own in models.items():
            for question, found in own.items():
                for k, layers in found.items():
                    place = {"arm": arm, "model": model, "read": question or FINAL, "number": k}
                    seeds += [place | {"layer": i} | {b: number(e[b]) for b in ("mean", "low", "high", "n")}
                              for i, e in enumerate(layers)]  # fmt: skip
    rows = {"words": read, "words_curve": curve, "words_seeds": seeds}
    return {name: Table.of_dicts(part) for name, part in rows.items()}


def _points(step: int, row: dict) -> list[dict]:
    """A line a layer with every live number, the mean over organisms; only the reward between points of the curve."""
    each = row.get("organisms") or []
    names = [k for k in (each[0] if each else {}) if Point.of_name(k)]
    if not names:
        return [{"step": step, "reward": row["reward"]}]
    layers = range(len(each[0][names[0]]))
    return [
        {"step": step, "reward": row["reward"], "layer": i} | {k: mean([number(o[k][i]) for o in each]) for k in names}
        for i in layers
    ]


def recruitment(columns: dict, layer: int, axes, questions) -> Figure:
    """Reward, and how far v_gold turns to an axis of success and v_mold away from it, over training; a line a seed."""
    figure = Figure(figsize=(9, 0.6 + 2.3 * (1 + len(axes))), layout="constrained")
    grid = figure.subplots(1 + len(axes), len(questions), squeeze=False, sharex=True, sharey="row")
    arms = list(dict.fromkeys(columns["arm"]))
    at = lambda cell, name: [
        (s, v)
        for c, s, a, v in zip(columns["cell"], columns["step"], columns["layer"], columns[name])
        if c == cell and v == v and (name == "reward" or a == layer)
    ]
    for q, question in enumerate(questions):
        for cell, arm in dict(zip(columns["cell"], columns["arm"])).items():
            look = {"color": COLOURS[arms.index(arm) % len(COLOURS)], "linewidth": 1.2, "alpha": 0.8}
            grid[0, q].plot(*zip(*at(cell, "reward")), **look)
            for ax, axis in zip(grid[1:, q], axes):
                good, bad = (dict(at(cell, Point(f"axis_{v}/{axis}", question).name)) for v in ("gold", "mold"))
                ax.plot(list(good), [good[s] - bad[s] for s in good], marker="o", markersize=2.5, **look)
        grid[0, q].set_title(f"read at {_where(question)}")
        for ax in grid[1:, q]:
            ax.axhline(0, color=style.UNTRAINED, linewidth=0.8)
        grid[-1, q].set_xlabel("step")
    grid[0, 0].set_ylabel("reward")
    for ax, axis in zip(grid[1:, 0], axes):
        ax.set_ylabel(f"cos(v_gold, s) - cos(v_mold, s)\ns: {axis}", fontsize=8)
    for i, arm in enumerate(arms):
        grid[0, -1].plot([], [], color=COLOURS[i % len(COLOURS)], label=f"{arm} accounts")
    grid[0, -1].legend()
    return figure


def alignment(columns: dict, names, questions) -> Figure:
    """Per layer, before (hollow) and after training (full): means over seeds with 95 % intervals."""
    figure = Figure(figsize=(9, 0.6 + 2.2 * len(names)), layout="constrained")
    grid = figure.subplots(len(names), len(questions), squeeze=False, sharex=True, sharey="row")
    arms = list(dict.fromkeys(columns["arm"]))
    for (r, name), (q, question) in ((a, b) for a in enumerate(names) for b in enumerate(questions)):
        ax = grid[r, q]
        ax.axhline(0, color=style.UNTRAINED, linewidth=0.8)
        for i, arm in enumerate(arms):
            for j, model in enumerate(("untrained", "trained")):
                mine = columns.where(arm=arm, model=model, number=name, read=question or FINAL)
                x, y = [layer + 0.18 * i + 0.07 * j for layer in mine["layer"]], mine["mean"]
                bars = [[max(0.0, abs(number(end) - m)) for end, m in zip(mine[b], y)] for b in ("low", "high")]
                bars = bars if finite([v for b in bars for v in b]) else None
                colour = COLOURS[i % len(COLOURS)]
                ax.errorbar(
                    x, y, yerr=bars, color=colour, marker="o", markersize=5, linestyle="none", capsize=2,
                    markerfacecolor=colour if j else "white", elinewidth=0.9,
                    label=f"{arm} accounts, {model}",
                )  # fmt: skip
        ax.set_ylabel(MEANING.get(name, name) if q == 0 else "", fontsize=8)
        ax.set_xticks(sorted(set(columns["layer"])))
        if r == 0:
            ax.set_title(f"read at {_where(question)}")
        if r == len(names) - 1:
            ax.set_xlabel("layer")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def _told(entry) -> str:
    m, low, high = (number(entry.get(k)) for k in ("mean", "low", "high"))
    return num(m, sign=True) + (f" [{num(low, sign=True)}, {num(high, sign=True)}]" if low == low else "")


def section(run: Run, built: dict) -> Markup:
    if "words" not in built:
        raise Missing("summary.json has no finished cell")
    over = run.summary["over_seeds"]
    first = next(iter(over.values()))["untrained"]
    questions, names = list(first), list(next(iter(first.values())))
    axes = list(dict.fromkeys(k.partition("/")[2] for q in first.values() for k in q if k.startswith("along/")))
    layer = 2 * (max(built["words"]["layer"]) + 1) // 3
    common = [a for a in axes if all(f"along/{a}" in q for q in first.values())]
    seeds = len({c["seed"] for c in run.summary["cells"].values()})
    out = note(
        f"{seeds} seed{'s' * (seeds > 1)} an arm, three organisms each, in which every tile plays "
        "every role once. In the mean over them tiles cancel; what is left of Gold - Mold lies in the mazes "
        "themselves or was put there by reward: compare before and after. "
        "Success is an axis of the untrained base."
    )
    caption = (
        f"Layer {layer}. Reward, then the turn of v_gold towards success and of v_mold away from it; a line a seed."
    )
    out += embed((recruitment, built["words_curve"], layer, common, questions), caption, "words_curve")
    shown = ["cos_path", "averaged_path", "averaged_share", *(f"{k}/{a}" for a in common for k in ("along", "d"))]
    caption = (
        "The cosine of v_mold and v_gold against Path, of each organism and of their means (averaged). Gold - Mold in "
        "the mean over organisms: its share that is left, its cosine with success (along), and how far Gold-final "
        "walks lie above Mold-final ones on that axis (Cohen's d)."
    )
    out += embed((alignment, built["words_seeds"], shown, questions), caption, "words_seeds")
    columns = [(a, m) for a, own in over.items() for m in own if m != "change"]
    for question in questions:
        names = [k for k in (*MEANING, *(f"{k}/{a}" for a in axes for k in ("along", "d"))) if k in first[question]]
        rows = [
            (
                MEANING.get(k, k),
                *(_told(over[a][m][question][k][layer]) for a, m in columns),
            )
            for k in names
        ]
        heads = (
            f"read at {_where(question)}, layer {layer}",
            *(WHEN[m].format(arm=a, first=next(iter(over))) for a, m in columns),
        )
        out += table(heads, rows, numeric=range(1, len(heads)))
    return out + note("Means over seeds with 95 % t intervals. All layers: " + code("tables/words_seeds.csv") + ".")


SECTIONS = (("words", "Does the axis need the words?", section),)
