"""Directions from class means, and how they lie (arXiv:2605.30232 §2.3, §3, §C).

Arrays only, so they work on any model's activations. L layers, D width, C classes, N samples; classes are numbered
0 path, 1 gold, 2 mold as in the maze. One against rest builds a negative cosine in (§C.8): compare both baselines.
"""

import jax
import jax.numpy as jnp
import numpy as np

PATH, GOLD, MOLD = 0, 1, 2
NAMES = {GOLD: "gold", MOLD: "mold", PATH: "path"}
BASELINES = ("rest", "path")


def class_sums(activations, labels, classes: int = 3):
    """(sums [..., C, D], counts [C]) of activations [..., N, D] and labels [N]; label -1 counts nowhere.

    Both add up over batches, so that means of any number of samples take constant memory.
    """
    member = (labels[:, None] == jnp.arange(classes)).astype(jnp.float32)
    return jnp.einsum("...nd,nc->...cd", activations.astype(jnp.float32), member), member.sum(0)


def difference_in_means(sums, counts, target: int, baseline: str = "rest"):
    """v [..., D]: mean over class `target` minus the mean over all the others together, or over the path class.

    sums [..., C, D] and counts [C] as from `class_sums`; baseline "rest" or "path" (arXiv:2605.30232 §2.3, §C.8).
    """
    mean = sums[..., target, :] / counts[target]
    if baseline == "path":
        return mean - sums[..., PATH, :] / counts[PATH]
    others = jnp.arange(counts.shape[0]) != target
    return mean - jnp.einsum("...cd,c->...d", sums, others.astype(sums.dtype)) / jnp.sum(counts * others)


def cosine(a, b, eps=1e-12):
    """Cosine along the last axis."""
    return jnp.sum(a * b, -1) / jnp.maximum(jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1), eps)


def gold_mold_cosines(sums, counts) -> dict:
    """cos(v_mold, v_gold) [L] under both baselines."""
    return {base: cosine(*(difference_in_means(sums, counts, c, base) for c in (MOLD, GOLD))) for base in BASELINES}


def project(activations, direction):
    """Projection [..., N] of activations [..., N, D] on the unit vectors along direction [..., D]."""
    unit = direction / jnp.maximum(jnp.linalg.norm(direction, axis=-1, keepdims=True), 1e-12)
    return jnp.einsum("...nd,...d->...n", activations.astype(jnp.float32), unit)


def auroc(scores, positive, use=None):
    """Area under the ROC curve of scores [..., N] for bool `positive` [N]; ties count half.

    Here and below `use`, bool [N], says which samples count: all, unless it is given. NumPy arrays are worked on in
    NumPy, in their own precision.
    """
    xp, use, positive, negative = _sides(scores, positive, use)

    def one(s):
        s = xp.where(use, s, np.inf)  # behind all others, where it changes no rank
        order = xp.sort(s)
        rank = sum(xp.searchsorted(order, s, side=side) for side in ("left", "right"))
        n, m = positive.sum(), negative.sum()
        return (xp.sum(xp.where(positive, (rank + 1) / 2, 0.0)) - n * (n + 1) / 2) / (n * m)

    rows = scores.reshape(-1, scores.shape[-1])
    flat = np.array([one(s) for s in rows]) if xp is np else jax.lax.map(one, rows)
    return flat.reshape(scores.shape[:-1])


def _sides(scores, positive, use):
    """(NumPy or JAX's, what counts, and of that the positive and the negative samples)."""
    xp = np if isinstance(scores, np.ndarray) else jnp
    use = xp.ones(positive.shape, bool) if use is None else use
    return xp, use, positive & use, ~positive & use


def cohens_d(scores, positive, use=None):
    """Difference of means over the pooled standard deviation, scores [..., N]."""
    xp, use, positive, negative = _sides(scores, positive, use)
    n, m = positive.sum(), negative.sum()
    a = xp.where(positive, scores, 0.0).sum(-1) / n
    b = xp.where(negative, scores, 0.0).sum(-1) / m
    off = scores - xp.where(positive, a[..., None], b[..., None])
    within = xp.where(use, off**2, 0.0).sum(-1)
    return (a - b) / xp.sqrt(xp.maximum(within / (n + m - 2), 1e-20))


def histogram_overlap(scores, positive, use=None, bins: int = 50):
    """Shared mass of the two normalised histograms [...] of scores [..., N] over their common range."""
    use = jnp.ones(positive.shape, bool) if use is None else use
    low = jnp.where(use, scores, jnp.inf).min(-1, keepdims=True)
    high = jnp.where(use, scores, -jnp.inf).max(-1, keepdims=True)
    index = jnp.clip(((scores - low) / jnp.maximum(high - low, 1e-12) * bins).astype(jnp.int32), 0, bins - 1)

    def shares(member):
        count = lambda i: jnp.zeros(bins).at[i].add(member.astype(jnp.float32))
        return jax.vmap(count)(index.reshape(-1, index.shape[-1])) / member.sum()

    both = jnp.minimum(shares(positive & use), shares(~positive & use)).sum(-1)
    return both.reshape(scores.shape[:-1])


def select_layer(projections, cosines, positive, use=None) -> dict:
    """Steering layer of one class from held-out samples (arXiv:2605.30232 §L.1).

    projections, cosines [L, N]; positive bool [N]; use bool [N]. The layer is the floor of the mean of argmax AUROC,
    argmax |d| of the projections and argmin overlap of the 50-bin histograms of the cosines. Returns "layer" int []
    and per layer [L] "auroc", "cohens_d", "overlap".
    """
    area, d, shared = (
        auroc(projections, positive, use),
        cohens_d(projections, positive, use),
        histogram_overlap(cosines, positive, use),
    )
    picks = jnp.argmax(area) + jnp.argmax(jnp.abs(d)) + jnp.argmin(shared)
    return {"layer": picks // 3, "auroc": area, "cohens_d": d, "overlap": shared}


def residualise(vectors, axes):
    """Take the span of axes [A, ..., D] out of vectors [..., D] and rescale each to the norm it had (Gram-Schmidt).

    Axes may be of any length and need not be orthogonal; those that depend on the others add nothing. Leading
    dimensions (layers, say) are treated apart. What lies within the span becomes zero.
    """
    v, a = vectors.astype(jnp.float32), axes.astype(jnp.float32)
    unit = lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    basis = []
    for axis in unit(a):
        rest = axis
        for _ in range(2):  # once more for what rounding leaves
            for b in basis:
                rest = rest - jnp.sum(rest * b, -1, keepdims=True) * b
        basis.append(jnp.where(jnp.linalg.norm(rest, axis=-1, keepdims=True) > 1e-4, unit(rest), 0.0))
    rest = v
    for _ in range(2):
        for b in basis:
            rest = rest - jnp.sum(rest * b, -1, keepdims=True) * b
    norm = jnp.linalg.norm(v, axis=-1, keepdims=True)
    return jnp.where(jnp.linalg.norm(rest, axis=-1, keepdims=True) > 1e-5 * norm, unit(rest) * norm, 0.0)


def pca_axis(vectors, components: int = 1, centre: bool = True):
    """Principal components of vectors [..., N, D]: (axes [..., components, D] of unit norm, share of variance [...]).

    Signs are fixed: the entry of largest size in the projections of the vectors is positive. `centre=False` gives the
    right singular vectors of the vectors as they are.
    """
    x = vectors.astype(jnp.float32)
    x = x - x.mean(-2, keepdims=True) if centre else x
    _, size, axes = jnp.linalg.svd(x, full_matrices=False)
    power = size**2
    axes, share = axes[..., :components, :], power[..., :components] / jnp.maximum(power.sum(-1, keepdims=True), 1e-30)
    along = jnp.einsum("...nd,...kd->...kn", x, axes)
    top = jnp.take_along_axis(along, jnp.argmax(jnp.abs(along), -1)[..., None], -1)
    return axes * jnp.where(top < 0, -1.0, 1.0), share


def match_norm(vectors, like):
    """Vectors [..., D] rescaled to the norms of `like` [..., D]: what controls need for an equal perturbation."""
    size = jnp.linalg.norm(like, axis=-1, keepdims=True)
    return vectors * size / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
