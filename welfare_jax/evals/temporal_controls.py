"""What the temporal evaluation steers with, and what it holds that against.

The welfare direction is Gold - Mold; its controls are Gold, Mold, Path, what is left of it beside sentiment, the
negative dose, and cohorts of random and orthogonal directions, of equal norm and of equal effect where they are added
(the same divergence of the next token). L layers, D width, N controls, F task families.
"""

import math

import jax
import numpy as np

from welfare_jax.errors import InputError
from welfare_jax.evals import temporal_stats
from welfare_jax.evals.cells import Cell
from welfare_jax.evals.directions import Bank, Direction
from welfare_jax.interp import geometry, null
from welfare_jax.interp.axes import texts
from welfare_jax.interp.names import Vector

MATCHINGS = ("norm", "divergence")
KINDS = ("random", "orthogonal")
SITES = ("end of the first answer", "right after it", "read-out")
STEEPEST = 4.0  # divergences grow with the square of a small strength, and hardly faster with a large one
FARTHEST = 4.0  # matched strengths stay within this logarithm of the dose
FLOOR = 1e-9  # nats, below which float32 knows no divergence


def directions(harness, config) -> tuple[Bank, str]:
    """(bank of the welfare direction and its controls, its name), all of its norm at every layer.

    Gold - Mold has the mean norm of the two, so that a dose is what a strength is elsewhere. Classes are balanced, so
    Path against the rest lies along -(Gold + Mold), whatever baseline the two have. Without vectors of both classes
    the first of the run stands for it.
    """
    main = {name: harness.bank.directions[name] for name in harness.bank.main()}
    pick = lambda c: next((d for name, d in main.items() if Vector.of_label(name).of == c), None)
    gold, mold = pick("gold"), pick("mold")
    if gold and mold:
        g, m = gold.values, mold.values
        like = (np.linalg.norm(g, axis=-1, keepdims=True) + np.linalg.norm(m, axis=-1, keepdims=True)) / 2
        welfare, layer = "gold-mold", (gold.layer + mold.layer) // 2
        found = {welfare: geometry.match_norm(g - m, like), "gold": g, "mold": m, "path": -(g + m)}
    else:
        welfare, first = next(iter(main.items()))
        found, layer = {welfare: first.values}, first.layer
        harness.note(f"temporal: no vectors of both gold and mold; {welfare} stands for the welfare direction")
    like, apart = np.asarray(found[welfare], np.float32), [*found.values()]
    _, sentiment = harness.sentiment()
    if sentiment is not None:
        found["residual"] = geometry.residualise(like, sentiment)
        apart += [*sentiment]
    free, away = jax.random.split(jax.random.fold_in(jax.random.key(harness.seed), 7))
    bank = {name: Direction(_like(v, like), layer, "vector", welfare) for name, v in found.items()}
    cohorts = {
        "random": null.random(free, like, config.random) if config.random else (),
        "orthogonal": null.orthogonal(away, like, np.stack(apart), config.orthogonal) if config.orthogonal else (),
    }
    for kind, cohort in cohorts.items():
        for k, values in enumerate(cohort):
            bank[f"{kind}_{k}"] = Direction(_like(values, like), layer, kind, welfare)
    return Bank(bank, harness.bank.hook), welfare


def _like(values, like):
    return np.asarray(geometry.match_norm(values, like), np.float32)


def grid(harness, welfare: str) -> tuple[list[int], list[float]]:
    """(layers, doses) of the run's grid: the welfare direction's own layer where each vector steers at its own."""
    mine = [c for c in harness.cells if c.vector and not Vector.of_label(c.vector).control]
    of = {name: {c.layer for c in mine if c.vector == name} for name in {c.vector for c in mine}}
    if all(len(layers) == 1 for layers in of.values()):
        layers = [harness.bank.directions[welfare].layer]
    else:
        layers = sorted(set().union(*of.values()))
    doses = sorted({abs(c.alpha) for c in mine})
    if not doses:
        raise InputError("evals.alphas: the temporal evaluation needs a strength other than zero")
    return layers, doses


def named(panel) -> list[Cell]:
    """The cells of the welfare direction, its named controls and its negative dose, at every layer and dose."""
    names = [name for name, d in panel.harness.bank.directions.items() if d.kind == "vector"]
    doses = [(name, dose) for name in names for dose in panel.doses] + [(panel.welfare, -d) for d in panel.doses]
    return [
        Cell(panel.model, name, layer, float(dose), exposure)
        for layer in panel.layers for name, dose in doses for exposure in ("early", "readout", "throughout")
    ]  # fmt: skip


def spread(panel, given, families: int) -> list:
    """One prompt whose words are mastered of at most so many families, evenly from all of them."""
    first = {}
    for p, ok in zip(panel.given, panel.mastered[:, 0]):
        if ok and p in given:
            first.setdefault(p.family, p)
    return texts.spread(list(first.values()), families) if families else []


def cohorts(panel, read, given) -> dict:
    """The cohorts' effects on the words, at one layer and dose: {"rows", "ranks", "matching", "verdict"}.

    read: what `Panel.read` gave of the named directions over the prompts `given`. verdict: the ranks at the read-out
    by matching, on which specificity is judged.
    """
    few = spread(panel, given, panel.config.control_families)
    names = [name for name, d in panel.harness.bank.directions.items() if d.kind in KINDS]
    out = {"rows": [], "ranks": [], "matching": [], "verdict": {}}
    if not few or not names:
        return out
    at = [given.index(p) for p in few]
    for exposure in panel.config.controls_at:
        place = Cell(panel.model, panel.welfare, panel.layer, panel.dose, exposure)
        values, tops, rows = read[place]
        own = (values[at, :1], tops[at, :1], [rows[i] for i in at])
        cells = [place._replace(vector=name) for name in names]
        found = panel.read(few, cells, 1, title=f"controls of equal norm, {exposure}")
        for matching in MATCHINGS:
            if matching == "divergence":
                cells = matched(panel, cells, found, own, few)
                found = panel.read(few, cells, 1, title=f"controls of equal divergence, {exposure}")
            _held(panel, out, matching, own, [(cell, found[cell]) for cell in cells], few)
    return out


def _held(panel, out, matching, own, controls, few):
    """Adds to `out` what one cohort, read at one exposure, says about the welfare direction `own`."""
    rules, exposure = panel.config.rules, controls[0][0].where
    effect = panel.effects(own, few)["words"]
    others = np.array([panel.effects(read, few)["words"] for _, read in controls])
    kinds = np.array([panel.harness.bank.directions[cell.vector].kind for cell, _ in controls])
    place = {"exposure": exposure, "matching": matching}
    for kind in ("all", *dict.fromkeys(kinds)):
        found = temporal_stats.rank(effect, others[(kinds == kind) | (kind == "all")], panel.weights, rules.level)
        mean = temporal_stats.interval(effect, panel.weights, rules.level)["mean"]
        out["ranks"].append(place | {"kind": str(kind), "effect": mean, **found})
        if kind == "all" and exposure == "readout":
            out["verdict"][matching] = found
    divergence = np.array([_divergence(read) for _, read in controls])
    out["rows"] += [
        place | {"direction": cell.vector, "kind": str(kind), "dose": cell.alpha, "divergence": float(d),
                 "effect": temporal_stats.interval(v, panel.weights, rules.level)["mean"]}
        for (cell, _), kind, d, v in zip(controls, kinds, divergence, others)
    ]  # fmt: skip
    low, middle, high = np.quantile(divergence, (0.05, 0.5, 0.95)).tolist()
    out["matching"].append(place | {"own": _divergence(own), "low": low, "median": middle, "high": high})


def _divergence(read, prompts=None) -> float:
    return float(np.mean([row["kl"] for row in read[2][:prompts]]))


def matched(panel, cells, found, own, few) -> list[Cell]:
    """The same directions at strengths at which the next token at the dosed site diverges as the welfare direction's.

    By secants on the logarithms: from what the equal strength did, `found` on all the prompts, a few of them say how
    the divergence grows; a small dose moves a distribution by its square.
    """
    count = panel.config.match_prompts
    log = lambda read, prompts=None: math.log(max(_divergence(read, prompts), FLOOR))
    target, size = log(own), np.zeros(len(cells))
    past = [(size, np.array([log(found[cell]) for cell in cells]))]
    apart = past[0][1] - np.array([log(found[cell], count) for cell in cells])
    for _ in range(panel.config.match_rounds):
        size = _secant(past, target)
        trial = _at(cells, size)
        read = panel.read(few[:count], trial, 1, title=f"matching controls, {cells[0].where}")
        past.append((size, apart + np.array([log(read[cell]) for cell in trial])))
    return _at(cells, _secant(past, target))


def _at(cells, size):
    return [c._replace(alpha=float(f"{c.alpha * math.exp(x):.5g}")) for c, x in zip(cells, size)]


def _secant(past, target):
    """The next logarithms of strengths [N], from those tried so far and the logarithms of what they did."""
    x, y = past[-1]
    slope = np.full(len(x), 2.0)
    if len(past) > 1:
        before, did = past[-2]
        apart = np.abs(x - before) > 1e-3
        slope = np.where(apart, (y - did) / np.where(apart, x - before, 1.0), slope)
    return np.clip(x + (target - y) / np.clip(slope, 0.5, STEEPEST), -FARTHEST, FARTHEST)


def along(panel, read) -> list[dict]:
    """How far the welfare direction's dose moved the stream along it, layer by layer: at the end of the span that an
    early dose steers, right after it, and at the read-out (units of the stream, against no steering)."""
    rows, plain = [], np.array([row["along"] for row in panel.plain[2]])
    for cell, (_, _, found) in read.items():
        if (cell.vector, cell.layer, cell.alpha) != (panel.welfare, panel.layer, panel.dose):
            continue
        given = [i for i, ok in enumerate(panel.mastered.any(1)) if ok]
        moved = np.array([row["along"] for row in found])
        sites = range(len(SITES))[-moved.shape[1] :]
        moved = moved - plain[given][:, list(sites)]
        rows += [
            {"exposure": cell.where, "site": SITES[s], "layer": k, "moved": float(moved[:, i, k].mean())}
            for i, s in enumerate(sites) for k in range(moved.shape[2])
        ]  # fmt: skip
    return rows


def position_map(panel) -> list[dict]:
    """What the dose does at every single token of a few prompts: a row a token with its effect on the words."""
    few, rows = spread(panel, panel.given, panel.config.map_families), []
    if not few:
        return rows
    laid = [panel.harness.device.layout(panel.model, talks) for talks in panel.talks(few).values()]
    cells = [
        Cell(panel.model, panel.welfare, panel.layer, panel.dose, str(t))
        for t in range(max(len(tokens) for tokens, *_ in laid))
    ]
    read = panel.read(few, cells, 1, title="position map")
    for i, (p, (tokens, span, shared)) in enumerate(zip(few, laid)):
        plain = panel.plain[0][panel.given.index(p), 0]
        for t, token in enumerate(tokens):
            rows.append({
                "prompt": p.id, "position": t, "token": token, "part": part_of(t, len(tokens), span, shared),
                "effect": float(read[cells[t]][0][i, 0] - plain),
            })  # fmt: skip
    return rows


def part_of(position: int, count: int, span, shared: int) -> str:
    """Which part of its prompt a token is of."""
    start, stop = span
    if position < start:
        return "task and event"
    if position < stop:
        return "first answer"
    return "filler" if position < shared else "read-out" if position == count - 1 else "question"
