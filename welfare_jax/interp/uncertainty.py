"""How sure a cosine between differences of class means is: half samples, and what sampling noise alone would read.

Class means are noisy, and noise is not harmless: with no difference between the classes at all, cos(v_mold, v_gold)
reads about -1/2 one against rest and +1/2 against Path, because both vectors share a class. Half samples (balanced
repeated replication, McCarthy 1969) measure that noise: within matched pairs one sample counts twice and the other
not at all, so each replicate deviates from the full mean exactly as the full mean deviates from the truth. As all
cosines are functions of a few scalar products, only Gram matrices leave the device.
L layers, D width, C classes, R replicates, A axes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax.interp import geometry

LEVEL = 0.95


Array = np.ndarray | jax.Array  # on the host, or still on the device


class Grams(NamedTuple):
    """Scalar products of class means, of the replicates' deviations from them, and of both with unit axes."""

    means: Array  # [L, C, C], less what all classes share
    cross: Array  # [R, L, C, C], deviation of the first with the mean of the second
    noise: Array  # [R, L, C, C], deviations with deviations
    axes: Array  # [L, C, A]
    axes_noise: Array  # [R, L, C, A], replicate of both less `axes`
    axes_size: Array  # [R, L, A], squared length of the axes' replicates, less one
    axes_error: Array  # [L, A], expected squared length of the noise in the unit axes
    counts: Array  # [C]


class Estimate(NamedTuple):
    """A cosine per layer."""

    value: np.ndarray  # [L] as it stands in the literature, noise included
    free: np.ndarray  # [L] with the noise's own part taken out; NaN where nothing is left but noise
    replicates: np.ndarray  # [R, L] as `free`; NaN likewise
    noise: np.ndarray | None  # [R, L] what the noise alone reads


def grams(moments, axes=None, errors=None) -> Grams:
    """From `extract.Moments` at one hook point and axes [A, L, D]; runs on the device.

    errors [A, R, L, D]: deviations of the axes themselves, as independent of the class means as the texts that they
    were made from are of the walks (`null.swapped`); without them the axes count as exact.
    """
    mean = moments.sums / moments.counts[:, None]
    half = jnp.maximum(moments.counts + moments.swing_counts, 1.0)
    off = (moments.sums + moments.swings) / half[:, None, :, None] - mean
    # What all classes share cancels in every contrast, but in float32 its square would swamp the differences' own.
    mean -= mean.mean(1, keepdims=True)
    axes = jnp.zeros((0, mean.shape[0], mean.shape[2])) if axes is None else axes
    size = jnp.maximum(jnp.linalg.norm(axes, axis=-1, keepdims=True), 1e-12)
    unit = axes / size
    if errors is None:
        errors = jnp.zeros((len(axes), *off.shape[:2], off.shape[-1]))
    wrong = errors / size[:, None]
    squares = jnp.einsum("arld,arld->rla", wrong, wrong)
    return Grams(
        means=jnp.einsum("lcd,led->lce", mean, mean), cross=jnp.einsum("rlcd,led->rlce", off, mean),
        noise=jnp.einsum("rlcd,rled->rlce", off, off), axes=jnp.einsum("lcd,ald->lca", mean, unit),
        axes_noise=jnp.einsum("rlcd,ald->rlca", off, unit) + jnp.einsum("rlcd,arld->rlca", mean[None] + off, wrong),
        axes_size=2 * jnp.einsum("ald,arld->rla", unit, wrong) + squares,
        axes_error=squares.sum(0) / max(len(off), 1), counts=moments.counts,
    )  # fmt: skip


def contrast(counts, target: int, baseline: str = "rest") -> np.ndarray:
    """Coefficients [C] of the class means in v_target: see `geometry.difference_in_means`; "mean": less their mean."""
    counts = np.asarray(counts, float)
    one = np.eye(len(counts))
    others = counts * (1 - one[target])
    less = {"rest": others / others.sum(), "path": one[geometry.PATH], "mean": one.mean(0)}
    return one[target] - less[baseline]


def _ratio(dot, aa, bb):
    with np.errstate(invalid="ignore", divide="ignore"):
        out = dot / np.sqrt(np.where((aa > 0) & (bb > 0), aa * bb, np.nan))
    return np.clip(out, -1.0, 1.0)


def _products(gram, a, b):
    return (np.einsum("...ce,c,e->...", gram, x, y) for x, y in ((a, b), (a, a), (b, b)))


def _free_of_noise(g: Grams):
    """(means [L, C, C] without the noise's squares, the same for each replicate, which is twice as noisy)."""
    noise = g.noise.mean(0)
    return g.means - noise, g.means + g.cross + g.cross.swapaxes(-1, -2) + g.noise - 2 * noise


def cosine(g: Grams, a, b) -> Estimate:
    """Cosine of two contrasts a, b [C] of the class means."""
    free, replicates = _free_of_noise(g)
    return Estimate(*(_ratio(*_products(gram, a, b)) for gram in (g.means, free, replicates, g.noise)))


def deviations(g: Grams, a, b) -> np.ndarray:
    """[2, R, L]: how far each half sample moves the noise-free cosine of two contrasts, to first order.

    First by its products with the means, then by its own squares; `standard_error` takes both. Unlike `cosine`'s
    replicates, which are twice as noisy as the sample, they say something only where the contrasts are more signal
    than noise; NaN where noise is all there is.
    """
    dot, aa, bb = _products(_free_of_noise(g)[0], a, b)
    moved = np.stack([g.cross + g.cross.swapaxes(-1, -2), g.noise - g.noise.mean(0)])
    with np.errstate(invalid="ignore", divide="ignore"):
        size = np.sqrt(np.where((aa > 0) & (bb > 0), aa * bb, np.nan))
        d_dot, d_aa, d_bb = _products(moved, a, b)
        return d_dot / size - dot / size * (d_aa / aa + d_bb / bb) / 2


def standard_error(moved) -> float:
    """Of whatever is linear in `deviations` [2, R].

    The means hold noise themselves: their products with a half sample count its squares' share twice, of which the
    second row takes one off.
    """
    products, squares = np.mean(np.square(moved), axis=1)
    return float(np.sqrt(max(products - squares, squares)))


def axis_cosines(g: Grams, a) -> list[Estimate]:
    """Cosine of a contrast with every axis."""
    free, replicates = _free_of_noise(g)
    along, off = np.einsum("lca,c->al", g.axes, a), np.einsum("rlca,c->arl", g.axes_noise, a)
    sizes = [np.einsum("...ce,c,e->...", gram, a, a) for gram in (g.means, free, replicates)]
    noise, moved = g.axes_error.T, np.moveaxis(np.asarray(g.axes_size), -1, 0)
    ones = np.ones_like(noise), 1 - noise, 1 + moved - 2 * noise[:, None]  # squared lengths of the axes, likewise
    return [
        Estimate(_ratio(p, sizes[0], one), _ratio(p, sizes[1], free_one), _ratio(p + o, sizes[2], replicate), None)
        for p, o, one, free_one, replicate in zip(along, off, *ones)
    ]


def noise_share(g: Grams, a) -> np.ndarray:
    """[L] expected squared length of the noise in a contrast over its squared length: near 1, there is only noise."""
    size, noise = (np.einsum("lce,c,e->l", gram, a, a) for gram in (g.means, g.noise.mean(0)))
    return noise / np.maximum(size, 1e-30)


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b, where both were read with the same replicates (the same walks and key)."""
    return Estimate(a.value - b.value, a.free - b.free, a.replicates - b.replicates, None)


def interval(replicates, bound: float = 1.0, layers=None):
    """(low, high) [...] over the leading axis; a replicate that knows nothing (NaN) counts as both extremes.

    With `layers` (a slice of the last axis) of the mean over these layers.
    """
    tail, out = (1 - LEVEL) / 2, []
    for q, extreme in ((tail, -bound), (1 - tail, bound)):
        filled = np.where(np.isnan(replicates), extreme, replicates)
        out.append(np.quantile(filled if layers is None else filled[..., layers].mean(-1, keepdims=True), q, axis=0))
    return tuple(out)


def summary(e: Estimate, bound: float = 1.0, layers=None) -> dict:
    """Lists per layer for files: value, free, low, high, and the middle of what noise alone reads.

    With `layers`, a slice, lists of one entry: the mean over these layers.
    """
    cut = lambda x: x if layers is None else x[..., layers].mean(-1, keepdims=True)
    low, high = interval(e.replicates, bound, layers)
    out = {"value": cut(e.value), "free": cut(e.free), "low": low, "high": high}
    out |= {} if e.noise is None else {"noise": np.median(cut(np.nan_to_num(e.noise)), axis=0)}
    return {k: [None if np.isnan(x) else float(x) for x in v] for k, v in out.items()}
