"""Logit lens: which words a direction of the residual stream promotes and suppresses (arXiv:2605.30232 §C, §F)."""

import jax
import jax.numpy as jnp

from welfare_jax.errors import InputError
from welfare_jax.models import decoder


def logit_lens(vectors, unembedding, norm_weight=None, k: int = 12):
    """Top-k tokens of vectors [..., D]: (values, ids) promoted and (values, ids) suppressed, each [..., k].

    unembedding [V, D] in any float type; norm_weight [D], the final norm's weight, to fold it in (None: left out). A
    direction has no length of its own, so vectors are scaled to unit norm. Logits are exact to float32, and the
    unembedding is read in its own type: against 16-bit weights the vector goes in as three 16-bit parts.
    """
    if not 1 <= k <= len(unembedding):
        raise InputError(f"k={k}: the unembedding has {len(unembedding)} tokens")
    v = vectors.astype(jnp.float32)
    v = v if norm_weight is None else v * norm_weight.astype(jnp.float32)
    v = v / jnp.maximum(jnp.linalg.norm(v, axis=-1, keepdims=True), 1e-12)
    logits = sum(
        jnp.einsum("...d,vd->...v", part, unembedding, preferred_element_type=jnp.float32)
        for part in _parts(v, unembedding.dtype)
    )
    return jax.lax.top_k(logits, k), _negative(jax.lax.top_k(-logits, k))


def _parts(v, dtype):
    """Numbers of type `dtype` that add up to v."""
    if dtype != jnp.bfloat16:
        return [v.astype(dtype)]
    parts = []
    for _ in range(3):
        rounded = jax.lax.reduce_precision(v, exponent_bits=8, mantissa_bits=7)  # a plain cast may be optimised away
        parts.append(rounded.astype(dtype))
        v = v - rounded
    return parts


def _negative(found):
    return -found[0], found[1]


def of_model(model: decoder.Decoder, vectors, k: int = 12, fold_norm: bool = True):
    """`logit_lens` of vectors [..., D] with a decoder's own unembedding and, if `fold_norm`, its final norm."""
    weight = model.final_norm.scale[...].astype(jnp.float32) + model.final_norm.offset
    table = (model.embed if model.unembed is None else model.unembed)[...]
    return logit_lens(vectors, table, weight if fold_norm else None, k)


def words(tokenizer, found, names) -> dict:
    """Host form of `logit_lens` of vectors [M, D]: {name: {"promoted": [[token, value, also], ...], ...}}.

    `also` says where else among these vectors the token is listed, for example "gold suppressed".
    """
    sides = {}
    for side, (values, ids) in zip(("promoted", "suppressed"), jax.device_get(found)):
        for i, name in enumerate(names):
            sides[name, side] = dict(zip(ids[i].tolist(), values[i].tolist()))
    out = {name: {} for name in names}
    for (name, side), row in sides.items():
        others = {f"{n} {s}": listed for (n, s), listed in sides.items() if n != name}
        out[name][side] = [
            [tokenizer.decode([t]), value, ", ".join(where for where, listed in others.items() if t in listed)]
            for t, value in row.items()
        ]
    return out
