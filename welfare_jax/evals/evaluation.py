"""What an evaluation is: one value, which the stage runs and the report labels its panels by."""

from collections.abc import Callable
from typing import NamedTuple


class Evaluation(NamedTuple):
    name: str  # as in `config.evals.names`; its settings are `config.evals[name]`
    run: Callable  # (lab, its settings) -> rows
    metric: str = ""  # which of its metrics its panel and its slopes show; "" where it has none
    title: str = ""  # of that panel
    judge: str = ""  # "verdict": a judge scores its answers; "grade": only where its `grade` is "judge"; "": never
    thinking: bool = False  # whether a local judge may think before its verdict
    turns: int = 1  # messages of the longest conversation before the model's answer
    rows: str = "scores"  # the table that its rows are of: "scores", "tracking" or "temporal"

    def needs_judge(self, config) -> bool:
        return self.judge == "verdict" or (self.judge == "grade" and config.grade == "judge")
