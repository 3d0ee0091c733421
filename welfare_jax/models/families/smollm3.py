"""SmolLM3: the plain decoder, of which every fourth layer has no rotary embedding."""

from welfare_jax.errors import InputError
from welfare_jax.models import checks
from welfare_jax.models.families.common import SILU, Fields, Tensor, llama_spec, llama_tensors, rope, windows
from welfare_jax.models.rope import Rope
from welfare_jax.models.spec import Spec

MODEL_TYPES = ("smollm3",)
IGNORED = (r".*\.rotary_emb\.inv_freq",)


def spec(config: dict, where: str) -> Spec:
    f = Fields(config, where)
    f.expect("hidden_act", *SILU)
    f.expect("mlp_bias", False)
    layers, bias = f("num_hidden_layers"), bool(f("attention_bias"))
    f("use_sliding_window")  # transformers has turned it into layer_types
    turned = f("no_rope_layers", [])  # by its name the other way round: 1 where there is one
    if bad := [on for on in turned if on not in (0, 1)]:
        raise InputError(f"{where}: no_rope_layers has {checks.short(bad[0])}, only 0 and 1 are known")
    f("no_rope_layer_interval")  # and this into no_rope_layers
    turning = rope(f, f("head_dim", f("hidden_size") // f("num_attention_heads")))
    return llama_spec(
        f, "smollm3", attn_bias=bias, out_bias=bias, windows=windows(f, layers),
        ropes=(turning, Rope(turning.theta, turning.dim, "none")), rope_of=tuple(int(not on) for on in turned),
    )  # fmt: skip


def tensors(spec: Spec, names) -> list[Tensor]:
    return llama_tensors(spec)
