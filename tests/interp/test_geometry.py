"""Directions, separations and layer choice against scikit-learn, NumPy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from welfare_jax.interp import geometry as g

L, N, D = 3, 90, 6


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def sample(rng):
    """(activations [L, N, D], labels [N] with some -1), classes of unequal size and unequal place."""
    labels = rng.choice([-1, 0, 1, 2], N, p=[0.1, 0.5, 0.25, 0.15])
    return rng.normal(size=(L, N, D)) + labels[None, :, None] * rng.normal(size=(L, 1, D)), labels


def sums(activations, labels):
    return g.class_sums(jnp.asarray(activations), jnp.asarray(labels))


def test_class_sums_add_up_over_batches_and_skip_filling(sample):
    act, labels = sample
    total, counts = sums(act, labels)
    parts = [sums(act[:, i : i + 40], labels[i : i + 40]) for i in range(0, N, 40)]
    np.testing.assert_allclose(sum(p[0] for p in parts), total, rtol=1e-4, atol=1e-4)
    assert (sum(p[1] for p in parts) == counts).all()
    for c in range(3):
        assert counts[c] == (labels == c).sum()
        np.testing.assert_allclose(total[:, c], act[:, labels == c].sum(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", [g.PATH, g.GOLD, g.MOLD])
def test_difference_in_means(target, sample):
    act, labels = sample
    mean = act[:, labels == target].mean(1)
    rest = act[:, (labels != target) & (labels >= 0)].mean(1)  # the other two together, each walk counts once
    path = act[:, labels == g.PATH].mean(1)
    for baseline, other in (("rest", rest), ("path", path)):
        got = g.difference_in_means(*sums(act, labels), target, baseline)
        np.testing.assert_allclose(got, mean - other, atol=1e-5, err_msg=baseline)


@pytest.mark.parametrize("c", [-0.6, 0.0, 0.39, 0.8])
def test_one_against_rest_builds_a_negative_cosine_in(c):
    """Equal norms and classes of equal size: cos under "rest" is (1.25 c - 1) / (1.25 - c) of that under "path"."""
    means = np.array([[0.3, -0.2, 0.5], [0, 0, 0], [0, 0, 0]])
    means[g.MOLD] = means[g.PATH] + [2, 0, 0]
    means[g.GOLD] = means[g.PATH] + 2 * np.array([c, np.sqrt(1 - c * c), 0])
    found = g.gold_mold_cosines(jnp.asarray(7 * means)[None], jnp.full(3, 7.0))
    assert float(found["path"][0]) == pytest.approx(c, abs=1e-5)
    assert float(found["rest"][0]) == pytest.approx((1.25 * c - 1) / (1.25 - c), abs=1e-5)


def test_gold_mold_cosines_do_not_depend_on_the_order_of_classes(sample):
    act, labels = sample
    a = g.gold_mold_cosines(*sums(act, labels))
    b = g.gold_mold_cosines(*sums(act, np.select([labels == 1, labels == 2], [2, 1], labels)))
    for base in g.BASELINES:
        np.testing.assert_allclose(a[base], b[base], atol=1e-5)
        assert a[base].shape == (L,)


def test_cosine_of_nothing_is_nothing():
    assert float(g.cosine(jnp.zeros(4), jnp.ones(4))) == 0


def test_project_ignores_the_length_of_the_direction(rng):
    act, v = rng.normal(size=(L, N, D)), rng.normal(size=(L, D))
    want = np.einsum("lnd,ld->ln", act, v) / np.linalg.norm(v, axis=-1)[:, None]
    for scale in (1.0, 250.0):
        np.testing.assert_allclose(g.project(jnp.asarray(act), jnp.asarray(scale * v)), want, atol=1e-5)


@pytest.mark.parametrize("levels", [None, 7, 2, 1])
def test_auroc_equals_sklearn(levels, rng):
    """With ties too: few levels, and all scores equal."""
    scores, positive = rng.normal(size=(L, 2, N)), rng.random(N) < 0.3
    if levels:
        scores = rng.integers(0, levels, scores.shape).astype(float)
    got = g.auroc(jnp.asarray(scores), jnp.asarray(positive))
    want = [[roc_auc_score(positive, s) for s in row] for row in scores]
    assert got.shape == (L, 2)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_cohens_d(rng):
    scores, positive = rng.normal(size=(L, N)) + 40, rng.random(N) < 0.3
    scores[:, positive] += np.array([[0.0], [1.0], [-3.0]])
    a, b = scores[:, positive], scores[:, ~positive]
    n, m = a.shape[1], b.shape[1]
    pooled = ((n - 1) * a.var(1, ddof=1) + (m - 1) * b.var(1, ddof=1)) / (n + m - 2)
    np.testing.assert_allclose(
        g.cohens_d(jnp.asarray(scores), jnp.asarray(positive)), (a.mean(1) - b.mean(1)) / np.sqrt(pooled), rtol=1e-3
    )


@pytest.mark.parametrize("bins", [50, 8])
def test_histogram_overlap(bins, rng):
    positive = rng.random(N) < 0.3
    scores = np.stack(
        [rng.normal(size=N), rng.normal(size=N) + 2 * positive, 10 * positive + rng.random(N), np.ones(N)]
    )
    got = g.histogram_overlap(jnp.asarray(scores), jnp.asarray(positive), bins=bins)
    for s, found in zip(scores[:3], np.asarray(got)):
        a, b = (np.histogram(s[m], bins, (s.min(), s.max()))[0] / m.sum() for m in (positive, ~positive))
        assert found == pytest.approx(np.minimum(a, b).sum(), abs=1e-5)
    assert got[2] == 0 and float(got[3]) == pytest.approx(1)  # apart; all the same


def test_select_layer_on_planted_data(rng):
    """Three layers are best, one by each measure; the choice is the floor of their mean."""
    n, layers = 400, 12
    positive = np.arange(n) < n // 2
    proj = rng.normal(size=(layers, n))
    proj[7] = rng.random(n) + positive  # ranks apart: AUROC 1, d about 3.5
    proj[10] = -(30.0 * positive + rng.normal(size=n))  # a huge |d|, the wrong way round for AUROC
    cos = rng.random((layers, n))
    cos[3] += 2 * positive  # histograms apart
    found = jax.jit(g.select_layer)(jnp.asarray(proj), jnp.asarray(cos), jnp.asarray(positive))
    assert int(np.argmax(found["auroc"])) == 7 and int(np.argmax(np.abs(found["cohens_d"]))) == 10
    assert int(np.argmin(found["overlap"])) == 3
    assert int(found["layer"]) == (7 + 10 + 3) // 3
    alike = g.select_layer(jnp.asarray(proj[[0, 7]]), jnp.asarray(cos[[0, 3]]), jnp.asarray(positive))
    assert int(alike["layer"]) == 1


def test_under_jit_and_vmap(sample):
    """Several models at once, and one compiled program from activations to cosines."""
    act, labels = sample
    stack = jnp.stack([jnp.asarray(act), jnp.asarray(act) ** 2])

    def whole(a):
        found = g.class_sums(a, jnp.asarray(labels))
        scores = g.project(a, g.difference_in_means(*found, g.MOLD))
        return (
            g.gold_mold_cosines(*found),
            g.select_layer(scores, scores, jnp.asarray(labels) == 2),
        )

    together = jax.jit(jax.vmap(whole))(stack)
    for i in range(2):
        alone = whole(stack[i])
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[i], b, atol=1e-4)


def test_numpy_arrays_are_worked_on_in_their_own_precision(rng):
    """The same as JAX's, and fine enough to see what float32 cannot."""
    scores, positive, use = rng.normal(size=(L, N)), rng.random(N) < 0.4, rng.random(N) < 0.8
    for f in (g.auroc, g.cohens_d):
        got = f(scores, positive, use)
        assert isinstance(got, np.ndarray) and got.dtype == np.float64
        np.testing.assert_allclose(got, f(jnp.asarray(scores), jnp.asarray(positive), jnp.asarray(use)), atol=1e-5)
    close = np.where(np.arange(6) < 3, 1.0 + 1e-12, 1.0)
    assert g.auroc(close, np.arange(6) < 3) == 1.0 and g.auroc(jnp.asarray(close), jnp.arange(6) < 3) == 0.5
