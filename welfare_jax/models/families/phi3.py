"""Phi-3, Phi-3.5 and Phi-4: fused projections, a partial rotary embedding whose scaling changes with the length."""

from welfare_jax.models.families.common import SILU, Fields, Tensor, llama_spec, llama_tensors
from welfare_jax.models.spec import Spec

MODEL_TYPES = ("phi3",)
IGNORED = (r".*\.rotary_emb\.inv_freq",)


def spec(config: dict, where: str) -> Spec:
    f = Fields(config, where)
    f.expect("hidden_act", *SILU)
    for name in ("attention_bias", "mlp_bias", "lm_head_bias"):
        f.expect(name, False)
    for name in ("full_attn_mod", "interpolate_factor"):
        f.expect(name, 1)
    f("resid_pdrop"), f("embd_pdrop")
    return llama_spec(f, "phi3", partial=True, windows=(f("sliding_window", 0),) * f("num_hidden_layers"))


def tensors(spec: Spec, names) -> list[Tensor]:
    return llama_tensors(spec, fused=("qkv", "gate_up"))
