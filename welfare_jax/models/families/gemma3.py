"""Gemma 3: five local layers to one global, two rotary bases, four norms a block, scaled embeddings.

Multimodal folders hold the same decoder under another prefix; their vision tower is left where it is.
"""

import math

from welfare_jax.models.families.common import Fields, Tensor, llama_tensors, rope
from welfare_jax.models.spec import Spec

MODEL_TYPES = ("gemma3", "gemma3_text")
IGNORED = (r".*\.rotary_emb\..*", r"(model\.)?vision_tower\..*", r"(model\.)?multi_modal_projector\..*")
NORMS = {
    "attn_norm": "input_layernorm",
    "attn_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
PREFIXES = ("model.", "language_model.model.", "model.language_model.")


def spec(config: dict, where: str) -> Spec:
    if "text_config" in config:
        text = dict(config["text_config"])
        if "tie_word_embeddings" in config:
            text.setdefault("tie_word_embeddings", config["tie_word_embeddings"])
        config = text
    f = Fields(config, where)
    f.expect("hidden_activation", "gelu_pytorch_tanh")
    f("hidden_act")
    f.expect("attention_bias", False)
    f.expect("attn_logit_softcapping", None)
    f.expect("final_logit_softcapping", None)
    f.expect("use_bidirectional_attention", False, None)
    layers, head_dim, width = f("num_hidden_layers"), f("head_dim"), f("hidden_size")
    pattern = f("sliding_window_pattern") or f("_sliding_window_pattern") or 6
    f("_sliding_window_pattern")
    types = f("layer_types") or [
        "full_attention" if (i + 1) % pattern == 0 else "sliding_attention" for i in range(layers)
    ]
    local = [t == "sliding_attention" for t in types]
    both = f("rope_parameters") or {}
    old_scaling, old_theta, old_local = f("rope_scaling"), f("rope_theta", 1e6), f("rope_local_base_freq", 1e4)
    if "full_attention" in both:
        ropes = [both["full_attention"], both["sliding_attention"]]
    else:
        ropes = [old_scaling or both, None]
    out = Spec(
        family="gemma3", vocab=f("vocab_size"), width=width, layers=layers, heads=f("num_attention_heads"),
        kv_heads=f("num_key_value_heads"), head_dim=head_dim, mlp=f("intermediate_size"),
        ropes=(rope(f, ropes[0], old_theta, head_dim), rope(f, ropes[1], old_local, head_dim)),
        rope_of=tuple(int(x) for x in local), windows=tuple(f("sliding_window") if x else 0 for x in local),
        norm_eps=f("rms_norm_eps"), norm_offset=1.0, act="gelu_tanh", tied=bool(f("tie_word_embeddings", True)),
        qk_norm=True, post_norms=True, embed_scale=math.sqrt(width), attn_scale=f("query_pre_attn_scalar") ** -0.5,
    )  # fmt: skip
    f("sliding_window")
    f.finish()
    return out


def tensors(spec: Spec, names) -> list[Tensor]:
    prefix = next((p for p in PREFIXES if p + "embed_tokens.weight" in names), PREFIXES[0])
    head = "language_model.lm_head.weight" if prefix == "language_model.model." else "lm_head.weight"
    return [t._replace(name=head) if t.path == "unembed" else t for t in llama_tensors(spec, prefix, NORMS)]
