"""Everything that is read off one model: its class vectors, their cosines with intervals and nulls, separation, words.

L layers, D width, N held-out readings, A axes, K permutations of the labels, R replicates.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax import hosts
from welfare_jax.interp import extract, geometry, lens, null, uncertainty, vectors
from welfare_jax.interp.names import Vector
from welfare_jax.models import decoder


class Compared(NamedTuple):
    """Axes that class vectors are compared with."""

    values: uncertainty.Array  # [A, L, D]
    errors: uncertainty.Array  # [A, R, L, D], their own deviations, zero where they count as exact
    null: uncertainty.Array  # [A, R, L, D], directions that their texts give without what makes the axis


TARGETS = (geometry.MOLD, geometry.GOLD)
_CLASSES = ((geometry.MOLD, geometry.GOLD), (geometry.MOLD, geometry.PATH), (geometry.GOLD, geometry.PATH))
PAIRS = {f"{geometry.NAMES[a]}-{geometry.NAMES[b]}": (a, b) for a, b in _CLASSES}
BINS = 40


def make(graphdef, join, replicates: int = 200, hook: str = "resid_post", permutations: int = 1000):
    """One compiled program `(trainable, frozen, data, axes, key) -> dict of arrays`.

    data: `extract.Split`; axes: `Compared`; two models that are read with one key are resampled alike.
    """

    @jax.jit
    def program(trainable, frozen, data, axes, key):
        model = decoder.bind(graphdef, join(trainable, frozen))
        found = extract.moments(model, data.fit, hook, replicates, key, permutations=permutations)
        v = vectors.of_classes(found.sums, found.counts)
        both = jnp.stack([v[Vector(name, "rest").entry] for name in ("mold", "gold")])
        proj, cos, labels = extract.scores(model, data.held, both, hook)
        relabelled = extract.relabelled(jax.random.fold_in(key, 3), data.held, permutations)
        use = labels >= 0
        choose = lambda i, labels: geometry.select_layer(proj[:, i], cos[:, i], labels == TARGETS[i], use)
        layer = 5 * model.spec.layers // 6
        return {
            "vectors": v,
            "grams": uncertainty.grams(found, axes.values, axes.errors),
            "selection": [choose(i, labels) for i in range(2)],
            "null_selection": jax.lax.map(lambda p: _of_chosen(choose, p), relabelled, batch_size=16),
            "null_cos": {b: null.permuted_cosines(found, b) for b in geometry.BASELINES},  # [K, L]
            "null_axes": geometry.cosine(both[:, None, None], axes.null),  # [v, A, R, L]
            "permuted": {
                name: null.permuted_vectors(first(found), c, b)
                for c in TARGETS
                for b, name in ((b, Vector(geometry.NAMES[c], b).entry) for b in geometry.BASELINES)
            },
            "projections": proj,
            "labels": labels,
            "words": [lens.of_model(model, both[:, layer], fold_norm=fold) for fold in (True, False)],
        }  # fmt: skip

    first = lambda found: found._replace(permuted=found.permuted[: null.SIZE])
    return program


def _of_chosen(choose, labels) -> dict:
    """AUROC [v, L] under permuted labels, and [v] of the layers that these labels choose."""
    found = [choose(i, labels) for i in range(2)]
    auroc = jnp.stack([f["auroc"] for f in found])
    return {"auroc": auroc, "chosen": jnp.stack([f["auroc"][f["layer"]] for f in found])}


def make_grams(graphdef, join, replicates: int = 200, hook: str = "resid_post"):
    """One compiled program `(trainable, frozen, fit, key) -> uncertainty.Grams`: of `make`, what cosines need alone.

    fit: the buckets that class means are taken over; with the key of `make`, both resample alike.
    """

    @jax.jit
    def program(trainable, frozen, fit, key):
        model = decoder.bind(graphdef, join(trainable, frozen))
        return uncertainty.grams(extract.moments(model, fit, hook, replicates, key))

    return program


def _named(values):
    return dict(zip(("mold", "gold"), values))


def cosines(grams) -> dict:
    """`uncertainty.Estimate` of cos(v_mold, v_gold) under both baselines and of the three centred pairs (§C)."""
    at = lambda c, baseline: uncertainty.contrast(grams.counts, c, baseline)
    out = {b: uncertainty.cosine(grams, *(at(c, b) for c in TARGETS)) for b in geometry.BASELINES}
    return out | {name: uncertainty.cosine(grams, at(a, "mean"), at(b, "mean")) for name, (a, b) in PAIRS.items()}


def numbers(out: dict, tokenizer, axis_names=()) -> dict:
    """What the program found, as lists for `analysis.json`; `out` lies on the host."""
    grams, found = out["grams"], cosines(out["grams"])
    own = [uncertainty.contrast(grams.counts, c) for c in TARGETS]
    layers = len(grams.means)
    folded, plain = (lens.words(tokenizer, words, ("mold", "gold")) for words in out["words"])
    result = {
        "cos": {b: found[b].value for b in geometry.BASELINES},
        "centred": {name: found[name].value for name in PAIRS},
        "intervals": {name: uncertainty.summary(e) for name, e in found.items()},
        "norms": _named(np.linalg.norm(out["vectors"][Vector(v, "rest").entry], axis=-1) for v in ("mold", "gold")),
        "noise_share": _named(uncertainty.noise_share(grams, a) for a in own),
        "selection": _named(out["selection"]),
        "lens": {"layer": 5 * layers // 6, **folded, "plain": plain},
        "null": {"cos": {b: null.band(c) for b, c in out["null_cos"].items()}} | _chance(out),
        "density": _named(
            density(out["projections"][:, i], out["labels"], int(out["selection"][i]["layer"])) for i in range(2)
        ),
    }
    if axis_names:
        estimates = [uncertainty.axis_cosines(grams, a) for a in own]
        along = [dict(zip(axis_names, map(uncertainty.summary, e))) for e in estimates]
        chance = np.moveaxis(out["null_axes"], 2, 0)  # [R, v, A, L]
        p = null.family([[e.value for e in one] for one in estimates], chance)
        result["axes"] = {
            "names": list(axis_names), **_named(along),
            "null": {n: _named(null.band(chance[:, v, i]) for v in range(2)) for i, n in enumerate(axis_names)},
            "p": {n: _named(p[:, i]) for i, n in enumerate(axis_names)},
        }  # fmt: skip
    return jax.tree.map(lambda a: a if isinstance(a, int | float | str | None) else np.asarray(a).tolist(), result)


def _chance(out) -> dict:
    """How well vectors tell permuted labels apart: bands of AUROC per layer, and p at the layer that was chosen.

    The layer is chosen anew under every permutation, and p counts the better of the two vectors.
    """
    chance, selection = out["null_selection"], out["selection"]
    reached = [s["auroc"][int(s["layer"])] for s in selection]
    best = chance["chosen"].max(1)
    return {
        "auroc": _named(null.band(chance["auroc"][:, i]) for i in range(2)),
        "auroc_chosen": _named({"high": np.quantile(best, 0.95), "p": null.at_least(a, best)} for a in reached),
    }


def density(projections, labels, layer: int) -> dict:
    """Goal tracking at one layer: histograms of projections [L, N] by final tile, and d of Mold against Gold."""
    x, real = projections[layer], labels >= 0
    edges = np.linspace(x[real].min(), x[real].max(), BINS + 1)
    counts = {name: np.histogram(x[labels == c], edges, density=True)[0] for c, name in geometry.NAMES.items()}
    ends = labels != geometry.PATH
    d = geometry.cohens_d(jnp.asarray(x), jnp.asarray(labels == geometry.MOLD), jnp.asarray(real & ends))
    return {"layer": layer, "edges": edges, "cohens_d": float(d), **counts}


def compare(trained: dict, untrained: dict) -> dict:
    """Trained minus untrained, per layer and over all layers and the last third, from what `make` found of both."""
    found = {"trained": cosines(trained["grams"]), "untrained": cosines(untrained["grams"])}
    result = {}
    for name in (*geometry.BASELINES, *PAIRS):
        both = {model: found[model][name] for model in found}
        both["difference"] = uncertainty.difference(both["trained"], both["untrained"])
        layers = len(both["difference"].value)
        result[name] = {"difference": uncertainty.summary(both["difference"], 2.0)}
        for part, span in (("all", slice(None)), ("last_third", slice(layers - max(1, layers // 3), None))):
            result[name][part] = {
                model: uncertainty.summary(e, 2.0 if model == "difference" else 1.0, span) for model, e in both.items()
            }
    return result


def live_program(graphdef, join):
    """`extract.live` of flat parameters, to be compiled once for all sets of walks of the same shapes."""
    return jax.jit(
        lambda trainable, frozen, data, axes: extract.live(decoder.bind(graphdef, join(trainable, frozen)), data, axes)
    )


def make_live(program, data, axes=None):
    """The live curve as `curve(trainable, frozen) -> dict of lists`; program: of `live_program`.

    axes: {name: [L, D]}, what both vectors are compared with; their cosines [L] are `axis_mold/<name>` and the like.
    """
    stack = np.stack(list(axes.values())) if axes else None

    def curve(trainable, frozen):
        found = hosts.get(program(trainable, frozen, data, stack))
        if axes:
            for v in ("mold", "gold"):
                found |= {f"axis_{v}/{name}": row for name, row in zip(axes, found.pop(f"axes_{v}"))}
        return {k: v.round(6).tolist() for k, v in found.items()}

    return curve
