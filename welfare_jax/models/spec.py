"""What differs between model families, as data."""

import dataclasses
import math

from welfare_jax.errors import InputError
from welfare_jax.models import checks
from welfare_jax.models.rope import Rope

ATTENTION = ("plain", "xla", "cudnn")
COUNTS = ("vocab", "width", "heads", "kv_heads", "head_dim", "mlp", "query_span")
NUMBERS = (
    "norm_eps", "norm_offset", "embed_scale", "residual_scale", "logit_scale", "attn_scale", "attn_cap", "logit_cap",
    "query_growth", "swiglu_alpha", "swiglu_limit",
)  # fmt: skip


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
    mlp: int  # neurons of the MLP, or of one expert
    ropes: tuple[Rope, ...]
    rope_of: tuple[int, ...]  # per layer, an index into `ropes`
    windows: tuple[int, ...]  # per layer, how many past positions (its own included) are seen; 0: all
    norm_eps: float = 1e-6
    norm_offset: float = 0.0  # 1.0: the stored weight is a deviation from one (Gemma)
    act: str = "silu"
    tied: bool = True
    qk_norm: bool = False  # a norm on queries and keys, over each head
    qk_norm_whole: bool = False  # over all heads at once instead (OLMo)
    pre_norms: bool = True  # a norm before attention and before the MLP
    post_norms: bool = False  # and one after each (Gemma), or there alone (OLMo)
    norm_wide: bool = False  # the norm's weight multiplies in float32, before rounding (GPT-OSS)
    attn_bias: bool = False  # on q, k and v
    out_bias: bool = False  # on o
    embed_scale: float = 1.0
    residual_scale: float = 1.0  # of what attention and MLP add to the stream (Granite)
    logit_scale: float = 1.0
    attn_scale: float = 0.0  # 0: 1 / sqrt(head_dim)
    attn_cap: float = 0.0  # scores are squashed to cap * tanh(score / cap); 0: not at all
    logit_cap: float = 0.0  # the same for the final logits
    sinks: bool = False  # one more logit a head in the softmax, which takes weight and gives no value
    interleaved: bool = False  # rotary pairs are neighbours, not halves
    query_growth: float = 0.0  # queries at position p grow by 1 + growth * log(1 + p // span) (Ministral 3)
    query_span: int = 1
    experts: int = 0  # 0: a dense MLP
    active: int = 0  # experts a token
    plain_experts: bool = False  # each as the dense MLP, without biases (Qwen3); else clamped, with biases (GPT-OSS)
    weights_of_all: bool = False  # the chosen experts weigh what a softmax over all gives them, not over themselves
    swiglu_alpha: float = 1.702
    swiglu_limit: float = 7.0
    attention: str = "plain"  # who computes it: this package, or `jax.nn.dot_product_attention` by XLA or cuDNN

    def __post_init__(self):
        where = lambda name: f"{self.family}: {name}"
        for name in COUNTS:
            checks.whole(getattr(self, name), where(name))
        checks.whole(self.layers, where("layers"), most=checks.MANY)
        checks.whole(self.experts, where("experts"), 0, checks.MANY)
        checks.whole(self.active, where("active"), min(self.experts, 1), self.experts)
        for name in NUMBERS:
            checks.number(getattr(self, name), where(name))
        for name in ("norm_eps", "attn_cap", "logit_cap", "swiglu_limit"):
            if getattr(self, name) < 0:
                raise InputError(f"{where(name)}={getattr(self, name)}: must not be below zero")
        for window in self.windows:
            checks.whole(window, where("windows"), 0)
        if max(rope.dim for rope in self.ropes) > self.head_dim:
            raise InputError(f"{self.family}: rotates {max(r.dim for r in self.ropes)} of {self.head_dim} numbers")
        if self.heads % self.kv_heads:
            raise InputError(
                f"num_attention_heads={self.heads} is not a multiple of num_key_value_heads={self.kv_heads}"
            )
        if not len(self.windows) == len(self.rope_of) == self.layers:
            raise InputError(f"layer_types lists {len(self.windows)} layers, num_hidden_layers is {self.layers}")
        if self.attention not in ATTENTION:
            raise InputError(f"attention={self.attention!r}: use one of {', '.join(ATTENTION)}")
        if self.attention != "plain" and (self.attn_cap or self.sinks):
            raise InputError(
                f"attention={self.attention!r}: jax.nn.dot_product_attention has no soft caps and no sinks, which "
                f"{self.family} needs; use 'plain'"
            )

    @property
    def scale(self) -> float:
        return self.attn_scale or 1.0 / math.sqrt(self.head_dim)

    @property
    def neurons(self) -> int:
        """MLP neurons of a layer; neuron f of expert e is number e * mlp + f."""
        return self.mlp * max(self.experts, 1)

    def flops_per_token(self, context: float, head: bool = False) -> float:
        """Multiply-adds times two of one token's forward at `context` visible keys; the unembedding if `head`."""
        attn = (
            2 * self.width * self.head_dim * (self.heads + 2 * self.kv_heads)
            + 2 * self.heads * self.head_dim * self.width
        )
        scores = 4 * context * self.heads * self.head_dim
        mlp = 6 * self.width * self.mlp * max(self.active, 1) + 2 * self.width * self.experts
        return self.layers * (attn + scores + mlp) + (2 * self.width * self.vocab if head else 0)


def small(vocab, layers=4, width=256, heads=4, kv_heads=2, head_dim=64, mlp=768, theta=1e6) -> Spec:
    """A Qwen3-type decoder; the defaults are the shape that `bench` measures."""
    return Spec(
        family="qwen3", vocab=vocab, width=width, layers=layers, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
        mlp=mlp, ropes=(Rope(theta, head_dim),), rope_of=(0,) * layers, windows=(0,) * layers, qk_norm=True,
    )  # fmt: skip
