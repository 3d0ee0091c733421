"""Filters against transformers' logits warpers, draws against the softmax by chi-square."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import TopKLogitsWarper, TopPLogitsWarper

from welfare_jax.models import sampling

RNG = np.random.default_rng(1)
LOGITS = (3 * RNG.normal(size=(4, 151))).astype("f4")
LOGITS[1] -= 40  # all below zero
LOGITS[2, 5:] = -np.inf


@pytest.mark.parametrize("k", [1, 3, 50, 151, 400])
def test_top_k_keeps_what_transformers_keeps(k):
    want = TopKLogitsWarper(k)(None, torch.tensor(LOGITS)).numpy()
    np.testing.assert_array_equal(sampling.filtered(LOGITS, top_k=k), want)


@pytest.mark.parametrize("p", [0.01, 0.5, 0.9, 0.999])
def test_top_p_keeps_what_transformers_keeps(p):
    want = TopPLogitsWarper(p)(None, torch.tensor(LOGITS)).numpy()
    np.testing.assert_array_equal(sampling.filtered(LOGITS, top_p=p), want)


def test_top_k_goes_before_top_p():
    want = TopPLogitsWarper(0.8)(None, TopKLogitsWarper(7)(None, torch.tensor(LOGITS))).numpy()
    np.testing.assert_array_equal(sampling.filtered(LOGITS, 7, 0.8), want)


def test_off_and_per_row():
    np.testing.assert_array_equal(sampling.filtered(LOGITS, 0, 1.0), LOGITS)
    got = sampling.filtered(LOGITS, np.array([0, 2, 0, 1]), np.array([1.0, 1.0, 0.3, 1.0]))
    for row, (k, p) in enumerate([(0, 1.0), (2, 1.0), (0, 0.3), (1, 1.0)]):
        np.testing.assert_array_equal(got[row], sampling.filtered(LOGITS[row : row + 1], k, p)[0])


def test_ties_stay_together():
    logits = np.array([[1.0, 2.0, 2.0, 2.0, 0.0]], "f4")
    np.testing.assert_array_equal(np.isfinite(sampling.filtered(logits, top_k=2))[0], [0, 1, 1, 1, 0])


@pytest.mark.parametrize("vocab", [151, 1024, 1500])  # one block of a prime, whole blocks, an odd divisor
@pytest.mark.parametrize(("temperature", "k", "p"), [(1.0, None, None), (0.6, 9, None), (1.7, None, 0.7)])
def test_frequencies(vocab, temperature, k, p):
    n = 20_000
    logits = 2 * RNG.normal(size=(1, vocab)).astype("f4")
    kept = np.asarray(sampling.filtered(logits / np.float32(temperature), k, p), "f8")[0]
    expected = np.exp(kept - kept.max())
    expected *= n / expected.sum()
    keys = jax.random.split(jax.random.key(3), n)
    draw = jax.jit(lambda keys: sampling.draw(jnp.broadcast_to(logits, (n, vocab)), keys, temperature, k, p))
    counts = np.bincount(draw(keys), minlength=vocab)
    assert not counts[expected == 0].any()
    common = expected >= 5
    rare = [counts[~common].sum()], [expected[~common].sum()]
    observed, wanted = ([*a[common], *r] for a, r in zip((counts, expected), rare))
    observed, wanted = (a[:-1] if wanted[-1] == 0 else a for a in (observed, wanted))
    assert chisquare(observed, np.array(wanted) * n / np.sum(wanted)).pvalue > 1e-3


def test_temperature_zero_takes_the_largest_and_rows_may_differ():
    keys = jax.random.split(jax.random.key(0), 4)
    got = sampling.draw(LOGITS, keys, np.array([0.0, 1e-4, 0.0, 1e-4], "f4"))
    np.testing.assert_array_equal(got, LOGITS.argmax(-1))


def test_a_row_depends_on_its_own_key_only():
    keys = jax.random.split(jax.random.key(0), 4)
    whole = sampling.draw(LOGITS, keys, 1.0)
    for row in range(4):
        assert sampling.draw(LOGITS[row : row + 1], keys[row : row + 1], 1.0)[0] == whole[row]


def test_weights_at_the_edges():
    """A target at the very end or on an empty weight still finds an index that can be."""
    weights = jnp.array([[0.0, 1.0, 0.0, 2.0, 0.0]])
    for target, index in ((0.0, 1), (0.999, 1), (1.0, 3), (2.999, 3), (3.0, 3), (4.0, 3)):
        assert sampling._first_above(weights, jnp.array([target]))[0] == index
