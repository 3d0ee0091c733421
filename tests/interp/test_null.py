"""Cohorts have the norms and the angles that they promise; p-values against counting."""

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax.interp import geometry, null

LIKE = jnp.asarray(np.random.default_rng(0).normal(size=(3, 64)) * [[1.0], [5.0], [0.1]], jnp.float32)


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


def test_against():
    cohort = np.random.default_rng(2).normal(size=(99, 2))
    found = null.against(np.array([9.0, np.median(cohort[:, 1])]), cohort)
    assert found["p"].tolist() == [0.01, 1.0]
    np.testing.assert_allclose(found["low"], np.quantile(cohort, 0.025, axis=0))
    assert (found["low"] < 0).all() and (found["high"] > 0).all()
