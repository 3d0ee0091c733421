"""Qwen3, dense: grouped queries with normed queries and keys, no biases."""

from welfare_jax.models.families.common import Fields, Tensor, llama_tensors, rope
from welfare_jax.models.spec import Spec

MODEL_TYPES = ("qwen3",)
IGNORED = (r".*\.rotary_emb\.inv_freq",)


def spec(config: dict, where: str) -> Spec:
    f = Fields(config, where)
    f.expect("hidden_act", "silu")
    f.expect("attention_bias", False)
    f.expect("use_sliding_window", False)
    f.expect("attention_dropout", 0.0, 0)
    layers, head_dim = f("num_hidden_layers"), f("head_dim")
    f("sliding_window"), f("layer_types")  # inert while use_sliding_window is off
    settings = f("rope_parameters") or f("rope_scaling")
    f("rope_scaling")
    out = Spec(
        family="qwen3", vocab=f("vocab_size"), width=f("hidden_size"), layers=layers,
        heads=f("num_attention_heads"), kv_heads=f("num_key_value_heads"), head_dim=head_dim,
        mlp=f("intermediate_size"), ropes=(rope(f, settings, f("rope_theta", 1e4), head_dim),),
        rope_of=(0,) * layers, windows=(0,) * layers, norm_eps=f("rms_norm_eps"),
        tied=bool(f("tie_word_embeddings")), qk_norm=True,
    )  # fmt: skip
    f.finish()
    return out


def tensors(spec: Spec, names) -> list[Tensor]:
    return llama_tensors(spec)
