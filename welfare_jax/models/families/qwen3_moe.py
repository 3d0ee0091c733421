"""Qwen3, mixture of experts: Qwen3's attention; every MLP is a choice among experts, kept one by one."""

from welfare_jax.models.families.common import Fields, Tensor, llama_spec, llama_tensors
from welfare_jax.models.spec import Spec

MODEL_TYPES = ("qwen3_moe",)
IGNORED = (r".*\.rotary_emb\.inv_freq",)


def spec(config: dict, where: str) -> Spec:
    f = Fields(config, where)
    f.expect("hidden_act", "silu")
    f.expect("decoder_sparse_step", 1)  # else some layers are dense
    f.expect("mlp_only_layers", [])
    f("router_aux_loss_coef"), f("output_router_logits"), f("intermediate_size")  # of dense layers, which have none
    window = f("sliding_window", 0) if f("use_sliding_window") else 0
    layers, bias = f("num_hidden_layers"), bool(f("attention_bias"))
    f.expect("layer_types", ["sliding_attention" if window else "full_attention"] * layers)
    return llama_spec(
        f, "qwen3_moe", qk_norm=True, attn_bias=bias, out_bias=bias, windows=(window,) * layers,
        mlp=f("moe_intermediate_size"), experts=f("num_local_experts", f("num_experts")),
        active=f("num_experts_per_tok"), plain_experts=True, weights_of_all=not f("norm_topk_prob", False),
    )  # fmt: skip


def tensors(spec: Spec, names) -> list[Tensor]:
    mlp = "model.layers.{i}.mlp."
    out = [Tensor("blocks/mlp/router/kernel", mlp + "gate.weight", True)]
    for name in ("gate", "up", "down"):
        theirs = mlp + "experts.{e}." + name + "_proj.weight"
        out.append(Tensor(f"blocks/mlp/experts/{name}/kernel", theirs, True))
    return llama_tensors(spec) + out
