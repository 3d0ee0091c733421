"""OLMo 2: norms on what each half of a block adds instead of on what it reads, and over all heads at once."""

from welfare_jax.models.families.common import SILU, Fields, Tensor, llama_spec, llama_tensors
from welfare_jax.models.spec import Spec

MODEL_TYPES = ("olmo2",)
IGNORED = (r".*\.rotary_emb\.inv_freq",)
NORMS = {"attn_post_norm": "post_attention_layernorm", "mlp_post_norm": "post_feedforward_layernorm"}


def olmo_spec(f: Fields, family: str, **differences) -> Spec:
    """What OLMo 2 and 3 share."""
    f.expect("hidden_act", *SILU)
    bias = bool(f("attention_bias"))
    return llama_spec(
        f, family, pre_norms=False, post_norms=True, qk_norm=True, qk_norm_whole=True, norm_wide=True, attn_bias=bias,
        out_bias=bias, **differences,
    )  # fmt: skip


def spec(config: dict, where: str) -> Spec:
    return olmo_spec(Fields(config, where), "olmo2")


def tensors(spec: Spec, names) -> list[Tensor]:
    return llama_tensors(spec, norms=NORMS)
