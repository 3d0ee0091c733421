"""The sections of the main job's report: each takes the run and its tables, and gives `Markup` or raises `Missing`."""

from markupsafe import Markup

from welfare_jax.experiments.axis import axes_figures, figures, headline
from welfare_jax.experiments.axis.answer import answer as answer
from welfare_jax.experiments.axis.answer import steering_layer
from welfare_jax.experiments.axis.tables import tables as tables
from welfare_jax.experiments.axis.texts import lens, samples
from welfare_jax.experiments.evals import panels
from welfare_jax.experiments.evals import report as evals
from welfare_jax.report import replay
from welfare_jax.report.data import Run, dicts, finite, number
from welfare_jax.report.markup import (
    Missing,
    cards,
    details,
    heading,
    joined,
    missing,
    need,
    note,
    num,
    paragraph,
    share,
    table,
)
from welfare_jax.report.svg import embed


def overview(run: Run, tables: dict) -> Markup:
    """What ran, the key numbers as cards, and the plain-language paragraphs."""
    words = headline.paragraphs(run, tables)
    if not words and not run.summary:
        raise Missing("neither metrics.jsonl nor summary.json nor analysis.json holds results")
    boxes = []
    for name, label, show in (
        ("reward", "reward per episode, first \u2192 last five steps", lambda v: num(v, 1)),
        ("gold_taken", "of chances: Gold taken, first \u2192 last five steps", share),
        ("mold_avoided", "of chances: Mold avoided, first \u2192 last five steps", share),
    ):
        boxes.append((headline.endpoints(run, name), label, show, headline.scatter(run, name), "steps"))
    for base, (untrained, trained, _) in headline.cosines(tables).items():
        label = f"mean cos(v_mold, v_gold) {headline.NAMES[base]}, untrained \u2192 trained"
        show = lambda v: num(v, sign=True)
        boxes.append(((untrained, trained), label, show, headline.overall(tables, base), "walks"))
    shown = [
        (f"{show(a)} \u2192 {show(b)}", label, _range(show, ends, over))
        for (a, b), label, show, ends, over in boxes if finite((a, b))
    ]  # fmt: skip
    lacking = [line for line in run.notes if not (_alone(run) and line.startswith("metrics.jsonl"))]
    notes = [missing(f"The run is not complete: {'; '.join(lacking)}.")] if lacking else []
    return joined([*notes, note(_facts(run)), cards(shown), *map(paragraph, words)])


def _range(show, ends, over: str) -> str:
    known = len(finite(ends)) == 2
    return f"change, 95 % over {over}: {show(ends[0])} to {show(ends[1])}" if known else "no interval"


def _alone(run: Run) -> bool:
    """Whether this is the analysis alone: nothing was trained here, and nothing is missing for that."""
    return run.config.get("job") == "axes"


def trained_here(draw):
    """A section about training, which has no place on the page of an analysis alone."""
    return lambda run, tables: "" if _alone(run) else draw(run, tables)


def _facts(run) -> str:
    """Model, device, steps and time, as far as known."""
    model = run.summary.get("model") or run.config.get("model")
    seconds = run.summary.get("seconds")
    total = sum(finite(map(number, seconds.values()))) if isinstance(seconds, dict) else number(seconds)
    facts = [f"Model {model}" if isinstance(model, str) else "", str(run.summary.get("device") or "")]
    facts += [f"{len(run.metrics)} training steps" if run.metrics else "", _duration(total) if total > 0 else ""]
    return " \u00b7 ".join(filter(None, facts))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def of_one_model(draw):
    """A section about one model's vectors: where several were trained side by side, each has it in its own report."""
    return lambda run, tables: (
        "" if "organisms" in tables and run.analysis.keys() <= {"training"} else draw(run, tables)
    )


def reward(run: Run, tables: dict) -> Markup:
    """The reward curve, and one of each organism where several were trained side by side."""
    columns = need(tables, "reward", "metrics.jsonl has no reward")
    main = _baselines(run) + embed(
        (figures.reward, columns),
        "Reward, Gold and Mold over training",
        "Up is better for the reward. Below it, the tiles the player entered per episode, on average: learning shows "
        "as more Gold and less Mold.",
        "reward",
    )
    return main + (_organisms(run, tables["organisms"]) if "organisms" in tables else Markup())


def _organisms(run: Run, columns) -> Markup:
    """Adapters that were trained side by side: a curve and a line of numbers each, and where their own reports are."""
    lists = run.config.get("organisms") if isinstance(run.config.get("organisms"), dict) else {}
    rows = []
    for i in dict.fromkeys(columns["organism"]):
        mine = columns.where(organism=i)
        ends = [num(mine["reward"][k], 1) for k in (0, -1)]
        told = ", ".join(f"{k} {v[i]}" for k, v in lists.items() if isinstance(v, list) and len(v) > i)
        where = Markup('<a href="organisms/{}/report.html">its report</a>').format(i)
        rows.append((i, told, *ends, num(mine["mold_avoided"][-1], 2), where))
    head = ("organism", "its own settings", "first reward", "last reward", "Mold avoided", "")
    caption = (
        "All were trained in one program over one frozen base; everything else on this page is the mean of those "
        "whose rewards were not shuffled."
    )
    return embed((figures.organisms, columns), "Reward of each organism", caption, "organisms") + table(
        head, rows, numeric=(0, 2, 3, 4)
    )


def _baselines(run) -> Markup:
    """What policies without a model earn in mazes of the same settings."""
    rows = [
        (row.get("policy"), *(f"{num(number(row.get(n)), d)} \u00b1 {num(2 * number(row.get(f'{n}_error')), d)}"
         for n, d in (("reward", 1), ("gold", 2), ("mold", 2))), num(number(row.get("episodes")), 0))
        for row in dicts(run.analysis.get("baselines"))
    ]  # fmt: skip
    if not rows:
        return Markup()
    heads = ("policy", "reward", "Gold entered", "Mold entered", "episodes")
    return note(
        "For comparison, what policies without a model earn per episode in mazes with the same settings (mean \u00b1 "
        "two standard errors; the planner knows the whole maze, but not the wind)."
    ) + table(heads, rows, numeric=range(1, 5))


def behaviour(run: Run, tables: dict) -> Markup:
    """What the policy does with its chances; the optimiser's signals folded away."""
    columns = need(tables, "behaviour", "metrics.jsonl has no gold_taken, mold_avoided or entropy")
    main = embed(
        (figures.behaviour, columns),
        "What the policy does with its chances",
        "The shares depend less than the reward on how much Gold and Mold a maze happens to offer. Entropy that "
        "falls to zero means that the policy no longer tries other moves.",
        "behaviour",
    )
    if "optimiser" not in tables:
        return main
    return main + details(
        "Optimiser and speed",
        embed(
            (figures.optimiser, tables["optimiser"]),
            "Signals of the optimiser",
            "Signals per training step.",
            "optimiser",
        ),
    )


def cosine(run: Run, tables: dict) -> Markup:
    """cos(v_mold, v_gold) per layer, two baselines, trained against untrained."""
    columns = need(tables, "cosine_by_layer", "no cosines in analysis.json or summary.json")
    return embed(
        (figures.cosine_by_layer, columns, tables.get("cosine_intervals")),
        "Agreement of v_mold and v_gold, layer by layer",
        "\u22121 means exactly opposed, 0 unrelated. Compare the solid line (trained) with the dashed one (untrained) "
        "in the same panel; the right panel is their difference, where below zero means that training opposed the two "
        f"vectors. Hook point: {run.analysis.get('hook', 'not recorded')}, at "
        f"{run.analysis.get('position', 'the final letter')}. Means are over layers. Bands: 95 % "
        "intervals over trajectories of the cosine without the noise's own part (a line may leave its band for that "
        "reason; a band from \u22121 to 1 means that these trajectories cannot tell). Dotted: what noise alone "
        "reads; grey: the middle 95 % under labels permuted among walks of one length and last letter, where the "
        "classes do not differ. The bands' numbers are in tables/cosine_intervals.csv.",
        "cosine_by_layer",
    )


def recruitment(run: Run, tables: dict) -> Markup:
    """The live cosine over training."""
    columns = need(tables, "cosine_over_training", "metrics.jsonl has no live cosines (cos_rest, cos_path)")
    means, final = tables["cosine_mean_over_training"], {b: v[1] for b, v in headline.cosines(tables).items()}
    return embed(
        (figures.cosine_over_training, columns, means, final),
        "Agreement of v_mold and v_gold over training",
        "Measured while training. Red cells are layers where the two vectors are opposed, blue where they agree. The "
        "panel at the upper right shows whether the cosine moves with the reward. "
        + headline.live_and_final(run, means, final),
        "cosine_over_training",
    ) + _separation(tables)


def _separation(tables) -> Markup:
    columns = tables.get("separation_over_training")
    if not columns:
        return Markup()
    return embed(
        (figures.separation_over_training, columns),
        "How well the vectors tell held-out walks apart, over training",
        "How well each vector, as it was at that step, tells its class from the others on trajectories that it was "
        "not made from. 0.5 is chance.",
        "separation_over_training",
    )


def geometry(run: Run, tables: dict) -> Markup:
    """Class means: pairwise cosines, norms, and what the classes were made of."""
    columns = need(tables, "geometry", "analysis.json has no centred cosines and no norms")
    main = embed(
        (figures.geometry, columns, tables.get("cosine_intervals")),
        "Class means, norms and noise, layer by layer",
        "Class means with their common mean removed: three equally different classes would all stand at \u22120.5. "
        "The dotted line marks layer \u230a2L/3\u230b, where the paper (arXiv:2605.30232) reports these cosines. "
        "Bands as above. Where the noise's share nears 1, a vector is mostly sampling noise: more trajectories are "
        "needed.",
        "geometry",
    )
    classes = tables.get("classes")
    if not classes:
        return main
    rows = [(name, num(n, 0), *map(share, shares)) for name, n, *shares in zip(*classes.values(), strict=True)]
    head = ("final tile", "trajectories", *(f"last move {d}" for d in "NESW"))
    return main + heading("What the class means were taken over") + table(head, rows, numeric=range(1, 6))


def selection(run: Run, tables: dict) -> Markup:
    """How the steering layers were chosen."""
    columns = need(tables, "selection", "analysis.json has no layer selection")
    return embed(
        (figures.selection, columns),
        "Separation of held-out walks, layer by layer",
        "How well a vector tells its own class from the others on held-out samples. The steering layer (dotted) is "
        "the mean, rounded down, of the layers with the highest AUROC, the largest |Cohen's d| and the smallest "
        "overlap of the histograms. Grey: the middle 95 % of AUROC under labels permuted among walks of one length "
        "and last letter; a vector that stays within tells no more than chance.",
        "selection",
    )


def tracking(run: Run, tables: dict) -> Markup:
    """Densities of the projections of held-out trajectories, by final tile."""
    columns = need(tables, "densities", "analysis.json has no densities")
    return embed(
        (axes_figures.densities, columns),
        "Held-out walks along each vector",
        "Held-out trajectories projected on each vector at its chosen layer. The further apart the two heaps, the "
        "better the model's activations tell reaching Gold from reaching Mold; d is Cohen's d of Mold against Gold "
        "(the paper: below 0.12 untrained, above 1.6 trained).",
        "densities",
    )


def axes(run: Run, tables: dict) -> Markup:
    """Cosines with sentiment, valence-assent and emotion axes."""
    columns = need(tables, "axes", "no comparison axes were computed (config.axes.kinds)")
    layer = steering_layer(run, columns)
    return embed(
        (axes_figures.axes, columns, layer),
        "Both vectors beside every axis",
        "Bars: cosines; lines: 95 % intervals over trajectories and, but for components and valence-assent, over the "
        "texts of the axis; grey: the middle 95 % of axes made from the same texts with the labels of each pair "
        "swapped at random (for components and valence-assent, of directions in which their texts vary). A star: "
        "p < 0.05 corrected for all layers, axes and both vectors. A claim needs a star on both vectors, on opposite "
        f"sides. Layer {layer} is the mean of the two steering layers.",
        "axes",
    ) + details(
        "At every layer",
        embed(
            (axes_figures.axes_by_layer, columns),
            "Both vectors beside every axis, layer by layer",
            "Grey as above; tables/axes.csv has p.",
            "axes",
        ),
    )


def emotions(run: Run, tables: dict) -> Markup:
    """The emotion scatter, and what the emotion vectors' components carry."""
    columns = need(tables, "emotions", "no emotion vectors were computed (config.axes.kinds)")
    out = embed(
        (axes_figures.emotions, columns),
        "Emotions by their cosines with both vectors",
        "Each point is an emotion. A line that falls, with pleasant words at one end and unpleasant ones at the "
        "other, means that the two vectors lie along one emotional axis in opposite directions; a round cloud means "
        "that they do not. Two vectors that are opposed anyway, as the baseline one against rest makes them, give a "
        "falling line with any axes: look at which words lie where. The layer is the one with the highest mean AUROC.",
        "emotions",
    )
    parts = tables.get("emotion_components")
    if not parts:
        return out
    return out + embed(
        (axes_figures.emotion_components, parts),
        "Two axes of all emotions",
        "How far two axes sum the emotion vectors up.",
        "emotion_components",
    )


def evaluations(run: Run, tables: dict) -> Markup:
    """The behavioural evaluations, where they were run in this folder."""
    return evals.section(run, tables) if panels.found(run) else Markup()


def replays(run: Run, tables: dict) -> Markup:
    """The recorded episodes."""
    episodes = dicts(run.analysis.get("episodes"))
    if not episodes:
        raise Missing("analysis.json has no recorded episodes")
    hint = note(
        "Step with the buttons or the slider, or click into a replay and use \u2190 and \u2192. Every tile the player "
        "leaves melts into Mold; Gold that is entered is eaten. The bars are the policy's probabilities of the four "
        "moves, each with the tile it leads to."
    )
    return hint + joined(map(replay.html, episodes))


def reward_table(run: Run, tables: dict) -> Markup:
    """Reward and behaviour of every step as numbers."""
    columns = need(tables, "reward", "metrics.jsonl has no reward")
    extra = tables.get("behaviour", {})
    shown = columns | {name: values for name, values in extra.items() if name != "step"}
    digits = {"step": 0, "reward": 1}
    rows = [
        [num(v, digits.get(name, 2)) for name, v in zip(shown, row, strict=True)]
        for row in zip(*shown.values(), strict=True)
    ]
    heads = [name.replace("_", " ") for name in shown]
    return details(f"All {len(rows)} steps", table(heads, rows, numeric=range(len(heads)), css="tall"))


SECTIONS = (  # id, heading, function; in the order of the page
    ("overview", "What this run shows", overview),
    ("reward", "Reward", trained_here(reward)),
    ("behaviour", "Behaviour", trained_here(behaviour)),
    ("cosine", "Cosine of v_mold and v_gold, per layer", of_one_model(cosine)),
    ("recruitment", "Cosine over training", of_one_model(trained_here(recruitment))),
    ("geometry", "Geometry of the class means", of_one_model(geometry)),
    ("selection", "Choice of the steering layer", of_one_model(selection)),
    ("tracking", "Goal tracking", of_one_model(tracking)),
    ("axes", "Comparison axes", of_one_model(axes)),
    ("emotions", "Emotion vectors", of_one_model(emotions)),
    ("lens", "Logit lens", of_one_model(lens)),
    ("samples", "Steered samples", of_one_model(samples)),
    ("evals", "Behaviour under steering", evaluations),
    ("replay", "Episodes, replayed", of_one_model(trained_here(replays))),
    ("steps", "Reward table", trained_here(reward_table)),
)
