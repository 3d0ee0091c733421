"""The settings of the sweep over lambda."""

from ml_collections import ConfigDict

from welfare_jax.experiments.axis import settings as axis
from welfare_jax.settings import Setting, defaults


def imitation() -> ConfigDict:
    """Inverse soft-Q over lambda on planned mazes and arithmetic (arXiv:2409.01369); `train` and `sft` serve both."""
    return ConfigDict(defaults(tree()))


def tree() -> dict:
    return axis.tree() | {
        "job": "imitation",
        "imitation": {
            "tasks": ("arithmetic", "maze"),
            "lambdas": Setting((0.0, 0.001, 0.01, 0.1), "0 is maximum likelihood"),
            "temperatures": (0.4, 0.7, 1.0, 1.3),
            "prompts": Setting(64, "held-out problems, or mazes"),
            "samples": Setting(16, "of each: what Self-BLEU compares"),
            "batch": Setting(256, "problems' samples drawn, or looked at, together"),
            "arithmetic": {
                "demonstrations": 20_000,
                "level": {"steps": 2, "largest": 20, "operations": "+-*"},
                "max_new_tokens": Setting(0, "0: what the longest demonstration needs"),
                "steps": Setting(0, "0: as train.steps"),
                "batch": Setting(0, "examples a step; 0: as sft.batch"),
                "lr": Setting(0.0, "0: as train.lr"),
            },
        },
    }  # fmt: skip
