"""What an action earned beyond what was expected, as plain functions of rewards (arXiv:2605.30232 §J.3).

B episodes in groups that share a maze (consecutive rows), N turns. Everything is float32.
"""

import jax
import jax.numpy as jnp


def returns_to_go(rewards, gamma: float = 1.0):
    """Sum of gamma^k r_{t+k} from every turn on: [B, N] -> [B, N]."""

    def back(after, reward):
        now = reward + gamma * after
        return now, now

    rewards = rewards.astype(jnp.float32)
    _, out = jax.lax.scan(back, jnp.zeros(rewards.shape[0]), rewards.T, reverse=True)
    return out.T


def _centred(values, group_size: int):
    """values [B, ...] minus the mean over their group; exactly zero where a group's values are all equal."""
    groups = values.astype(jnp.float32).reshape(-1, group_size, *values.shape[1:])
    same = (groups == groups[:, :1]).all(1, keepdims=True)
    return jnp.where(same, 0.0, groups - groups.mean(1, keepdims=True)).reshape(values.shape)


def _every_turn(values, rewards):
    return jnp.broadcast_to(values[:, None], rewards.shape)


def group_advantage(rewards, group_size: int):
    """Dr. GRPO: return minus the group's mean return, at every turn. rewards [B, N] -> [B, N]."""
    return _every_turn(_centred(rewards.sum(-1), group_size), rewards)


def group_normalised(rewards, group_size: int):
    """GRPO (arXiv:2402.03300): the same over the group's standard deviation; zero where there is none."""
    centred = _centred(rewards.sum(-1), group_size).reshape(-1, group_size)
    std = jnp.sqrt(jnp.mean(centred**2, -1, keepdims=True))
    return _every_turn((centred / jnp.where(std > 0, std, 1.0)).reshape(-1), rewards)


def turn_advantage(rewards, group_size: int):
    """Token REINFORCE: return-to-go minus its mean over the group at the same turn. [B, N] -> [B, N]."""
    return _centred(returns_to_go(rewards), group_size)


def gae(rewards, values, gamma: float = 1.0, lam: float = 0.95):
    """Generalised advantage estimation (arXiv:1506.02438): (advantages, targets of the value head), both [B, N].

    The episode ends with its last turn: the value after it is zero.
    """
    after = jnp.concatenate([values[:, 1:], jnp.zeros_like(values[:, :1])], 1)
    advantages = returns_to_go(rewards + gamma * after - values, gamma * lam)
    return advantages, advantages + values


def whitened(advantages, mask=None):
    """Mean zero and standard deviation one over the whole batch, or where `mask` counts; zero where all are equal."""
    if mask is not None:
        count = jnp.maximum(mask.sum(), 1)
        centred = jnp.where(mask, advantages - jnp.sum(advantages * mask) / count, 0.0)
        std = jnp.sqrt(jnp.sum(centred**2) / count)
    else:
        centred = _centred(advantages.reshape(-1), advantages.size)
        std = jnp.sqrt(jnp.mean(centred**2))
    return (centred / jnp.where(std > 0, std, 1.0)).reshape(advantages.shape)


def best_distinct(returns, same, group_size: int, keep: int):
    """Expert Iteration's selection: (rows int32 [groups * keep], kept bool [groups * keep]).

    The `keep` best episodes of every group, each different from the better ones. returns [B]; `same(i, j)` says for
    index arrays whether episodes are equal. Where a group has fewer distinct ones, `kept` is False for the rest.
    """
    count = returns.shape[0] // group_size
    order = jnp.argsort(-returns.reshape(count, group_size), axis=1, stable=True)
    rows = order + group_size * jnp.arange(count)[:, None]
    equal = same(rows[:, :, None], rows[:, None, :])
    earlier = jnp.tril(jnp.ones((group_size, group_size), bool), -1)
    fresh = ~(equal & earlier).any(-1)
    first = jnp.argsort(~fresh, axis=1, stable=True)[:, :keep]
    chosen, kept = (jnp.take_along_axis(a, first, 1).reshape(-1) for a in (rows, fresh))
    return chosen, kept
