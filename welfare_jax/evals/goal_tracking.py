"""Does the axis follow how well it goes? Projections after truthful feedback (arXiv:2605.30232 §5, §P).

The model answers unsteered, is told truly whether it was right, and the residual stream at the tokens that open its
next answer is projected on every vector: correct against incorrect, over all and within thirds of its confidence.
"""

import dataclasses

from welfare_jax.errors import InputError
from welfare_jax.evals import confidence, prompts, stats
from welfare_jax.evals.evaluation import Evaluation, Work


@dataclasses.dataclass(frozen=True)
class Tracked(confidence.Graded):
    feedback: str = ""


def goal_tracking(harness, config: Tracked) -> list[dict]:
    """Rows {model, vector, kind, layer, group, n_correct, n_incorrect, mean_correct, mean_incorrect, cohens_d, auroc}.

    Layers: those at which the vector steers somewhere in the grid.
    """
    items = harness.items(config.prompts)
    answers, right = confidence.own_answers(harness, "goal_tracking", items, config)
    found = confidence.read_outs(harness, "goal_tracking", items, answers, harness.zeros(), config)
    thirds = confidence.tertiles(harness, items, found)
    well, badly = feedback(config.feedback)
    by_id = {item.id: item for item in items}
    talks = {
        (model, name): confidence.two_turns(
            confidence.question(by_id[name]), said, well if right[model, name] else badly
        )
        for (model, name), said in answers.items()
        if right[model, name] is not None
    }
    pairs = sorted({(c.vector, c.layer) for c in harness.cells if c.vector})
    values = harness.project("goal_tracking", talks, pairs)
    out = []
    for model in harness.models():
        mine = [key for key in talks if key[0] == model]
        groups = {"all": mine} | {t: [k for k in mine if thirds[k] == i] for i, t in enumerate(confidence.TERTILES)}
        for p, (vector, layer) in enumerate(pairs):
            for group, keys in groups.items():
                a, b = ([values[k][p] for k in keys if right[k] is side] for side in (True, False))
                out.append({
                    "model": model, "vector": vector, "kind": harness.bank.directions[vector].kind, "layer": layer,
                    "group": group, "n_correct": len(a), "n_incorrect": len(b),
                    "mean_correct": sum(a) / len(a) if a else None, "mean_incorrect": sum(b) / len(b) if b else None,
                    "cohens_d": stats.cohens_d(a, b), "auroc": stats.auroc(a, b),
                })  # fmt: skip
    return out


def feedback(path: str) -> tuple[str, str]:
    """What is said after a right and after a wrong answer: the two lines of the wording."""
    lines = [line.strip() for line in prompts.wording("feedback", path).split("\n") if line.strip()]
    if len(lines) != 2:
        raise InputError(
            f"evals.goal_tracking.feedback={path}: has {len(lines)} lines; give one for right answers, one for wrong"
        )
    return lines[0], lines[1]


def work(config: Tracked, grid, prompts: int) -> list[Work]:
    own, rows = confidence.own_work(config, grid, prompts), grid.models * prompts
    return [*own, *(Work(kind, rows, more=config.max_new_tokens) for kind in ("read-outs", "projections"))]


EVALUATION = Evaluation(
    "goal_tracking", goal_tracking, title="Goal tracking: projections after truthful feedback", judge="grade", turns=3,
    rows="tracking", work=work,
    settings=Tracked(("maths", "facts"), max_new_tokens=1024),
)  # fmt: skip
