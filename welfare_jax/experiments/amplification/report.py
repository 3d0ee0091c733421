"""Amplification in the report: formats over the steps of RL, what they are worth, and how far the model went."""

import math

from markupsafe import Markup
from matplotlib.figure import Figure

from welfare_jax.report import style
from welfare_jax.report.answer import SIZE, Answer
from welfare_jax.report.data import Run, dig, mean, number
from welfare_jax.report.markup import Missing, code, interval, note, num, share, table
from welfare_jax.report.svg import beneath, embed, under
from welfare_jax.report.tables import Table

COLOUR = {"words": style.REST, "function": style.MOLD, "script": style.GOLD, "other": style.UNTRAINED}
NAMES = {"grpo": "GRPO", "ppo": "PPO", "expert_iteration": "Expert Iteration"}
FORMATS = ("words", "function", "script")
CELL = ("algorithm", "shape", "mixture", "kl_coef", "seed", "winner")
ENDS = (*(f"{what}_{f}" for what in ("share", "accuracy") for f in FORMATS), "accuracy", "greedy", "entropy", "kl")


def cells(run: Run) -> dict:
    """{cell name: (its summary, its rows)}; "" where the run is one cell."""
    found = run.summary.get("cells")
    if not isinstance(found, dict):
        return {"": (run.summary, run.metrics)}
    rows = {name: [m["cells"][name] for m in run.metrics if dig(m, "cells", name)] for name in found}
    return {name: (summary, rows[name]) for name, summary in found.items()}


def tables(run: Run) -> dict:
    """Training and held-out numbers of every cell and step; a row a cell; means over seeds."""
    every = [(name, row) for name, (_, rows) in cells(run).items() for row in rows]
    names = lambda good: [k for k in dict.fromkeys(k for _, row in every for k in row) if good(k) and k != "step"]
    out = {}
    for label, rows, columns in (
        ("training", [r for r in every if "reward" in r[1]], names(lambda k: not k.startswith("eval_"))),
        ("held_out", [r for r in every if "eval_accuracy" in r[1]], names(lambda k: k.startswith("eval_"))),
    ):
        found = {"cell": [name for name, _ in rows], "step": [row["step"] for _, row in rows]}
        found |= {k.removeprefix("eval_"): [number(row.get(k)) for _, row in rows] for k in columns}
        out[f"amplification_{label}"] = Table(found)
    ends = [(name, s) for name, (s, _) in cells(run).items() if "winner" in s]
    more = [k for _, s in ends[:1] for k in s["after"] if k.startswith(("pass_", "maj_"))]
    columns = {"cell": [name for name, _ in ends]} | {k: [s[k] for _, s in ends] for k in CELL}
    for name in (*ENDS, *more):
        columns |= {f"{name}_{when}": [number(s[when].get(name)) for _, s in ends] for when in ("before", "after")}
    out["amplification_cells"] = Table(columns)
    seeds = run.summary.get("over_seeds") or []
    out["amplification_seeds"] = Table.of_dicts([{k: _flat(v) for k, v in row.items()} for row in seeds])
    return {name: table for name, table in out.items() if table}


def _flat(value):
    if isinstance(value, dict):
        mean, low, high = (number(value.get(k)) for k in ("mean", "low", "high"))
        return f"{mean:.4g} [{low:.4g}, {high:.4g}]"
    return " ".join(map(str, value)) if isinstance(value, list) else value


def named(cell: str) -> str:
    return cell.replace("-", ", ").replace("_", " ")


def shares(columns: dict) -> Figure:
    """Share of every format among the answers of each step of training; a panel a cell."""
    names = [*dict.fromkeys(columns["cell"])]
    across = min(len(names), 3)
    down = math.ceil(len(names) / across)
    figure = Figure(figsize=(9, 0.4 + 2.6 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharey=True)
    for ax, name in zip(axes.flat, names):
        own = columns.where(cell=name)
        for label, colour in COLOUR.items():
            ax.plot(own["step"], own[f"share_{label}"], color=colour, label=label)
        look = {"color": style.TRAINED, "linestyle": ":", "linewidth": 1.2}
        ax.plot(own["step"], own["reward"], **look, label="right, all formats")
        ax.set(ylim=(-0.02, 1.02), xlabel="step", title=named(name) or "share of the answers")
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    beneath(figure, 5)
    return figure


def held_out(columns: dict) -> Figure:
    """One cell on held-out problems: shares, accuracy by format, attempts, entropy and KL."""
    figure = Figure(figsize=(9, 5.0), layout="constrained")
    (a, b), (c, d) = figure.subplots(2, 2)
    step = columns["step"]
    for name, colour in COLOUR.items():
        a.plot(step, columns[f"share_{name}"], color=colour, marker="o", markersize=3, label=name)
        if name != "other":
            b.plot(step, columns[f"accuracy_{name}"], color=colour, marker="o", markersize=3)
    a.set(title="Share of the format", ylim=(-0.02, 1.02))
    b.set(title="Accuracy within the format", ylim=(-0.02, 1.02))
    for i, name in enumerate(["greedy", *(k for k in columns if k.startswith(("pass_", "maj_")))]):
        label = name.replace("_", "@") if name != "greedy" else "pass@1, greedy"
        look = {"color": style.CYCLE[i % 7], "marker": style.MARKERS[i % 7], "linestyle": ("-", "--", ":")[i % 3]}
        c.plot(step, columns[name], **look, markersize=4, label=label)
    c.set(title="Attempts", ylim=(-0.02, 1.02), xlabel="step")
    for name, colour, label in (("entropy", style.TRAINED, "entropy"), ("kl", style.WIND, "KL to the base")):
        d.plot(step, columns[name], color=colour, marker="o", markersize=3, label=label)
    d.set(title="Of a token, temperature one", ylabel="nats", xlabel="step")
    for ax in (a, c, d):
        under(ax, ncols=4 if ax is a else 2, columnspacing=1)
    return figure


def compared(columns: dict) -> Figure:
    """Cells beside one another on held-out problems."""
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    deepest = max((k for k in columns if k.startswith("pass_")), key=lambda k: int(k.split("_")[1]))
    for ax, (name, title) in zip(
        figure.subplots(2, 2).flat,
        (("greedy", "pass@1, greedy"), (deepest, deepest.replace("_", "@")), ("entropy", "entropy of a token, nats"),
         ("kl", "KL of a token to the base, nats")),
    ):  # fmt: skip
        for i, cell in enumerate(dict.fromkeys(columns["cell"])):
            own = columns.where(cell=cell)
            look = {"color": style.CYCLE[i % 7], "linestyle": ("-", "--", ":")[i // 7 % 3], "linewidth": 1.2}
            ax.plot(own["step"], own[name], **look, label=named(cell))
        ax.set(title=title, xlabel="step")
    beneath(figure, 3, fontsize=7)
    return figure


def section(run: Run, built: dict) -> Markup:
    if "amplification_training" not in built or "amplification_cells" not in built:
        raise Missing("metrics.jsonl or summary.json has no finished cell")
    training, ends = built["amplification_training"], built["amplification_cells"]
    caption = (
        "What the model writes while it learns, at the temperature of training. The dotted line is the share of right "
        "answers, which is the reward."
    )
    out = embed((shares, training), "Formats over training", caption, "amplification_training")
    held = built["amplification_held_out"]
    several = len(ends["cell"]) > 1
    drawing = (compared if several else held_out, held)
    out += embed(
        drawing, "On held-out problems", "On problems whose questions were never trained on.", "amplification_held_out"
    )
    rows = []
    for i, name in enumerate(ends["cell"]):
        won = ends["winner"][i]
        pair = lambda k, i=i, show=share: f"{show(ends[f'{k}_before'][i])} \u2192 {show(ends[f'{k}_after'][i])}"
        about = named(name) or ends["algorithm"][i]
        entropy, kl = pair("entropy", show=num), num(ends["kl_after"][i], 3)
        rows.append((
            about, won, pair(f"share_{won}"), pair(f"accuracy_{won}"), pair("accuracy"), pair("greedy"),
            entropy, kl,
        ))  # fmt: skip
    heads = ("", "winner", "its share", "its accuracy", "accuracy", "greedy", "entropy", "KL")
    out += table(heads, rows, numeric=range(2, 8))
    about = (
        "The winner is the format with the largest share after training; arrows lead from before to after. Numbers:"
    )
    return out + note(f"{about} " + code("tables/amplification_cells.csv") + ".") + _seeds(run)


def _seeds(run: Run) -> Markup:
    """Means over seeds with intervals, where there are several."""
    rows = []
    for row in run.summary.get("over_seeds") or []:
        if row.get("seeds", 1) > 1:
            about = ", ".join(f"{k.removesuffix('_coef')} {row[k]}" for k in ("shape", "mixture", "kl_coef"))
            won = ", ".join(row["winners"])
            for name in ("winner_share", "winner_accuracy", "accuracy", "greedy"):
                pair = (_interval(row[f"{name}_{when}"]) for when in ("before", "after"))
                rows.append((about, won, name.replace("_", "'s "), *pair))
    if not rows:
        return Markup()
    heads = ("over seeds", "winners", "", "before", "after")
    return table(heads, rows, numeric=(3, 4)) + note("Mean and 95 % t interval over seeds.")


def _interval(found) -> str:
    mean, low, high = (number(found.get(k)) for k in ("mean", "low", "high"))
    return f"{num(mean)} [{num(low)}, {num(high)}]"


def answer(run: Run, built: dict) -> Answer:
    """Which format won, and whether it is the one that the base solves best."""
    if "amplification_training" not in built or "amplification_cells" not in built:
        raise Missing("no cell is finished")
    rows = built["amplification_cells"].rows()
    best = [max(FORMATS, key=lambda f: number(r[f"accuracy_{f}_before"])) for r in rows]  # noqa: B023
    wins = [r["winner"] for r in rows]
    won = max(dict.fromkeys(wins), key=wins.count)
    mine = [r for r in rows if r["winner"] == won]
    before, after = (mean([number(r[f"share_{won}_{when}"]) for r in mine]) for when in ("before", "after"))
    who = " and ".join(dict.fromkeys(NAMES.get(r["algorithm"], r["algorithm"]) for r in rows))
    same = sum(a == b for a, b in zip(best, wins))
    raised = f"{who} moved the share of the format \u201c{won}\u201d from {share(before)} to {share(after)}"
    if len(rows) == 1:
        solved = f"which is {'the' if same else 'not the'} format that the base solves best"
        said, verdict = f"{raised}, {solved}.", f"{won} won"
    else:
        said = (
            f"{raised} where it won, in {len(mine)} of {len(rows)} cells; the winner is the format that the base "
            f"solves best in {same} of {len(rows)}."
        )
        verdict = f"base's best format won in {same} of {len(rows)}"
    seeds = len({r["seed"] for r in rows})
    over = next((r for r in run.summary.get("over_seeds") or [] if r.get("seeds", 1) > 1), None)
    sure = "none: one seed"
    if over:
        ends = (number(over["winner_share_after"].get(k)) for k in ("mean", "low", "high"))
        sure = f"share of the winner after training {interval(*ends)} over seeds"
    drawing = (winners, built["amplification_training"])
    question = "Which of the formats in its pretraining does RL amplify?"
    title = "Share of every format among the answers while it learns"
    count = f"{seeds} seed{'s' * (seeds > 1)}, {len(rows)} cell{'s' * (len(rows) > 1)}"
    model = f"{rows[0]['shape']} decoder"
    return Answer(
        question, said, verdict=verdict, interval=sure, seeds=count, drawing=drawing, shows=title, model=model
    )


def winners(columns: dict) -> Figure:
    """Share of every format over training: thick the mean over cells, thin each cell."""
    figure = Figure(figsize=SIZE, layout="constrained")
    ax = figure.subplots()
    names, steps = [*dict.fromkeys(columns["cell"])], sorted(set(columns["step"]))
    for label, colour in COLOUR.items():
        for name in names if len(names) > 1 else ():
            own = columns.where(cell=name)
            ax.plot(own["step"], own[f"share_{label}"], color=colour, linewidth=0.8, alpha=0.5)
        means = [mean(columns.where(step=step)[f"share_{label}"]) for step in steps]
        ax.plot(steps, means, color=colour, linewidth=2.2, label=label)
    ax.set(title="Share of the answers", ylim=(-0.02, 1.02), xlabel="step of RL", ylabel="share")
    beneath(figure)
    return figure


SECTIONS = (("amplification", "What RL amplified", section),)
