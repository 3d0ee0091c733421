"""GPT-OSS: experts with biases and a clamped SwiGLU, attention sinks, YaRN, every other layer local.

Experts in MXFP4 are unpacked while they are read.
"""

from welfare_jax.errors import InputError
from welfare_jax.models.families.common import (
    SILU,
    Fields,
    Part,
    Tensor,
    alternating,
    llama_spec,
    llama_tensors,
    windows,
)
from welfare_jax.models.spec import Spec

MODEL_TYPES = ("gpt_oss",)
IGNORED = (r".*\.rotary_emb\.inv_freq",)


def spec(config: dict, where: str) -> Spec:
    f = Fields(config, where)
    f.expect("hidden_act", *SILU)
    packing = f.quantised()
    if packing not in (None, "mxfp4"):
        raise InputError(f"{where}: quantization_config has quant_method={packing!r}, only 'mxfp4' is supported")
    f("router_aux_loss_coef"), f("output_router_logits"), f("initial_context_length")
    active, bias, layers = f("num_experts_per_tok"), bool(f("attention_bias", True)), f("num_hidden_layers")
    spans = windows(f, layers, alternating(layers))
    f.expect("experts_per_token", active)
    return llama_spec(
        f, "gpt_oss", attn_bias=bias, out_bias=bias, sinks=True, norm_wide=True, windows=spans,
        experts=f("num_local_experts"), active=active, swiglu_alpha=f("swiglu_alpha", 1.702),
        swiglu_limit=f("swiglu_limit", 7.0),
    )  # fmt: skip


def tensors(spec: Spec, names) -> list[Tensor]:
    layer, mlp, ours = "model.layers.{i}.", "model.layers.{i}.mlp.", "blocks/mlp/"
    packed = "model.layers.0.mlp.experts.gate_up_proj_blocks" in names
    out = [
        Tensor("blocks/attn/sinks", layer + "self_attn.sinks"),
        Tensor(ours + "router/kernel", mlp + "router.weight", True),
        Tensor(ours + "router/bias", mlp + "router.bias"),
        Tensor(ours + "experts/down/kernel", mlp + "experts.down_proj", packed=packed),
        Tensor(ours + "experts/down/bias", mlp + "experts.down_proj_bias"),
    ]
    for first, name in enumerate(("gate", "up")):  # alternating neurons of one tensor
        part = Part(-1, first, 2 * spec.mlp, 2, 2 * spec.mlp)
        out.append(Tensor(f"{ours}experts/{name}/kernel", mlp + "experts.gate_up_proj", part=part, packed=packed))
        out.append(Tensor(f"{ours}experts/{name}/bias", mlp + "experts.gate_up_proj_bias", part=part))
    return llama_tensors(spec) + out
