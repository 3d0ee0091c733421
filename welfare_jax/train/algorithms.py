"""The algorithms as data: what an action was worth, what is minimised, and where the examples come from.

A new one is a function of `rl.objectives` or `sft.imitation` and a line here. An advantage maps (rewards [B, N],
values of the value head [B, N] or None, config, bool [B, N] of what counts or None for all) to (advantages [B, N],
targets of the value head or None).
"""

from collections.abc import Callable
from typing import NamedTuple

from welfare_jax.rl import advantages, objectives
from welfare_jax.sft import imitation
from welfare_jax.train.settings import Training


class Algorithm(NamedTuple):
    objective: Callable
    advantage: Callable | None = None  # None: supervised, with likelihoods at temperature one
    value_head: bool = False
    restart: bool = False  # every step starts again from the parameters before training
    planned: bool = False  # learns from the planner's trajectories
    every_action: bool = False  # asks what the moves that were not made would have earned: the maze only


def _gae(rewards, values, config: Training, mask=None):
    gained, returns = advantages.gae(rewards, values, config.gamma, config.gae_lambda)
    return advantages.whitened(gained, mask), returns


ALGORITHMS = {
    "dr_grpo": Algorithm(objectives.dr_grpo, lambda r, v, c, m: (advantages.group_advantage(r, c.group_size), None)),
    "grpo": Algorithm(objectives.grpo, lambda r, v, c, m: (advantages.group_normalised(r, c.group_size), None)),
    "reinforce": Algorithm(objectives.dr_grpo, lambda r, v, c, m: (advantages.turn_advantage(r, c.group_size), None)),
    "all_actions": Algorithm(objectives.all_actions, lambda r, v, c, m: (r, None), every_action=True),
    "ppo": Algorithm(objectives.ppo, _gae, value_head=True),
    "expert_iteration": Algorithm(imitation.maximum_likelihood, restart=True),
    "sft": Algorithm(imitation.maximum_likelihood, planned=True),
    "inverse_soft_q": Algorithm(imitation.inverse_soft_q, planned=True),
}
