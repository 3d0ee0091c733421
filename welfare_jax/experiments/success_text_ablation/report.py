"""Bases with and without accounts of success in the report: what RL in the maze made of each."""

import textwrap

from markupsafe import Markup
from matplotlib.figure import Figure

from welfare_jax.experiments.success_text_ablation.settings import Point
from welfare_jax.report import style
from welfare_jax.report.answer import SIZE, Answer
from welfare_jax.report.data import Run, dig, finite, mean, number
from welfare_jax.report.markup import Missing, code, interval, note, num, table
from welfare_jax.report.svg import beneath, embed
from welfare_jax.report.tables import Table

COLOURS = (style.REST, style.PATH_BASELINE, style.MOLD, style.GOLD)
FINAL = "the final letter"
MEANING = {
    "cos_rest": "cos(v_mold, v_gold)", "cos_path": "cos(v_mold, v_gold), Path",
    "averaged_path": "that of the averages", "averaged_share": "share left in the average",
    "auroc_mold": "AUROC of Mold", "auroc_gold": "AUROC of Gold",
    "averaged_rest": "that of the averages, one against rest",
}  # fmt: skip
KINDS = {"along": "cosine of Gold - Mold with {}", "d": "Cohen's d of Gold against Mold along {}"}

WHEN = {
    "untrained": "{arm}, before", "trained": "{arm}, after", "difference": "change of {first} less {arm}",
}  # fmt: skip


def meaning(name: str) -> str:
    """A number's name in words: "d/success, accounts" is Cohen's d along success in accounts."""
    kind, _, axis = name.partition("/")
    return KINDS[kind].format(success(axis)) if kind in KINDS and axis else MEANING.get(name, name.replace("_", " "))


def success(axis: str) -> str:
    """The name of an axis in words: "success, accounts" is success in accounts."""
    return axis.replace(", ", " in ")


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
        ax.set_ylabel(f"cosine of v_gold less v_mold\nwith {success(axis)}", fontsize=8)
    for i, arm in enumerate(arms):
        grid[0, -1].plot([], [], color=COLOURS[i % len(COLOURS)], label=f"{arm} accounts")
    beneath(figure)
    return figure


def alignment(columns: dict, names, questions, size=None) -> Figure:
    """Per layer, before (hollow) and after training (full): means over seeds with 95 % intervals."""
    figure = Figure(figsize=size or (9, 0.6 + 2.2 * len(names)), layout="constrained")
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
        ax.set_ylabel(textwrap.fill(meaning(name), 24) if q == 0 else "", fontsize=8)
        ax.set_xticks(sorted(set(columns["layer"])))
        if r == 0:
            ax.set_title(f"read at {_where(question)}")
        if r == len(names) - 1:
            ax.set_xlabel("layer")
    beneath(figure, 2)
    return figure


def _told(entry) -> str:
    m, low, high = (number(entry.get(k)) for k in ("mean", "low", "high"))
    return num(m, sign=True) + (f" [{num(low, sign=True)}, {num(high, sign=True)}]" if low == low else "")


def _asked(run: Run, built: dict) -> tuple:
    """(means over seeds by arm, questions, axes, axes of every question, the layer shown)."""
    over = run.summary["over_seeds"]
    first = next(iter(over.values()))["untrained"]
    axes = list(dict.fromkeys(k.partition("/")[2] for q in first.values() for k in q if k.startswith("along/")))
    common = [a for a in axes if all(f"along/{a}" in q for q in first.values())]
    return over, list(first), axes, common, 2 * (max(built["words"]["layer"]) + 1) // 3


def answer(run: Run, built: dict) -> Answer:
    """Whether RL turns Gold - Mold further towards success in a base that has read accounts of success."""
    if "words" not in built or not run.summary.get("over_seeds"):
        raise Missing("no cell is finished")
    over, questions, _, common, layer = _asked(run, built)
    first, *others = over
    if not others or not common:
        raise Missing("there is nothing to compare the first base with")
    axis, question, other = common[0], questions[-1], others[0]
    found = (dig(over, other, "difference", question, f"along/{axis}") or [{}] * (layer + 1))[layer]
    value, low, high = (number(found.get(k)) for k in ("mean", "low", "high"))
    seeds = len({c["seed"] for c in run.summary["cells"].values()})
    told = interval(value, low, high, sign=True)
    if low > 0 or high < 0:
        verdict = f"further {first if low > 0 else other} accounts"
        said = (
            f"RL turns Gold less Mold further towards success in a base {first if low > 0 else other} such accounts."
        )
    else:
        verdict = "cannot be told"
        said = (
            f"Whether RL turns Gold less Mold further towards success in a base {first} accounts of success than in "
            f"one {other} cannot be told from {seeds} seed{'s' * (seeds > 1)}."
        )
    sure = (
        f"change {first} less change {other} accounts, cosine with {success(axis)}, layer {layer}: {told} over seeds"
    )
    return Answer(
        "Does the axis need the words?", said, verdict=verdict, interval=sure,
        seeds=f"{seeds} an arm, 3 organisms each",
        drawing=(alignment, built["words_seeds"], [f"along/{axis}"], [question], (SIZE[0], 3.4)),
        shows="Cosine of Gold less Mold with success, before and after RL", model="pretrained here, with and without",
    )  # fmt: skip


def section(run: Run, built: dict) -> Markup:
    if "words" not in built:
        raise Missing("summary.json has no finished cell")
    over, questions, axes, common, layer = _asked(run, built)
    first = next(iter(over.values()))["untrained"]
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
    out += embed(
        (recruitment, built["words_curve"], layer, common, questions), "Over training", caption, "words_curve"
    )
    shown = ["cos_path", "averaged_path", "averaged_share", *(f"{k}/{a}" for a in common for k in ("along", "d"))]
    caption = (
        "The cosine of v_mold and v_gold against Path, of each organism and of their means (averaged). Gold - Mold in "
        "the mean over organisms: its share that is left, its cosine with success (along), and how far Gold-final "
        "walks lie above Mold-final ones on that axis (Cohen's d)."
    )
    out += embed(
        (alignment, built["words_seeds"], shown, questions), "Before and after, layer by layer", caption, "words_seeds"
    )
    columns = [(a, m) for a, own in over.items() for m in own if m != "change"]
    for question in questions:
        names = [k for k in (*MEANING, *(f"{k}/{a}" for a in axes for k in ("along", "d"))) if k in first[question]]
        rows = [
            (
                meaning(k),
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
