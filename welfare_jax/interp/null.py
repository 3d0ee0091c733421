"""The null: cohorts of random and of orthogonal directions with the norms of the vector they stand in for.

L layers, D width, n directions a cohort. What reads or steers with a vector does the same with its cohorts; only what
lies outside their spread is the vector's own doing.
"""

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax.interp import geometry

SIZE = 100


def random(key, like, n: int = SIZE):
    """n directions [n, ..., D], isotropic, each with the norm of `like` [..., D]."""
    return geometry.match_norm(jax.random.normal(key, (n, *like.shape)), like)


def orthogonal(key, like, avoid=None, n: int = SIZE):
    """As `random`, and orthogonal to `like` and to `avoid` [A, ..., D]."""
    avoid = like[None] if avoid is None else jnp.concatenate([like[None], avoid])
    one = lambda v: geometry.residualise(v, avoid)
    return geometry.match_norm(jax.lax.map(one, random(key, like, n)), like)


def against(effect, cohort) -> dict:
    """An effect [...] beside those of its cohort [n, ...]: middle 95 % of the cohort and a two-sided p-value [...].

    The p-value is the share, the effect itself counted in, that lies as far from the cohort's median.
    """
    effect, cohort = np.asarray(effect), np.asarray(cohort)
    low, middle, high = np.quantile(cohort, (0.025, 0.5, 0.975), axis=0)
    further = np.abs(cohort - middle) >= np.abs(effect - middle)
    return {"low": low, "high": high, "p": (1 + further.sum(0)) / (1 + len(cohort))}
