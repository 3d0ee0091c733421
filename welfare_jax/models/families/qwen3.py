"""Qwen3, dense: normed queries and keys; windows on the upper layers where switched on."""

from welfare_jax.models.families.common import SILU, Fields, Tensor, llama_spec, llama_tensors, windows
from welfare_jax.models.spec import Spec

MODEL_TYPES = ("qwen3",)
IGNORED = (r".*\.rotary_emb\.inv_freq",)


def spec(config: dict, where: str) -> Spec:
    f = Fields(config, where)
    f.expect("hidden_act", *SILU)
    f("use_sliding_window")  # transformers has turned it into layer_types
    bias = bool(f("attention_bias"))
    kinds = windows(f, f("num_hidden_layers"))
    return llama_spec(f, "qwen3", qk_norm=True, attn_bias=bias, out_bias=bias, windows=kinds)


def tensors(spec: Spec, names) -> list[Tensor]:
    return llama_tensors(spec)
