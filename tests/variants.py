"""The variants of every family that are compared with `transformers`: by the tests, and by docs/parity.py.

Name -> (one of `helpers.FAMILIES` or `helpers.MULTIMODAL`, settings of its small random model that differ).
"""

CASES = {
    "qwen3": ("qwen3", {}),
    "qwen3_untied_linear": ("qwen3", dict(
        tie_word_embeddings=False, rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=500.0))),
    "qwen3_tied_one_kv_head": ("qwen3", dict(tie_word_embeddings=True, num_key_value_heads=1, head_dim=6)),
    "qwen3_window_bias_yarn": ("qwen3", dict(
        use_sliding_window=True, sliding_window=5, max_window_layers=1, attention_bias=True,
        rope_parameters=dict(
            rope_type="yarn", rope_theta=1e4, factor=4.0, attention_factor=1.3, original_max_position_embeddings=16))),
    "qwen2": ("qwen2", dict(use_sliding_window=True, sliding_window=5, max_window_layers=2)),
    "qwen2_tied": ("qwen2", dict(tie_word_embeddings=True, head_dim=None, num_attention_heads=4)),
    "llama": ("llama", {}),
    "llama_biases_tied": ("llama", dict(attention_bias=True, tie_word_embeddings=True, rope_parameters=None)),
    "mistral": ("mistral", {}),
    "mistral_unlimited": ("mistral", dict(sliding_window=None, tie_word_embeddings=True)),
    "ministral": ("ministral", {}),
    "ministral_all_local_tied": ("ministral", dict(
        layer_types=["sliding_attention"] * 4, tie_word_embeddings=True, num_attention_heads=5,
        num_key_value_heads=5)),
    "ministral3": ("ministral3", {}),
    "ministral3_window": ("ministral3", dict(sliding_window=4, num_attention_heads=5, num_key_value_heads=5)),
    "gemma2": ("gemma2", {}),
    "gemma2_no_caps": ("gemma2", dict(
        attn_logit_softcapping=None, final_logit_softcapping=None, num_attention_heads=5, num_key_value_heads=5)),
    "qwen3_moe": ("qwen3_moe", {}),
    "qwen3_moe_window_bias_of_all": ("qwen3_moe", dict(
        num_experts=5, num_experts_per_tok=3, norm_topk_prob=False, attention_bias=True, use_sliding_window=True,
        sliding_window=5, tie_word_embeddings=True)),
    "gpt_oss": ("gpt_oss", {}),
    "gpt_oss_truncated_no_bias": ("gpt_oss", dict(
        attention_bias=False, num_local_experts=3, num_experts_per_tok=3, rope_parameters=dict(
            rope_type="yarn", rope_theta=500.0, factor=8.0, mscale=0.7, mscale_all_dim=0.4, truncate=True,
            original_max_position_embeddings=32))),
    "glm4": ("glm4", {}),
    "glm4_no_bias": ("glm4", dict(attention_bias=False, partial_rotary_factor=0.25, tie_word_embeddings=True)),
    "glm": ("glm", {}),
    "phi3_short": ("phi3", {}),
    "phi3_plain": ("phi3", dict(rope_parameters=None, num_attention_heads=4, num_key_value_heads=2)),
    "olmo2": ("olmo2", {}),
    "olmo2_bias_one_kv_head": ("olmo2", dict(
        attention_bias=True, num_attention_heads=5, num_key_value_heads=1, tie_word_embeddings=True)),
    "olmo3": ("olmo3", {}),
    "olmo3_all_local": ("olmo3", dict(layer_types=["sliding_attention"] * 4, rope_parameters=None)),
    "smollm3": ("smollm3", {}),
    "smollm3_window_bias": ("smollm3", dict(
        no_rope_layers=[0, 1, 1, 0], use_sliding_window=True, sliding_window=5, attention_bias=True,
        tie_word_embeddings=False)),
    "granite": ("granite", {}),
    "granite_bias_tied": ("granite", dict(attention_bias=True, tie_word_embeddings=True, num_key_value_heads=1)),
    "internlm3": ("internlm3", {}),
    "internlm3_dynamic": ("internlm3", dict(rope_parameters=dict(
        rope_type="dynamic", rope_theta=500.0, factor=6.0), num_attention_heads=5, num_key_value_heads=5)),
    "gemma3": ("gemma3", {}),
    "gemma3_scaled_untied": ("gemma3", dict(
        num_attention_heads=5, num_key_value_heads=5, tie_word_embeddings=False, num_hidden_layers=6,
        rope_parameters=dict(
            full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e5),
            sliding_attention=dict(rope_type="default", rope_theta=500.0)))),
    "gemma3_multimodal": ("gemma3_vision", {}),
    "gemma3_multimodal_untied": ("gemma3_vision", dict(tie_word_embeddings=False)),
    "mistral_multimodal": ("mistral_vision", dict(sliding_window=None)),
    "mistral_multimodal_untied": ("mistral_vision", dict(tie_word_embeddings=False)),
    "ministral3_multimodal": ("ministral3_vision", {}),
    "ministral3_multimodal_untied": ("ministral3_vision", dict(tie_word_embeddings=False)),
}  # fmt: skip
