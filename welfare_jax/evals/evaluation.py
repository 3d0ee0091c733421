"""What an evaluation is: one value, which is set by its settings, run, and shown in the report by what it says."""

from collections.abc import Callable
from typing import NamedTuple

COHORTS = ("permuted", "random", "orthogonal")  # kinds of directions that a vector is held against
SAMPLED = {"max_new_tokens": 256, "temperature": 0.7, "judge_prompt": ""}  # settings of judged answers


class Evaluation(NamedTuple):
    name: str  # as in `config.evals.names`
    run: Callable  # (lab, `config.evals[name]`) -> rows
    metric: str = ""  # which of its metrics its panel and its slopes show; "" where it has none
    title: str = ""  # of that panel, or of its table
    judge: str = ""  # "verdict": a judge scores its answers; "grade": only where its `grade` is "judge"; "": never
    thinking: bool = False  # whether a local judge may think before its verdict
    turns: int = 1  # messages of the longest conversation before the model's answer
    rows: str = "scores"  # what its rows are: "scores" of `summary.score`, or those of a table of its own by this name
    ready: Callable | None = None  # (config, tokens of a text, tiles): refuses early what would be an error later
    summary: Callable | None = None  # rows -> what summary.json says of them, beside slopes
    settings: dict = {}  # the defaults of `config.evals[name]` and what they mean, see welfare_jax/settings.py

    def needs_judge(self, config) -> bool:
        return self.judge == "verdict" or (self.judge == "grade" and config.grade == "judge")
