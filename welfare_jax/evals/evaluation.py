"""What an evaluation is: one value, which is set by its settings, run, and shown in the report by what it says."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from welfare_jax.settings import check, setting

COHORTS = ("permuted", "random", "orthogonal")  # kinds of directions that a vector is held against


@dataclasses.dataclass(frozen=True)
class Asked:
    """The settings of an evaluation; those of its own are the fields that it adds."""

    prompts: tuple[str, ...] = ()

    def __post_init__(self):
        check(self)


@dataclasses.dataclass(frozen=True)
class Sampled(Asked):
    """With sampled answers."""

    samples: int = setting(1, least=1)
    max_new_tokens: int = setting(256, least=1)
    temperature: float = 0.7


@dataclasses.dataclass(frozen=True)
class Judged(Sampled):
    """With answers that a judge scores."""

    judge_prompt: str = ""


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


def sampled(config: Sampled, grid: Grid, prompts: int) -> list[Work]:
    """Of evaluations whose answers a judge scores in every cell."""
    return [Work("answers", grid.cells * prompts * config.samples, config.max_new_tokens, judged=True)]


class Evaluation(NamedTuple):
    name: str  # as in `config.evals.names`
    run: Callable  # (harness, `config.evals[name]`) -> rows
    metric: str = ""  # which of its metrics its panel and its slopes show; "" where it has none
    title: str = ""  # of that panel, or of its table
    judge: str = ""  # "verdict": a judge scores its answers; "grade": only where its `grade` is "judge"; "": never
    thinking: bool = False  # whether a local judge may think before its verdict
    turns: int = 1  # messages of the longest conversation before the model's answer
    rows: str = "scores"  # what its rows are: "scores" of `summary.score`, or those of a table of its own by this name
    ready: Callable | None = None  # (config, tokens of a text, tiles): refuses early what would be an error later
    summary: Callable | None = None  # rows -> what summary.json says of them, beside slopes
    work: Callable = sampled  # (`config.evals[name]`, `Grid`, number of prompts) -> [`Work`, ...], for the planner
    settings: Asked = Asked()  # the defaults of `config.evals[name]`

    def needs_judge(self, config) -> bool:
        return self.judge == "verdict" or (self.judge == "grade" and config.grade == "judge")
