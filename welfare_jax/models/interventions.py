"""Interventions are data: pytrees that a forward applies at named hook points, under any transformation.

B batch, T tokens, D width, F mlp width, L layers. Layer, vector, scale and mask are leaves, so changing them never
recompiles; only the number, kind and hook point of the operations are structure. Hook points carry the field's
names: resid_pre and resid_post (a block's input and output), resid_mid (between its two halves), attn_out and mlp_out
(what the halves add to the stream), z (the attention heads' outputs side by side, head h at [h * d, (h + 1) * d) for
heads of width d), mlp_neurons (the activation function's output).
"""

import dataclasses
import functools
from typing import dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax.errors import InputError

HOOKS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "mlp_neurons")


def hook_width(spec, at: str) -> int:
    """The width of the activations at a hook point."""
    return {"z": spec.heads * spec.head_dim, "mlp_neurons": spec.neurons}.get(at, spec.width)


@dataclass_transform(frozen_default=True)
def _data(cls):
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = [f.name for f in dataclasses.fields(cls) if f.name != "at"]
    return jax.tree_util.register_dataclass(cls, fields, ["at"])


@_data
class Add:
    vector: jax.Array  # [D] or [B, D]
    layer: jax.Array  # int32 [] or [B]
    scale: jax.Array  # float32 [] or [B]
    where: jax.Array | None  # bool [B, T]
    at: str

    def __call__(self, x, layer, layers, where):
        on = _is_layer(self.layer, layer, layers)
        push = _rows(jnp.where(on, self.scale, 0.0)) * _rows(self.vector, last=True)
        return x + _where(where, push)


@_data
class Ablate:
    direction: jax.Array  # [D] or [B, D], any length
    layer: jax.Array | None  # None: every layer
    where: jax.Array | None
    at: str

    def __call__(self, x, layer, layers, where):
        d = _rows(self.direction, last=True)
        d = d * jax.lax.rsqrt(jnp.maximum(jnp.sum(d * d, -1, keepdims=True), 1e-30))
        cut = -jnp.sum(x * d, -1, keepdims=True) * d
        if self.layer is not None:
            cut = jnp.where(_rows(_is_layer(self.layer, layer, layers)), cut, 0.0)
        return x + _where(where, cut)


@_data
class ScaleNeurons:
    factors: jax.Array  # [L, F] or [B, L, F]
    where: jax.Array | None
    at: str

    def __call__(self, x, layer, layers, where):
        f = jax.lax.dynamic_index_in_dim(self.factors, layer, axis=self.factors.ndim - 2, keepdims=False)
        return x + _where(where, x * (_rows(f, last=True) - 1.0))


@_data
class Patch:
    values: jax.Array  # [D], [B, D] or [B, T, D]
    layer: jax.Array  # int32 [] or [B]
    where: jax.Array | None
    at: str

    def __call__(self, x, layer, layers, where):
        new = jnp.where(_rows(_is_layer(self.layer, layer, layers)), _rows(self.values, last=True), x)
        return new if where is None else jnp.where(where[..., None], new, x)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["ops"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Interventions:
    """Operations in the order in which they are applied at each hook point; `a + b` applies those of a, then of b."""

    ops: tuple = ()

    def __add__(self, other):
        return combine(self, other) if isinstance(other, Interventions) else NotImplemented


def _rows(a, last=False):
    """Broadcast per-row ([B] or [B, D]) and shared ([] or [D]) data against activations [B, T, D]."""
    if last:
        return a[:, None, :] if a.ndim == 2 else a
    return a[:, None, None] if a.ndim == 1 else a


def _where(where, change):
    return change if where is None else jnp.where(where[..., None], change, 0.0)


def _is_layer(wanted, layer, layers):
    return jnp.where(wanted < 0, wanted + layers, wanted) == layer


def _float(x):
    return jnp.asarray(x, jnp.float32)


def _mask(where):
    return None if where is None else jnp.asarray(where, bool)


def _hook(at):
    if at not in HOOKS:
        raise InputError(f"hook point {at!r} is unknown: use one of {', '.join(HOOKS)}")
    return at


def add(vector, layer, scale=1.0, where=None, *, at="resid_post") -> Interventions:
    """Add `scale` * `vector` at one layer (arXiv:2605.30232 §4).

    vector: [D] or per row [B, D]; layer: int or per row [B], negative counts from the end; scale: a number or per
    row [B]; where: bool [B, T], the tokens to steer (None: all). Returns an `Interventions`.
    """
    return Interventions((Add(_float(vector), jnp.asarray(layer, jnp.int32), _float(scale), _mask(where), _hook(at)),))


def ablate(direction, layer=None, where=None, *, at="resid_post") -> Interventions:
    """Project `direction` ([D] or [B, D], any length) out of the activations at `layer`, or at every layer."""
    layer = None if layer is None else jnp.asarray(layer, jnp.int32)
    return Interventions((Ablate(_float(direction), layer, _mask(where), _hook(at)),))


def patch(values, layer, where=None, *, at="resid_post") -> Interventions:
    """Set activations at one layer, for example to those of another run (activation patching).

    values: [D], per row [B, D], or per row and token [B, T, D]; layer: int or per row [B]; where: bool [B, T], the
    tokens to set (None: all). In generation a patch acts on the prompt alone.
    """
    layer = jnp.asarray(layer, jnp.int32)
    return Interventions((Patch(_float(values), layer, _mask(where), _hook(at)),))


def scale_neurons(factors, where=None) -> Interventions:
    """Multiply every MLP neuron's activation by `factors` [L, F] (or per row [B, L, F]); zero ablates a neuron."""
    return Interventions((ScaleNeurons(_float(factors), _mask(where), "mlp_neurons"),))


def combine(*interventions) -> Interventions:
    """All of them, applied in the order given."""
    return Interventions(tuple(op for iv in interventions for op in iv.ops))


DATA = {Add: "vector", Ablate: "direction", Patch: "values", ScaleNeurons: "factors"}


def per_row(iv) -> bool:
    """Whether any operation of `iv` treats the rows of a batch differently: structure, known when tracing."""
    data = lambda op: getattr(op, DATA[type(op)])
    return iv is not None and any(
        op.where is not None
        or data(op).ndim > (2 if isinstance(op, ScaleNeurons) else 1)
        or any(getattr(op, name, None) is not None and getattr(op, name).ndim for name in ("layer", "scale"))
        for op in iv.ops
    )


def acts_at(iv, at) -> bool:
    """Whether any operation of `iv` acts at this hook point: structure, known when tracing."""
    return iv is not None and any(op.at == at for op in iv.ops)


def apply(iv, at, layer, layers, x, select=None):
    """Run the operations of `iv` at hook point `at` of a layer (a traced index) on x [B, T, D].

    `select` maps a mask [B, T] to the positions that x holds, where x holds only some of them.
    """
    ops = [op for op in iv.ops if op.at == at] if iv is not None else []
    if not ops:
        return x
    wide = x.astype(jnp.float32)
    for op in ops:
        where = op.where if op.where is None or select is None else select(op.where)
        if isinstance(op, Patch) and op.values.ndim == 3 and select is not None:
            op = dataclasses.replace(op, values=select(op.values))
        wide = op(wide, layer, layers, where)
    return wide.astype(x.dtype)


def without_masks(iv):
    """The same operations but for patches, at every token: what generation applies to the tokens it samples."""
    if iv is None:
        return None
    return Interventions(tuple(dataclasses.replace(op, where=None) for op in iv.ops if not isinstance(op, Patch)))


def check(iv, spec, tokens_shape):
    """Refuse shapes and layers that do not fit the model and the tokens; traced layers cannot be read and pass."""
    for op in iv.ops if iv is not None else ():
        name = type(op).__name__.lower()
        width, data = hook_width(spec, op.at), DATA[type(op)]
        one = (spec.layers, width) if data == "factors" else (width,)
        rows = tokens_shape[0]
        fits = [one, (rows, *one), *([(*tokens_shape, width)] if data == "values" else [])]
        if getattr(op, data).shape not in fits:
            raise InputError(
                f"{name} at {op.at}: {data} is {getattr(op, data).shape}, need {one} or a row each {(rows, *one)}"
            )
        if op.where is not None and op.where.shape != tuple(tokens_shape):
            raise InputError(f"{name} at {op.at}: where is {op.where.shape}, tokens are {tuple(tokens_shape)}")
        layer = getattr(op, "layer", None)
        for part, value in (("layer", layer), ("scale", getattr(op, "scale", None))):
            if value is not None and value.shape not in ((), (rows,)):
                raise InputError(
                    f"{name} at {op.at}: {part} has shape {value.shape}, need one value or {rows}, a row each"
                )
        if layer is not None and not isinstance(layer, jax.core.Tracer):
            bad = np.asarray(layer)[(np.asarray(layer) >= spec.layers) | (np.asarray(layer) < -spec.layers)]
            if bad.size:
                raise InputError(f"{name} at {op.at}: layer {bad.flat[0]} is outside a model of {spec.layers} layers")
