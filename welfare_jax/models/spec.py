"""What differs between model families, as data."""

import dataclasses
import math

import numpy as np

from welfare_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Rope:
    """One rotary embedding: base, rotated width, and a scaling rule (`default` or `linear`)."""

    theta: float
    dim: int
    kind: str = "default"
    factor: float = 1.0

    def inv_freq(self) -> np.ndarray:
        """Inverse frequencies [dim / 2] in radians per token, float32."""
        freq = 1.0 / self.theta ** (np.arange(0, self.dim, 2, dtype=np.float64) / self.dim)
        if self.kind == "linear":
            freq = freq / self.factor
        elif self.kind != "default":
            raise InputError(f"rope_type {self.kind!r} is not supported: use a model with default or linear rope")
        return freq.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Spec:
    """A decoder's architecture. Hashable, so it can live in a graphdef and key a compilation."""

    family: str
    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    ropes: tuple[Rope, ...]
    rope_of: tuple[int, ...]  # per layer, an index into `ropes`
    windows: tuple[int, ...]  # per layer, how many past positions (its own included) are seen; 0: all
    norm_eps: float = 1e-6
    norm_offset: float = 0.0  # 1.0: the stored weight is a deviation from one (Gemma)
    act: str = "silu"
    tied: bool = True
    qk_norm: bool = False
    post_norms: bool = False  # a norm after attention and after the MLP as well (Gemma)
    attn_bias: bool = False
    embed_scale: float = 1.0
    attn_scale: float = 0.0  # 0: 1 / sqrt(head_dim)

    def __post_init__(self):
        if self.heads % self.kv_heads:
            raise InputError(
                f"num_attention_heads={self.heads} is not a multiple of num_key_value_heads={self.kv_heads}"
            )
        if not len(self.windows) == len(self.rope_of) == self.layers:
            raise InputError(f"layer_types lists {len(self.windows)} layers, num_hidden_layers is {self.layers}")

    @property
    def scale(self) -> float:
        return self.attn_scale or 1.0 / math.sqrt(self.head_dim)

    def flops_per_token(self, context: float, head: bool = False) -> float:
        """Multiply-adds times two of one token's forward at `context` visible keys; the unembedding if `head`."""
        attn = (
            2 * self.width * self.head_dim * (self.heads + 2 * self.kv_heads)
            + 2 * self.heads * self.head_dim * self.width
        )
        scores = 4 * context * self.heads * self.head_dim
        mlp = 6 * self.width * self.mlp
        return self.layers * (attn + scores + mlp) + (2 * self.width * self.vocab if head else 0)


def small(vocab, layers=4, width=256, heads=4, kv_heads=2, head_dim=64, mlp=768, theta=1e6) -> Spec:
    """A Qwen3-type decoder; the defaults are the shape that `bench` measures."""
    return Spec(
        family="qwen3", vocab=vocab, width=width, layers=layers, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
        mlp=mlp, ropes=(Rope(theta, head_dim),), rope_of=(0,) * layers, windows=(0,) * layers, qk_norm=True,
    )  # fmt: skip
