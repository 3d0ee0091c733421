"""The settings of the trainer, their defaults and what they mean: the paper's main run (arXiv:2605.30232 §2.2, §J.3).

Nothing here imports JAX before something is trained, because config files import it.
"""

import dataclasses
import re

from welfare_jax.errors import InputError
from welfare_jax.settings import check, one_of, setting

# What differs where answers are free text (`train.freeform`), whose actions are tokens of the whole vocabulary.
FREE_TEXT = {
    "algorithm": "grpo", "schedule": "constant", "warmup": 2, "adam_b2": 0.95, "entropy_coef": 0.0, "entropy": "plain",
    "kl": "k3", "remat": False,
}  # fmt: skip


def _pattern(name: str, pattern: str):
    try:
        re.compile(pattern)
    except re.error as error:
        raise InputError(f"{name}={pattern!r}: not a regular expression ({error})") from None


@dataclasses.dataclass(frozen=True)
class Lora:
    """Adapters; see models/layers.py."""

    rank: int = 32
    alpha: float = 64.0
    targets: str = r"attn/(q|k|v|o)|mlp/(experts/)?(gate|up|down)"

    def __post_init__(self):
        _pattern("targets", self.targets)


@dataclasses.dataclass(frozen=True)
class Intervene:
    """Interventions that are active while a model is trained; see train/intervene.py."""

    vectors: str = ""
    vector: str = "gold/rest"
    op: str = setting("ablate", choices=("add", "ablate"))
    layer: int = -1
    scale: float = 1.0
    when: str = setting("both", choices=("rollout", "update", "both"))

    def __post_init__(self):
        check(self)


@dataclasses.dataclass(frozen=True)
class Steps:
    """What the loop of every training reads; see train/training.py."""

    steps: int = setting(95, least=1)
    checkpoint_every: int = setting(5, "steps", least=1)
    keep: int = setting(3, "checkpoints")
    spike: float = setting(20.0, "stop at a loss so many standard deviations off the last steps'; 0: never")

    def __post_init__(self):
        check(self)


@dataclasses.dataclass(frozen=True)
class Optimisation(Steps):
    """What all gradient steps share."""

    micro_batch: int = setting(32, "episodes a gradient pass", least=1)
    # Rates.
    schedule_steps: int = setting(500, "S: learning rate and entropy coefficient are zero from step S - 1 on")
    schedule: str = setting(
        "cosine", 'of the learning rate; or "linear", "constant"', choices=("cosine", "linear", "constant")
    )
    schedule_rate: float = setting(1.0, "f: how fast the annealing runs")
    warmup: int = 0
    lr: float = setting(3e-6, "learning rate")
    value_lr: float = setting(1e-2, "learning rate of PPO's value head")
    # Optimiser.
    optimizer: str = setting("adamw", 'or "lion", "sgd"')
    grad_clip: float = setting(1.0, "0: none")
    weight_decay: float = 0.01
    adam_b1: float = 0.9
    adam_b2: float = 0.999
    lora: Lora = Lora()
    trainable: str = setting(r".*/lora_[ab]", "paths of the parameters that are trained, a regular expression")
    remat: bool = setting(True, "compute a layer's inside again in the backward pass")

    def __post_init__(self):
        from welfare_jax.train.state import OPTIMIZERS

        super().__post_init__()
        one_of("optimizer", self.optimizer, OPTIMIZERS)
        if self.lr <= 0:
            raise InputError(f"lr={self.lr}: must be positive")
        _pattern("trainable", self.trainable)


@dataclasses.dataclass(frozen=True)
class Supervised(Optimisation):
    """Of supervised runs on batches of anything; see train/batch_trainer.py."""

    batch: int = setting(64, least=1)

    def __post_init__(self):
        super().__post_init__()
        if self.batch % self.micro_batch:
            raise InputError(f"micro_batch={self.micro_batch}: must divide batch={self.batch}")


@dataclasses.dataclass(frozen=True)
class Training(Optimisation):
    """Of the algorithms of train/algorithms.py."""

    algorithm: str = setting("dr_grpo", "one of train/algorithms.py")
    groups: int = setting(8, "mazes a step", least=1)
    group_size: int = setting(64, "episodes a maze", least=1)
    rollout_batch: int = setting(0, "episodes played at a time; fewer need less memory for the cache. 0: all")
    epochs: int = setting(1, "passes over the episodes of a step", least=1)
    minibatches: int = setting(1, "optimiser steps a pass", least=1)
    temperature: float = 0.7
    # Objective.
    entropy_coef: float = 0.01
    entropy: str = setting("equalised", 'or "plain"', choices=("equalised", "plain"))
    kl_coef: float = 0.0
    kl: str = setting("exact", 'over the four actions; or "k3"', choices=("exact", "k3"))
    kl_in: str = setting("loss", 'or "reward"', choices=("loss", "reward"))
    clip: float = 0.2
    dual_clip: float = 3.0
    z: float = 2048.0
    gamma: float = 1.0
    gae_lambda: float = 0.95
    value_clip: float = 0.2
    value_coef: float = 0.5
    reward_scale: float = setting(1.0, "what rewards are multiplied by before advantages")
    keep_best: int = setting(0, "learn only from this many best distinct episodes a maze (Expert Iteration)")
    soft_q: float = setting(0.0, "lambda of inverse soft-Q")
    remat_keeps: str = setting(
        "nothing", 'of it; or "dots", products with weights: faster, and more memory', choices=("nothing", "dots")
    )

    def __post_init__(self):
        from welfare_jax.train.algorithms import ALGORITHMS

        super().__post_init__()
        one_of("algorithm", self.algorithm, ALGORITHMS)

    @property
    def learnt(self) -> int:
        """Episodes of a step that are learnt from."""
        return self.groups * min(self.keep_best or self.group_size, self.group_size)


@dataclasses.dataclass(frozen=True)
class MazeTraining(Training):
    """The maze's, with what only it reads."""

    merge_lora: bool = setting(False, "fold adapters in for the rollout: less work, a second copy of the weights")
    eval_every: int = setting(0, "steps between rollouts on held-out mazes, whose best is kept; 0: none")
    shuffle_rewards: bool = setting(False, "exchange what tiles are worth, anew for every maze: nothing to learn")
    intervene: Intervene = setting(
        Intervene(), "a vector file, its entry and what is done with it while training; see train/intervene.py"
    )

    def __post_init__(self):
        from welfare_jax.train.algorithms import ALGORITHMS

        super().__post_init__()
        if self.shuffle_rewards and ALGORITHMS[self.algorithm].planned:
            raise InputError(f"shuffle_rewards: {self.algorithm} learns from planned moves, not from rewards")


@dataclasses.dataclass(frozen=True)
class Organisms:
    """Adapters side by side; see train/organisms.py."""

    seed: tuple[int, ...] = ()
    tiles: tuple[tuple[int, int, int], ...] = ()
    lr: tuple[float, ...] = ()
    entropy_coef: tuple[float, ...] = ()
    shuffle_rewards: tuple[bool, ...] = ()

    def __post_init__(self):
        if len({len(values) for values in self.given.values()}) > 1:
            said = ", ".join(f"{name}={values}" for name, values in self.given.items())
            raise InputError(f"{said}: lists of different lengths")
        if odd := [order for order in self.tiles if sorted(order) != [0, 1, 2]]:
            raise InputError(f"tiles: {odd[0]} is no order of 0, 1, 2")

    @property
    def given(self) -> dict[str, tuple]:
        return {name: values for name, values in vars(self).items() if values}


@dataclasses.dataclass(frozen=True)
class Planned:
    """Planned trajectories; see train/supervised.py."""

    trajectories: int = 50_000
    held_out: int = 512
    size: int = setting(31, "of the mazes; 0: that of the maze")
    beams: int = 64
    batch: int = 16
    policy_samples: bool = False


@dataclasses.dataclass(frozen=True)
class Curve:
    """The live recruitment curve."""

    every: int = setting(5, "steps between points")
    per_length: int = setting(4, "walks a class and length")
    axes: str = setting("", "a vector file (a former run's vectors/axes_untrained.safetensors) to compare with")

    def __post_init__(self):
        if self.every and self.per_length < 1:
            raise InputError(f"per_length={self.per_length}: must be at least 1")


@dataclasses.dataclass(frozen=True)
class Rewarded(Training):
    """Of answers or episodes that a reward of one's own is paid for: all on one device, whatever the algorithm."""

    def __post_init__(self):
        super().__post_init__()
        part, rest = divmod(self.learnt, self.minibatches)
        if rest or part % min(self.micro_batch, part):
            raise InputError(
                f"micro_batch={self.micro_batch}, minibatches={self.minibatches}: must divide {self.learnt}"
            )


@dataclasses.dataclass(frozen=True)
class FreeText(Rewarded):
    """Of free text, see train/freeform.py."""

    def __post_init__(self):
        one_of("algorithm", self.algorithm, ("dr_grpo", "grpo", "ppo", "expert_iteration"))
        if self.kl != "k3" or self.entropy != "plain":
            raise InputError(f"kl={self.kl!r}, entropy={self.entropy!r}: free text has 'k3' and 'plain' only")
        super().__post_init__()


@dataclasses.dataclass(frozen=True)
class InEnvironment(Rewarded):
    """Of text environments, see rl/environment.py."""

    def __post_init__(self):
        from welfare_jax.train.algorithms import ALGORITHMS

        known = [name for name, a in ALGORITHMS.items() if not (a.planned or a.every_action)]
        one_of("algorithm", self.algorithm, known)
        if self.entropy != "plain":
            raise InputError(f"entropy={self.entropy!r}: an environment has no tiles to even out; it takes 'plain'")
        super().__post_init__()
