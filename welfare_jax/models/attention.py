"""Grouped-query attention with a float32 softmax.

B batch, T queries, S keys, H query heads, K key-value heads, G = H / K, d head width. The query heads of one
group are folded into rows, so that a group's scores are one matrix product. Positions, not slots, decide what
is visible; a padded key has position `NOWHERE` and is never seen.
"""

import functools

import jax
import jax.numpy as jnp

NOWHERE = jnp.iinfo(jnp.int32).max
_HIDDEN = -1e30


def _scores(q, k, qpos, kpos, window, scale):
    """Masked scores [B, K, G*T, S] in float32 of folded queries q [B, K, G*T, d]."""
    B, K, R, _ = q.shape
    T, S = qpos.shape[1], k.shape[2]
    s = jnp.einsum("bkrd,bksd->bkrs", q, k, preferred_element_type=jnp.float32) * scale
    seen = kpos[:, None, :] <= qpos[:, :, None]
    if window is not None:
        seen &= kpos[:, None, :] > qpos[:, :, None] - window
    s = jnp.where(seen[:, None, None], s.reshape(B, K, R // T, T, S), _HIDDEN)
    return s.reshape(B, K, R, S)


def _fold(q, kv_heads):
    B, H, T, d = q.shape
    return q.reshape(B, kv_heads, (H // kv_heads) * T, d)


def attend(q, parts, qpos, window, scale):
    """Softmax over several stretches of keys at once, so that a cache is read where it lies.

    q [B, H, T, d]; parts: tuple of (k [B, K, S, d], v [B, K, S, d], kpos [B, S]); qpos [B, T]; window: None or a
    scalar (traced is fine). Returns [B, H, T, d].
    """
    folded = _fold(q, parts[0][0].shape[1])
    scores = [_scores(folded, k, qpos, kpos, window, scale) for k, _, kpos in parts]
    top = functools.reduce(jnp.maximum, [s.max(-1, keepdims=True) for s in scores])
    probs = [jnp.exp(s - top) for s in scores]
    total = sum(p.sum(-1, keepdims=True) for p in probs)
    out = sum(
        jnp.einsum("bkrs,bksd->bkrd", p.astype(v.dtype), v, preferred_element_type=jnp.float32)
        for p, (_, v, _) in zip(probs, parts, strict=True)
    )
    return (out / total).astype(q.dtype).reshape(q.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _attend_saved(q, k, v, qpos, kpos, window, scale):
    return _attend_fwd(q, k, v, qpos, kpos, window, scale)[0]


def _attend_fwd(q, k, v, qpos, kpos, window, scale):
    s = _scores(q, k, qpos, kpos, window, scale)
    top = s.max(-1, keepdims=True)
    p = jnp.exp(s - top)
    total = p.sum(-1, keepdims=True)
    out = jnp.einsum("bkrs,bksd->bkrd", p.astype(v.dtype), v, preferred_element_type=jnp.float32) / total
    out = out.astype(q.dtype)
    return out, (q, k, v, qpos, kpos, window, out, top + jnp.log(total))


def _attend_bwd(scale, saved, d_out):
    # The probabilities are recomputed from the log-sum-exp: nothing of size T x S is kept between the passes.
    q, k, v, qpos, kpos, window, out, lse = saved
    p = jnp.exp(_scores(q, k, qpos, kpos, window, scale) - lse)
    delta = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), -1, keepdims=True)
    dp = jnp.einsum("bkrd,bksd->bkrs", d_out, v, preferred_element_type=jnp.float32)
    ds = (p * (dp - delta) * scale).astype(q.dtype)
    dq = jnp.einsum("bkrs,bksd->bkrd", ds, k)
    # "->bkds" and a transpose is about twice as fast as "->bksd" on CPU.
    dk = jnp.einsum("bkrs,bkrd->bkds", ds, q).swapaxes(2, 3)
    dv = jnp.einsum("bkrs,bkrd->bkds", p.astype(q.dtype), d_out).swapaxes(2, 3)
    return dq, dk, dv, None, None, None


_attend_saved.defvjp(_attend_fwd, _attend_bwd)


def attend_causal(q, k, v, qpos, kpos, window, scale, max_blocks: int = 5):
    """Self-attention of a whole sequence, in query blocks that each meet only the keys up to their own end.

    q [B, H, T, d]; k, v [B, K, T, d]; qpos, kpos [B, T], where a slot's position grows with the slot. The blocks
    halve the work of a long sequence; the backward pass is written out. Returns [B, H, T, d].
    """
    T, K = q.shape[2], k.shape[1]
    blocks = min(max_blocks, max(1, T // 100))
    ends = [T * (i + 1) // blocks for i in range(blocks)]
    outs = []
    for a, b in zip([0, *ends[:-1]], ends, strict=True):
        rows = q[:, :, a:b]
        out = _attend_saved(_fold(rows, K), k[:, :, :b], v[:, :, :b], qpos[:, a:b], kpos[:, :b], window, scale)
        outs.append(out.reshape(rows.shape))
    return jnp.concatenate(outs, axis=2)
