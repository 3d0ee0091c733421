"""OLMo 3: OLMo 2 with three local layers to one global; only the global ones stretch their rotary embedding."""

from welfare_jax.models.families.common import Fields, Tensor, alternating, llama_tensors, ropes_by_layer, windows
from welfare_jax.models.families.olmo2 import NORMS, olmo_spec
from welfare_jax.models.spec import Spec

MODEL_TYPES = ("olmo3",)
IGNORED = (r".*\.rotary_emb\..*",)


def spec(config: dict, where: str) -> Spec:
    f = Fields(config, where)
    layers = f("num_hidden_layers")
    spans = windows(f, layers, alternating(layers, 4))
    head_dim = f("head_dim", f("hidden_size") // f("num_attention_heads"))
    return olmo_spec(f, "olmo3", windows=spans, **ropes_by_layer(f, head_dim, spans))


def tensors(spec: Spec, names) -> list[Tensor]:
    return llama_tensors(spec, norms=NORMS)
