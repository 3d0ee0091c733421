"""The imitation sweep in the report: task metric against diversity, and what the implied rewards are worth."""

from markupsafe import Markup
from matplotlib.figure import Figure

from welfare_jax.report import style
from welfare_jax.report.answer import SIZE, Answer
from welfare_jax.report.data import Run, dicts, number
from welfare_jax.report.markup import Missing, heading, interval, num, table
from welfare_jax.report.svg import beneath, embed
from welfare_jax.report.tables import Table

QUALITY = ("task", "lambda", "temperature", "metric", "metric_low", "metric_high", "self_bleu", "self_bleu_low",
           "self_bleu_high", "entropy", "entropy_low", "entropy_high", "prompts", "samples")  # fmt: skip
RANKS = ("task", "lambda", "temperature", "correlation", "within", "within_low", "within_high", "prompts", "samples")
AXES = {"self_bleu": "Self-BLEU", "entropy": "entropy of a token, nats"}


def tables(run: Run) -> dict:
    """`analysis.json` of an imitation sweep as tables {name: {column: list}}."""
    out = {}
    for name, columns in (("quality", QUALITY), ("ranks", RANKS)):
        out[f"imitation_{name}"] = Table.of_dicts(dicts(run.analysis.get(name)), columns)
    names = ("step", "run", "run_step", "loss", "log_likelihood", "entropy", "implied_reward")
    out["imitation_training"] = Table.of_dicts(run.metrics, names)
    return {name: table for name, table in out.items() if table}


def named(lam) -> str:
    return "maximum likelihood" if lam == 0 else f"\u03bb = {lam:g}"


def trade_off(run: Run, columns: dict, ranks: dict) -> Figure:
    """A row a task: metric against Self-BLEU and against entropy, a line a lambda, a point a temperature; at the
    right the rank correlation of implied rewards with the task's reward."""
    rows = columns.rows()
    tasks, lambdas = ([*dict.fromkeys(r[k] for r in rows)] for k in ("task", "lambda"))
    figure = Figure(figsize=(9, 0.5 + 2.9 * len(tasks)), layout="constrained")
    axes = figure.subplots(len(tasks), 3, squeeze=False, gridspec_kw={"width_ratios": (3, 3, 2)})
    for i, task in enumerate(tasks):
        for ax, (name, label) in zip(axes[i], AXES.items()):
            for k, lam in enumerate(lambdas):
                mine = sorted((r for r in rows if (r["task"], r["lambda"]) == (task, lam)),
                              key=lambda r: r["temperature"])  # fmt: skip
                _line(ax, mine, name, k, named(lam))
            ax.set(xlabel=label, ylabel=(run.analysis.get("metrics") or {}).get(task, "task metric"))
            ax.set_title(f"{task}: quality against {label.split(',')[0]}", fontsize=8.5)
        _ranks(axes[i][2], ranks.rows(task=task), lambdas)
    beneath(figure)
    return figure


def _line(ax, rows, name, k, label):
    """Line number k of a panel."""
    colour = style.CYCLE[k % 7]
    x, y = ([number(r[k]) for r in rows] for k in (name, "metric"))
    for r, a, b in zip(rows, x, y):
        ax.plot([a, a], [number(r["metric_low"]), number(r["metric_high"])], color=colour, alpha=0.35, linewidth=1)
        ax.plot([number(r[f"{name}_low"]), number(r[f"{name}_high"])], [b, b], color=colour, alpha=0.35, linewidth=1)
        ax.annotate(
            f"{r['temperature']:g}", (a, b), fontsize=6, color=colour, xytext=(2, 2), textcoords="offset points"
        )
    ax.plot(x, y, marker=style.MARKERS[k % 7], markersize=4.5, color=colour, label=label)


def _ranks(ax, rows, lambdas):
    at = {lam: k for k, lam in enumerate(lambdas)}
    for r in rows:
        k = at[r["lambda"]]
        ax.bar(k - 0.2, number(r["correlation"]), 0.36, color=style.CYCLE[k % 7])
        ax.bar(k + 0.2, number(r["within"]), 0.36, color=style.CYCLE[k % 7], alpha=0.45)
        ax.plot([k + 0.2] * 2, [number(r["within_low"]), number(r["within_high"])], color=style.TRAINED, linewidth=1)
    ax.axhline(0, color=style.CHANCE, linewidth=0.8)
    ax.set_xticks(range(len(lambdas)), [f"{lam:g}" for lam in lambdas])
    ax.set(xlabel="\u03bb", ylabel="Spearman")
    ax.set_title("implied rewards and the task's", fontsize=8.5)


def section(run: Run, built: dict) -> Markup:
    """The figure and the tables of an imitation sweep."""
    if "imitation_quality" not in built:
        raise Missing("analysis.json has no samples over lambda and temperature")
    quality, ranks = built["imitation_quality"], built.get("imitation_ranks", Table({}))
    out = embed(
        (lambda q, r: trade_off(run, q, r), quality, ranks),
        "Quality, diversity, and what implied rewards are worth",
        "Each line is a model, each point a sampling temperature (its number beside it) with 95 % intervals over "
        "prompts. Lower Self-BLEU and higher entropy mean more diverse samples: a line further to the upper left of "
        "the first panel, or to the upper right of the second, gives more of both. At the right, Spearman's rank "
        "correlation of summed implied rewards with the task's reward, all models on the same samples: dark over all "
        "samples, pale the mean over prompts of the correlation among one prompt's samples.",
        "imitation_quality",
    )
    return out + _quality_table(quality) + _rank_table(ranks)


def _quality_table(columns) -> Markup:
    shown = []
    for r in columns.rows():
        numbers = [f"{num(r[k], 2)} ({num(r[f'{k}_low'], 2)} to {num(r[f'{k}_high'], 2)})"
                   for k in ("metric", "self_bleu", "entropy")]  # fmt: skip
        shown.append((r["task"], named(r["lambda"]), num(r["temperature"], 1), *numbers))
    head = ("task", "model", "temperature", "task metric", "Self-BLEU", "entropy, nats")
    return heading("Quality and diversity") + table(head, shown, numeric=(2, 3, 4, 5), css="tall")


def _rank_table(columns) -> Markup:
    shown = [
        (r["task"], named(r["lambda"]), num(r["correlation"], 2, sign=True), num(r["samples"], 0),
         f"{num(r['within'], 2, sign=True)} ({num(r['within_low'], 2)} to {num(r['within_high'], 2)})",
         num(r["prompts"], 0))
        for r in columns.rows()
    ]  # fmt: skip
    head = ("task", "model", "over all samples", "samples", "within a prompt", "prompts in which both vary")
    title = heading("Rank correlation of implied rewards with the task's reward")
    return title + table(head, shown, numeric=(2, 3, 4, 5)) if shown else Markup()


def answer(run: Run, built: dict) -> Answer:
    """In how many settings implied rewards do better than likelihood, by intervals that lie apart."""
    if "imitation_quality" not in built:
        raise Missing("no samples over lambda and temperature are there")
    rows = built["imitation_quality"].rows()
    plain = {(r["task"], r["temperature"]): r for r in rows if r["lambda"] == 0}
    pairs = [(r, plain[key]) for r in rows if r["lambda"] and (key := (r["task"], r["temperature"])) in plain]
    if not pairs:
        raise Missing("there is no maximum likelihood beside the other lambdas")
    better = [
        r for r, ml in pairs if r["metric_low"] > ml["metric_high"] and r["self_bleu_low"] <= ml["self_bleu_high"]
    ]
    worse = [r for r, ml in pairs if r["metric_high"] < ml["metric_low"]]
    tasks = " and ".join(dict.fromkeys(r["task"] for r, _ in pairs))
    said = (
        f"In {len(better)} of {len(pairs)} settings ({tasks}, each lambda and temperature) imitation with implied "
        f"rewards does better than maximum likelihood without being less diverse, in {len(worse)} it does worse."
    )
    verdict = f"gain in {len(better)} of {len(pairs)}" if better else "no gain"
    shown, ml = max(pairs, key=lambda pair: number(pair[0]["metric"]) - number(pair[1]["metric"]))
    ends = [interval(*(number(r[k]) for k in ("metric", "metric_low", "metric_high"))) for r in (shown, ml)]
    metric = (run.analysis.get("metrics") or {}).get(shown["task"], "task metric")
    sure = (
        f"{shown['task']}, {metric}, temperature {shown['temperature']:g}, where the two differ most: "
        f"{named(shown['lambda'])} {ends[0]}, maximum likelihood {ends[1]}"
    )
    return Answer(
        "Is imitation with implied rewards better than likelihood?", said, verdict=verdict, interval=sure,
        seeds="1 seed", drawing=(lambda columns: quality(run, columns), built["imitation_quality"]),
        shows="Quality against diversity, by task",
    )  # fmt: skip


def quality(run: Run, columns: dict) -> Figure:
    """A panel a task: metric against Self-BLEU, a line a lambda."""
    rows = columns.rows()
    tasks, lambdas = ([*dict.fromkeys(r[k] for r in rows)] for k in ("task", "lambda"))
    figure = Figure(figsize=SIZE, layout="constrained")
    for ax, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks):
        for k, lam in enumerate(lambdas):
            mine = [r for r in rows if (r["task"], r["lambda"]) == (task, lam)]
            _line(ax, sorted(mine, key=lambda r: r["temperature"]), "self_bleu", k, named(lam))
        label = (run.analysis.get("metrics") or {}).get(task, "task metric")
        ax.set(title=task, xlabel="Self-BLEU (left: more diverse)", ylabel=label)
    beneath(figure, 2)
    return figure


SECTIONS = (("imitation", "Imitation as inverse RL", section),)
