"""The parts of a block. B batch, T tokens, D width, d head width, F mlp width, r LoRA rank."""

import contextlib
import contextvars
import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
from flax import nnx

from welfare_jax.models.rope import rotate

TARGETS = r"attn/(q|k|v|o)|mlp/(experts/)?(gate|up|down)"
ACTIVATIONS = {"silu": jax.nn.silu, "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True)}


# For gradients, a function keeps its inputs and what its products with weights gave: the rest costs less to compute
# again than to write and read, and what several functions were given is kept once.
PRODUCTS = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
kept = functools.partial(jax.checkpoint, policy=PRODUCTS, prevent_cse=False)


def _product(x, y):
    """x y for gradients, at least in float32."""
    return jnp.matmul(x, y, preferred_element_type=jnp.promote_types(x.dtype, jnp.float32))


def _kernel_gradient(x, g):
    """x^T g, at least in float32, for tokens x [N, in] and narrow g [N, r], in a way that is quick on CPU.

    XLA makes x^T g of (g^T x)^T too, which takes three times as long, unless something stands in between.
    """
    return jax.lax.optimization_barrier(_product(g.T, x)).T


@jax.custom_vjp
def narrow_product(x, a):
    """x A for tokens x [N, in] and a narrow A [in, r] in float32, which is rounded to the type of x.

    So is the product below, and their gradients are not rounded: rounded sums would be added up over micro-batches and
    devices.
    """
    return x @ a.astype(x.dtype)


def _narrow_product_bwd(saved, g):
    x, a = saved
    return g @ a.astype(x.dtype).T, _kernel_gradient(x, g).astype(a.dtype)


narrow_product.defvjp(lambda x, a: (x @ a.astype(x.dtype), (x, a)), _narrow_product_bwd)


@jax.custom_vjp
def wide_product(x, b):
    """x B for x [N, r] and B [r, out] in float32."""
    return x @ b.astype(x.dtype)


def _wide_product_bwd(saved, g):
    x, b = saved
    return g @ b.astype(x.dtype).T, _product(x.T, g).astype(b.dtype)


wide_product.defvjp(lambda x, b: (x @ b.astype(x.dtype), (x, b)), _wide_product_bwd)


@jax.custom_vjp
def merged_product(x, w, a, b):
    """x (W + A B) for tokens x [N, in], W [in, out], A [in, r], B [r, out]: one product a pass instead of three."""
    return x @ (w + a @ b)


def _merged_product_bwd(saved, g):
    x, w, a, b = saved
    low, back = jax.lax.optimization_barrier((x @ a, g @ b.T))
    return g @ (w + a @ b).T, x.T @ g, _kernel_gradient(x, back), low.T @ g


merged_product.defvjp(lambda *args: (merged_product(*args), args), _merged_product_bwd)


_elsewhere = contextvars.ContextVar("elsewhere", default=False)


@contextlib.contextmanager
def for_accelerators():
    """What is traced in here is the program of an accelerator, whatever this machine has."""
    token = _elsewhere.set(True)
    try:
        yield
    finally:
        _elsewhere.reset(token)


def on_cpu() -> bool:
    """Whether what is being traced will run on CPUs."""
    return jax.default_backend() == "cpu" and not _elsewhere.get()


def _merges(x, w) -> bool:
    """Whether x (W + A B) is less work than x W + (x A) B, and as exact.

    Where products read less than float32, as those of accelerators do even of float32 arrays, W would swallow a small
    A B.
    """
    exact = x.dtype == w.dtype == jnp.float32 and on_cpu()
    return exact and len(x) * sum(w.shape) > w.size


@dataclasses.dataclass(frozen=True)
class Lora:
    """Low-rank adapters on every linear layer whose path matches `targets`; the update is alpha / rank * A B."""

    rank: int = 32
    alpha: float = 64.0
    targets: str = TARGETS

    def covers(self, path: str) -> bool:
        return re.fullmatch(self.targets, path) is not None


class Linear(nnx.Module):
    """y = x W + b (+ alpha / r * x A B), W [in, out]."""

    def __init__(self, path, n_in, n_out, *, bias=False, lora=None, dtype=jnp.float32):
        self.kernel = nnx.Param(jnp.zeros((n_in, n_out), dtype))
        self.bias = nnx.Param(jnp.zeros((n_out,), dtype)) if bias else None
        adapted = lora is not None and lora.covers(path)
        self.lora_a = nnx.LoRAParam(jnp.zeros((n_in, lora.rank), jnp.float32)) if adapted else None
        self.lora_b = nnx.LoRAParam(jnp.zeros((lora.rank, n_out), jnp.float32)) if adapted else None
        self.lora_scale = lora.alpha / lora.rank if adapted else 0.0

    def __call__(self, x):
        return kept(self._product)(x)

    def _product(self, x):
        # One row a token: on CPU, XLA is three times slower at the kernel's gradient with two leading axes.
        rows = x.reshape(-1, x.shape[-1])
        kernel = self.kernel[...]
        if self.lora_a is None or self.lora_b is None:
            y = rows @ kernel
        else:
            a, b = self.lora_a[...], self.lora_scale * self.lora_b[...]
            if _merges(rows, kernel):
                y = merged_product(rows, kernel, a, b)
            else:
                second = jnp.matmul if x.dtype == b.dtype else wide_product
                y = rows @ kernel + second(narrow_product(rows, a), b)
        if self.bias is not None:
            y = y + self.bias[...]
        return y.reshape(*x.shape[:-1], -1)


class Norm(nnx.Module):
    """Root-mean-square norm over the last axis, in float32."""

    def __init__(self, width, spec, dtype=jnp.float32):
        self.scale = nnx.Param(jnp.zeros((width,), dtype))
        self.eps, self.offset, self.wide = spec.norm_eps, spec.norm_offset, spec.norm_wide or spec.norm_offset != 0

    def __call__(self, x):
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + self.eps)
        weight = self.scale[...].astype(jnp.float32) + self.offset
        if self.wide:  # Gemma and GPT-OSS multiply in float32, the Llama line in the activations' type
            return (wide * weight).astype(x.dtype)
        return wide.astype(x.dtype) * weight.astype(x.dtype)


class Attention(nnx.Module):
    def __init__(self, spec, lora, dtype):
        D, d, H, K = spec.width, spec.head_dim, spec.heads, spec.kv_heads
        kw = {"bias": spec.attn_bias, "lora": lora, "dtype": dtype}
        self.q = Linear("attn/q", D, H * d, **kw)
        self.k = Linear("attn/k", D, K * d, **kw)
        self.v = Linear("attn/v", D, K * d, **kw)
        self.o = Linear("attn/o", H * d, D, bias=spec.out_bias, lora=lora, dtype=dtype)
        normed = (H * d, K * d) if spec.qk_norm_whole else (d, d)
        self.q_norm, self.k_norm = (Norm(n, spec, dtype) if spec.qk_norm else None for n in normed)
        self.sinks = nnx.Param(jnp.zeros((H,), dtype)) if spec.sinks else None
        self.head_dim, self.interleaved = d, spec.interleaved

    def heads(self, linear, norm, x, rope):
        """[B, T, D] -> [B, heads, T, d], normed and rotated where asked."""
        y = linear(x)
        if norm is not None:  # over the width of its weight: a head, or all of them
            y = norm(y.reshape(*x.shape[:2], -1, norm.scale.shape[-1]))
        y = y.reshape(*x.shape[:2], -1, self.head_dim).swapaxes(1, 2)
        return rotate(y, *rope, interleaved=self.interleaved) if rope is not None else y

    def queries(self, x, rope):
        return self.heads(self.q, self.q_norm, x, rope)

    def keys_values(self, x, rope):
        return self.heads(self.k, self.k_norm, x, rope), self.heads(self.v, None, x, None)


class Mlp(nnx.Module):
    def __init__(self, spec, lora, dtype):
        self.gate = Linear("mlp/gate", spec.width, spec.mlp, lora=lora, dtype=dtype)
        self.up = Linear("mlp/up", spec.width, spec.mlp, lora=lora, dtype=dtype)
        self.down = Linear("mlp/down", spec.mlp, spec.width, lora=lora, dtype=dtype)
        self.act = spec.act

    def __call__(self, x, on_neurons=None):
        """`on_neurons` sees the activation function's output [B, T, F], where neurons are read and scaled."""
        act = ACTIVATIONS[self.act]
        if on_neurons is not None:
            return self.down(on_neurons(act(self.gate(x))) * self.up(x))
        return kept(lambda gate, up: self.down(act(gate) * up))(self.gate(x), self.up(x))
