"""Cohorts have the norms and the angles that they promise; permuted labels call nothing where nothing is planted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from welfare_jax.interp import extract, geometry, null, uncertainty

LIKE = jnp.asarray(np.random.default_rng(0).normal(size=(3, 64)) * [[1.0], [5.0], [0.1]], jnp.float32)
SETS, DRAWS = 400, 199
L, D, PAIRS = 4, 32, 30
SPECTRA = {"isotropic": np.ones(D), "one over k": 1 / np.sqrt(1 + np.arange(D))}


def test_cohorts():
    avoid = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 64)), jnp.float32)
    free, apart = jax.jit(lambda k: (null.random(k, LIKE), null.orthogonal(k, LIKE, avoid)))(jax.random.key(0))
    for cohort in (free, apart):
        assert cohort.shape == (100, 3, 64)
        size = np.broadcast_to(np.linalg.norm(LIKE, axis=-1), (100, 3))
        np.testing.assert_allclose(np.linalg.norm(cohort, axis=-1), size, rtol=1e-5)
    for axis in (LIKE, *avoid):
        assert np.abs(geometry.cosine(apart, axis)).max() < 1e-5
    cos = np.asarray(geometry.cosine(free, LIKE))
    assert abs(cos.mean()) < 0.03 and abs(cos.std() - 64**-0.5) < 0.02  # isotropic
    assert np.abs(np.corrcoef(np.asarray(free)[:, 0])[np.triu_indices(100, 1)]).mean() < 0.15


def test_p_values_by_counting():
    chance = np.array([[0.1, -2.0], [-0.2, 1.0], [0.3, 3.0]])
    assert null.at_least(0.2, chance[:, 0]) == 2 / 4
    # In units of their spreads the largest of the draws are 1.03, 0.73 and 1.55; the values are 1.46 and -0.52.
    found = null.family([0.4, -1.0], chance)
    assert found.tolist() == [2 / 4, 1.0]
    assert null.family([[0.4], [-1.0]], chance[:, :, None]).shape == (2, 1)


def texts(rng, spectrum, effect=0.0, pairs=PAIRS):
    """(activations [L, 2 * pairs, D], labels, units) of matched pairs: what a pair shares, what its texts have alone,
    and half of `effect` [L, D] with the label."""
    shared = np.repeat(rng.normal(size=(L, pairs, D)), 2, axis=1)
    label = np.tile([0, 1], pairs)
    act = 50.0 + spectrum * (shared + rng.normal(size=(L, 2 * pairs, D)))
    return act + np.broadcast_to(effect, (L, D))[:, None] * (label[:, None] - 0.5), label, np.arange(2 * pairs)


@functools.partial(jax.jit, static_argnames="draws")
def moments(act, label, unit, key, draws=DRAWS):
    return extract.add(extract.nothing(L, D, draws, 2), act, label, extract.signs(key, unit, draws))


def axis(act, label, unit, seed):
    found = moments(jnp.asarray(act, jnp.float32), label, unit, jax.random.key(seed))
    return found, np.asarray(found.sums[:, 1] - found.sums[:, 0]) / PAIRS, np.asarray(null.swapped(found))


def test_swapped_pairs_equal_a_loop():
    act, label, unit = texts(np.random.default_rng(3), SPECTRA["one over k"], effect=3.0)
    found, value, swapped = axis(act, label, unit, 7)
    sign = np.asarray(extract.signs(jax.random.key(7), jnp.asarray(unit), DRAWS))
    difference = act[:, 1::2] - act[:, ::2]
    np.testing.assert_allclose(value, difference.mean(1), atol=1e-4)
    np.testing.assert_allclose(swapped, np.einsum("lpd,rp->rld", difference, sign[:, 1::2]) / PAIRS, atol=1e-4)


def cosines(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def called(rng, spectrum, seed, effect, directions):
    """Whether any of two vectors [2, L, D] is said to lie along the axis of some texts, at any layer."""
    _, value, swapped = axis(*texts(rng, spectrum, effect), seed)
    return null.family(cosines(directions, value), cosines(directions[None], swapped[:, None])).min() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECTRA)
def test_axes_without_a_difference_are_called_in_one_of_twenty(name):
    """Real vectors that lie where activations vary most, and an axis whose labels mean nothing."""
    rng, spectrum = np.random.default_rng(5), SPECTRA[name]
    alarms = [called(rng, spectrum, i, 0.0, spectrum * rng.normal(size=(2, L, D))) for i in range(SETS)]
    assert 0.03 <= np.mean(alarms) <= 0.07, np.mean(alarms)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECTRA)
def test_axes_along_a_vector_are_found(name):
    rng, spectrum, found = np.random.default_rng(6), SPECTRA[name], []
    for i in range(SETS // 4):
        v = spectrum * rng.normal(size=(2, L, D))
        found.append(called(rng, spectrum, i, 0.5 * v[0], v))
    assert np.mean(found) > 0.95, np.mean(found)


@pytest.mark.slow
def test_isotropic_directions_are_no_null_of_an_axis():
    """Why labels are permuted: random directions call far more than one of twenty, at one layer and one vector."""
    rng, spectrum, alarms = np.random.default_rng(7), SPECTRA["one over k"], []
    for i in range(100):
        v = spectrum * rng.normal(size=(L, D))
        value = axis(*texts(rng, spectrum), i)[1]
        cohort = rng.normal(size=(DRAWS, D))
        alarms.append(abs(cosines(v[0], value[0])) > np.quantile(np.abs(cosines(cohort, value[0])), 0.95))
    assert np.mean(alarms) > 0.15


@pytest.mark.slow
def test_intervals_hold_the_error_of_the_axis_too():
    """Vectors known nearly exactly, an axis of thirty pairs: 95 % intervals of their cosine cover the truth."""
    rng, inside, narrow = np.random.default_rng(8), [], []
    walks = rng.normal(size=(L, 3000, D))
    label, unit = np.repeat([0, 1, 2], 1000), np.arange(3000)
    walks[..., 0] += 3.0 * (label == geometry.MOLD)
    add = jax.jit(lambda a, y, s: extract.add(extract.nothing(L, D, DRAWS), a, y, s))
    sign = extract.signs(jax.random.key(9), jnp.asarray(unit), DRAWS)
    maze = add(jnp.asarray(walks, jnp.float32), jnp.asarray(label), sign)
    truth = np.zeros((L, D))
    truth[:, :2] = (1.8, 2.4)
    gram = jax.jit(uncertainty.grams)
    for i in range(100):
        _, value, swapped = axis(*texts(rng, np.ones(D), truth), 1000 + i)
        for errors, out in ((swapped[None], inside), (0 * swapped[None], narrow)):
            g = jax.device_get(gram(maze, value[None], errors))
            (e,) = uncertainty.axis_cosines(g, uncertainty.contrast(g.counts, geometry.MOLD, "path"))
            low, high = uncertainty.interval(e.replicates)
            out += ((low <= 0.6) & (0.6 <= high)).tolist()
    assert 0.9 < np.mean(inside) <= 0.995 and np.mean(narrow) < 0.5


@functools.partial(jax.jit, static_argnames="draws")
def separation(act, label, stratum, direction, key, draws=DRAWS):
    """AUROC [v] at the layers that held-out labels choose, and [K, v] where permuted labels choose theirs."""
    bucket = extract.Bucket(*[jnp.zeros((1, len(label), 1))] * 3, label[None, :, None], None, stratum[None])
    proj = jax.vmap(lambda v: geometry.project(act, v), out_axes=1)(direction)
    size = jnp.linalg.norm(act, axis=-1)[:, None]

    def best(labels):
        found = [geometry.select_layer(proj[:, i], (proj / size)[:, i], labels == c) for i, c in enumerate((2, 1))]
        return jnp.stack([f["auroc"][f["layer"]] for f in found])

    return best(label), jax.lax.map(best, extract.relabelled(key, (bucket,), draws), batch_size=16)


def told_apart(rng, seed, effect):
    """Whether any of two vectors is said to tell 120 held-out walks apart, whose letters differ more than classes."""
    label, stratum = np.tile([0, 1, 2], 40), np.repeat(np.arange(4), 30)
    act = rng.normal(size=(L, 120, D)) + 2 * rng.normal(size=(4, D))[stratum]
    direction = rng.normal(size=(2, L, D))
    act += effect * (label == geometry.MOLD)[:, None] * direction[0, :, None] / np.sqrt(D)
    reached, chance = separation(
        *(jnp.asarray(a, jnp.float32) if a.dtype.kind == "f" else jnp.asarray(a) for a in (act, label, stratum)),
        jnp.asarray(direction, jnp.float32), jax.random.key(seed),
    )  # fmt: skip
    return null.at_least(np.asarray(reached), np.asarray(chance).max(1)[:, None]).min() < 0.05


@pytest.mark.slow
def test_separation_by_chance_is_called_in_one_of_twenty_and_a_real_one_is_found():
    rng = np.random.default_rng(9)
    alarms = [told_apart(rng, i, 0.0) for i in range(SETS)]
    assert 0.03 <= np.mean(alarms) <= 0.07, np.mean(alarms)
    assert np.mean([told_apart(rng, i, 1.5) for i in range(SETS // 4)]) > 0.95
