"""The numbers behind every figure of the main job as tables: dicts of equally long columns."""

import itertools
import math

from welfare_jax.experiments.evals import report as evals
from welfare_jax.report import replay
from welfare_jax.report.data import Run, dicts, dig, mean, number, numbers
from welfare_jax.report.tables import Table

MODELS = ("untrained", "trained")
VECTORS = ("mold", "gold")
BASELINES = ("rest", "path")
PAIRS = ("mold-gold", "mold-path", "gold-path")
BOUNDS = ("value", "free", "low", "high", "noise")


def tables(run: Run) -> dict:
    """All tables of a run, {name: {column: list}}."""
    return {
        "reward": _per_step(run, ("reward", "gold", "mold")),
        "behaviour": _per_step(run, ("gold_taken", "mold_avoided", "entropy")),
        "optimiser": _per_step(
            run,
            ("loss", "grad_norm", "lr", "entropy_coef", "ratio_max", "clip_frac")
            + ("episodes_per_s", "tokens_per_s", "seconds"),
        ),
        "organisms": _organisms(run),
        "cosine_by_layer": _cosine_by_layer(run),
        "cosine_intervals": _cosine_intervals(run),
        "cosine_overall": _cosine_overall(run),
        **_cosine_over_training(run),
        "separation_over_training": _separation_over_training(run),
        "geometry": _geometry(run),
        "classes": _classes(run),
        "selection": _selection(run),
        "densities": _densities(run),
        "axes": _axes(run),
        "emotions": _emotions(run),
        "emotion_components": _emotion_components(run),
        "lens": _lens(run),
        "samples": _samples(run),
        "episodes": _episodes(run),
        **evals.tables(run),
    }


def _organisms(run) -> dict:
    """Reward and behaviour of each organism at each step, where several were trained side by side."""
    names = ("reward", "gold_taken", "mold_avoided", "lr", "entropy_coef")
    rows = [
        (number(row.get("step")), i, *(number(own.get(name)) for name in names))
        for row in run.metrics
        for i, own in enumerate(dicts(row.get("organisms")))
    ]
    return Table.of(rows, ("step", "organism", *names))


def _aligned(columns: dict) -> dict:
    """Columns padded with NaN to the longest: trained and untrained may come from different moments of a run."""
    length = max(map(len, columns.values()), default=0)
    return {name: values + [math.nan] * (length - len(values)) for name, values in columns.items()}


def _with_layers(columns: dict) -> dict:
    columns = _aligned(columns)
    return {"layer": list(range(len(next(iter(columns.values()))))), **columns}


def _per_step(run, names) -> dict:
    return {"step": [m["step"] for m in run.metrics], **{n: [number(m.get(n)) for m in run.metrics] for n in names}}


def _cosine_by_layer(run) -> dict:
    in_summary = {"rest": "cos_{}", "path": "cos_{}_path"}
    columns = {}
    for base in BASELINES:
        for model in MODELS:
            found = numbers(dig(run.analysis, model, "cos", base))
            columns[f"{base}_{model}"] = found or numbers(run.summary.get(in_summary[base].format(model)))
    columns = _aligned(columns)
    for base in BASELINES:
        pairs = zip(columns[f"{base}_trained"], columns[f"{base}_untrained"], strict=True)
        columns[f"{base}_difference"] = [trained - untrained for trained, untrained in pairs]
    return _with_layers(columns)


def _cosine_over_training(run) -> dict:
    by_layer, by_step = [], []
    for m in run.metrics:
        rest, path = numbers(m.get("cos_rest")), numbers(m.get("cos_path"))
        if not rest and not path:
            continue
        pairs = itertools.zip_longest(rest, path, fillvalue=math.nan)
        by_layer += [(m["step"], layer, r, p) for layer, (r, p) in enumerate(pairs)]
        by_step.append((m["step"], mean(rest), mean(path), number(m.get("reward"))))
    means = Table.of(by_step, ("step", "mean_rest", "mean_path", "reward"))
    return {
        "cosine_over_training": Table.of(by_layer, ("step", "layer", "rest", "path")),
        "cosine_mean_over_training": means,
    }


def _bounds(found, layers=None) -> list:
    """Rows (layer, value, free, low, high, noise) of one `uncertainty.summary`."""
    rows = itertools.zip_longest(*(numbers(dig(found, name)) for name in BOUNDS), fillvalue=math.nan)
    return [(layer, *row) for layer, row in enumerate(rows)]


def _cosine_intervals(run) -> dict:
    """Cosines and centred cosines with their intervals; the model "difference" is trained less untrained.

    `chance_low` to `chance_high`: the middle 95 % under permuted labels.
    """
    rows = []
    for kind in (*BASELINES, *PAIRS):
        for model in MODELS:
            found = _bounds(dig(run.analysis, model, "intervals", kind))
            chance = _by_layer(dig(run.analysis, model, "null", "cos", kind), len(found))
            rows += [(kind, model, *row, *ends) for row, ends in zip(found, chance, strict=True)]
        difference = _bounds(dig(run.analysis, "change", kind, "difference"))
        rows += [(kind, "difference", *row, math.nan, math.nan) for row in difference]
    return Table.of(rows, ("kind", "model", "layer", *BOUNDS, "chance_low", "chance_high"))


def _cosine_overall(run) -> dict:
    """Means over all layers and over the last third, with their intervals."""
    rows = []
    for base, part, model in itertools.product(BASELINES, ("all", "last_third"), (*MODELS, "difference")):
        for _, *row in _bounds(dig(run.analysis, "change", base, part, model)):
            rows.append((base, part, model, *row))
    return Table.of(rows, ("baseline", "layers", "model", *BOUNDS))


def _separation_over_training(run) -> dict:
    names, rows = ("auroc_mold", "auroc_gold", "d_mold", "d_gold"), []
    for m in run.metrics:
        found = [numbers(m.get(name)) for name in names]
        layers = enumerate(itertools.zip_longest(*found, fillvalue=math.nan))
        rows += [(m["step"], layer, *row, number(m.get("reward"))) for layer, row in layers]
    return Table.of(rows, ("step", "layer", *names, "reward"))


def _densities(run) -> dict:
    """Histograms of held-out projections by final tile, at the layer chosen; `cohens_d` is Mold against Gold."""
    rows = []
    for model, vector in itertools.product(MODELS, VECTORS):
        found = dig(run.analysis, model, "density", vector)
        edges, d, layer = numbers(dig(found, "edges")), number(dig(found, "cohens_d")), number(dig(found, "layer"))
        columns = [numbers(dig(found, c)) for c in ("mold", "gold", "path")]
        bins = itertools.zip_longest(edges, edges[1:], *columns, fillvalue=math.nan)
        rows += [(model, vector, layer, *row, d) for row in list(bins)[: max(len(edges) - 1, 0)]]
    return Table.of(rows, ("model", "vector", "layer", "from", "to", "mold", "gold", "path", "cohens_d"))


def _axes(run) -> dict:
    """Cosines of both vectors with the comparison axes; chance is that of axes whose texts had their labels swapped,
    and p is corrected for all layers, axes and both vectors."""
    rows = []
    for model, vector in itertools.product(MODELS, VECTORS):
        found = dig(run.analysis, model, "axes")
        names = dig(found, "names")
        for name in names if isinstance(names, list) else ():
            bounds = _bounds(dig(found, vector, str(name)))
            chance = _by_layer(dig(found, "null", str(name), vector), len(bounds))
            p = numbers(dig(found, "p", str(name), vector)) + [math.nan] * len(bounds)
            for (layer, *ends, _), band, q in zip(bounds, chance, p, strict=False):
                rows.append((model, vector, str(name), layer, *ends, *band, q))
    ends = ("value", "free", "low", "high", "chance_low", "chance_high", "p")
    return Table.of(rows, ("model", "vector", "axis", "layer", *ends))


def _by_layer(found, layers: int) -> list:
    """(low, high) of every layer, of a stored pair of lists; NaN where it is not known."""
    low, high = map(numbers, found if isinstance(found, list) and len(found) == 2 else ((), ()))
    pairs = list(itertools.zip_longest(low, high, fillvalue=math.nan))
    return (pairs + [(math.nan, math.nan)] * layers)[:layers]


def _emotions(run) -> dict:
    rows = []
    for model in MODELS:
        found = dig(run.analysis, model, "emotions")
        words, layer = dig(found, "words"), number(dig(found, "layer"))
        columns = (words if isinstance(words, list) else [], *(numbers(dig(found, v)) for v in VECTORS))
        rows += [(model, layer, str(w), m, g) for w, m, g in zip(*columns, strict=False)]
    return Table.of(rows, ("model", "layer", "word", "mold", "gold"))


def _emotion_components(run) -> dict:
    """Share of the emotion vectors' variance that their first two principal components carry."""
    rows = []
    for model in MODELS:
        found = dig(run.analysis, model, "axes", "emotion_share")
        for layer, shares in enumerate(found if isinstance(found, list) else ()):
            rows.append((model, layer, *(numbers(shares) + [math.nan] * 2)[:2]))
    return Table.of(rows, ("model", "layer", "first", "second"))


def _geometry(run) -> dict:
    columns = {}
    for model in MODELS:
        columns |= {f"{p}_{model}": numbers(dig(run.analysis, model, "centred", p)) for p in PAIRS}
        columns |= {f"norm_{v}_{model}": numbers(dig(run.analysis, model, "norms", v)) for v in VECTORS}
        columns |= {f"noise_{v}_{model}": numbers(dig(run.analysis, model, "noise_share", v)) for v in VECTORS}
    return _with_layers(columns)


def _classes(run) -> dict:
    rows = []
    for name in ("mold", "gold", "path"):
        shares = (numbers(dig(run.analysis, "directions", name)) + [math.nan] * 4)[:4]
        rows.append((name, number(dig(run.analysis, "counts", name)), *shares))
    return Table.of(rows, ("class", "n", "N", "E", "S", "W"))


def _selection(run) -> dict:
    """The measures of the layer choice, with the AUROC under permuted labels; `chosen_chance` and `p` are of the layer
    that was chosen, where permuted labels choose theirs: p counts the better of both vectors."""
    rows = []
    for model, vector in itertools.product(MODELS, VECTORS):
        found, null = dig(run.analysis, model, "selection", vector), dig(run.analysis, model, "null")
        values = [numbers(dig(found, name)) for name in ("auroc", "cohens_d", "overlap")]
        values = list(itertools.zip_longest(*values, fillvalue=math.nan))
        chance = _by_layer(dig(null, "auroc", vector), len(values))
        best = [number(dig(null, "auroc_chosen", vector, name)) for name in ("high", "p")]
        for layer, (row, ends) in enumerate(zip(values, chance, strict=True)):
            rows.append((model, vector, layer, *row, *ends, *best, int(layer == dig(found, "layer"))))
    names = ("auroc", "cohens_d", "overlap", "chance_auroc_low", "chance_auroc_high", "chosen_chance", "p")
    return Table.of(rows, ("model", "vector", "layer", *names, "chosen"))


def _lens(run) -> dict:
    """`also`: where else the token is listed; `norm`: whether the final norm was folded in."""
    rows = []
    sides = itertools.product(("folded", "plain"), MODELS, VECTORS, ("promoted", "suppressed"))
    for norm, model, vector, side in sides:
        found = dig(run.analysis, model, "lens")
        entries = dig(found if norm == "folded" else dig(found, "plain"), vector, side)
        pairs = [e for e in entries if isinstance(e, (list, tuple)) and e] if isinstance(entries, list) else []
        for rank, (token, *more) in enumerate(pairs, start=1):
            value, also = (*more, None, None)[:2]
            rows.append((model, vector, dig(found, "layer"), side, rank, str(token), number(value), also or "", norm))
    return Table.of(rows, ("model", "vector", "layer", "side", "rank", "token", "value", "also", "norm"))


def _samples(run) -> dict:
    names = ("model", "vector", "layer", "alpha", "prompt", "text")
    rows = [tuple(s.get(name, "") for name in names) for s in dicts(run.analysis.get("samples"))]
    return Table.of(rows, names)


def _episodes(run) -> dict:
    rows = []
    for i, episode in enumerate(dicts(run.analysis.get("episodes"))):
        seen = replay.frames(episode)
        for f, after in zip(seen, seen[1:], strict=False):
            probs = (f["probs"] + [math.nan] * 4)[:4]
            moves = (*f["at"], f["letter"], *probs, *f["landed"], f["wind"], *f["end"])
            rows.append((i, f["turn"], *moves, f["gains"]["gold"], f["gains"]["mold"], f["gain"], after["reward"]))
    names = ("episode", "turn", "x", "y", "move", "p_N", "p_E", "p_S", "p_W", "landed_x", "landed_y", "wind")
    return Table.of(rows, (*names, "end_x", "end_y", "gold_entered", "mold_entered", "reward", "reward_so_far"))
