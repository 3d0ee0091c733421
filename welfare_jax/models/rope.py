"""Rotary position embeddings: where the frequencies come from, and the rotation. B batch, T tokens, d head width."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from welfare_jax.errors import InputError
from welfare_jax.models import checks

KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


@dataclasses.dataclass(frozen=True)
class Rope:
    """One rotary embedding: base, rotated width, and how its frequencies are scaled (as `transformers` names it).

    `low` and `high` are the rotations over the `original` context between which llama3 and yarn (arXiv:2309.00071)
    blend scaled and unscaled frequencies; `attention` multiplies cosine and sine; longrope (arXiv:2402.13753) divides
    by `short` up to `original` tokens and by `long` beyond; dynamic raises the base for texts beyond `original`. With
    kind "none" nothing turns.
    """

    theta: float
    dim: int
    kind: str = "default"
    factor: float = 1.0
    original: int = 0
    low: float = 1.0
    high: float = 1.0
    truncate: bool = True
    attention: float = 1.0
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()

    def __post_init__(self):
        checks.number(self.theta, "rope_theta", 1)
        checks.whole(self.dim, "rotated width of a head", 2)
        checks.number(self.factor, "rope setting 'factor'", 0)
        checks.number(self.attention, "rope setting 'attention_factor'", 0)
        if self.dim % 2 or (self.kind == "dynamic" and self.dim < 4):
            raise InputError(f"rotated width of a head={self.dim}: must be even, and with rope_type='dynamic' above 2")
        if self.kind in ("llama3", "yarn") and not 0 < self.low < self.high < math.inf:
            raise InputError(f"rope_type={self.kind!r}: rotations of {self.low} to {self.high} must ascend from zero")
        if self.kind == "longrope" and not len(self.short) == len(self.long) == self.dim // 2:
            raise InputError(f"rope setting 'short_factor' or 'long_factor': need {self.dim // 2} numbers")

    @property
    def by_length(self) -> bool:
        """Whether a text longer than `original` has other frequencies, from its first token on."""
        return self.kind in ("longrope", "dynamic")

    def inv_freq_of(self, count):
        """Inverse frequencies [B, 1, dim / 2] of texts of count [B] tokens, where they depend on the length."""
        short = self.inv_freq()
        if self.kind == "longrope":
            return jnp.where((count > self.original)[:, None, None], self.inv_freq(long=True), short)
        # The base grows by the power dim / (dim - 2) of this, so that the slowest frequency is divided by it.
        grown = self.factor * jnp.maximum(count, self.original) / self.original - (self.factor - 1)
        return short * grown[:, None, None] ** (-np.arange(0, self.dim, 2) / (self.dim - 2))

    def inv_freq(self, long: bool = False) -> np.ndarray:
        """Inverse frequencies [dim / 2] in radians per token, float32; `long`: those of a text beyond `original`."""
        freq = 1.0 / self.theta ** (np.arange(0, self.dim, 2, dtype=np.float64) / self.dim)
        if self.kind == "none":
            freq = np.zeros_like(freq)
        elif self.kind == "longrope":
            freq = freq / np.asarray(self.long if long else self.short)
        elif self.kind not in ("default", "dynamic"):
            keep = self._unscaled(freq)
            freq = keep * freq + (1.0 - keep) * freq / self.factor
        return freq.astype(np.float32)

    def _unscaled(self, freq):
        """How much of each frequency stays as it is, in [0, 1]."""
        if self.kind == "linear":
            return np.zeros_like(freq)
        if self.kind == "llama3":  # linear in the rotations over the original context
            rotations = self.original * freq / (2 * math.pi)
            return np.clip((rotations - self.low) / (self.high - self.low), 0.0, 1.0)

        def index(rotations):  # of the frequency that makes so many over the original context
            return self.dim * math.log(self.original / (rotations * 2 * math.pi)) / (2 * math.log(self.theta))

        first, last = index(self.high), index(self.low)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, self.dim - 1)
        last = last + 0.001 if first == last else last
        return 1.0 - np.clip((np.arange(self.dim // 2) - first) / (last - first), 0.0, 1.0)


def cos_sin(ropes, pos, count):
    """cos and sin [R, B, T, dim / 2] of R rotary embeddings at positions pos [B, T]; count [B]: tokens in each row."""
    out = []
    for rope in ropes:
        freq = rope.inv_freq_of(count) if rope.by_length else rope.inv_freq()
        angles = pos[..., None].astype(jnp.float32) * freq
        out.append((rope.attention * jnp.cos(angles), rope.attention * jnp.sin(angles)))
    return tuple(jnp.stack(part) for part in zip(*out, strict=True))


def rotate(x, cos, sin, interleaved=False):
    """Rotary embedding of x [B, heads, T, d] by cos, sin [B, T, dim / 2]; what lies beyond dim is left alone.

    The pairs are the two halves of dim, or neighbours where `interleaved`.
    """
    dim = 2 * cos.shape[-1]
    turned, rest = x[..., :dim].astype(jnp.float32), x[..., dim:]
    a, b = (turned[..., ::2], turned[..., 1::2]) if interleaved else jnp.split(turned, 2, axis=-1)
    cos, sin = cos[:, None], sin[:, None]
    pair = a * cos - b * sin, b * cos + a * sin
    turned = jnp.stack(pair, -1).reshape(turned.shape) if interleaved else jnp.concatenate(pair, -1)
    return jnp.concatenate([turned.astype(x.dtype), rest], -1)
