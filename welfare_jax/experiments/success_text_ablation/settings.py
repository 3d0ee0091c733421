"""The settings of bases with and without accounts of success: the main job's, and two pretrainings."""

from typing import NamedTuple

from ml_collections import ConfigDict

from welfare_jax.experiments.axis import settings as axis
from welfare_jax.experiments.pretraining import settings as pretraining
from welfare_jax.settings import Setting, defaults


class Point(NamedTuple):
    """A number of the live curve, and behind which question it was read ("": at the final letter)."""

    number: str
    question: str

    @property
    def name(self) -> str:
        """As metrics.jsonl has it."""
        return f"{self.number}?{self.question}"

    @classmethod
    def of_name(cls, name: str) -> "Point | None":
        number, mark, question = name.partition("?")
        return cls(number, question) if mark else None


def words() -> ConfigDict:
    """The main job on small bases that did and did not read accounts of success, failure and feeling."""
    config = ConfigDict(defaults(tree()))
    kinds = ("questions", "choices", "steps", "stories", "verdicts")  # of text/tiny_world.py
    config.words.pretrain.sources = ConfigDict(
        {k: {"data": f"world/{k}", "weight": 1.0, "column": "text"} for k in kinds}
    )
    config.axes.kinds = "success"
    return config


def tree() -> dict:
    return axis.tree() | {
        "job": "words",
        "words": {
            "seeds": (0,),
            "arms": Setting({
                "with": {"questions": 0.15, "choices": 0.3, "steps": 0.1, "stories": 0.3, "verdicts": 0.15},
                "without": {"questions": 0.15, "choices": 0.3, "steps": 0.1},
            }, "what each reads at the end, after what all have read: weights of documents"),
            "steps": 150,
            "warmup": Setting(10, "of the steps"),
            "questions": Setting(
                ("", "How is it going?"), "after a walk: where it is read; the empty one is the final letter"
            ),
            "pretrain": Setting(pretraining.part(), "what all have read"),
        },
    }  # fmt: skip
