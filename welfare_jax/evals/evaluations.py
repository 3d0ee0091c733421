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

MODULES = (
    sentiment, backtracking, confidence, refusal, sentiment_logodds, refusal_logodds, goal_tracking, samples,
    temporal,
)  # fmt: skip
EVALUATIONS = {m.EVALUATION.name: m.EVALUATION for m in MODULES}
