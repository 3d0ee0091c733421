"""Ministral 3: the plain decoder with YaRN, whose queries grow beyond the length that it was first trained on."""

from welfare_jax.models.families.common import SILU, VISION, Fields, Tensor, llama_spec, llama_tensors, rope
from welfare_jax.models.spec import Spec

MODEL_TYPES = ("ministral3",)
IGNORED = (r".*\.rotary_emb\.inv_freq", *VISION)


def spec(config: dict, where: str) -> Spec:
    f = Fields(config, where)
    f.expect("hidden_act", *SILU)
    layers, window = f("num_hidden_layers"), f("sliding_window", 0)
    f.expect("layer_types", ["sliding_attention" if window else "full_attention"] * layers)
    settings = dict(f("rope_parameters", {}))
    growth = settings.pop("llama_4_scaling_beta", None)
    settings.pop("max_position_embeddings", None)  # said again
    turning = rope(f, f("head_dim", f("hidden_size") // f("num_attention_heads")), settings)
    return llama_spec(
        f, "ministral3", windows=(window,) * layers, ropes=(turning,), query_growth=growth,
        query_span=settings.get("original_max_position_embeddings") or f("max_position_embeddings"),
    )  # fmt: skip


def tensors(spec: Spec, names) -> list[Tensor]:
    return llama_tensors(spec)
