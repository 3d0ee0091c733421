"""Pretraining in the report: loss on what is learnt and, by source, on what is held out."""

from markupsafe import Markup
from matplotlib.figure import Figure

from welfare_jax.report import style
from welfare_jax.report.answer import SIZE, Answer
from welfare_jax.report.data import Run, finite, mean, number
from welfare_jax.report.markup import Missing, note, num, table
from welfare_jax.report.svg import beneath, embed
from welfare_jax.report.tables import Table

COLOURS = style.CYCLE[:-1]


def tables(run: Run) -> dict:
    """`metrics.jsonl` of a pretraining run as one table."""
    if not run.metrics:
        return {}
    first = ("loss", "lr", "grad_norm", "packed", "tokens_per_s")
    rest = [k for k in dict.fromkeys(k for row in run.metrics for k in row) if k not in (*first, "step", "seconds")]
    names = (*first, *(k for k in rest if k != "tokens"))
    return {"pretraining": Table({n: [number(row.get(n)) for row in run.metrics] for n in ("step", *names)})}


def losses(columns: dict, size=(9, 3.6)) -> Figure:
    """Loss of every step, and of held-out documents by source."""
    figure = Figure(figsize=size, layout="constrained")
    ax = figure.subplots()
    ax.plot(columns["step"], columns["loss"], color=style.UNTRAINED, linewidth=1, label="trained on, mixture")
    for i, name in enumerate(n for n in columns if n.startswith("nll_")):
        points = [(s, v) for s, v in zip(columns["step"], columns[name]) if v == v]
        look = {"color": COLOURS[i % len(COLOURS)], "marker": style.MARKERS[i % 7], "markersize": 4}
        ax.plot(*zip(*points), **look, label=f"held out, {name.removeprefix('nll_')}")
    ax.set(title="Negative log-likelihood of a token", ylabel="nats", xlabel="step", yscale="log")
    beneath(figure, max(2, int(size[0] / 2.4)))
    return figure


def section(run: Run, built: dict) -> Markup:
    if "pretraining" not in built:
        raise Missing("metrics.jsonl has no steps")
    columns, summary = built["pretraining"], run.summary
    size = summary.get("parameters")
    facts = f"{size:,} parameters, {summary['tokens']:,.0f} tokens in {summary['steps']} steps" if size else ""
    caption = "Held-out documents come from the same sources and are never trained on; what users say does not count."
    ends = [(n, [v for v in columns[n] if v == v]) for n in columns if n not in ("step", "lr", "packed")]
    rows = [(n.replace("_", " "), num(v[0], 3), num(v[-1], 3)) for n, v in ends if v]
    return (
        note(facts)
        + embed((losses, columns), "Loss over training", caption, "pretraining")
        + table(("", "first", "last"), rows, numeric=(1, 2))
    )


def answer(run: Run, built: dict) -> Answer:
    """How far the loss fell, on what is held out where that was measured."""
    if "pretraining" not in built:
        raise Missing("metrics.jsonl has no steps")
    columns = built["pretraining"]
    held = [finite(columns[n]) for n in columns if n.startswith("nll_")]
    held = [v for v in held if v] or [finite(columns["loss"])]
    if not held[0]:
        raise Missing("metrics.jsonl has no loss")
    first, last = (mean([v[k] for v in held]) for k in (0, -1))
    on = "held-out documents" if any(n.startswith("nll_") for n in columns) else "what it is trained on"
    size, tokens = number(run.summary.get("parameters")), number(run.summary.get("tokens"))
    read = f" and {tokens:,.0f} tokens" if tokens == tokens else ""
    steps = columns["step"][-1] - columns["step"][0] + 1
    said = f"Loss on {on} went from {num(first)} to {num(last)} nats a token in {steps:,.0f} steps{read}."
    verdict = f"{'fell' if last < first else 'rose'} by {num(abs(last - first))} nats"
    return Answer(
        "What does a decoder learn from scratch?", said, verdict=verdict, interval="none: one run", seeds="1 run",
        drawing=(losses, columns, SIZE), shows="Loss over training",
        model=f"{size:,.0f} parameters, from scratch" if size == size else "from scratch",
    )  # fmt: skip


SECTIONS = (("pretraining", "Pretraining", section),)
