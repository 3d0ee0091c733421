"""The functions that others take into their own programs: against NumPy and scikit-learn; jit, vmap, sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy.linalg import orth
from sklearn.decomposition import PCA

import welfare_jax as wj

L, N, D, V = 3, 64, 16, 50
RNG = np.random.default_rng(0)
LABELS = RNG.integers(-1, 3, N)
ACT = (RNG.normal(size=(L, N, D)) + 2 * RNG.normal(size=(3, L, 1, D))[LABELS, :, 0].swapaxes(0, 1)).astype("f4")
TABLE = RNG.normal(size=(V, D)).astype("f4")


def direction(act, labels):
    return wj.difference_in_means(*wj.class_sums(act, labels), 2)


def choice(act, labels):
    scores = wj.project(act, act[:, 0])
    return wj.select_layer(scores, scores / jnp.linalg.norm(act, axis=-1), labels == 2, labels >= 0)


# Each with its arrays, and how they are spread over the devices.
CASES = {
    "direction": (direction, (ACT, LABELS), (P(None, "data"), P("data"))),
    "choice": (choice, (ACT, LABELS), (P(None, "data"), P("data"))),
    "lens": (lambda v, t: wj.logit_lens(v, t, k=4), (ACT[0, :3], TABLE), (P(), P("data"))),
    "residual": (wj.residualise, (ACT[:, 0], ACT[None, :, 1]), (P(None, "data"), P(None, None, "data"))),
    "axis": (lambda a: wj.pca_axis(a, 2), (ACT,), (P(None, "data"),)),
}


@pytest.mark.parametrize("name", CASES)
def test_alone_vmapped_and_sharded_agree(name):
    f, arrays, specs = CASES[name]
    alone = jax.jit(f)(*arrays)
    many = jax.jit(jax.vmap(f))(*(np.stack([a, a[::-1]]) for a in arrays))
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2], axis_types=(AxisType.Auto,))
    spread = jax.jit(f)(*(jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip(arrays, specs)))
    for one, both, there in zip(*(jax.tree.leaves(x) for x in (alone, many, spread)), strict=True):
        np.testing.assert_allclose(one, both[0], atol=1e-4)
        np.testing.assert_allclose(one, there, atol=1e-4)


def test_use_leaves_samples_out():
    """Filling changes nothing, whatever it holds."""
    positive, use = LABELS == 2, LABELS >= 0
    scores = np.where(use, RNG.normal(size=(L, N)), 99.0).astype("f4")
    masked = wj.select_layer(jnp.asarray(scores), jnp.asarray(scores), jnp.asarray(positive), jnp.asarray(use))
    cut = wj.select_layer(*(jnp.asarray(scores[:, use]),) * 2, jnp.asarray(positive[use]))
    for a, b in zip(jax.tree.leaves(masked), jax.tree.leaves(cut)):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_residualise(count):
    v, axes = RNG.normal(size=(L, D)).astype("f4"), RNG.normal(size=(count, L, D)).astype("f4") * 9
    got = np.asarray(jax.jit(wj.residualise)(v, axes))
    for layer in range(L):
        basis = orth(axes[:, layer].T.astype("f8"))
        want = v[layer] - basis @ (basis.T @ v[layer])
        np.testing.assert_allclose(got[layer], want * np.linalg.norm(v[layer]) / np.linalg.norm(want), atol=1e-5)


def test_residualise_of_dependent_axes_and_of_what_lies_within():
    a, b = RNG.normal(size=(2, D)).astype("f4")
    twice = np.stack([a, -3 * a, b, a + b])
    v = RNG.normal(size=D).astype("f4")
    np.testing.assert_allclose(wj.residualise(v, twice), wj.residualise(v, np.stack([a, b])), atol=1e-4)
    assert (np.asarray(wj.residualise(a - 2 * b, np.stack([a, b]))) == 0).all()
    np.testing.assert_allclose(wj.residualise(v, np.zeros((0, D), "f4")), v, rtol=1e-6)


def test_pca_equals_sklearn():
    axes, share = wj.pca_axis(ACT, 3)
    for layer in range(L):
        want = PCA(3).fit(ACT[layer].astype("f8"))
        np.testing.assert_allclose(share[layer], want.explained_variance_ratio_, atol=1e-5)
        cos = (np.asarray(axes[layer]) * want.components_).sum(-1)
        np.testing.assert_allclose(np.abs(cos), 1, atol=1e-5)
        along = (ACT[layer] - ACT[layer].mean(0)) @ np.asarray(axes[layer]).T
        assert (np.abs(along).max(0) == along.max(0)).all()  # the sign
    raw, _ = wj.pca_axis(ACT[0], 1, centre=False)
    want = np.linalg.svd(ACT[0].astype("f8"))[2][0]
    assert abs(abs((np.asarray(raw[0]) * want).sum()) - 1) < 1e-5
