"""What config files start from: a function for the settings of each experiment, all in their defaults."""

import difflib

from welfare_jax import experiments
from welfare_jax.errors import InputError
from welfare_jax.evals.settings import evals as evals
from welfare_jax.experiments.amplification.settings import amplify as amplify
from welfare_jax.experiments.axis.settings import of_run as of_run
from welfare_jax.experiments.axis.settings import rl as rl
from welfare_jax.experiments.imitation.settings import imitation as imitation
from welfare_jax.experiments.pretraining.settings import pretrain as pretrain
from welfare_jax.experiments.reward_model.settings import fitting as fitting
from welfare_jax.experiments.reward_model.settings import reward_model as reward_model
from welfare_jax.experiments.success_text_ablation.settings import words as words
from welfare_jax.settings import meanings


def check_variant(variant: str, variants):
    """`InputError` where `variant` is none of the `variants` of a config file."""
    if variant not in variants:
        near = difflib.get_close_matches(variant, variants, 2)
        meant = f"did you mean {' or '.join(near)}?" if near else "choose another one."
        raise InputError(f"there is no variant {variant!r}; {meant} There are {', '.join(variants)}")


def documented(job: str) -> dict[str, str]:
    """What the settings and sections of a job mean, by dotted name in their order; empty where it is not said."""
    return meanings(experiments.EXPERIMENTS[job].tree()) if job in experiments.EXPERIMENTS else {}
