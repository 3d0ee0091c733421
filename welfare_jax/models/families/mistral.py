"""Mistral, Ministral 8B and Mistral Small, dense: the plain decoder, within a window where one is set.

Of multimodal folders the same decoder is read, as of Ministral 3's; their vision tower is left where it is.
"""

from welfare_jax.models.families.common import SILU, VISION, Fields, Tensor, llama_spec, llama_tensors, windows
from welfare_jax.models.spec import Spec

MODEL_TYPES = ("mistral", "ministral")
IGNORED = (r".*\.rotary_emb\.inv_freq", *VISION)


def spec(config: dict, where: str) -> Spec:
    f = Fields(config, where)
    f.expect("hidden_act", *SILU)
    layers, window = f("num_hidden_layers"), f("sliding_window", 0)
    if config["model_type"] == "ministral":
        return llama_spec(f, "mistral", windows=windows(f, layers))
    # transformers puts the window on every layer of this type, whatever layer_types says.
    f.expect("layer_types", ["sliding_attention" if window else "full_attention"] * layers)
    return llama_spec(f, "mistral", windows=(window,) * layers)


def tensors(spec: Spec, names) -> list[Tensor]:
    return llama_tensors(spec)
