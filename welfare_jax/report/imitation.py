"""The imitation sweep in the report: task metric against diversity, and what the implied rewards are worth."""

import math

from matplotlib.figure import Figure

from welfare_jax.report.data import Run, dicts, number, rows_of
from welfare_jax.report.markup import Missing, esc, num, table
from welfare_jax.report.svg import embed

QUALITY = ("task", "lambda", "temperature", "metric", "metric_low", "metric_high", "self_bleu", "self_bleu_low",
           "self_bleu_high", "entropy", "entropy_low", "entropy_high", "prompts", "samples")  # fmt: skip
RANKS = ("task", "lambda", "temperature", "correlation", "within", "within_low", "within_high", "prompts", "samples")
AXES = {"self_bleu": "Self-BLEU", "entropy": "entropy of a token, nats"}


def tables(run: Run) -> dict:
    """`analysis.json` of an imitation sweep as tables {name: {column: list}}."""
    if run.config.get("job") != "imitation":
        return {}
    out = {}
    for name, columns in (("quality", QUALITY), ("ranks", RANKS)):
        rows = dicts(run.analysis.get(name))
        out[f"imitation_{name}"] = {c: [math.nan if r.get(c) is None else r[c] for r in rows] for c in columns}
    names = ("step", "run", "run_step", "loss", "log_likelihood", "entropy", "implied_reward")
    out["imitation_training"] = {n: [m.get(n, math.nan) for m in run.metrics] for n in names}
    return {name: t for name, t in out.items() if next(iter(t.values()), None)}


def named(lam) -> str:
    return "maximum likelihood" if lam == 0 else f"\u03bb = {lam:g}"


def trade_off(run: Run, columns: dict, ranks: dict) -> Figure:
    """A row a task: metric against Self-BLEU and against entropy, a line a lambda, a point a temperature; at the
    right the rank correlation of implied rewards with the task's reward."""
    rows = rows_of(columns)
    tasks, lambdas = ([*dict.fromkeys(r[k] for r in rows)] for k in ("task", "lambda"))
    figure = Figure(figsize=(9, 0.5 + 2.9 * len(tasks)), layout="constrained")
    axes = figure.subplots(len(tasks), 3, squeeze=False, gridspec_kw={"width_ratios": (3, 3, 2)})
    for i, task in enumerate(tasks):
        for ax, (name, label) in zip(axes[i], AXES.items()):
            for k, lam in enumerate(lambdas):
                mine = sorted((r for r in rows if (r["task"], r["lambda"]) == (task, lam)),
                              key=lambda r: r["temperature"])  # fmt: skip
                _line(ax, mine, name, f"C{k}", named(lam))
            ax.set(xlabel=label, ylabel=(run.analysis.get("metrics") or {}).get(task, "task metric"))
            ax.set_title(f"{task}: quality against {label.split(',')[0]}", fontsize=8.5)
        _ranks(axes[i][2], rows_of(ranks, task=task), lambdas)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _line(ax, rows, name, colour, label):
    x, y = ([number(r[k]) for r in rows] for k in (name, "metric"))
    for r, a, b in zip(rows, x, y):
        ax.plot([a, a], [number(r["metric_low"]), number(r["metric_high"])], color=colour, alpha=0.35, linewidth=1)
        ax.plot([number(r[f"{name}_low"]), number(r[f"{name}_high"])], [b, b], color=colour, alpha=0.35, linewidth=1)
        ax.annotate(
            f"{r['temperature']:g}", (a, b), fontsize=6, color=colour, xytext=(2, 2), textcoords="offset points"
        )
    ax.plot(x, y, marker="o", markersize=3.5, color=colour, label=label)


def _ranks(ax, rows, lambdas):
    at = {lam: k for k, lam in enumerate(lambdas)}
    for r in rows:
        k = at[r["lambda"]]
        ax.bar(k - 0.2, number(r["correlation"]), 0.36, color=f"C{k}")
        ax.bar(k + 0.2, number(r["within"]), 0.36, color=f"C{k}", alpha=0.45)
        ax.plot([k + 0.2] * 2, [number(r["within_low"]), number(r["within_high"])], color="#15202b", linewidth=1)
    ax.axhline(0, color="#b5bcc2", linewidth=0.8)
    ax.set_xticks(range(len(lambdas)), [f"{lam:g}" for lam in lambdas])
    ax.set(xlabel="\u03bb", ylabel="Spearman")
    ax.set_title("implied rewards and the task's", fontsize=8.5)


def section(run: Run, built: dict) -> str:
    """The figure and the tables of an imitation sweep."""
    if "imitation_quality" not in built:
        raise Missing("analysis.json has no samples over lambda and temperature")
    quality, ranks = built["imitation_quality"], built.get("imitation_ranks", {})
    out = embed(
        (lambda q, r: trade_off(run, q, r), quality, ranks),
        "Each line is a model, each point a sampling temperature (its number beside it) with 95 % intervals over "
        "prompts. Lower Self-BLEU and higher entropy mean more diverse samples: a line further to the upper left of "
        "the first panel, or to the upper right of the second, gives more of both. At the right, Spearman's rank "
        "correlation of summed implied rewards with the task's reward, all models on the same samples: dark over all "
        "samples, pale the mean over prompts of the correlation among one prompt's samples.",
        "imitation_quality",
    )
    return out + _quality_table(quality) + _rank_table(ranks)


def _quality_table(columns) -> str:
    shown = []
    for r in rows_of(columns):
        numbers = [f"{num(r[k], 2)} ({num(r[f'{k}_low'], 2)} to {num(r[f'{k}_high'], 2)})"
                   for k in ("metric", "self_bleu", "entropy")]  # fmt: skip
        shown.append((esc(r["task"]), esc(named(r["lambda"])), num(r["temperature"], 1), *numbers))
    head = ("task", "model", "temperature", "task metric", "Self-BLEU", "entropy, nats")
    return "<h3>Quality and diversity</h3>" + table(head, shown, numeric=(2, 3, 4, 5), css="tall")


def _rank_table(columns) -> str:
    shown = [
        (esc(r["task"]), esc(named(r["lambda"])), num(r["correlation"], 2, sign=True), num(r["samples"], 0),
         f"{num(r['within'], 2, sign=True)} ({num(r['within_low'], 2)} to {num(r['within_high'], 2)})",
         num(r["prompts"], 0))
        for r in rows_of(columns)
    ]  # fmt: skip
    head = ("task", "model", "over all samples", "samples", "within a prompt", "prompts in which both vary")
    title = "<h3>Rank correlation of implied rewards with the task's reward</h3>"
    return title + table(head, shown, numeric=(2, 3, 4, 5)) if shown else ""
