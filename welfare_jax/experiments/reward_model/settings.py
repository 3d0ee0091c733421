"""The settings of reward models, and what supervised runs on batches of anything share with the main job."""

from ml_collections import ConfigDict

from welfare_jax.experiments.axis import settings as axis
from welfare_jax.settings import RENTING, Setting, defaults
from welfare_jax.settings import tree as settings_of
from welfare_jax.train.settings import Supervised


def reward_model() -> ConfigDict:
    """Reward models on helpfulness, harmlessness and both (arXiv:2606.13209), in the size of published models."""
    config = ConfigDict(defaults(tree()))
    # spike: the loss nears zero, where one pair ordered wrong is many standard deviations.
    config.train.update(steps=1000, schedule_steps=1000, lr=1e-5, value_lr=1e-4, micro_batch=8, spike=0.0)
    return config


def tree() -> dict:
    return _fitting() | {
        "job": "reward_model",
        **RENTING,
        "pairs": {
            "a": Setting("helpful", "an objective that the package generates, or a JSONL file"),
            "b": Setting("harmless", "as `a`, another one"),
            "count": Setting(20_000, "training pairs of each; of a file at most so many, 0: all"),
            "held_out": 1000,
            "conflict": Setting(0.5, "of generated pairs: the share that the other objective orders the other way"),
            "max_tokens": Setting(512, "the last of a text"),
        },
        "neurons": {
            "percent": Setting(10.0, "of all neurons, that the sets are made of"),
            "sweep": (2.0, 5.0, 10.0, 15.0, 20.0, 30.0),
            "random": Setting(3, "draws of every random set"),
            "batch": Setting(32, "pairs looked at together: all their neurons are held at once"),
        },
    }  # fmt: skip


def fitting(**changes) -> dict:
    """What supervised runs on a batch of anything share: model, mesh, and the settings of `rl` that optimise."""
    out = defaults(_fitting())
    return out | {"train": out["train"] | changes}


def _fitting() -> dict:
    return {name: axis.tree()[name] for name in ("seed", "model", "mesh")} | {"train": settings_of(Supervised)}
