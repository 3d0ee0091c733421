"""Everything that is read off one model: its class vectors, their cosines with intervals and nulls, separation, words.

L layers, D width, N held-out readings, A axes, n directions in a cohort.
"""

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax.interp import extract, geometry, lens, null, uncertainty
from welfare_jax.models import decoder

TARGETS = (geometry.MOLD, geometry.GOLD)
PAIRS = {"mold-gold": (2, 1), "mold-path": (2, 0), "gold-path": (1, 0)}  # of class numbers
BINS = 40


def make(graphdef, join, replicates: int = 200, hook: str = "resid_post"):
    """One compiled program `(trainable, frozen, data, axes, key) -> dict of arrays`.

    data: `extract.Split`; axes [A, L, D] (A may be 0); two models that are read with one key are resampled alike.
    """

    @jax.jit
    def program(trainable, frozen, data, axes, key):
        model = decoder.bind(graphdef, join(trainable, frozen))
        found = extract.moments(model, data.fit, hook, replicates, key)
        sums, counts = found.sums, found.counts
        v = {
            f"{geometry.NAMES[c]}/{b}": geometry.difference_in_means(sums, counts, c, b)
            for c in TARGETS
            for b in geometry.BASELINES
        }
        both = jnp.stack([v["mold/rest"], v["gold/rest"]])
        cohorts = jnp.stack(
            [
                jnp.stack([null.random(k, like), null.orthogonal(k, like)])
                for k, like in zip(jax.random.split(jax.random.fold_in(key, 1)), both)
            ]
        )  # [vector, kind, n, L, D]
        proj, cos, labels = extract.scores(
            model, data.held, jnp.concatenate([both, cohorts.reshape(-1, *both.shape[1:])]), hook
        )
        use, members = labels >= 0, [labels == c for c in TARGETS]
        flat = proj[:, 2:].reshape(proj.shape[0], *cohorts.shape[:3], -1)
        others = jnp.concatenate(
            [both[::-1, None], jnp.broadcast_to(axes, (2, *axes.shape))], 1
        )  # what cosines are with
        layer = 5 * model.spec.layers // 6
        return {
            "vectors": v,
            "grams": uncertainty.grams(found, axes),
            "selection": [geometry.select_layer(proj[:, i], cos[:, i], m, use) for i, m in enumerate(members)],
            # [vector, L, kind, n]
            "null_auroc": jnp.stack([geometry.auroc(flat[:, i], m, use) for i, m in enumerate(members)]),
            # [vector, kind, n, 1 + A, L]
            "null_cos": geometry.cosine(cohorts[:, :, :, None], others[:, None, None]),
            "projections": proj[:, :2],
            "labels": labels,
            "words": [lens.of_model(model, both[:, layer], fold_norm=fold) for fold in (True, False)],
        }  # fmt: skip

    return program


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
    null_cos = np.quantile(out["null_cos"], (0.025, 0.975), axis=2)  # [2, v, kind, 1 + A, L]
    result = {
        "cos": {b: found[b].value for b in geometry.BASELINES},
        "centred": {name: found[name].value for name in PAIRS},
        "intervals": {name: uncertainty.summary(e) for name, e in found.items()},
        "norms": _named(np.linalg.norm(out["vectors"][f"{v}/rest"], axis=-1) for v in ("mold", "gold")),
        "noise_share": _named(uncertainty.noise_share(grams, a) for a in own),
        "selection": _named(out["selection"]),
        "lens": {"layer": 5 * layers // 6, **folded, "plain": plain},
        "null": {
            "cos": _bands(null_cos[..., 0, :].swapaxes(1, 2)),
            "auroc": _bands(np.moveaxis(np.quantile(out["null_auroc"], (0.025, 0.975), axis=-1), -1, 1)),
        },
        "density": _named(
            density(out["projections"][:, i], out["labels"], int(out["selection"][i]["layer"])) for i in range(2)
        ),
    }
    if axis_names:
        along = [dict(zip(axis_names, map(uncertainty.summary, uncertainty.axis_cosines(grams, a)))) for a in own]
        result["axes"] = {
            "names": list(axis_names), **_named(along),
            "null": {name: _bands(null_cos[:, :, :, 1 + i].swapaxes(1, 2)) for i, name in enumerate(axis_names)},
        }  # fmt: skip
    return jax.tree.map(lambda a: a if isinstance(a, int | float | str | None) else np.asarray(a).tolist(), result)


def _bands(quantiles) -> dict:
    """{kind: {vector: [low [L], high [L]]}} of quantiles [2, kind, v, L]."""
    return {
        kind: _named(np.stack([quantiles[0, k, i], quantiles[1, k, i]]) for i in range(2))
        for k, kind in enumerate(("random", "orthogonal"))
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
