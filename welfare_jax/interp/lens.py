"""Logit lens: which words a direction of the residual stream promotes and suppresses (§C, §F)."""

import jax
import jax.numpy as jnp

from welfare_jax.models import decoder


def logit_lens(model: decoder.Decoder, vectors, k: int = 12, fold_norm: bool = True):
    """Top-k tokens of vectors [M, D]: (values, ids) promoted and (values, ids) suppressed, each [M, k].

    A direction has no length of its own, so vectors are scaled to unit norm; `fold_norm` multiplies by the final
    norm's weight first. The unembedding is read in its own type and summed in float32.
    """
    v = vectors.astype(jnp.float32)
    if fold_norm:
        v = v * (model.final_norm.scale[...].astype(jnp.float32) + model.final_norm.offset)
    v = v / jnp.maximum(jnp.linalg.norm(v, axis=-1, keepdims=True), 1e-12)
    logits = decoder.unembed(model, v.astype(model.embed[...].dtype))
    return jax.lax.top_k(logits, k), jax.lax.top_k(-logits, k)


def words(tokenizer, lens) -> list[dict]:
    """Host form of `logit_lens`: one {"promoted": [[token, value], ...], "suppressed": [...]} a vector."""
    (up, up_ids), (down, down_ids) = jax.device_get(lens)
    rows = []
    for i in range(len(up)):
        rows.append({
            "promoted": [[tokenizer.decode([t]), float(v)] for t, v in zip(up_ids[i], up[i])],
            "suppressed": [[tokenizer.decode([t]), -float(v)] for t, v in zip(down_ids[i], down[i])],
        })  # fmt: skip
    return rows
