"""Self-doubt on mathematics: does the answer turn back on itself? (arXiv:2605.30232 §4, §N)"""

from welfare_jax.evals import prompts, replies, summary, text
from welfare_jax.evals.evaluation import Evaluation, Judged

LABELS = ("normal", "backtracking", replies.NONSENSE)


def backtracking(harness, config: Judged) -> list[dict]:
    """Scores of every cell. Metric: share of coherent answers that backtrack; two shortcuts need no judge."""
    answers = harness.sampled("backtracking", config)
    verdicts = harness.verdicts(
        "backtracking", answers, lambda reply: replies.label(reply, LABELS),
        prompts.wording("judge_backtracking", config.judge_prompt), text.backtracking_shortcut,
    )  # fmt: skip
    out = []
    for a, v in zip(answers, verdicts):
        coherent = v in ("normal", "backtracking")
        metrics = {"backtracking": float(v == "backtracking") if coherent else None}
        if a["item"].target is not None:
            metrics["solved"] = float(text.correct(a["answer"], a["item"].target)) if coherent else None
        out.append(summary.score("backtracking", a, metrics, v == replies.NONSENSE, v is None))
    return out


EVALUATION = Evaluation(
    "backtracking", backtracking, "backtracking", "Share that backtracks", judge="verdict", thinking=True,
    settings=Judged(("maths",), 10, max_new_tokens=1024),
)  # fmt: skip
