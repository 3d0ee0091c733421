"""What an evaluation is: one value, which is set by its settings, run, and shown in the report by what it says."""

from collections.abc import Callable
from typing import NamedTuple

COHORTS = ("permuted", "random", "orthogonal")  # kinds of directions that a vector is held against
SAMPLED = {"max_new_tokens": 256, "temperature": 0.7, "judge_prompt": ""}  # settings of judged answers


class Grid(NamedTuple):
    """How many cells an evaluation has before it, counted without making a vector."""

    cells: int
    models: int
    shown: int  # cells without steering, and of the vectors that others are controls of
    layers: int  # at which the vector of a class steers
    doses: int  # different strengths, whatever their sign


class Work(NamedTuple):
    """What an evaluation asks of the models, at most: so many prompts, each read and perhaps answered."""

    kind: str  # "answers", "read-outs", "projections"
    count: int
    new: int = 0  # tokens of an answer
    more: int = 0  # tokens that are read beside the prompt
    judged: bool = False  # whether a judge reads each answer


def sampled(config, grid: Grid, prompts: int) -> list[Work]:
    """Of evaluations whose answers a judge scores in every cell."""
    return [Work("answers", grid.cells * prompts * config.samples, config.max_new_tokens, judged=True)]


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
    work: Callable = sampled  # (`config.evals[name]`, `Grid`, number of prompts) -> [`Work`, ...], for the planner
    settings: dict = {}  # the defaults of `config.evals[name]` and what they mean, see welfare_jax/settings.py

    def needs_judge(self, config) -> bool:
        return self.judge == "verdict" or (self.judge == "grade" and config.grade == "judge")
