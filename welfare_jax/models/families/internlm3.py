"""InternLM3: the plain decoder, whose rotary base grows with texts longer than it was trained on."""

from welfare_jax.models.families.common import SILU, Fields, Tensor, llama_spec, llama_tensors
from welfare_jax.models.spec import Spec

MODEL_TYPES = ("internlm3",)
IGNORED = (r".*\.rotary_emb\.inv_freq",)


def spec(config: dict, where: str) -> Spec:
    f = Fields(config, where)
    f.expect("hidden_act", *SILU)
    for name in ("attention_bias", "mlp_bias", "qkv_bias", "bias"):
        f.expect(name, False)
    return llama_spec(f, "internlm3")


def tensors(spec: Spec, names) -> list[Tensor]:
    return llama_tensors(spec)
