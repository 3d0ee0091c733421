"""Half samples against brute force, closed forms and planted truth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from welfare_jax.interp import extract, geometry
from welfare_jax.interp import uncertainty as u

L, D, N, R = 2, 40, 24, 64
TRUTH = np.zeros((3, D))
TRUTH[geometry.MOLD, 0], TRUTH[geometry.GOLD, :2] = 1.0, (0.6, 0.8)  # cosine 0.6 against Path


def sample(rng, scale=0.0, noise=1.0, n=N):
    """(activations [L, 3n, D], labels, units)."""
    label, unit = np.repeat([0, 1, 2], n), np.arange(3 * n)
    return scale * TRUTH[label] + noise * rng.normal(size=(L, 3 * n, D)), label, unit


@jax.jit
def moments(act, label, unit, key):
    return extract.add(extract.nothing(L, D, R), act, label, extract.signs(key, unit, R))


def estimate(act, label, unit, seed=0, axes=None):
    return jax.device_get(u.grams(moments(jnp.asarray(act, jnp.float32), label, unit, jax.random.key(seed)), axes))


def vectors(act, label, weight, baseline):
    """v_mold, v_gold [L, D] of weighted means, in plain NumPy."""
    mean = {c: np.average(act[:, label == c], axis=1, weights=weight[label == c]) for c in range(3)}
    other = {c: (mean[0] if baseline == "path" else (mean[(c + 1) % 3] + mean[(c + 2) % 3]) / 2) for c in (1, 2)}
    return mean[2] - other[2], mean[1] - other[1]


def cosines(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


@pytest.mark.parametrize("baseline", ["rest", "path"])
def test_gram_form_equals_the_vectors_themselves(baseline):
    """Values, and the replicates before the noise is taken out, against weighted means sample by sample."""
    act, label, unit = sample(np.random.default_rng(0), 2.0)
    g = estimate(act, label, unit)
    a, b = (u.contrast(g.counts, c, baseline) for c in (geometry.MOLD, geometry.GOLD))
    np.testing.assert_allclose(
        u.cosine(g, a, b).value, cosines(*vectors(act, label, np.ones(3 * N), baseline)), atol=1e-5
    )
    sign = np.asarray(extract.signs(jax.random.key(0), jnp.asarray(unit), R))
    raw = g._replace(noise=np.zeros_like(g.noise), means=g.means + g.cross[5] + g.cross[5].swapaxes(1, 2) + g.noise[5])
    want = cosines(*vectors(act, label, 1 + sign[5], baseline))
    np.testing.assert_allclose(u.cosine(raw, a, b).value, want, atol=1e-5)


@pytest.mark.parametrize(("baseline", "middle"), [("rest", -0.5), ("path", 0.5)])
def test_no_difference_reads_as_one_half_and_is_seen_through(baseline, middle):
    """Classes that do not differ: the raw cosine and the noise agree on -+1/2, the interval spans everything."""
    act, label, unit = sample(np.random.default_rng(1))
    g = estimate(act, label, unit)
    a, b = (u.contrast(g.counts, c, baseline) for c in (geometry.MOLD, geometry.GOLD))
    said = u.summary(u.cosine(g, a, b))
    assert np.abs(np.array(said["value"]) - middle).max() < 0.3
    np.testing.assert_allclose(said["noise"], middle, atol=0.1)
    assert min(said["low"]) < -0.9 and max(said["high"]) > 0.9
    assert (u.noise_share(g, a) > 0.7).all()


@pytest.mark.parametrize(("baseline", "truth"), [("path", 0.6), ("rest", (1.25 * 0.6 - 1) / (1.25 - 0.6))])
def test_intervals_cover_the_truth(baseline, truth):
    """95 % intervals over 200 data sets: the noise-free estimate is centred, the raw cosine is not."""
    rng, inside, raw, free = np.random.default_rng(3), [], [], []
    for i in range(200):
        g = estimate(*sample(rng, 2.0), seed=i)
        e = u.cosine(g, *(u.contrast(g.counts, c, baseline) for c in (geometry.MOLD, geometry.GOLD)))
        low, high = u.interval(e.replicates)
        inside += ((low <= truth) & (truth <= high)).tolist()
        raw, free = raw + e.value.tolist(), free + e.free.tolist()
    assert 0.88 < np.mean(inside) <= 0.995
    assert abs(np.mean(free) - truth) < 0.03 < abs(np.mean(raw) - truth)


def test_noise_between_strata_does_not_count():
    """Pairs that match in a large nuisance: the deviations of the means measure only what differs within pairs."""
    act, label, unit = sample(np.random.default_rng(4), 0.0, noise=0.1)
    nuisance = np.repeat(np.random.default_rng(5).normal(size=(1, N // 2, D)), 2, axis=1) * 10
    g = estimate(act + np.tile(nuisance, (1, 3, 1)), label, unit)
    variance = np.einsum("rlcc->c", g.noise) / (R * L)
    np.testing.assert_allclose(variance, 0.01 * D / N, rtol=0.25)


def test_axes():
    act, label, unit = sample(np.random.default_rng(6), 3.0, n=60)
    axes = np.zeros((2, L, D), np.float32)
    axes[0, :, 0], axes[1, :, 5] = 7.0, 1.0
    g = estimate(act, label, unit, axes=jnp.asarray(axes))
    along, across = u.axis_cosines(g, u.contrast(g.counts, geometry.MOLD, "path"))
    v = vectors(act, label, np.ones(180), "path")[0]
    np.testing.assert_allclose(along.value, cosines(v, axes[0]), atol=1e-5)
    assert (along.free > along.value).all() and np.abs(along.free - 1).max() < 0.05
    low, high = u.interval(across.replicates)
    assert (low < 0).all() and (high > 0).all() and (high - low < 0.5).all()


def test_difference_of_two_models_is_paired():
    """What both models share does not widen the interval of their difference."""
    act, label, unit = sample(np.random.default_rng(7), 2.0)
    both = [
        estimate(act + extra, label, unit) for extra in (0, 1e-3 * np.random.default_rng(8).normal(size=act.shape))
    ]
    a, b = (u.contrast(both[0].counts, c) for c in (geometry.MOLD, geometry.GOLD))
    one, two = (u.cosine(g, a, b) for g in both)
    low, high = u.interval(u.difference(two, one).replicates, 2.0)
    wide = np.subtract(*u.interval(one.replicates)[::-1])
    assert (high - low < 0.1 * wide).all() and (low < 1e-2).all() and (high > -1e-2).all()
    mean = u.summary(one, layers=slice(None))
    assert mean["value"] == [pytest.approx(one.value.mean())]
    assert mean["low"][0] < mean["free"][0] < mean["high"][0] < 1


def test_replicates_that_know_nothing_count_as_both_extremes():
    low, high = u.interval(np.array([[0.5, np.nan]] * 100), layers=slice(None))
    assert low == -0.25 and high == 0.75
    low, high = u.interval(np.array([[0.5]] * 90 + [[np.nan]] * 10))
    assert low[0] == -1 and high[0] == 1
    said = u.summary(u.Estimate(np.array([0.1]), np.array([np.nan]), np.full((4, 1), np.nan), None), bound=2.0)
    assert said == {"value": [0.1], "free": [None], "low": [-2.0], "high": [2.0]}


def test_what_all_classes_share_does_not_count():
    """A residual stream's common part is thousands of times what classes differ by: float32 must bear it."""
    act, label, unit = sample(np.random.default_rng(5), 2.0)
    far = estimate(act + 3000.0, label, unit)
    near = estimate(np.float32(act + 3000.0).astype(float) - 3000.0, label, unit)  # the samples as float32 holds them
    a, b = (u.contrast(near.counts, c) for c in (geometry.MOLD, geometry.GOLD))
    np.testing.assert_allclose(u.cosine(far, a, b).value, u.cosine(near, a, b).value, atol=2e-5)
    np.testing.assert_allclose(u.noise_share(far, a), u.noise_share(near, a), rtol=1e-3)
