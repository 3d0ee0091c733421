"""One decoder for every family: stacked blocks run by one scan, whatever their number.

B batch, T tokens, S cache slots, L layers, D width, H/K query/key-value heads, d head width, V vocabulary,
P positions read. Slots are places in an array, positions count real tokens: padding, at either side or in
between, has no position, is never attended to, and costs nothing but its place.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from welfare_jax.errors import InputError
from welfare_jax.models import attention, inputs, interventions
from welfare_jax.models.layers import PRODUCTS, Attention, Lora, Mlp, Norm
from welfare_jax.models.moe import MoeMlp
from welfare_jax.models.rope import cos_sin
from welfare_jax.models.spec import Spec


class Block(nnx.Module):
    def __init__(self, spec, lora, dtype):
        self.attn = Attention(spec, lora, dtype)
        self.mlp = (MoeMlp if spec.experts else Mlp)(spec, lora, dtype)

        def norm():
            return Norm(spec.width, spec, dtype)

        self.attn_norm = norm() if spec.pre_norms else None
        self.mlp_norm = norm() if spec.pre_norms else None
        self.attn_post_norm = norm() if spec.post_norms else None
        self.mlp_post_norm = norm() if spec.post_norms else None


class Decoder(nnx.Module):
    """Embedding, L stacked blocks (every leaf has a leading L), final norm, unembedding where it is not tied."""

    def __init__(self, spec: Spec, lora: Lora | None = None, dtype=jnp.float32):
        self.embed = nnx.Param(jnp.zeros((spec.vocab, spec.width), dtype))
        self.blocks = nnx.vmap(lambda _: Block(spec, lora, dtype))(jnp.arange(spec.layers))
        self.final_norm = Norm(spec.width, spec, dtype)
        self.unembed = None if spec.tied else nnx.Param(jnp.zeros((spec.vocab, spec.width), dtype))
        self.spec, self.lora = spec, lora


# What rematerialisation keeps beside the stream between the layers: nothing, or what the weights' products gave.
KEPT: dict = {"nothing": None, "dots": PRODUCTS, True: None}


class Cache(NamedTuple):
    """Keys and values of what was read so far. The slots up to `used` are filled, the same for every row."""

    k: jax.Array  # [L, B, K, S, d]
    v: jax.Array  # [L, B, K, S, d]
    pos: jax.Array  # [B, S] int32 positions, NOWHERE for padding and empty slots
    count: jax.Array  # [B] int32 real tokens so far
    used: jax.Array  # [] int32 slots so far


class Output(NamedTuple):
    logits: jax.Array | None  # [B, T, V] float32
    residual: jax.Array | None  # [L, B, P, D] resid_post at the positions read
    cache: Cache | None


@functools.lru_cache(maxsize=64)
def structure(spec: Spec, lora: Lora | None = None, dtype="float32"):
    """(graphdef, tree of jax.ShapeDtypeStruct): equal arguments give the same graphdef, so jit caches hit."""
    abstract = nnx.eval_shape(lambda: Decoder(spec, lora, jnp.dtype(dtype)))
    graphdef, state = nnx.split(abstract)
    return graphdef, nnx.to_pure_dict(state)


def init(spec: Spec, key, dtype="float32", lora: Lora | None = None):
    """Random parameters, normal with variance 1 / fan in, and smaller where blocks write: (graphdef, params)."""
    graphdef, shapes = structure(spec, lora, dtype)
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    out = []
    for i, (path, leaf) in enumerate(leaves):
        name = path[-1].key
        k = jax.random.fold_in(key, i)
        if name == "scale":
            out.append(jnp.full(leaf.shape, 1.0 - spec.norm_offset, leaf.dtype))
        elif name in ("bias", "lora_b", "sinks"):
            out.append(jnp.zeros(leaf.shape, leaf.dtype))
        else:
            std = spec.width**-0.5 if name in ("embed", "unembed") else leaf.shape[-2] ** -0.5
            writes = path[-2].key in ("o", "down") if len(path) > 1 else False
            std = std / (2 * spec.layers) ** 0.5 if writes else std  # the stream's size does not grow with depth
            out.append((std * jax.random.normal(k, leaf.shape)).astype(leaf.dtype))
    return graphdef, jax.tree_util.tree_unflatten(tree, out)


@functools.lru_cache(maxsize=64)
def static(graphdef) -> tuple[Spec, Lora | None]:
    """The architecture and the adapters that a graphdef was made with."""
    found = {name: node.value for name, node in graphdef.attributes if name in ("spec", "lora")}
    if not isinstance(found.get("spec"), Spec):
        raise InputError("graphdef: not one of this package's decoders")
    return found["spec"], found["lora"]


def bind(graphdef, params) -> Decoder:
    """The module with these parameters. `nnx.merge` goes by order alone, so paths and shapes are compared first."""
    expected = structure(*static(graphdef))[1]
    have, want = (
        {jax.tree_util.keystr(p, simple=True, separator="/"): leaf.shape for p, leaf in jax.tree.leaves_with_path(t)}
        for t in (params, expected)
    )
    if have != want:
        odd = sorted(set(have.items()) ^ set(want.items()))[0][0]
        raise InputError(
            f"params: {odd} is {have.get(odd, 'missing')}, the model needs {want.get(odd, 'no such leaf')}"
        )
    return nnx.merge(graphdef, params)


def empty_cache(spec: Spec, batch: int, slots: int, dtype) -> Cache:
    shape = (spec.layers, batch, spec.kv_heads, slots, spec.head_dim)
    pos = jnp.full((batch, slots), attention.NOWHERE, jnp.int32)
    return Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), pos, jnp.zeros(batch, jnp.int32), jnp.int32(0))


def room_after(cache: Cache, slots: int) -> Cache:
    """A cache of `slots` empty slots for what follows `cache`, holding copies of its last key, which nobody counts."""
    k, v = (jnp.repeat(a[:, :, :, -1:], slots, 3) for a in (cache.k, cache.v))
    pos = jnp.full((len(cache.pos), slots), attention.NOWHERE, jnp.int32)
    return Cache(k, v, pos, jnp.zeros_like(cache.count), jnp.zeros_like(cache.used))


def repeat(cache: Cache, times: int) -> Cache:
    """The cache with every row `times` times, one after the other."""
    k, v = (repeat_rows(a, times, 1) for a in (cache.k, cache.v))
    return Cache(k, v, repeat_rows(cache.pos, times), repeat_rows(cache.count, times), cache.used)


def repeat_rows(a, times: int, axis: int = 0):
    """As `jnp.repeat`, by a broadcast: each device keeps its own rows."""
    a = jnp.expand_dims(a, axis + 1)
    wide = jnp.broadcast_to(a, (*a.shape[: axis + 1], times, *a.shape[axis + 2 :]))
    return wide.reshape(*a.shape[:axis], -1, *a.shape[axis + 2 :])


def append(cache: Cache, more: Cache) -> Cache:
    """`more`'s slots written after those that `cache` uses."""
    at = (0, 0, 0, cache.used, 0)
    return Cache(
        k=jax.lax.dynamic_update_slice(cache.k, more.k, at),
        v=jax.lax.dynamic_update_slice(cache.v, more.v, at),
        pos=jax.lax.dynamic_update_slice(cache.pos, more.pos, (0, cache.used)),
        count=cache.count + more.count,
        used=cache.used + more.used,
    )


def _take(x, read):
    """x [B, T, ...] at positions read [B, P], or averaged with weights read [B, P, T] where those are floats."""
    if jnp.issubdtype(read.dtype, jnp.floating):
        return jnp.einsum("bpt,bt...->bp...", read, x.astype(jnp.float32))
    index = read.reshape(*read.shape, *([1] * (x.ndim - 2)))
    return jnp.take_along_axis(x, index, axis=1)


class _Rows(NamedTuple):
    """What every layer needs to know of the tokens it sees."""

    qpos: jax.Array  # [B, T]
    kpos: jax.Array  # [B, T]
    rope: tuple  # cos, sin [R, B, T, d / 2]
    window: jax.Array | None  # int32 [L], None where every layer sees everything


def _attention(block, spec, h, rows, window, rope, older, take, fresh, hook, see):
    """One block's attention: (what it adds before the post norm, new keys, new values); `see` gets its pattern."""
    k, v = block.attn.keys_values(h, rope)
    k = attention.fill(k, rows.kpos) if fresh else k
    qpos = rows.qpos
    if take is not None:
        h, qpos, rope = take(h), take(qpos), tuple(take(r) for r in rope)
    q = block.attn.queries(h, rope)
    if spec.query_growth:
        q = attention.grown(q, qpos, spec.query_growth, spec.query_span)
    sinks = None if block.attn.sinks is None else block.attn.sinks[...]
    parts = (*older, (k, v, rows.kpos))
    if see is not None:
        see(lambda q, qpos: attention.pattern(q, parts, qpos, window, spec.scale, spec.attn_cap, sinks), q, qpos)
    if spec.attention != "plain":
        heads = attention.attend_library(q, parts, qpos, window, spec.scale, spec.attention)
    elif take is None and (fresh or not older):
        heads = attention.attend_causal(
            q, k, v, qpos, rows.kpos, window, spec.scale, spec.attn_cap, sinks, older=tuple(older)
        )
    else:
        heads = attention.attend(q, parts, qpos, window, spec.scale, spec.attn_cap, sinks, filled=fresh)
    z = heads.swapaxes(1, 2).reshape(*qpos.shape, -1)
    return block.attn.o(hook("z", z, take)), k, v


def _block(block, spec, x, layer, rows, iv, older=(), take=None, wanted=(), fresh=False, read: Any = None):
    """One block: x [B, T, D] -> ([B, T, D], or [B, P, D] with `take`, new keys, new values, every hook point).

    read: the positions [B, P] of which the attention pattern is kept, or weights, where it is `wanted`.
    """
    seen = {}

    def see(weights, q, qpos):
        """Of the queries read alone, unless what is read is an average over them."""
        if take is not None:  # which are all that is left of them
            seen["pattern"] = weights(q, qpos)
        elif jnp.issubdtype(read.dtype, jnp.floating):
            seen["pattern"] = _take(weights(q, qpos), read)
        else:
            seen["pattern"] = weights(_take(q.swapaxes(1, 2), read).swapaxes(1, 2), _take(qpos, read))

    def hook(at, y, select=None):
        seen[at] = interventions.apply(iv, at, layer, spec.layers, y, select)
        return seen[at]

    kind = jnp.asarray(spec.rope_of)[layer] if len(spec.ropes) > 1 else 0
    rope = tuple(r[kind] for r in rows.rope)
    window = None if rows.window is None else rows.window[layer]
    x = hook("resid_pre", x)
    h = x if block.attn_norm is None else block.attn_norm(x)
    see = see if "pattern" in wanted else None
    out, k, v = _attention(block, spec, h, rows, window, rope, older, take, fresh, hook, see)
    if take is not None:
        x = take(x)
    out = block.attn_post_norm(out) if block.attn_post_norm is not None else out
    out = out if spec.residual_scale == 1.0 else out * spec.residual_scale
    x = hook("resid_mid", x + hook("attn_out", out, take), take)
    touched = "mlp_neurons" in wanted or interventions.acts_at(iv, "mlp_neurons")
    h = x if block.mlp_norm is None else block.mlp_norm(x)
    out = block.mlp(h, (lambda n: hook("mlp_neurons", n, take)) if touched else None)
    out = block.mlp_post_norm(out) if block.mlp_post_norm is not None else out
    out = out if spec.residual_scale == 1.0 else out * spec.residual_scale
    x = x + hook("mlp_out", out, take)
    return hook("resid_post", x, take), k, v, seen


def backbone(
    model: Decoder, tokens, mask=None, *, cache=None, iv=None, read=None, everywhere=True, residual=True, remat=False,
    hook="resid_post", slice_last=False, hold=lambda x: x, fresh=False,
) -> tuple[jax.Array, Any, Any]:  # fmt: skip
    """Token ids to the normed hidden state: the part that the sampler and the trainer share.

    tokens int32 [B, T]; mask bool [B, T]; read int32 [B, P], or weights float [B, P, T] to average over tokens; hook,
    a hook point's name or a tuple of them, says which activations `residual` holds. With `everywhere`, hidden is
    [B, T, D]; without, the last layer computes only what the positions `read` need and hidden is [B, P, D]. With a
    cache, its S slots are attended to read-only and the new keys and values are written once, after the last layer.
    remat, for gradients: which of `KEPT` the backward pass finds of a layer's inside (it computes the rest again), or
    False for all of it. slice_last cuts the last layer off the stack, for gradients without `remat`: a branch would
    save what both of its sides need.
    hold(x) is called on the stream [B, T, D] before every layer, to say where its rows lie.
    fresh: return a cache of the T new slots alone, for `append`. The caches given, one or a tuple of them in order,
    must be made of such parts by `room_after`, `append` and `repeat`, each part with a token in every row:
    then every slot holds a key that the row's later tokens see, and they are read in fewer passes. Otherwise at most
    one cache is given.
    Returns hidden, residual [L, B, P, D] (None unless `residual` and `read` are given; a tuple if `hook` is), cache.
    """
    spec = model.spec
    mask = jnp.ones(tokens.shape, bool) if mask is None else mask
    caches = () if cache is None else (cache,) if isinstance(cache, Cache) else tuple(cache)
    before = sum(c.count[:, None] for c in caches)
    pos = jnp.where(mask, before + jnp.cumsum(mask, -1, dtype=jnp.int32) - 1, attention.NOWHERE)
    # A padded query would see every key: harmless, nobody reads it, and its softmax stays finite.
    windows = jnp.asarray([w or attention.NOWHERE for w in spec.windows], jnp.int32) if any(spec.windows) else None
    held = sum(c.k.shape[3] for c in caches)
    for rope in spec.ropes:
        if rope.by_length and held > rope.original:  # every key would have to be made again
            raise InputError(
                f"cache: {held} slots; {spec.family} changes its rotary factors beyond {rope.original} "
                "tokens, which no cache can follow: use fewer, or no cache"
            )
    count = mask.sum(-1) + sum(c.count for c in caches)
    rows = _Rows(pos, pos, cos_sin(spec.ropes, jnp.where(mask, pos, 0), count), windows)
    x = jnp.take(model.embed[...], tokens, axis=0)
    if spec.embed_scale != 1.0:
        x = x * jnp.asarray(spec.embed_scale, x.dtype)
    take = None if read is None else functools.partial(_take, read=read)
    wanted = () if take is None or not residual else (hook,) if isinstance(hook, str) else tuple(hook)

    def run(x, block, layer, older, select=None):
        x = hold(x)
        older = [(*kv, c.pos) for kv, c in zip(older, caches)]
        x, k, v, seen = _block(block, spec, x, layer, rows, iv, older, select, wanted, fresh, read)

        def pick(at):
            picked = at == "pattern" or (select is not None and at != "resid_pre")
            return seen[at] if picked else _take(seen[at], read)

        resid = jax.tree.map(pick, hook) if wanted else None
        return x, ((k, v) if fresh or caches else None, resid)

    def layer_body(carry, xs):
        x, few = carry
        if few is None:
            x, out = run(x, *xs)
            return (x, None), out

        # A branch inside the scan: cutting the last layer off the stack would copy every weight.
        def last():
            few, out = run(x, *xs, select=take)
            return (x, few), out

        def before():
            y, out = run(x, *xs)
            return (y, few), out

        return jax.lax.cond(xs[1] == spec.layers - 1, last, before)

    cut = not everywhere and read is not None and tokens.shape[1] > 1
    xs = (model.blocks, jnp.arange(spec.layers), tuple((c.k, c.v) for c in caches))
    if cut and slice_last:
        (x, _), (new, stream) = jax.lax.scan(layer_body, (x, None), jax.tree.map(lambda a: a[:-1], xs))
        x, last = run(x, *jax.tree.map(lambda a: a[-1], xs), select=take)
        new, stream = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), (new, stream), last)
    else:
        few = jnp.zeros((*read.shape[:2], spec.width), x.dtype) if cut else None
        body = jax.checkpoint(layer_body, prevent_cse=False, policy=KEPT[remat]) if remat else layer_body
        (x, few), (new, stream) = jax.lax.scan(body, (x, few), xs)
        x = few if cut else x
    if new is not None:
        k, v = new
        new = Cache(k, v, pos, mask.sum(-1, dtype=jnp.int32), jnp.int32(tokens.shape[1]))
        cache = new if fresh or cache is None else append(cache, new)
    return model.final_norm(x), stream, cache


def unembed(model: Decoder, hidden, rows=None):
    """Logits in float32 of hidden [..., D]: over the vocabulary, or over the token ids `rows` only."""
    weight = (model.embed if model.unembed is None else model.unembed)[...]
    weight = weight if rows is None else weight[rows]
    logits = jnp.einsum("...d,vd->...v", hidden, weight, preferred_element_type=jnp.float32)
    logits = logits if model.spec.logit_scale == 1.0 else logits * model.spec.logit_scale
    cap = model.spec.logit_cap
    return cap * jnp.tanh(logits / cap) if cap else logits


def forward(
    graphdef, params, tokens, *, mask=None, interventions=None, read=None, cache=None, hook="resid_post"
) -> Output:
    """The decoder's forward pass. Pure; use it under jit, vmap, grad or scan.

    tokens int32 [B, T]; mask bool [B, T], False on padding at either side; interventions from `wj.add` and its
    kin; read [B] or [B, P], the positions whose residual stream is returned (-1: the last), or weights float
    [B, P, T] to average over tokens with; cache from `empty_cache`, with room for T more slots. Returns `.logits`
    [B, T, V] float32, `.residual` [L, B, P, D] (the output of every block, resid_post, or what another `hook` point
    holds; a tuple of hook points gives a tuple; hook="pattern" gives attention weights [L, B, P, heads, slots], those
    of a cache before the tokens), `.cache`. What is not used is not computed under your own jit; a
    plain call is compiled once for each shape. Raises `InputError` on shapes that do not fit, and on token ids
    without a row and positions beyond the end where these are known, outside of any trace.
    """
    tokens, mask = inputs.tokens(tokens), inputs.mask(mask)
    check_inputs(static(graphdef)[0], tokens, mask, interventions)
    read, hook = inputs.positions(read, tokens.shape), inputs.hooks(hook, inputs.READ)
    inputs.room(cache, static(graphdef)[0], tokens.shape)
    given = (params, tokens, mask, interventions, read, cache)
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(given)):
        return _forward(graphdef, *given, hook)
    return _forward_compiled(graphdef, *given, hook)


def _forward(graphdef, params, tokens, mask, iv, read, cache, hook):
    model = bind(graphdef, params)
    hidden, residual, cache = backbone(model, tokens, mask, cache=cache, iv=iv, read=read, hook=hook)
    return Output(unembed(model, hidden), residual, cache)


# A plain call would compile the scan over layers anew each time.
_forward_compiled = jax.jit(_forward, static_argnums=(0, 7))


def check_inputs(spec, tokens, mask, iv):
    if tokens.ndim != 2 or not tokens.size:
        raise InputError(f"tokens: need [batch, tokens], at least one of each, got shape {tokens.shape}")
    check_ids(spec, tokens)
    if mask is not None and mask.shape != tokens.shape:
        raise InputError(f"mask: shape {mask.shape} differs from tokens {tokens.shape}")
    interventions.check(iv, spec, tokens.shape)


def check_ids(spec, tokens, name="tokens"):
    """Refuse token ids that the embedding has no row for, padding included; of a traced array nothing is known."""
    if not inputs.known(tokens):
        return
    ids = np.asarray(tokens)
    if not ids.size:
        return
    if not np.issubdtype(ids.dtype, np.integer):
        raise InputError(f"{name}: token ids of type {ids.dtype}, need integers")
    if (wrong := (ids < 0) | (ids >= spec.vocab)).any():
        raise InputError(
            f"{name}: id {ids[wrong][0]} at {tuple(map(int, np.argwhere(wrong)[0]))} has no row in the model, whose "
            f"ids go from 0 to {spec.vocab - 1}; encode with the model's own tokenizer, leave out tokens that it has "
            f"beyond them, and pad with an id such as 0 under a mask"
        )
