"""Gemma 3: five local layers to one global, two rotary bases, four norms a block, scaled embeddings.

Of multimodal folders the same decoder is read; their vision tower is left where it is.
"""

from welfare_jax.models.families.common import (
    VISION,
    Fields,
    Tensor,
    alternating,
    llama_tensors,
    ropes_by_layer,
    windows,
)
from welfare_jax.models.families.gemma2 import NORMS, gemma_spec
from welfare_jax.models.spec import Spec

MODEL_TYPES = ("gemma3_text",)
IGNORED = (r".*\.rotary_emb\..*", *VISION)


def spec(config: dict, where: str) -> Spec:
    f = Fields(config, where)
    layers, head_dim = f("num_hidden_layers"), f("head_dim")
    f.expect("attn_logit_softcapping", None)  # transformers keeps it and does not use it
    pattern = f("_sliding_window_pattern", f("sliding_window_pattern", 6))
    spans = windows(f, layers, alternating(layers, pattern))
    turning = ropes_by_layer(f, head_dim, spans, f("rope_theta", 1e6), f("rope_local_base_freq", 1e4))
    return gemma_spec(f, "gemma3", windows=spans, qk_norm=True, **turning)


def tensors(spec: Spec, names) -> list[Tensor]:
    return llama_tensors(spec, norms=NORMS)
