"""The experiments: for each a folder here and a line at the end of this file.

The modules of a folder are imported when they are used, so that help and settings wait for no JAX:

settings.py  `tree()`: the settings with their defaults and meanings (see welfare_jax/settings.py), `job` among them
run.py       `run(config, workdir)`: does it, or goes on where it was stopped, and prints what came out
plan.py      where there is one, `run(config, workdir)`: what a run would need, a line at a time; loads no weights
report.py    `tables(run)`: {name: {column: list}} of a `report.data.Run`;
             `SECTIONS`: (id, heading, (run, tables) -> HTML) of each section, see report/page.py
             `answer(run, tables)`: the sentence and the figure on top of the page, see report/answer.py
"""

import importlib
import pathlib
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

from welfare_jax.errors import InputError


class Experiment(NamedTuple):
    """What `config.job` names. Two of them may share a folder and differ in the function that runs them."""

    folder: str
    function: str = "run"  # of run.py
    plan: str = ""  # the function of plan.py that says what a run would need; "" where there is none
    shared: bool = False  # whether several processes can run it together

    def part(self, module: str) -> ModuleType:
        return importlib.import_module(f"{__name__}.{self.folder}.{module}")

    def tree(self) -> dict:
        return self.part("settings").tree()

    def run(self, config, workdir):
        getattr(self.part("run"), self.function)(config, workdir)

    def planned(self, config, workdir) -> Iterator[str]:
        """What a run would need, in lines; loads no weights, writes nothing. InputError where nobody can tell."""
        if not self.plan:
            known = ", ".join(repr(job) for job, one in EXPERIMENTS.items() if one.plan)
            raise InputError(f"config.plan: job {config.job!r} cannot be planned, only {known}")
        if planning(config) == "compile" and config.job != "rl":
            raise InputError(f"config.plan=compile: compiles the main job's programs, not those of {config.job!r}")
        return getattr(self.part("plan"), self.plan)(config, workdir)


PLANS = {"": "", "false": "", "true": "estimate", "compile": "compile"}


def planning(config) -> str:
    """What `config.plan` asks for instead of a run: "estimate", "compile", or "" for nothing."""
    asked = str(config.get("plan", ""))
    if asked.lower() not in PLANS:
        raise InputError(f"config.plan={asked!r}: choose True, for an estimate, or compile")
    return PLANS[asked.lower()]


def find(job) -> Experiment:
    if job not in EXPERIMENTS:
        raise InputError(f"config.job={job!r}: choose one of {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[job]


def report(workdir) -> pathlib.Path:
    """Writes `report.html` and `tables/*.csv` of the run in a folder, as its `config.json` names the job; the page's
    path. What the run has not left is left out, and the page says so. Raises InputError if `workdir` is not a folder.
    """
    from welfare_jax.report import data, page

    run = data.load(workdir)
    part = EXPERIMENTS.get(str(run.config.get("job")), EXPERIMENTS["rl"]).part("report")
    return page.write(run, part.tables(run), part.SECTIONS, part.answer)


EXPERIMENTS = {
    "rl": Experiment("axis", plan="run", shared=True),
    "pretrain": Experiment("pretraining", plan="run"),
    "axes": Experiment("axis", "read", plan="read"),
    "evals": Experiment("evals", plan="run"),
    "amplify": Experiment("amplification", plan="run"),
    "reward_model": Experiment("reward_model", plan="run"),
    "imitation": Experiment("imitation", plan="run"),
    "words": Experiment("success_text_ablation", plan="run"),
}
