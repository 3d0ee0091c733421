"""The numbers behind every figure as tables: dicts of equally long columns, written as CSV and drawn from."""

import csv
import itertools
import math

from welfare_jax.report import replay
from welfare_jax.report.data import Run, dicts, dig, mean, number, numbers

MODELS = ("untrained", "trained")
VECTORS = ("mold", "gold")
BASELINES = ("rest", "path")
PAIRS = ("mold-gold", "mold-path", "gold-path")
INDEX = {"step", "layer", "model", "vector", "class", "chosen", "episode", "turn", "rank", "side"}


def build(run: Run) -> dict:
    """All tables of a run, {name: {column: list}}; a table without a single number or text is left out."""
    out = {
        "reward": _per_step(run, ("reward", "gold", "mold")),
        "behaviour": _per_step(run, ("gold_taken", "mold_avoided", "entropy")),
        "optimiser": _per_step(
            run,
            ("loss", "grad_norm", "lr", "entropy_coef", "ratio_max", "clip_frac")
            + ("episodes_per_s", "tokens_per_s", "seconds"),
        ),
        "cosine_by_layer": _cosine_by_layer(run),
        **_cosine_over_training(run),
        "geometry": _geometry(run),
        "classes": _classes(run),
        "selection": _selection(run),
        "lens": _lens(run),
        "samples": _samples(run),
        "episodes": _episodes(run),
    }
    return {name: table for name, table in out.items() if _holds_something(table)}


def write(tables: dict, folder) -> None:
    """One `<name>.csv` per table; floats in full precision, a missing number as an empty cell."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8", errors="replace") as file:
            out = csv.writer(file)
            out.writerow(table)
            out.writerows(["" if _is_nan(v) else v for v in row] for row in zip(*table.values(), strict=True))


def _holds_something(table) -> bool:
    values = itertools.chain.from_iterable(v for name, v in table.items() if name not in INDEX)
    return any(v not in (None, "") and not _is_nan(v) for v in values)


def _is_nan(value) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _columns(rows, names) -> dict:
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


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
    means = _columns(by_step, ("step", "mean_rest", "mean_path", "reward"))
    return {
        "cosine_over_training": _columns(by_layer, ("step", "layer", "rest", "path")),
        "cosine_mean_over_training": means,
    }


def _geometry(run) -> dict:
    columns = {}
    for model in MODELS:
        columns |= {f"{p}_{model}": numbers(dig(run.analysis, model, "centred", p)) for p in PAIRS}
        columns |= {f"norm_{v}_{model}": numbers(dig(run.analysis, model, "norms", v)) for v in VECTORS}
    return _with_layers(columns)


def _classes(run) -> dict:
    rows = []
    for name in ("mold", "gold", "path"):
        shares = (numbers(dig(run.analysis, "directions", name)) + [math.nan] * 4)[:4]
        rows.append((name, number(dig(run.analysis, "counts", name)), *shares))
    return _columns(rows, ("class", "n", "N", "E", "S", "W"))


def _selection(run) -> dict:
    rows = []
    for model, vector in itertools.product(MODELS, VECTORS):
        found = dig(run.analysis, model, "selection", vector)
        values = [numbers(dig(found, name)) for name in ("auroc", "cohens_d", "overlap")]
        for layer, row in enumerate(itertools.zip_longest(*values, fillvalue=math.nan)):
            rows.append((model, vector, layer, *row, int(layer == dig(found, "layer"))))
    return _columns(rows, ("model", "vector", "layer", "auroc", "cohens_d", "overlap", "chosen"))


def _lens(run) -> dict:
    rows = []
    for model, vector, side in itertools.product(MODELS, VECTORS, ("promoted", "suppressed")):
        layer = dig(run.analysis, model, "lens", "layer")
        entries = dig(run.analysis, model, "lens", vector, side)
        pairs = [e for e in entries if isinstance(e, (list, tuple)) and e] if isinstance(entries, list) else []
        for rank, (token, *value) in enumerate(pairs, start=1):
            rows.append((model, vector, layer, side, rank, str(token), number(value[0] if value else None)))
    return _columns(rows, ("model", "vector", "layer", "side", "rank", "token", "value"))


def _samples(run) -> dict:
    names = ("model", "vector", "layer", "alpha", "prompt", "text")
    rows = [tuple(s.get(name, "") for name in names) for s in dicts(run.analysis.get("samples"))]
    return _columns(rows, names)


def _episodes(run) -> dict:
    rows = []
    for i, episode in enumerate(dicts(run.analysis.get("episodes"))):
        seen = replay.frames(episode)
        for f, after in zip(seen, seen[1:], strict=False):
            probs = (f["probs"] + [math.nan] * 4)[:4]
            moves = (*f["at"], f["letter"], *probs, *f["landed"], f["wind"], *f["end"])
            rows.append((i, f["turn"], *moves, f["gains"]["gold"], f["gains"]["mold"], f["gain"], after["reward"]))
    names = ("episode", "turn", "x", "y", "move", "p_N", "p_E", "p_S", "p_W", "landed_x", "landed_y", "wind")
    return _columns(rows, (*names, "end_x", "end_y", "gold_entered", "mold_entered", "reward", "reward_so_far"))
