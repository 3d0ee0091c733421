"""The answer on top of the evaluations' report: which evaluations a direction moves, or what became of a dose."""

import math

from matplotlib.figure import Figure

from welfare_jax.experiments.evals import panels, temporal
from welfare_jax.report.answer import SIZE, Answer
from welfare_jax.report.data import Run, number
from welfare_jax.report.markup import Missing, interval

LEVEL = 0.05


def answer(run: Run, built: dict) -> Answer:
    if "evals_cells" in built:
        return _slopes(run, built) if "evals_slopes" in built else _unsteered(run, built)
    if {"evals_temporal_effects", "evals_temporal_verdicts"} <= built.keys():
        return _dose(built)
    if "evals_temporal_counts" in built:
        raise Missing("no model understood the questions well enough to be asked")
    raise Missing("evals.json has no cells: run configs/evals.py in this folder")


def _slopes(run: Run, built: dict) -> Answer:
    about = panels.told(run)
    rows = [r for r in panels.primary(built["evals_slopes"], about) if r["kind"] == "vector"]
    rows = [r for r in rows if math.isfinite(number(r["slope"]))]
    if not rows:
        raise Missing("no vector was steered at two strengths")
    names = list(dict.fromkeys(r["evaluation"] for r in rows))
    tested = [r for r in rows if math.isfinite(number(r["p_family"]))]
    moved = list(dict.fromkeys(r["evaluation"] for r in tested if r["p_family"] < LEVEL))
    titles = ", ".join(plain(name) for name in moved)
    if not tested:
        said = f"Steering was tried in {len(names)} evaluations, but not held against vectors of permuted labels."
        verdict = "not tested"
    else:
        said = (
            f"Steering with the vectors of Gold and Mold moves {len(moved)} of {len(names)} evaluations"
            f"{f' ({titles})' if moved else ''} further than vectors of permuted labels or random ones do."
        )
        verdict = f"{len(moved)} of {len(names)} moved"
    sure = lambda r: (number(r["p_family"]), number(r["p"]), -abs(r["slope"]) / max(abs(number(r["error"])), 1e-12))
    most = min(rows, key=lambda r: tuple(math.inf if x != x else x for x in sure(r)))
    ends = interval(*(number(most[k]) for k in ("slope", "low", "high")), digits=3, sign=True)
    chosen = {**panels.chosen_layers(run), most["vector"]: most["layer"]}
    shown = (built["evals_cells"].where(evaluation=most["evaluation"], model=most["model"]), most, about, chosen)
    where = f"{plain(most['evaluation'])}, {most['vector']} at layer {most['layer']}"
    return Answer(
        "What does steering with the vectors of Gold and Mold do to behaviour?", said, verdict=verdict,
        interval=f"{where}: slope {ends} for each unit of strength, over prompts", seeds=_seeds(built["evals_cells"]),
        drawing=(crossing, *shown),
        shows=f"{plain(most['evaluation'])}, the evaluation with the smallest p, over the strength",
    )  # fmt: skip


def _unsteered(run: Run, built: dict) -> Answer:
    about = panels.told(run)
    rows = [r for r in panels.primary(built["evals_cells"], about) if math.isfinite(number(r["mean"]))]
    if not rows:
        raise Missing("no evaluation has a mean")
    first = rows[0]
    ends = interval(*(number(first[k]) for k in ("mean", "low", "high")), digits=3)
    where = f"{plain(first['evaluation'])}, {first['model']} model"
    names = list(dict.fromkeys(r["evaluation"] for r in rows))
    shown = (built["evals_cells"].where(evaluation=first["evaluation"], model=first["model"]), first, about, {})
    return Answer(
        "How does the model behave without steering?",
        f"{len(names)} evaluations were made without steering: nothing can be said of a direction.",
        verdict="not steered", interval=f"{where}: mean {ends} over prompts", seeds=_seeds(built["evals_cells"]),
        drawing=(crossing, *shown), shows=plain(first["evaluation"]),
    )  # fmt: skip


def crossing(cells, most, about, chosen) -> Figure:
    """One evaluation of one model, as `panels.crossing` draws it, in the answer's size."""
    figure = panels.crossing(cells, {most["evaluation"]: about[most["evaluation"]]}, chosen, legend=2)
    figure.set_size_inches(SIZE[0], 4.4)
    return figure


def _dose(built: dict) -> Answer:
    verdicts, effects = built["evals_temporal_verdicts"], built["evals_temporal_effects"]
    model = list(dict.fromkeys(verdicts["model"]))[-1]
    at = temporal.place(verdicts, model)
    rows = [r for r in verdicts.rows(model=model) if all(r[k] == v for k, v in at.items())]
    rows = rows or verdicts.rows(model=model)[-1:]
    told = ", ".join(f"{r['claim']} {r['verdict']}" for r in rows)
    asked = next((r for r in rows if r["claim"] == "persistence"), rows[0])
    ends = interval(*(number(asked[k]) for k in ("value", "low", "high")), digits=3, sign=True)
    return Answer(
        "Does a direction change a state, or only the words being said?",
        f"A dose of {at['direction']} at layer {at['layer']} of the {model} model: {told}.",
        verdict=f"{asked['claim']} {asked['verdict']}", interval=f"{asked['claim']}: {ends} over families of prompts",
        seeds="1 training run" if model == "trained" else "one model, untrained",
        drawing=(dose, effects.where(model=model), verdicts, built.get("evals_temporal_controls")),
        shows="What the same dose adds to the answer when it is given early, at the read-out, or throughout",
    )  # fmt: skip


def dose(effects, verdicts, controls) -> Figure:
    """One model's effect on the words by exposure, as `temporal.exposures` draws it, in the answer's size."""
    figure = temporal.exposures(effects, verdicts, controls, {"words": temporal.PANELS["words"]}, legend=2)
    figure.set_size_inches(SIZE[0], 3.6)
    return figure


def plain(name: str) -> str:
    return name.replace("_logodds", ", log-odds").replace("_", " ")


def _seeds(cells) -> str:
    return "1 training run, beside the untrained model" if "trained" in cells["model"] else "one model, untrained"
