"""Reward models in the report: accuracy per objective, what silencing neurons costs, overlap of the sets."""

from markupsafe import Markup
from matplotlib.figure import Figure

from welfare_jax.report import style
from welfare_jax.report.answer import SIZE, Answer
from welfare_jax.report.data import Run, dicts, number
from welfare_jax.report.markup import Missing, heading, interval, note, num, share, table
from welfare_jax.report.svg import beneath, embed, under
from welfare_jax.report.tables import Table

ACCURACY = ("model", "objective", "pairs", "mean", "low", "high", "n")
ABLATION = ("model", "score", "percent", "set", "draw", "neurons", "objective", "accuracy", "change", "low", "high")
OVERLAP = ("score", "percent", "a", "b", "neurons", "tied", "shared", "jaccard", "jaccard_by_chance")
COLOURS = (style.REST, style.PATH_BASELINE)
SCORE = {"activation": "mean activation", "change": "squared change from the base"}
SETS = ("top_a", "top_b", "random_top", "only_a", "only_b", "random_only", "shared", "random_shared")


def tables(run: Run) -> dict:
    """`analysis.json` of a run of reward models as tables {name: {column: list}}."""

    of = lambda name, columns: Table.of_dicts(dicts(run.analysis.get(name)), columns)
    found = {
        "reward_accuracy": of("accuracy", ACCURACY),
        "reward_ablation": of("ablation", ABLATION),
        "reward_overlap": of("overlap", OVERLAP),
        "reward_training": Table.of_dicts(run.metrics, ("step", "run", "run_step", "loss", "accuracy")),
    }
    return {name: table for name, table in found.items() if table}


def named(run: Run, name: str) -> str:
    """A set's name with the objectives in place of a and b."""
    objectives = run.analysis.get("objectives") or ["a", "b"]
    kind, _, which = name.partition("_")
    text = {"random": f"random, as many as {which}", "shared": "shared"}.get(kind, kind)
    return f"{kind} {objectives['ab'.index(which)]}" if which in ("a", "b") else text


def pooled(rows) -> dict:
    """A set's row; of several random draws their mean, with the lowest and highest draw for an interval."""
    if len(rows) == 1:
        return rows[0]
    changes = [number(r["change"]) for r in rows]
    mean = lambda name: sum(number(r[name]) for r in rows) / len(rows)
    return rows[0] | {
        "change": mean("change"),
        "accuracy": mean("accuracy"),
        "low": min(changes),
        "high": max(changes),
    }


def ablation(run: Run, columns: dict) -> Figure:
    """A row a score, a column a model: change of both objectives' accuracy with each set of neurons silenced."""
    rows = [r for r in columns.rows(percent=run.analysis.get("percent")) if r["set"] in SETS]
    models, scores = ([*dict.fromkeys(r[k] for r in rows)] for k in ("model", "score"))
    sets = [s for s in SETS if any(r["set"] == s for r in rows)]
    objectives = list(dict.fromkeys(r["objective"] for r in rows))
    figure = Figure(figsize=(9, 0.6 + 2.7 * len(scores)), layout="constrained")
    axes = figure.subplots(len(scores), len(models), squeeze=False, sharey=True, sharex=True)
    for i, score in enumerate(scores):
        for k, model in enumerate(models):
            ax = axes[i][k]
            for j, objective in enumerate(objectives):
                found = [
                    pooled([r for r in rows if (r["score"], r["model"], r["set"], r["objective"])
                            == (score, model, s, objective)])
                    for s in sets
                ]  # fmt: skip
                y = [n + (j - 0.5) * 0.3 for n in range(len(sets))]
                _points(ax, y, found, COLOURS[j % 2], f"on {objective} pairs")
            ax.axvline(0, color=style.CHANCE, linewidth=0.8)
            ax.set_title(f"{model} model\n{SCORE.get(score, score)}", fontsize=8.5)
            ax.set_yticks(range(len(sets)), [named(run, s) for s in sets])
            if i + 1 == len(scores):
                ax.set_xlabel("change of accuracy, points")
    axes[0][0].invert_yaxis()
    beneath(figure)
    return figure


def _points(ax, y, rows, colour, label):
    x = [100 * number(r["change"]) for r in rows]
    for where, r in zip(y, rows, strict=True):
        ax.plot([100 * number(r["low"]), 100 * number(r["high"])], [where, where], color=colour, linewidth=1.2)
    ax.plot(x, y, "o", color=colour, markersize=4, label=label)


def sweep(run: Run, columns: dict, overlap: dict) -> Figure:
    """Accuracy over the share of the model's own top neurons that is silenced; at the right, overlap of the sets."""
    rows = [r for r in columns.rows() if r["set"] in ("own", "random")]
    models, objectives = ([*dict.fromkeys(r[k] for r in rows)] for k in ("model", "objective"))
    figure = Figure(figsize=(9, 0.6 + 2.4 * len(objectives)), layout="constrained")
    axes = figure.subplots(len(objectives), len(models) + 1, squeeze=False)
    looks = {"activation": (style.REST, "-"), "change": (style.PATH_BASELINE, "-"), "none": (style.UNTRAINED, "--")}
    for i, objective in enumerate(objectives):
        for k, model in enumerate(models):
            ax = axes[i][k]
            for score, (colour, line) in looks.items():
                mine = [r for r in rows if (r["objective"], r["model"], r["score"]) == (objective, model, score)]
                at = sorted({r["percent"] for r in mine})
                y = [pooled([r for r in mine if r["percent"] == p])["accuracy"] for p in at]
                label = {"none": "random neurons"}.get(score, f"own, {SCORE.get(score)}")
                ax.plot(at, y, line, color=colour, marker="o", markersize=3, label=label)
            ax.set(ylim=(-0.02, 1.02), title=f"{model} model")
            ax.set_ylabel(f"accuracy on {objective}" if k == 0 else "")
            ax.set_xlabel("per cent silenced" if i + 1 == len(objectives) else "")
    for ax, score in zip([row[-1] for row in axes], SCORE):
        _jaccard(ax, overlap.rows(score=score))
        ax.set_title(f"Overlap, {SCORE[score]}", fontsize=6.5)
    beneath(figure, 3)
    return figure


def _jaccard(ax, rows):
    for k, pair in enumerate(dict.fromkeys((r["a"], r["b"]) for r in rows)):
        mine = [r for r in rows if (r["a"], r["b"]) == pair]
        x, label = [r["percent"] for r in mine], " and ".join(pair)
        ax.plot(
            x, [number(r["jaccard"]) for r in mine], marker="o", markersize=3, color=style.CYCLE[k % 7], label=label
        )
        if k == 0:
            ax.plot(x, [number(r["jaccard_by_chance"]) for r in mine], ":", color=style.UNTRAINED, label="by chance")
    ax.set(ylim=(-0.02, 1.02), xlabel="per cent")
    under(ax, fontsize=6.5)


def section(run: Run, built: dict) -> Markup:
    """Accuracy, ablations, sweep and overlap of a run of reward models."""
    if "reward_accuracy" not in built:
        raise Missing("analysis.json has no accuracy of reward models")
    out = _accuracy(built["reward_accuracy"])
    if "reward_ablation" in built:
        out += embed(
            (lambda t: ablation(run, t), built["reward_ablation"]),
            "What silencing each set of neurons costs",
            f"The top {num(run.analysis.get('percent'), 0)} per cent of the neurons of each single model, what they "
            "have alone and together, and random sets of the same sizes, silenced in each model. Bars: 95 % intervals "
            "of the paired differences; of random sets, the lowest and highest draw.",
            "reward_ablation",
        )
    if {"reward_ablation", "reward_overlap"} <= built.keys():
        out += embed(
            (lambda t, o: sweep(run, t, o), built["reward_ablation"], built["reward_overlap"]),
            "How much can be silenced, and how far the sets overlap",
            "Each model's own top neurons, silenced, against as many random ones. At the right, the Jaccard overlap "
            "of two models' sets and what two random sets would share.",
            "reward_overlap",
        )
    return out + _ablation(run, built.get("reward_ablation"))


def _accuracy(columns) -> Markup:
    shown = [
        (r["model"], r["objective"], r["pairs"], share(r["mean"]),
         f"{share(r['low'])} to {share(r['high'])}", num(r["n"], 0))
        for r in columns.rows()
    ]  # fmt: skip
    head = ("model trained on", "accuracy on", "pairs", "accuracy", "95 % interval", "n")
    about = note(
        "Share of held-out pairs in which the chosen answer has the higher reward; a draw counts half. "
        "Pairs conflict where the other objective prefers the answer that this one rejects."
    )
    return heading("Accuracy") + about + table(head, shown, numeric=(3, 4, 5))


def _ablation(run, columns) -> Markup:
    if not columns:
        return Markup()
    groups = {}
    for r in columns.rows():
        groups.setdefault((r["model"], r["score"], r["percent"], r["set"], r["objective"]), []).append(r)
    shown = []
    for (model, score, percent, name, objective), rows in groups.items():
        r = pooled(rows)
        points = [num(100 * number(r[k]), 1, sign=True) for k in ("change", "low", "high")]
        shown.append((model, SCORE.get(score, ""), num(percent, 0), named(run, name),
                      num(r["neurons"], 0), objective, share(r["accuracy"]), *points))  # fmt: skip
    head = ("model", "score", "%", "silenced", "neurons", "accuracy on", "accuracy", "change, points", "low", "high")
    return heading("Every ablation") + table(head, shown, numeric=(2, 4, 6, 7, 8, 9), css="tall")


def answer(run: Run, built: dict) -> Answer:
    """What silencing its top neurons costs each single model, beside as many random ones."""
    pairs = _own_and_random(run, built.get("reward_ablation"))
    if not pairs:
        raise Missing("nothing was silenced in a single model yet")
    points = lambda r: 100 * number(r["change"])
    cost = lambda x: f"costs the {{}} model {num(-x, 1)}" if x <= 0 else f"gains the {{}} model {num(x, 1)}"
    told = [
        f"{cost(points(own)).format(name)} points of accuracy, {num(-points(random), 1)} where as many random ones are"
        for name, own, random in pairs
    ]
    percent = num(number(run.analysis.get("percent")), 0)
    matter = [n for n, own, random in pairs if own["high"] < 0 and own["change"] < random["low"]]
    _, own, _ = pairs[0]
    ends = interval(*(100 * number(own[k]) for k in ("change", "low", "high")), digits=1, sign=True)
    return Answer(
        "What do conflicting reward models rest on?",
        f"Silencing the {percent} % of its neurons with the highest activation {'; it '.join(told)}.",
        verdict=f"own neurons matter in {len(matter)} of {len(pairs)}",
        interval=f"{pairs[0][0]} model, points: {ends} over pairs",
        seeds="1 seed", drawing=(own_and_random, pairs), shows="Change of accuracy with neurons silenced",
    )  # fmt: skip


def _own_and_random(run: Run, columns) -> list:
    """(objective, the row of its model's own top neurons, that of as many random ones), by activation."""
    found = []
    for which, name in zip("ab", run.analysis.get("objectives") or ()):
        rows = columns.rows(percent=run.analysis.get("percent"), model=name, objective=name) if columns else []
        own = [r for r in rows if (r["set"], r["score"]) == (f"top_{which}", "activation")]
        random = [r for r in rows if (r["set"], r["score"]) == ("random_top", "activation")]
        if own and random:
            found.append((name, own[0], pooled(random)))
    return found


def own_and_random(pairs) -> Figure:
    """A line a model and set: change of its accuracy on its own pairs."""
    figure = Figure(figsize=(SIZE[0], 1.2 + 0.55 * len(pairs)), layout="constrained")
    ax = figure.subplots()
    for k, (label, colour) in enumerate(
        (("its own top neurons", style.MOLD), ("as many random ones", style.UNTRAINED))
    ):
        _points(ax, [i + 0.24 * (k - 0.5) for i in range(len(pairs))], [p[1 + k] for p in pairs], colour, label)
    ax.axvline(0, color=style.CHANCE, linewidth=0.8)
    ax.set_yticks(range(len(pairs)), [f"{p[0]} model" for p in pairs])
    ax.set(ylim=(len(pairs) - 0.5, -0.5), xlabel="change of accuracy on its own pairs, points")
    beneath(figure)
    return figure


SECTIONS = (("reward_models", "Reward models and their neurons", section),)
