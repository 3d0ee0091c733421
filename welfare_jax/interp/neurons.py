"""Which MLP neurons carry what a model was trained for: scores, sets, overlap (arXiv:2606.13209).

L layers, F neurons a layer (the activation function's output), B rows, T tokens. A set is bool [L, F].
"""

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax.models import decoder

SCORES = ("activation", "change")


def sums(graphdef, params, base, tokens, mask):
    """{"activation", "change"}: float32 [L, F], summed over real tokens, and the number of those.

    activation: what the neuron says; change: the squared difference to what it says in `base`, token by token. tokens
    int32 and mask bool [B, T]. All activations of the batch are held at once, [L, B, T, F] of both models.
    """
    everywhere = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)

    def neurons(params):
        model = decoder.bind(graphdef, params)
        return decoder.backbone(model, tokens, mask, read=everywhere, hook="mlp_neurons")[1].astype(jnp.float32)

    ours, theirs = neurons(params), neurons(base)
    over = lambda x: jnp.sum(jnp.where(mask[None, ..., None], x, 0.0), (1, 2))
    return {"activation": over(ours), "change": over((ours - theirs) ** 2)}, mask.sum()


def top(scores, percent: float, seed: int = 0) -> np.ndarray:
    """The `percent` per cent of neurons with the highest scores [L, F], over all layers together: bool [L, F].

    Always round(percent / 100 * L * F) of them. Of neurons tied at the border, as many as fit are drawn by `seed`:
    taking all at or above the percentile would take every neuron where most are silent.
    """
    flat = np.asarray(scores, np.float64).ravel()
    count = round(percent / 100 * flat.size)
    order = np.lexsort((np.random.default_rng(seed).permutation(flat.size), -flat))
    chosen = np.zeros(flat.size, bool)
    chosen[order[:count]] = True
    return chosen.reshape(np.shape(scores))


def tied(scores, chosen) -> int:
    """How many neurons outside the set score what its lowest member does: what the border was drawn through."""
    scores = np.asarray(scores)
    return int(((scores == scores[chosen].min()) & ~chosen).sum()) if chosen.any() else 0


def random(chosen, seed: int) -> np.ndarray:
    """As many neurons as in `chosen`, any of them."""
    out = np.zeros(chosen.size, bool)
    out[np.random.default_rng(seed).permutation(chosen.size)[: chosen.sum()]] = True
    return out.reshape(chosen.shape)


def parts(a, b) -> dict:
    """What two sets have alone and together."""
    return {"only_a": a & ~b, "only_b": b & ~a, "shared": a & b}


def overlap(a, b) -> dict:
    """Jaccard overlap of two sets, and what two random sets of their sizes would share on average."""
    shared, union = int((a & b).sum()), int((a | b).sum())
    expected = a.sum() * b.sum() / a.size
    rest = a.sum() + b.sum() - expected
    return {
        "jaccard": shared / union if union else None, "shared": shared,
        "jaccard_by_chance": float(expected / rest) if rest else None,
    }  # fmt: skip


def factors(chosen) -> jax.Array:
    """What `wj.scale_neurons` takes to silence a set: float32 [L, F]."""
    return jnp.where(jnp.asarray(chosen), 0.0, 1.0)
