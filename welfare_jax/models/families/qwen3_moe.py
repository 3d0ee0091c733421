"""Qwen3, mixture of experts: Qwen3's attention; every MLP is a choice among experts.

Released folders keep experts one by one; `transformers` can also write a layer's as two tensors, gate and up in one.
"""

from welfare_jax.errors import InputError
from welfare_jax.models.families.common import SILU, Fields, Part, Tensor, llama_spec, llama_tensors
from welfare_jax.models.spec import Spec

MODEL_TYPES = ("qwen3_moe",)
IGNORED = (r".*\.rotary_emb\.inv_freq",)


def spec(config: dict, where: str) -> Spec:
    f = Fields(config, where)
    f.expect("hidden_act", *SILU)
    f("router_aux_loss_coef"), f("output_router_logits"), f("intermediate_size")  # the last: of dense layers
    window = f("sliding_window", 0) if f("use_sliding_window") else 0
    layers, bias = f("num_hidden_layers"), bool(f("attention_bias"))
    experts = f("num_local_experts", f("num_experts"))
    step, only = f("decoder_sparse_step", 1), f("mlp_only_layers", [])
    if dense := [i for i in range(layers) if (i + 1) % step or i in only]:
        raise InputError(
            f"{where}: num_experts={experts}, decoder_sparse_step={step} and mlp_only_layers={str(only)[:60]} make "
            f"layer {dense[0]} dense; only models with experts in every layer are supported"
        )
    f.expect("layer_types", ["sliding_attention" if window else "full_attention"] * layers)
    return llama_spec(
        f, "qwen3_moe", qk_norm=True, attn_bias=bias, out_bias=bias, windows=(window,) * layers,
        mlp=f("moe_intermediate_size"), experts=experts, active=f("num_experts_per_tok"), plain_experts=True,
        weights_of_all=not f("norm_topk_prob", False),
    )  # fmt: skip


def tensors(spec: Spec, names) -> list[Tensor]:
    mlp, ours = "model.layers.{i}.mlp.", "blocks/mlp/experts/"
    out = [Tensor("blocks/mlp/router/kernel", mlp + "gate.weight", True)]
    if "model.layers.0.mlp.experts.gate_up_proj" not in names:
        for name in ("gate", "up", "down"):
            out.append(Tensor(f"{ours}{name}/kernel", mlp + "experts.{e}." + name + "_proj.weight", True))
        return llama_tensors(spec) + out
    for first, name in enumerate(("gate", "up")):
        part = Part(-2, first * spec.mlp, (first + 1) * spec.mlp, 1, 2 * spec.mlp)
        out.append(Tensor(f"{ours}{name}/kernel", mlp + "experts.gate_up_proj", True, part))
    out.append(Tensor(f"{ours}down/kernel", mlp + "experts.down_proj", True))
    return llama_tensors(spec) + out
