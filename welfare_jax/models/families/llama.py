"""Llama 2 and 3.x: the plain decoder; rotary frequencies scaled in bands from 3.1 on."""

from welfare_jax.models.families.common import SILU, Fields, Tensor, llama_spec, llama_tensors
from welfare_jax.models.spec import Spec

MODEL_TYPES = ("llama",)
IGNORED = (r".*\.rotary_emb\.inv_freq",)


def spec(config: dict, where: str) -> Spec:
    f = Fields(config, where)
    f.expect("hidden_act", *SILU)
    f.expect("mlp_bias", False)
    f("pretraining_tp")  # how the same product was once split
    bias = bool(f("attention_bias"))
    return llama_spec(f, "llama", attn_bias=bias, out_bias=bias)


def tensors(spec: Spec, names) -> list[Tensor]:
    return llama_tensors(spec)
