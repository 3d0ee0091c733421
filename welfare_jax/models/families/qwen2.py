"""Qwen2 and Qwen2.5, dense: biases on queries, keys and values; windows on the upper layers where switched on."""

from welfare_jax.models.families.common import SILU, Fields, Tensor, llama_spec, llama_tensors, windows
from welfare_jax.models.spec import Spec

MODEL_TYPES = ("qwen2",)
IGNORED = (r".*\.rotary_emb\.inv_freq",)


def spec(config: dict, where: str) -> Spec:
    f = Fields(config, where)
    f.expect("hidden_act", *SILU)
    f("use_sliding_window")  # transformers has turned it into layer_types
    return llama_spec(f, "qwen2", attn_bias=True, windows=windows(f, f("num_hidden_layers")))


def tensors(spec: Spec, names) -> list[Tensor]:
    return llama_tensors(spec)
