"""What would be read if there were nothing to read: permuted labels, and directions of the same norm.

Labels permuted within strata are the null of whatever is worked out from labels: they keep letters, lengths and the
shape of the activations, which isotropic directions do not. Directions of the same norm are what steering is held
against besides. L layers, D width, n directions a cohort, K permutations.
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


def swapped(moments):
    """[R, L, D]: differences in means had the labels of every matched pair been swapped or not at random.

    From `extract.Moments` of two classes whose pairs hold one of each: the null of an axis, and, as swapping moves the
    means as sampling does, its error. With one class, draws from the covariance of the activations.
    """
    middle = moments.sums.sum(1) / moments.counts.sum()
    flips, count = moments.swings.sum(2), moments.swing_counts.sum(1)
    pairs = moments.counts.sum() / 2
    return (flips - count[:, None, None] * middle) / pairs


def permuted_vectors(moments, target: int, baseline: str):
    """[K, L, D]: `geometry.difference_in_means` under each permutation of the labels."""
    return geometry.difference_in_means(moments.permuted, moments.counts, target, baseline)


def permuted_cosines(moments, baseline: str):
    """[K, L]: cos(v_mold, v_gold) under each permutation of the labels."""
    pair = lambda sums: [
        geometry.difference_in_means(sums, moments.counts, c, baseline) for c in (geometry.MOLD, geometry.GOLD)
    ]
    return jax.lax.map(lambda sums: geometry.cosine(*pair(sums)), moments.permuted)


def band(values, axis: int = 0):
    """Middle 95 % (low, high) over an axis."""
    return np.quantile(values, (0.025, 0.975), axis=axis)


def at_least(value, null):
    """One-sided p of `value` [...] among null values [K, ...]: the share, itself counted in, that is as large."""
    null = np.asarray(null)
    return (1 + (null >= np.asarray(value) - 1e-9).sum(0)) / (1 + len(null))


def family(value, null):
    """p [...] of each of a family of values, corrected for all of them, by the maximum statistic of null [K, ...].

    Two-sided around zero: each is measured in units of its own spread, and its p is the share of draws, itself counted
    in, whose largest of the family is as large (Westfall and Young 1993). Draw k of all is one and the same
    permutation. The value itself counts in the spread, as every draw does: with twenty draws and without it 12 % of
    families were called in which nothing was planted.
    """
    value, null = np.asarray(value, float), np.asarray(null, float)
    spread = np.maximum(np.sqrt(np.mean(np.square([value, *null]), axis=0)), 1e-12)
    largest = np.abs(null / spread).reshape(len(null), -1).max(1)
    return at_least(np.abs(value) / spread, largest.reshape(-1, *[1] * value.ndim))
