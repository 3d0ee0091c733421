"""Granite 3, dense: the plain decoder with four constants, on embeddings, scores, what blocks add, and logits."""

from welfare_jax.models.families.common import SILU, Fields, Tensor, llama_spec, llama_tensors
from welfare_jax.models.spec import Spec

MODEL_TYPES = ("granite",)
IGNORED = (r".*\.rotary_emb\.inv_freq",)


def spec(config: dict, where: str) -> Spec:
    f = Fields(config, where)
    f.expect("hidden_act", *SILU)
    f.expect("mlp_bias", False)
    bias, divisor = bool(f("attention_bias")), f("logits_scaling", 1.0)
    return llama_spec(
        f, "granite", attn_bias=bias, out_bias=bias, embed_scale=f("embedding_multiplier", 1.0),
        attn_scale=f("attention_multiplier", 1.0), residual_scale=f("residual_multiplier", 1.0),
        logit_scale=1.0 / divisor,
    )  # fmt: skip


def tensors(spec: Spec, names) -> list[Tensor]:
    return llama_tensors(spec)
