"""A mixture of experts. N tokens, k experts a token, E experts, D width, F expert width, r LoRA rank.

Tokens are sorted by expert and cut into M blocks of S rows that each meet one expert's weights, so that no work is
done for experts that were not chosen, no token is dropped, and all shapes are static.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from welfare_jax.models.layers import ACTIVATIONS, Linear, Lora


@jax.custom_vjp
def grouped(x, w, expert):
    """x [M, S, in] times w[expert] [in, out] in the type of x, block by block: [M, S, out]; expert int32 [M]."""
    return jax.lax.map(lambda block: block[0] @ w[block[1]].astype(x.dtype), (x, expert))


def _grouped_fwd(x, w, expert):
    return grouped(x, w, expert), (x, w, expert)


def _grouped_bwd(saved, dy):
    # Written out: autodiff would add a gradient of the size of all experts for every block.
    x, w, expert = saved

    def add(total, block):
        x, dy, e = block
        return total.at[e].add(jnp.einsum("si,so->io", x, dy, preferred_element_type=total.dtype)), None

    dx = jax.lax.map(lambda block: block[0] @ w[block[1]].astype(x.dtype).T, (dy, expert))
    dw, _ = jax.lax.scan(add, jnp.zeros(w.shape, jnp.float32), (x, dy, expert))
    return dx, dw.astype(w.dtype), None


grouped.defvjp(_grouped_fwd, _grouped_bwd)


class ExpertLinear(nnx.Module):
    """One linear layer of every expert: y = x W[e] (+ b[e]) (+ alpha / r * x A[e] B[e]), W [E, in, out]."""

    def __init__(self, path, experts, n_in, n_out, *, bias=True, lora: Lora | None = None, dtype=jnp.float32):
        self.kernel = nnx.Param(jnp.zeros((experts, n_in, n_out), dtype))
        self.bias = nnx.Param(jnp.zeros((experts, n_out), dtype)) if bias else None
        adapted = lora is not None and lora.covers(path)
        self.lora_a = nnx.LoRAParam(jnp.zeros((experts, n_in, lora.rank), jnp.float32)) if adapted else None
        self.lora_b = nnx.LoRAParam(jnp.zeros((experts, lora.rank, n_out), jnp.float32)) if adapted else None
        self.lora_scale = lora.alpha / lora.rank if adapted else 0.0

    def __call__(self, x, expert):
        y = grouped(x, self.kernel[...], expert)
        if self.bias is not None:
            y = y + self.bias[...][expert][:, None]
        if self.lora_a is not None and self.lora_b is not None:
            # As they are, in float32: a gradient has the type of what it is for.
            low = grouped(x, self.lora_a[...], expert)
            y = y + grouped(low, self.lora_scale * self.lora_b[...], expert)
        return y


def blocks(choice, experts):
    """Where the rows of choice [N, k] go: (slot of each in [M * S], expert of each block [M], S)."""
    flat = choice.reshape(-1)
    size = 8  # rows a block: about a group's, as the weights are read once a block
    while size < 512 and size * experts < flat.size:
        size *= 2
    counts = jnp.zeros(experts, jnp.int32).at[flat].add(1)
    ends = jnp.cumsum((counts + size - 1) // size)  # in blocks
    order = jnp.argsort(flat)
    rank = jnp.arange(flat.size) - (jnp.cumsum(counts) - counts)[flat[order]]
    start = (ends - (counts + size - 1) // size)[flat[order]] * size
    slot = jnp.zeros_like(flat).at[order].set(start + rank)
    of_block = jnp.searchsorted(ends, jnp.arange(flat.size // size + experts), side="right")
    return slot, jnp.minimum(of_block, experts - 1), size


class Experts(nnx.Module):
    """The MLP of every expert: act(gate) * up where the spec has `plain_experts`, and elsewhere a clamped SwiGLU,
    (clip(up) + 1) * g * sigmoid(alpha * g), g = min(gate, limit).
    """

    def __init__(self, spec, lora, dtype):
        D, F, E = spec.width, spec.mlp, spec.experts
        kw = {"bias": not spec.plain_experts, "lora": lora, "dtype": dtype}
        self.gate = ExpertLinear("mlp/experts/gate", E, D, F, **kw)
        self.up = ExpertLinear("mlp/experts/up", E, D, F, **kw)
        self.down = ExpertLinear("mlp/experts/down", E, F, D, **kw)
        self.act = spec.act if spec.plain_experts else None
        self.alpha, self.limit = spec.swiglu_alpha, spec.swiglu_limit

    def __call__(self, x, expert, edit=None):
        """x [M, S, D] in blocks of one expert each; `edit` changes the gate's activations [M, S, F]."""
        gate, up = self.gate(x, expert), self.up(x, expert)
        if self.act:
            neurons = ACTIVATIONS[self.act](gate)
        else:
            gate, up = jnp.minimum(gate, self.limit), jnp.clip(up, -self.limit, self.limit) + 1
            neurons = gate * jax.nn.sigmoid(self.alpha * gate)
        return self.down(up * (neurons if edit is None else edit(neurons)), expert)


class MoeMlp(nnx.Module):
    """Router, then the k best experts weighed by a softmax over their logits alone, or over all experts' logits."""

    def __init__(self, spec, lora, dtype):
        bias = not spec.plain_experts
        self.router = Linear("mlp/router", spec.width, spec.experts, bias=bias, lora=lora, dtype=dtype)
        self.experts = Experts(spec, lora, dtype)
        self.active, self.weights_of_all = spec.active, spec.weights_of_all

    def __call__(self, x, on_neurons: Any = None):
        """x [B, T, D]; `on_neurons` sees the gate's activation [B, T, E * F], zero where an expert was not chosen."""
        rows, E = x.reshape(-1, x.shape[-1]), self.router.kernel.shape[-1]
        logits = self.router(rows).astype(jnp.float32)
        top, choice = jax.lax.top_k(logits, self.active)
        slot, expert, size = blocks(choice, E)
        sorted_rows = jnp.zeros((expert.size * size, rows.shape[-1]), x.dtype)
        sorted_rows = sorted_rows.at[slot].set(jnp.repeat(rows, self.active, 0)).reshape(expert.size, size, -1)

        def edit(neurons):
            """`on_neurons` by way of a dense [B, T, E * F]: only where an intervention asks for it."""
            flat, token = neurons.reshape(-1, neurons.shape[-1]), jnp.arange(len(rows))[:, None]
            dense = jnp.zeros((len(rows), E, flat.shape[-1]), flat.dtype)
            dense = dense.at[token, choice].set(flat[slot].reshape(*choice.shape, -1))
            dense = on_neurons(dense.reshape(*x.shape[:2], -1)).reshape(dense.shape)
            return flat.at[slot].set(dense[token, choice].reshape(slot.size, -1)).reshape(neurons.shape)

        out = self.experts(sorted_rows, expert, None if on_neurons is None else edit)
        out = out.reshape(-1, out.shape[-1])[slot].reshape(*choice.shape, -1)
        weight = jnp.exp(top - jax.nn.logsumexp(logits if self.weights_of_all else top, -1, keepdims=True))
        return jnp.sum(weight[..., None] * out.astype(jnp.float32), 1).astype(x.dtype).reshape(x.shape)
