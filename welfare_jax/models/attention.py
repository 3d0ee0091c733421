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


def _seen(qpos, kpos, window):
    """bool [B, T, S]: the keys at or before each query, and within its window where there is one."""
    seen = kpos[:, None, :] <= qpos[:, :, None]
    return seen if window is None else seen & (kpos[:, None, :] > qpos[:, :, None] - window)


def grown(q, qpos, growth: float, span: int):
    """Queries q [B, H, T, d] times 1 + growth * log(1 + p // span) at positions qpos [B, T], in q's type."""
    size = 1.0 + growth * jnp.log1p((qpos // span).astype(jnp.float32))
    return q * size[:, None, :, None].astype(q.dtype)


def fill(k, kpos):
    """Keys k [B, K, S, d] with a copy of the row's first token's in place of padding, as `attend` wants `filled`."""
    real = kpos != NOWHERE
    # Nothing reads a copy's gradient: it has no weight.
    copy = jax.lax.stop_gradient(jnp.take_along_axis(k, jnp.argmax(real, 1)[:, None, None, None], 2))
    return jnp.where(real[:, None, :, None], k, copy)


def _scores(q, part, qpos, window, scale, cap, filled):
    """Capped scores [B, K, G*T, S] in float32 of folded queries q [B, K, G*T, d], what is left to multiply them with,
    and which of them count: bool, of a shape that broadcasts.

    filled: as in `attend`, for a part that is older than every query. Without a window neither its mask nor the scale
    costs a pass over the scores then: whoever reads them applies both.
    """
    k, _, kpos = part
    B, K, R, _ = q.shape
    T, S = qpos.shape[1], k.shape[2]
    s = jnp.einsum("bkrd,bksd->bkrs", q, k, preferred_element_type=jnp.float32)
    if cap:
        s, scale = cap * jnp.tanh(s * (scale / cap)), 1.0
    if filled and window is None:
        return s, scale, (kpos != NOWHERE)[:, None, None]
    seen = _seen(qpos, kpos, window)
    s = jnp.where(seen[:, None, None], s.reshape(B, K, R // T, T, S), _HIDDEN).reshape(B, K, R, S)
    return s, scale, s > _HIDDEN


def _fold(q, kv_heads):
    B, H, T, d = q.shape
    return q.reshape(B, kv_heads, (H // kv_heads) * T, d)


def _fold_sinks(sinks, kv_heads, rows):
    """Sinks [H], a logit a head, as [1, K, G*T, 1] in float32."""
    groups = sinks.shape[0] // kv_heads
    return jnp.repeat(sinks.astype(jnp.float32).reshape(kv_heads, groups), rows // groups, 1)[None, :, :, None]


def attend(q, parts, qpos, window, scale, cap=0.0, sinks=None, filled=False):
    """Softmax over several stretches of keys at once, so that a cache is read where it lies.

    q [B, H, T, d]; parts: tuple of (k [B, K, S, d], v [B, K, S, d], kpos [B, S]), of which all but the last are older
    than every query; qpos [B, T]; window: None or a scalar (traced is fine); cap: scores become
    cap * tanh(score / cap); sinks: None or a logit for each head [H] that takes weight and gives no value; filled: in
    all parts but the last, padding holds keys that the queries see elsewhere (`fill`), so that the largest score of
    all is one that counts. The backward pass is written out. Returns [B, H, T, d].
    """
    K = parts[0][0].shape[1]
    folded = _fold(q, K)
    sinks = None if sinks is None else _fold_sinks(sinks, K, folded.shape[2])
    return _attend(folded, parts, sinks, qpos, window, scale, cap, filled).reshape(q.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _attend(q, parts, sinks, qpos, window, scale, cap, filled):
    return _attend_fwd(q, parts, sinks, qpos, window, scale, cap, filled)[0]


def _all_scores(q, parts, qpos, window, scale, cap, filled):
    last = len(parts) - 1
    return [_scores(q, part, qpos, window, scale, cap, filled and i < last) for i, part in enumerate(parts)]


def _attend_fwd(q, parts, sinks, qpos, window, scale, cap, filled):
    """q is folded; sinks None or [1, K, G*T, 1]."""
    scores = _all_scores(q, parts, qpos, window, scale, cap, filled)
    top = functools.reduce(jnp.maximum, [s.max(-1, keepdims=True) * by for s, by, _ in scores])
    top = top if sinks is None else jnp.maximum(top, sinks)
    # The choices change nothing. They keep softmax and products apart: on CPU, XLA would make one kernel of them that
    # is slower than its parts.
    probs = [jnp.where(counts, jnp.exp(s * by - top), 0.0) for s, by, counts in scores]
    total = sum(p.sum(-1, keepdims=True) for p in probs)
    total = total if sinks is None else total + jnp.exp(sinks - top)
    total = jnp.where(total > 0.0, total, 1.0)
    out = sum(
        jnp.einsum("bkrs,bksd->bkrd", p.astype(v.dtype), v, preferred_element_type=jnp.float32)
        for p, (_, v, _) in zip(probs, parts, strict=True)
    )
    out = (out / total).astype(q.dtype)
    return out, (q, parts, sinks, qpos, window, out, top + jnp.log(total))


def _attend_bwd(scale, cap, filled, saved, d_out):
    # The probabilities are recomputed from the log-sum-exp: nothing of size T x S is kept between the passes.
    q, parts, sinks, qpos, window, out, lse = saved
    delta = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), -1, keepdims=True)
    dq, d_parts = 0.0, []
    scores = _all_scores(q, parts, qpos, window, scale, cap, filled)
    for (s, by, counts), (k, v, _) in zip(scores, parts, strict=True):
        p = jnp.where(counts, jnp.exp(s * by - lse), 0.0)
        dp = jnp.einsum("bkrd,bksd->bkrs", d_out, v, preferred_element_type=jnp.float32)
        ds = p * (dp - delta) * scale
        if cap:  # the derivative of the tanh; a hidden score has p = 0 and must not make it infinite
            ds = ds * (1.0 - jnp.minimum(jnp.square(s / cap), 1.0))
        ds = ds.astype(q.dtype)
        dq = dq + jnp.einsum("bkrs,bksd->bkrd", ds, k)
        # "->bkds" and a transpose is about twice as fast as "->bksd" on CPU.
        dk = jnp.einsum("bkrs,bkrd->bkds", ds, q).swapaxes(2, 3)
        dv = jnp.einsum("bkrs,bkrd->bkds", p.astype(q.dtype), d_out).swapaxes(2, 3)
        d_parts.append((dk, dv, None))
    d_sinks = None if sinks is None else -jnp.sum(jnp.exp(sinks - lse) * delta, 0, keepdims=True)
    return dq, tuple(d_parts), d_sinks, None, None


_attend.defvjp(_attend_fwd, _attend_bwd)


def pattern(q, parts, qpos, window, scale, cap=0.0, sinks=None):
    """The attention weights [B, T, H, S] in float32, over the slots of all parts side by side; arguments as in
    `attend`. Zero where a query does not see a slot; with sinks the weights of a query add up to less than one."""
    B, H, T, _ = q.shape
    folded = _fold(q, parts[0][0].shape[1])
    every = _all_scores(folded, parts, qpos, window, scale, cap, False)
    scores = jnp.concatenate([jnp.where(counts, s * by, _HIDDEN) for s, by, counts in every], -1).reshape(B, H, T, -1)
    top = scores.max(-1, keepdims=True)
    if sinks is not None:
        sinks = sinks.astype(jnp.float32)[None, :, None, None]
        top = jnp.maximum(top, sinks)
    weights = jnp.where(scores > _HIDDEN, jnp.exp(scores - top), 0.0)
    total = weights.sum(-1, keepdims=True) + (0.0 if sinks is None else jnp.exp(sinks - top))
    return (weights / jnp.where(total > 0.0, total, 1.0)).swapaxes(1, 2)


def attend_library(q, parts, qpos, window, scale, implementation):
    """As `attend`, by `jax.nn.dot_product_attention` ("xla" or "cudnn"): no caps, no sinks, windows by its mask."""
    k, v = (jnp.concatenate([part[i] for part in parts], 2).swapaxes(1, 2) for i in (0, 1))
    seen = _seen(qpos, jnp.concatenate([part[2] for part in parts], 1), window)[:, None]
    out = jax.nn.dot_product_attention(q.swapaxes(1, 2), k, v, mask=seen, scale=scale, implementation=implementation)
    return out.swapaxes(1, 2)


def attend_causal(q, k, v, qpos, kpos, window, scale, cap=0.0, sinks=None, max_blocks: int = 5, older=()):
    """Self-attention of a whole sequence, in query blocks that each meet only the keys up to their own end.

    q [B, H, T, d]; k, v [B, K, T, d]; qpos, kpos [B, T], where a slot's position grows with the slot; window, cap and
    sinks as in `attend`; older: parts that every query sees, filled as `attend` wants them. The blocks halve the work
    of a long sequence. Returns [B, H, T, d].
    """
    T, k = q.shape[2], fill(k, kpos)
    blocks = min(max_blocks, max(1, T // 100))
    ends = [T * (i + 1) // blocks for i in range(blocks)]
    outs = []
    for a, b in zip([0, *ends[:-1]], ends, strict=True):
        stretches = [(0, a), (a, b)] if a else [(a, b)]
        parts = (*older, *((k[:, :, i:j], v[:, :, i:j], kpos[:, i:j]) for i, j in stretches))
        outs.append(attend(q[:, :, a:b], parts, qpos[:, a:b], window, scale, cap=cap, sinks=sinks, filled=True))
    return jnp.concatenate(outs, axis=2)
