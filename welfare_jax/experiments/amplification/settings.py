"""The settings of amplification: a pretraining, and RL with a verified reward."""

from ml_collections import ConfigDict

from welfare_jax.experiments.pretraining import settings as pretraining
from welfare_jax.settings import MESH, RENTING, Model, Setting, defaults
from welfare_jax.settings import tree as settings_of
from welfare_jax.train import settings as train


def amplify() -> ConfigDict:
    """RL with a verified reward on arithmetic, from a base that is pretrained on a mixture of solution formats."""
    config = ConfigDict(defaults(tree()))
    # The base is to know all formats, and none of them perfectly.
    config.pretrain.steps = 160
    config.pretrain.level.update(steps=2, largest=20, operations="+-*")
    config.train.update(
        train.FREE_TEXT, steps=40, schedule_steps=40, groups=32, group_size=8, lr=3e-4, trainable=".*",
        checkpoint_every=10, keep=1,
    )  # fmt: skip
    config.train.lora.rank = 0
    return config


def tree() -> dict:
    return {
        "job": "amplify",
        **RENTING,
        "seed": 0,
        "model": settings_of(Model(dtype="float32")) | {"path": Setting("", "empty: a base is pretrained first")},
        "pretrain": Setting(pretraining.part(), "its seed, shape and weights follow from the settings below"),
        "shape": "tiny",
        "mixture": "even",
        "shapes": Setting({"tiny": {}}, "what of `pretrain.shape` each scale changes"),
        "mixtures": {"even": {"words": 1.0, "function": 1.0, "script": 1.0}},
        "mesh": MESH,
        "problems": Setting(4096, "to learn from"),
        "max_new_tokens": 40,
        "train": settings_of(train.FreeText),
        "measure": Setting(
            {"every": 10, "problems": 64, "samples": 16, "batch": 16, "ks": (1, 4, 16)},
            "greedy accuracy is over all held-out problems, the rest over so many samples of each, a batch at a time",
        ),
        "sweep": Setting(
            {"shape": (), "mixture": (), "kl_coef": (), "seed": ()}, "lists: every combination is a cell of its own"
        ),
    }  # fmt: skip
