"""The evaluations there are: a file with one `EVALUATION` each, and its name here."""

from welfare_jax.evals import (
    backtracking,
    confidence,
    goal_tracking,
    refusal,
    refusal_logodds,
    samples,
    sentiment,
    sentiment_logodds,
    temporal,
)
from welfare_jax.settings import typed

MODULES = (
    sentiment, backtracking, confidence, refusal, sentiment_logodds, refusal_logodds, goal_tracking, samples,
    temporal,
)  # fmt: skip
EVALUATIONS = {m.EVALUATION.name: m.EVALUATION for m in MODULES}


def asked(section, name: str):
    """The settings of an evaluation, of a config's section `evals`."""
    return typed(type(EVALUATIONS[name].settings), {"evals": section}, f"evals.{name}")
