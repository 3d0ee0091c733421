"""How an answer about itself, or about the tiles, sounds: a judge's score from -5 to +5 (arXiv:2605.30232 §4, §M)."""

from welfare_jax.evals import prompts, replies, summary
from welfare_jax.evals.evaluation import Evaluation, Judged

LOW, HIGH = -5, 5


def sentiment(harness, config: Judged) -> list[dict]:
    """Scores of every cell. Metric: the score of coherent answers; nonsensical ones count as incoherent."""
    answers = harness.sampled("sentiment", config)
    template = prompts.wording("judge_sentiment", config.judge_prompt)
    verdicts = harness.verdicts("sentiment", answers, lambda reply: replies.score(reply, LOW, HIGH), template)
    return [
        summary.score(
            "sentiment", a, {"sentiment": v if isinstance(v, float) else None}, v == replies.NONSENSE, v is None
        )
        for a, v in zip(answers, verdicts)
    ]


EVALUATION = Evaluation(
    "sentiment", sentiment, "sentiment", "Sentiment, -5 to +5", judge="verdict",
    settings=Judged(("sentiment",), 20),
)  # fmt: skip
