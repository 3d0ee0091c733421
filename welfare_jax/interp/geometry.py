"""Directions from class means, and how they lie (arXiv:2605.30232 §2.3, §3, §C).

Arrays only, so they work on any model's activations. L layers, D width, C classes, N samples; classes are numbered
0 path, 1 gold, 2 mold as in the maze. One against rest builds a negative cosine in (§C.8): compare both baselines.
"""

import jax
import jax.numpy as jnp

PATH, GOLD, MOLD = 0, 1, 2
NAMES = {GOLD: "gold", MOLD: "mold", PATH: "path"}
BASELINES = ("rest", "path")


def class_sums(activations, labels, classes: int = 3):
    """(sums [L, C, D], counts [C]) of activations [L, N, D]; they add up over batches. Label -1 counts nowhere."""
    member = (labels[:, None] == jnp.arange(classes)).astype(jnp.float32)
    return jnp.einsum("lnd,nc->lcd", activations.astype(jnp.float32), member), member.sum(0)


def difference_in_means(sums, counts, target: int, baseline: str = "rest"):
    """v [L, D]: mean over class `target` minus the mean over all the others together, or over the path class."""
    mean = sums[:, target] / counts[target]
    if baseline == "path":
        return mean - sums[:, PATH] / counts[PATH]
    others = jnp.arange(counts.shape[0]) != target
    return mean - jnp.einsum("lcd,c->ld", sums, others.astype(sums.dtype)) / jnp.sum(counts * others)


def cosine(a, b, eps=1e-12):
    """Cosine along the last axis."""
    return jnp.sum(a * b, -1) / jnp.maximum(jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1), eps)


def gold_mold_cosines(sums, counts) -> dict:
    """cos(v_mold, v_gold) [L] under both baselines."""
    return {base: cosine(*(difference_in_means(sums, counts, c, base) for c in (MOLD, GOLD))) for base in BASELINES}


def centred_cosines(sums, counts) -> dict:
    """Cosines [L] between class means after their common mean is taken away (§C)."""
    means = sums / counts[None, :, None]
    centred = means - means.mean(1, keepdims=True)
    pairs = {"mold-gold": (MOLD, GOLD), "mold-path": (MOLD, PATH), "gold-path": (GOLD, PATH)}
    return {name: cosine(centred[:, a], centred[:, b]) for name, (a, b) in pairs.items()}


def project(activations, direction):
    """Projection [L, N] of activations [L, N, D] on the unit vectors along direction [L, D]."""
    unit = direction / jnp.maximum(jnp.linalg.norm(direction, axis=-1, keepdims=True), 1e-12)
    return jnp.einsum("lnd,ld->ln", activations.astype(jnp.float32), unit)


def auroc(scores, positive):
    """Area under the ROC curve of scores [..., N] for bool `positive` [N]; ties count half."""

    def one(s):
        order = jnp.sort(s)
        rank = (jnp.searchsorted(order, s, side="left") + jnp.searchsorted(order, s, side="right") + 1) / 2
        n, m = positive.sum(), (~positive).sum()
        return (jnp.sum(jnp.where(positive, rank, 0.0)) - n * (n + 1) / 2) / (n * m)

    flat = jax.lax.map(one, scores.reshape(-1, scores.shape[-1]))
    return flat.reshape(scores.shape[:-1])


def cohens_d(scores, positive):
    """Difference of means over the pooled standard deviation, scores [..., N]."""
    n, m = positive.sum(), (~positive).sum()
    a = jnp.where(positive, scores, 0.0).sum(-1) / n
    b = jnp.where(positive, 0.0, scores).sum(-1) / m
    within = jnp.where(positive, (scores - a[..., None]) ** 2, (scores - b[..., None]) ** 2).sum(-1)
    return (a - b) / jnp.sqrt(jnp.maximum(within / (n + m - 2), 1e-20))


def histogram_overlap(scores, positive, bins: int = 50):
    """Shared mass of the two normalised histograms [...] of scores [..., N] over their common range."""
    low, high = scores.min(-1, keepdims=True), scores.max(-1, keepdims=True)
    index = jnp.clip(((scores - low) / jnp.maximum(high - low, 1e-12) * bins).astype(jnp.int32), 0, bins - 1)
    hits = index[..., None] == jnp.arange(bins)
    a = (hits & positive[:, None]).sum(-2) / positive.sum()
    b = (hits & ~positive[:, None]).sum(-2) / (~positive).sum()
    return jnp.minimum(a, b).sum(-1)


def select_layer(projections, cosines, positive) -> dict:
    """Steering layer of one class from held-out samples (§L.1).

    projections, cosines [L, N]; positive bool [N]. The layer is the floor of the mean of argmax AUROC, argmax |d| of
    the projections and argmin overlap of the histograms of the cosines.
    """
    area, d, shared = (
        auroc(projections, positive),
        cohens_d(projections, positive),
        histogram_overlap(cosines, positive),
    )
    picks = jnp.argmax(area) + jnp.argmax(jnp.abs(d)) + jnp.argmin(shared)
    return {"layer": picks // 3, "auroc": area, "cohens_d": d, "overlap": shared}
