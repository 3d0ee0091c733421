"""Objectives of reinforcement learning as plain functions (arXiv:2605.30232 §J.3).

An objective maps `(batch, new_logps, config)` to `(numerator, denominator, metrics)`: sums kept apart, so that
micro-batches and devices add up exactly. B episodes, N turns, 4 actions. Every metric is a pair (sum, count); a name
that ends in `_max` is a maximum instead.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from welfare_jax.envs import maze

TILES = 3


class Batch(NamedTuple):
    """What an objective sees of the episodes. Nothing but `values` and `soft_values` depends on the parameters.

    In free text a turn is a token and there are as many actions as the vocabulary has; log-probabilities of the
    sampling policy and of the reference are then kept for the tokens taken only, [B, N].
    """

    actions: jax.Array  # int32 [B, N]
    old_logps: jax.Array | None  # float32 [B, N, 4], of the sampling policy
    advantages: jax.Array | None  # float32 [B, N]
    neighbours: jax.Array | None  # int32 [B, N, 4], tile roles before the move; None outside the maze
    ref_logps: jax.Array | None = None  # float32 [B, N, 4], of the reference model where a KL term wants it
    mask: jax.Array | None = None  # bool [B, N], the turns that count; None: all
    weights: jax.Array | None = None  # float32 [B, N], of a turn's log-likelihood in supervised objectives; None: 1
    returns: jax.Array | None = None  # float32 [B, N], targets of the value head
    old_values: jax.Array | None = None  # float32 [B, N], what it said when the episodes were played
    values: jax.Array | None = None  # float32 [B, N], what it says now
    soft_values: jax.Array | None = None  # float32 [B, N], logsumexp of the four logits now
    worth: jax.Array | None = None  # float32 [B, N, 4], what each action earns at once; None outside the maze


class Surrogate(NamedTuple):
    """Numbers of the objectives; all of them may be traced. The two names are structure."""

    clip: float = 0.2
    dual_clip: float = 3.0
    z: float = 2048.0  # the constant that token losses are divided by
    entropy_coef: float = 0.0
    kl_coef: float = 0.0
    value_clip: float = 0.2
    value_coef: float = 0.5
    soft_q: float = 0.0  # lambda of inverse soft-Q
    gamma: float = 1.0
    entropy: str = "equalised"  # or "plain"
    kl: str = "exact"  # or "k3"


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
    """Those of the actions [B, N], of logps [B, N, A]; [B, N] are of the actions already."""
    return logps if logps.ndim == actions.ndim else jnp.take_along_axis(logps, actions[..., None], -1)[..., 0]


def clipped_surrogate(ratio, advantages, clip, dual_clip):
    """PPO's pessimistic loss per token, bounded by -dual_clip * A where the advantage is negative."""
    loss = jnp.maximum(-advantages * ratio, -advantages * jnp.clip(ratio, 1 - clip, 1 + clip))
    return jnp.where(advantages < 0, jnp.minimum(loss, -dual_clip * advantages), loss)


def kl_divergence(kind: str, logps, ref_logps, actions):
    """KL(policy || reference) [B, N]: "exact" over the four actions, or Schulman's "k3" from the action taken."""
    if kind == "exact":
        return jnp.sum(jnp.exp(logps) * (logps - ref_logps), -1)
    log_ratio = jnp.clip(chosen(ref_logps, actions) - chosen(logps, actions), -20.0, 20.0)
    return jnp.exp(log_ratio) - log_ratio - 1.0


def clipped_value_loss(values, old_values, returns, clip):
    """Half the squared error of the value head, the worse of the free and the clipped step (arXiv:1707.06347)."""
    near = old_values + jnp.clip(values - old_values, -clip, clip)
    return 0.5 * jnp.maximum((values - returns) ** 2, (near - returns) ** 2)


def turns(batch: Batch):
    """The turns that count, float32 [B, N]."""
    return jnp.ones(batch.actions.shape) if batch.mask is None else batch.mask.astype(jnp.float32)


def _surrogate(batch: Batch, new_logps, config: Surrogate, every_action=False):
    """(loss [B, N] with bonus and penalty, zero where a turn does not count; metrics)."""
    mask = turns(batch)
    difference = chosen(new_logps, batch.actions) - chosen(batch.old_logps, batch.actions)
    ratio = jnp.exp(jnp.clip(difference, -20.0, 20.0))
    if every_action:
        assert batch.worth is not None, "only the maze says what every action is worth"
        loss = -jnp.sum(jnp.exp(new_logps) * batch.worth, -1)
    else:
        loss = clipped_surrogate(ratio, batch.advantages, config.clip, config.dual_clip)
    spread = entropy(new_logps)
    equalised = None if batch.neighbours is None else equalised_entropy(new_logps, batch.neighbours)
    bonus = spread if equalised is None or config.entropy != "equalised" else equalised
    loss = loss - config.entropy_coef * bonus
    count = mask.sum()
    metrics = {
        "ratio": (jnp.sum(ratio * mask), count),
        "clip_frac": (jnp.sum((jnp.abs(ratio - 1) > config.clip) * mask), count),
        "entropy": (jnp.sum(spread * mask), count),
        "ratio_error_max": jnp.max(jnp.abs(ratio - 1) * mask),
    }
    if equalised is not None:
        metrics["equalised_entropy"] = (jnp.sum(equalised * mask), count)
    if batch.ref_logps is not None:
        kl = kl_divergence(config.kl, new_logps, batch.ref_logps, batch.actions)
        loss = loss + config.kl_coef * kl
        metrics["kl"] = (jnp.sum(kl * mask), count)
    return jnp.where(mask > 0, loss, 0.0), metrics


def dr_grpo(batch: Batch, new_logps, config: Surrogate):
    """Clipped surrogate with dual clip, tokens summed over the constant Z, mean over sequences (§J.3)."""
    loss, metrics = _surrogate(batch, new_logps, config)
    return loss.sum() / config.z, turns(batch).any(-1).sum(), metrics


def grpo(batch: Batch, new_logps, config: Surrogate):
    """The same, each sequence's token losses averaged over its own length (arXiv:2402.03300)."""
    loss, metrics = _surrogate(batch, new_logps, config)
    length = turns(batch).sum(-1)
    return jnp.sum(loss.sum(-1) / jnp.maximum(length, 1)), (length > 0).sum(), metrics


def all_actions(batch: Batch, new_logps, config: Surrogate):
    """What the policy earns at once, averaged over all four actions and not over those drawn; Z as in Dr. GRPO.

    The all-action policy gradient (Sutton, McAllester, Singh and Mansour 2000, section 2) at a discount of zero: the
    maze says what each move would earn, so nothing of the gradient is left to chance but the states.
    """
    loss, metrics = _surrogate(batch, new_logps, config, every_action=True)
    return loss.sum() / config.z, turns(batch).any(-1).sum(), metrics


def ppo(batch: Batch, new_logps, config: Surrogate):
    """Clipped surrogate and clipped value loss, mean over tokens (arXiv:1707.06347)."""
    mask = turns(batch)
    loss, metrics = _surrogate(batch, new_logps, config)
    error = clipped_value_loss(batch.values, batch.old_values, batch.returns, config.value_clip) * mask
    metrics["value_loss"] = (error.sum(), mask.sum())
    return loss.sum() + config.value_coef * error.sum(), mask.sum(), metrics


def choices(neighbours, actions):
    """What a player chose among, as (sum, count) pairs, from tile roles [B, N, 4] and actions [B, N].

    gold_taken: turns with a gold neighbour on which the choice is gold. mold_avoided: turns with both mold and
    other neighbours on which it is not mold.
    """
    tile = chosen(neighbours, actions)
    has_gold, molds = (neighbours == maze.GOLD).any(-1), (neighbours == maze.MOLD).sum(-1)
    mixed = (molds > 0) & (molds < 4)
    return {
        "gold_taken": (jnp.sum(has_gold & (tile == maze.GOLD)), has_gold.sum()),
        "mold_avoided": (jnp.sum(mixed & (tile != maze.MOLD)), mixed.sum()),
    }


def cosine(step, total: int, rate: float = 1.0):
    """The paper's annealing factor 0.5 * (1 + cos(pi * min(step / (S - 1) * f, 1))) (§J.3)."""
    return 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / max(total - 1, 1) * rate, 1.0)))


def schedule(kind: str, step, total: int, warmup: int = 0, rate: float = 1.0):
    """Factor of a rate at `step`: "cosine", "linear" (both zero from `total` - 1 on) or "constant", after a warm-up.

    The warm-up climbs linearly and reaches one in step `warmup` - 1; it multiplies the annealing.
    """
    left = 1 - jnp.minimum(step / max(total - 1, 1) * rate, 1.0)
    factor = {"cosine": cosine(step, total, rate), "linear": left, "constant": jnp.ones_like(left)}[kind]
    return factor * jnp.minimum((step + 1) / warmup, 1.0) if warmup else factor
