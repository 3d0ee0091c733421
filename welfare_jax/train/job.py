"""A job that trains in the maze: its settings, read from a config in one place. The trainer's programs take these."""

import copy
import dataclasses
import functools

from welfare_jax.envs import maze
from welfare_jax.interp.extract import Extraction
from welfare_jax.settings import Mesh, Model, Renting, one_of, typed
from welfare_jax.text import wording
from welfare_jax.train.settings import Curve, MazeTraining, Organisms, Planned

WAYS = ("jit", "pmap")


@dataclasses.dataclass(frozen=True)
class Job:
    """The sections of a config that training reads, and as `whole` all of them: what is written and bound to."""

    whole: dict
    seed: int
    parallel: str
    renting: Renting
    model: Model
    mesh: Mesh
    text: wording.Wording
    template: dict
    maze: maze.Params
    train: MazeTraining
    organisms: Organisms
    sft: Planned
    curve: Curve
    extract: Extraction

    def __post_init__(self):
        one_of("parallel", self.parallel, WAYS)

    @classmethod
    def of(cls, config) -> "Job":
        """Of a config, or of its settings as a dictionary. Raises `InputError` where they do not fit together."""
        whole = config if isinstance(config, dict) else config.to_dict()
        kinds = {
            "model": Model, "mesh": Mesh, "train": MazeTraining, "organisms": Organisms, "sft": Planned,
            "curve": Curve, "extract": Extraction,
        }  # fmt: skip
        sections = {name: typed(kind, whole, name) for name, kind in kinds.items()}
        text, template = wording.of(whole["text"])
        return cls(
            whole, whole["seed"], whole["parallel"], typed(Renting, whole), text=text, template=template,
            maze=maze.Params(**whole["maze"]).check(), **sections,
        )  # fmt: skip

    def changed(self, changes: dict) -> "Job":
        """With other settings, {dotted name: value}."""
        whole = copy.deepcopy(self.whole)
        for name, value in changes.items():
            *above, last = name.split(".")
            functools.reduce(lambda part, section: part[section], above, whole)[last] = value
        return Job.of(whole)
