"""Gemma 2: every other layer local, soft caps on scores and logits, four norms a block, scaled embeddings."""

import math

from welfare_jax.models.families.common import Fields, Tensor, alternating, llama_spec, llama_tensors, windows
from welfare_jax.models.spec import Spec

MODEL_TYPES = ("gemma2",)
IGNORED = (r".*\.rotary_emb\.inv_freq",)
NORMS = {
    "attn_norm": "input_layernorm",
    "attn_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}


def gemma_spec(f: Fields, family: str, **differences) -> Spec:
    """What Gemma 2 and 3 share."""
    f.expect("hidden_activation", "gelu_pytorch_tanh")
    f("hidden_act")  # the older name, which transformers does not read
    f.expect("attention_bias", False)
    f.expect("use_bidirectional_attention", False)
    return llama_spec(
        f, family, norm_offset=1.0, act="gelu_tanh", post_norms=True, embed_scale=math.sqrt(f("hidden_size")),
        attn_scale=f("query_pre_attn_scalar") ** -0.5, attn_cap=f("attn_logit_softcapping", 0.0),
        logit_cap=f("final_logit_softcapping", 0.0), tied=bool(f("tie_word_embeddings", True)), **differences,
    )  # fmt: skip


def spec(config: dict, where: str) -> Spec:
    f = Fields(config, where)
    layers = f("num_hidden_layers")
    f.expect("sliding_window_size", f("sliding_window"))  # the same, under the name of another program
    return gemma_spec(f, "gemma2", windows=windows(f, layers, alternating(layers)))


def tensors(spec: Spec, names) -> list[Tensor]:
    return llama_tensors(spec, norms=NORMS)
