"""Supervised objectives: maximum likelihood, and imitation as inverse soft-Q learning (arXiv:2409.01369).

The form is that of `rl.objectives`: `(batch, new_logps, config) -> numerator, denominator, metrics`, sums kept apart.
The maths below takes any sequence of choices: B sequences, T tokens (or turns), whatever the number of options is.
"""

import jax
import jax.numpy as jnp


def following(values, mask):
    """(value at the next real token, is there one): both [B, T]. Padding, wherever it lies, is passed over."""

    def back(after, now):
        value, real = now
        return (jnp.where(real, value, after[0]), real | after[1]), after

    zero = jnp.zeros_like(values[:, 0])
    _, (ahead, some) = jax.lax.scan(back, (zero, zero > 1), (values.T, mask.T), reverse=True)
    return ahead.T, some.T


def implied_rewards(q_taken, v, mask, terminal, gamma: float = 1.0):
    """delta_t = Q_t(a_t) - gamma * V_{t+1} [B, T], and where it is defined (bool [B, T]).

    q_taken: the logit of what was chosen; v: logsumexp of all logits there; mask: real tokens; terminal [B]: the
    sequence ended by itself, so the value after it is zero. A truncated one has no reward at its last token.
    """
    ahead, some = following(v, mask)
    defined = mask & (some | terminal[:, None])
    return jnp.where(defined, q_taken - gamma * ahead, 0.0), defined


def soft_q_loss(logp, v, mask, terminal, *, lam, gamma=1.0, weights=None):
    """(numerator, denominator, implied rewards, defined) of the mean over real tokens of lambda delta^2 - w log pi.

    logp [B, T]: log pi of what was chosen, so that its Q is logp + v. weights [B, T] (None: one) tells demonstrations
    from the policy's own samples, which only enter delta. With lambda = 0 this is maximum likelihood, exactly.
    """
    likelihood = jnp.where(mask, logp if weights is None else weights * logp, 0.0)
    delta, defined = implied_rewards(logp + v, v, mask, terminal, gamma)
    return lam * jnp.sum(delta**2) - jnp.sum(likelihood), mask.sum(), delta, defined


def _taken(batch, new_logps):
    """(log pi of the actions [B, N], turns that count, metrics of those that are to be imitated)."""
    mask = jnp.ones(batch.actions.shape, bool) if batch.mask is None else batch.mask.astype(bool)
    logp = jnp.take_along_axis(new_logps, batch.actions[..., None], -1)[..., 0]
    shown = mask if batch.weights is None else mask & (batch.weights > 0)
    best = jnp.argmax(new_logps, -1) == batch.actions
    spread = -jnp.sum(jnp.exp(new_logps) * new_logps, -1)
    metrics = {
        "log_likelihood": (jnp.sum(jnp.where(shown, logp, 0.0)), shown.sum()),
        "accuracy": (jnp.sum(best & shown), shown.sum()),
        "entropy": (jnp.sum(jnp.where(shown, spread, 0.0)), shown.sum()),
    }
    return logp, mask, metrics


def maximum_likelihood(batch, new_logps, config):
    """Mean negative log-likelihood of the actions, weighted by `batch.weights`; `config` has no part."""
    logp, mask, metrics = _taken(batch, new_logps)
    weighted = logp if batch.weights is None else batch.weights * logp
    return -jnp.sum(jnp.where(mask, weighted, 0.0)), mask.sum(), metrics


def inverse_soft_q(batch, new_logps, config):
    """The four logits read as Q: lambda * delta^2 - log pi, mean over turns.

    `batch.soft_values` is V; the maze always ends after its last turn, so that turn is terminal.
    """
    logp, mask, metrics = _taken(batch, new_logps)
    numerator, denominator, delta, defined = soft_q_loss(
        logp, batch.soft_values, mask, jnp.ones(mask.shape[0], bool), lam=config.soft_q, gamma=config.gamma,
        weights=batch.weights,
    )  # fmt: skip
    metrics["implied_reward"] = (delta.sum(), defined.sum())
    metrics["implied_reward_squared"] = (jnp.sum(delta**2), defined.sum())
    return numerator, denominator, metrics
