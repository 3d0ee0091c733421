"""GLM-4: half of each head rotated in neighbouring pairs, biases on queries, keys and values, a fused gate and up.

The 0414 models (glm4) norm what each half of a block adds as well; the older chat models (glm) do not.
"""

from welfare_jax.models.families.common import SILU, Fields, Tensor, llama_spec, llama_tensors
from welfare_jax.models.spec import Spec

MODEL_TYPES = ("glm4", "glm")
IGNORED = (r".*\.rotary_emb\.inv_freq",)
NORMS = {
    "attn_norm": "input_layernorm",
    "attn_post_norm": "post_self_attn_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "mlp_post_norm": "post_mlp_layernorm",
}


def spec(config: dict, where: str) -> Spec:
    f = Fields(config, where)
    f.expect("hidden_act", *SILU)
    f.values["partial_rotary_factor"] = f("partial_rotary_factor", 0.5)
    return llama_spec(
        f, "glm4", partial=True, attn_bias=bool(f("attention_bias")), interleaved=True,
        post_norms=config["model_type"] == "glm4",
    )  # fmt: skip


def tensors(spec: Spec, names) -> list[Tensor]:
    return llama_tensors(spec, norms=NORMS if spec.post_norms else None, fused=("gate_up",))
