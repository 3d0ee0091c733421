"""Advantages and objectives as plain functions (arXiv:2605.30232 §J.3).

An objective maps `(batch, new_logps, config)` to `(numerator, denominator, metrics)`: sums kept apart, so that
micro-batches and devices add up exactly. B episodes, N turns, 4 actions. Every metric is a pair (sum, count); a name
that ends in `_max` is a maximum instead.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

TILES = 3


class Batch(NamedTuple):
    """What an objective sees of the episodes."""

    actions: jax.Array  # int32 [B, N]
    old_logps: jax.Array  # float32 [B, N, 4], of the sampling policy
    advantages: jax.Array  # float32 [B, N]
    neighbours: jax.Array  # int32 [B, N, 4], tile roles before the move
    ref_logps: jax.Array | None  # float32 [B, N, 4], of the reference model where a KL term wants it


class Surrogate(NamedTuple):
    """Numbers of the clipped surrogate; all of them may be traced."""

    clip: float = 0.2
    dual_clip: float = 3.0
    z: float = 2048.0  # the constant that token losses are divided by
    entropy_coef: float = 0.0
    kl_coef: float = 0.0


def group_advantage(rewards, group_size: int):
    """Dr. GRPO: return minus the group's mean return, at every turn. rewards [B, N] -> [B, N]."""
    returns = rewards.sum(-1).reshape(-1, group_size)
    centred = (returns - returns.mean(-1, keepdims=True)).reshape(-1, 1)
    return jnp.broadcast_to(centred, rewards.shape)


def policy_logps(logits, temperature):
    """Log-probabilities [..., 4] of the distribution that is sampled."""
    return jax.nn.log_softmax(logits / jnp.maximum(temperature, 1e-6))


def entropy(logps):
    return -jnp.sum(jnp.exp(logps) * logps, -1)


def equalised_entropy(logps, neighbours):
    """Entropy over the actions that lead to equal tiles, summed over the tile roles [B, N].

    For each role with two or more neighbours: Shannon entropy of the softmax over just those actions. It rewards
    indifference between equal tiles, never between different ones.
    """
    total = jnp.zeros(neighbours.shape[:-1])
    for role in range(TILES):
        member = neighbours == role
        masked = jnp.where(member, logps, -1e9)
        within = jax.nn.log_softmax(masked)
        h = -jnp.sum(jnp.where(member, jnp.exp(within) * within, 0.0), -1)
        total += jnp.where(member.sum(-1) >= 2, h, 0.0)
    return total


def chosen(logps, actions):
    return jnp.take_along_axis(logps, actions[..., None], -1)[..., 0]


def clipped_surrogate(ratio, advantages, clip, dual_clip):
    """PPO's pessimistic loss per token, bounded by -dual_clip * A where the advantage is negative."""
    loss = jnp.maximum(-advantages * ratio, -advantages * jnp.clip(ratio, 1 - clip, 1 + clip))
    return jnp.where(advantages < 0, jnp.minimum(loss, -dual_clip * advantages), loss)


def dr_grpo(batch: Batch, new_logps, config: Surrogate):
    """Dr. GRPO: clipped surrogate with dual clip, tokens summed over the constant Z, mean over sequences."""
    difference = chosen(new_logps, batch.actions) - chosen(batch.old_logps, batch.actions)
    ratio = jnp.exp(jnp.clip(difference, -20.0, 20.0))
    loss = clipped_surrogate(ratio, batch.advantages, config.clip, config.dual_clip)
    bonus = equalised_entropy(new_logps, batch.neighbours)
    loss = loss - config.entropy_coef * bonus
    if batch.ref_logps is not None:
        loss = loss + config.kl_coef * jnp.sum(jnp.exp(new_logps) * (new_logps - batch.ref_logps), -1)
    tokens, episodes = loss.size, loss.shape[0]
    metrics = {
        "ratio": (ratio.sum(), tokens),
        "clip_frac": (jnp.sum(jnp.abs(ratio - 1) > config.clip), tokens),
        "entropy": (entropy(new_logps).sum(), tokens),
        "equalised_entropy": (bonus.sum(), tokens),
        "ratio_error_max": jnp.max(jnp.abs(ratio - 1)),
    }
    return loss.sum() / config.z, episodes, metrics


OBJECTIVES = {"dr_grpo": (dr_grpo, group_advantage)}


def choices(trajectory):
    """What the player chose among, as (sum, count) pairs.

    gold_taken: turns with a gold neighbour on which the choice is gold. mold_avoided: turns with both mold and
    other neighbours on which it is not mold.
    """
    near = trajectory.neighbours
    tile = chosen(near, trajectory.actions)
    has_gold, molds = (near == 1).any(-1), (near == 2).sum(-1)
    mixed = (molds > 0) & (molds < 4)
    return {
        "gold_taken": (jnp.sum(has_gold & (tile == 1)), has_gold.sum()),
        "mold_avoided": (jnp.sum(mixed & (tile != 2)), mixed.sum()),
    }


def cosine(step, total: int, rate: float = 1.0):
    """The paper's annealing factor 0.5 * (1 + cos(pi * min(step / (S - 1) * f, 1))) (§J.3)."""
    return 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / max(total - 1, 1) * rate, 1.0)))
