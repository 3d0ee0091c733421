"""Drawing tokens from logits: temperature, top-k, top-p, without a sort and with two uniform numbers a row.

B rows, V vocabulary. Every setting is data, one value or one a row.
"""

import jax
import jax.numpy as jnp


def _ordered(x):
    """float32 as int32 in the same order, so that a threshold can be found bit by bit."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    return jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)


def _largest(enough, low, high):
    """The largest int32 t [B] with `enough(t)`, which must hold at `low` and be monotone."""

    def halve(_, ends):
        low, high = ends
        middle = (low & high) + ((low ^ high) >> 1) + ((low ^ high) & 1)  # rounded up, without overflow
        good = enough(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle - 1)

    return jax.lax.fori_loop(0, 32, halve, (low, high))[0]


def filtered(logits, top_k=None, top_p=None):
    """Logits [B, V] with -inf at all but the `top_k` largest, then at all but the smallest set of mass `top_p`.

    top_k: int32 [] or [B], 0 for all; top_p: float [] or [B] in (0, 1], of the distribution that top-k left. Tokens
    tied with the last one kept are kept. The threshold is found by bisection over the bits of a float32.
    """
    B, V = logits.shape
    key = _ordered(logits.astype(jnp.float32))
    low, high = key.min(-1), key.max(-1)

    def keep(threshold):
        return key >= threshold[:, None]

    if top_k is not None:
        k = jnp.broadcast_to(jnp.where(jnp.asarray(top_k) > 0, top_k, V), B)
        low = _largest(lambda t: keep(t).sum(-1) >= jnp.minimum(k, V), low, high)
    if top_p is not None:
        mass = jnp.where(keep(low), jnp.exp(logits - logits.max(-1, keepdims=True)), 0.0)
        wanted = jnp.broadcast_to(top_p, B) * mass.sum(-1)
        # At 1 everything stays, whatever the order of summation rounds to.
        all_of_it = jnp.broadcast_to(jnp.asarray(top_p) >= 1, B)
        found = _largest(lambda t: jnp.where(keep(t), mass, 0.0).sum(-1) >= wanted, low, high)
        low = jnp.where(all_of_it, low, found)
    return jnp.where(keep(low), logits, -jnp.inf)


def _first_above(weights, target):
    """Index [B] of the first of weights [B, N] whose running sum exceeds target [B] and that is not zero itself."""
    hit = (jnp.cumsum(weights, -1) > target[:, None]) & (weights > 0)
    # Rounding can leave the target above the last sum: the last possible index then.
    last = weights.shape[-1] - 1 - jnp.argmax(weights[:, ::-1] > 0, -1)
    return jnp.where(hit.any(-1), jnp.argmax(hit, -1), last)


def draw(logits, keys, temperature, top_k=None, top_p=None):
    """One token id int32 [B] a row of logits [B, V], by inversion.

    keys [B]; temperature [] or [B], 0 for the most likely token; top_k and top_p as in `filtered`, applied after the
    temperature. A block of the vocabulary is drawn first, then a token in it: two uniform numbers a row and two fast
    reductions, where Gumbel noise would take a random number for every token of the vocabulary.
    """
    B, V = logits.shape
    size = max(d for d in range(1, 1025) if V % d == 0)
    temperature = jnp.broadcast_to(temperature, B)
    greedy = temperature <= 0
    per = 1.0 / jnp.where(greedy, 1.0, temperature)
    if top_k is not None or top_p is not None:
        logits = jnp.where(jnp.isfinite(filtered(logits * per[:, None], top_k, top_p)), logits, -jnp.inf)
    # Columns are rows of the batch here: the unembedding reads its large matrix in this order a fifth faster on CPU.
    blocks = logits.T.reshape(V // size, size, B)
    top = blocks.max(1)
    best = top.max(0)
    mass = jnp.exp((blocks - best) * per).sum(1)
    u = jax.vmap(lambda k: jax.random.uniform(k, (2,)), out_axes=1)(keys)
    i = jnp.where(greedy, jnp.argmax(top, 0), _first_above(mass.T, u[0] * mass.sum(0)))
    within = jnp.take_along_axis(blocks, i[None, None], 0)[0]
    mass = jnp.exp((within - best) * per)
    j = jnp.where(greedy, jnp.argmax(within, 0), _first_above(mass.T, u[1] * mass.sum(0)))
    return (i * size + j).astype(jnp.int32)
