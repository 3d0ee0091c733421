"""The model families that this package reads, one file each."""

from welfare_jax.models.families import (
    gemma2,
    gemma3,
    glm4,
    gpt_oss,
    granite,
    internlm3,
    llama,
    ministral3,
    mistral,
    olmo2,
    olmo3,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
    smollm3,
)

FAMILIES = (
    qwen2, qwen3, qwen3_moe, llama, mistral, ministral3, gemma2, gemma3, gpt_oss, glm4, phi3, olmo2, olmo3, smollm3,
    granite, internlm3,
)  # fmt: skip
