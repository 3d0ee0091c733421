"""Pretraining in the report: loss on what is learnt and, by source, on what is held out."""

from markupsafe import Markup
from matplotlib.figure import Figure

from welfare_jax.report import style
from welfare_jax.report.data import Run, number
from welfare_jax.report.markup import Missing, note, num, table
from welfare_jax.report.svg import embed
from welfare_jax.report.tables import Table

COLOURS = (style.REST, "#56b4e9", "#cc79a7", style.GOLD, style.MOLD, style.PATH_BASELINE)


def tables(run: Run) -> dict:
    """`metrics.jsonl` of a pretraining run as one table."""
    if not run.metrics:
        return {}
    first = ("loss", "lr", "grad_norm", "packed", "tokens_per_s")
    rest = [k for k in dict.fromkeys(k for row in run.metrics for k in row) if k not in (*first, "step", "seconds")]
    names = (*first, *(k for k in rest if k != "tokens"))
    return {"pretraining": Table({n: [number(row.get(n)) for row in run.metrics] for n in ("step", *names)})}


def losses(columns: dict) -> Figure:
    """Loss of every step, and of held-out documents by source."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    ax = figure.subplots()
    ax.plot(columns["step"], columns["loss"], color=style.UNTRAINED, linewidth=1, label="trained on, mixture")
    for i, name in enumerate(n for n in columns if n.startswith("nll_")):
        points = [(s, v) for s, v in zip(columns["step"], columns[name]) if v == v]
        look = {"color": COLOURS[i % len(COLOURS)], "marker": "o", "markersize": 3}
        ax.plot(*zip(*points), **look, label=f"held out, {name.removeprefix('nll_')}")
    ax.set(title="Negative log-likelihood of a token", ylabel="nats", xlabel="step", yscale="log")
    ax.legend()
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
        + embed((losses, columns), caption, "pretraining")
        + table(("", "first", "last"), rows, numeric=(1, 2))
    )


SECTIONS = (("pretraining", "Pretraining", section),)
