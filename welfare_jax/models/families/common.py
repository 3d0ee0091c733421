"""What family files share: reading a transformers config strictly, and the key map of a Llama-type checkpoint."""

from typing import NamedTuple

from welfare_jax.errors import InputError
from welfare_jax.models.spec import Rope, Spec

# Attributes of every transformers config that do not change the forward pass of a text decoder.
INERT = frozenset(
    """architectures attention_dropout bos_token_id chunk_size_feed_forward dtype torch_dtype eos_token_id id2label
    initializer_range is_encoder_decoder label2id max_position_embeddings max_window_layers model_type
    output_attentions output_hidden_states pad_token_id problem_type return_dict transformers_version use_cache
    _name_or_path name_or_path hidden_dropout _attn_implementation cache_implementation tie_encoder_decoder
    finetuning_task prefix tokenizer_class""".split()
)


class Tensor(NamedTuple):
    """Where one parameter lies in a checkpoint; `{i}` in the name is the layer."""

    path: str
    name: str
    transpose: bool = False  # checkpoints keep linear weights [out, in]


class Fields:
    """A config's attributes, each of which must be read or known to be inert."""

    def __init__(self, values: dict, where: str):
        self.values, self.where, self.read = values, where, set()

    def __call__(self, name, default=None):
        self.read.add(name)
        return self.values.get(name, default)

    def expect(self, name, *allowed):
        """Refuse a value that the code does not implement; an absent attribute passes."""
        value = self(name, allowed[0])
        if value not in allowed:
            raise InputError(
                f"{self.where}: {name}={value!r} is not supported (only {' or '.join(map(repr, allowed))})"
            )

    def finish(self):
        unknown = sorted(set(self.values) - self.read - INERT)
        if unknown:
            raise InputError(f"{self.where}: attribute {unknown[0]}={self.values[unknown[0]]!r} is not handled")


def rope(fields: Fields, settings: dict | None, theta: float, dim: int) -> Rope:
    """One rotary embedding from `rope_parameters` (new) or `rope_scaling` plus `rope_theta` (old)."""
    settings = dict(settings or {})
    theta = settings.pop("rope_theta", None) or theta
    kind = settings.pop("rope_type", None) or settings.pop("type", None) or "default"
    settings.pop("type", None)
    factor = settings.pop("factor", 1.0) or 1.0
    if kind not in ("default", "linear"):
        raise InputError(f"{fields.where}: rope_type={kind!r} is not supported (only 'default' or 'linear')")
    if settings:
        raise InputError(f"{fields.where}: rope setting {sorted(settings)[0]!r} is not handled")
    return Rope(float(theta), dim, kind, float(factor))


def llama_tensors(spec: Spec, prefix: str = "model.", norms: dict[str, str] | None = None) -> list[Tensor]:
    """The key map shared by the Llama line of checkpoints; `norms` maps our norm names to theirs."""
    norms = norms or {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    layer = prefix + "layers.{i}."
    out = [Tensor("embed", prefix + "embed_tokens.weight"), Tensor("final_norm/scale", prefix + "norm.weight")]
    out += [Tensor(f"blocks/{ours}/scale", f"{layer}{theirs}.weight") for ours, theirs in norms.items()]
    for ours in "qkvo":
        out.append(Tensor(f"blocks/attn/{ours}/kernel", f"{layer}self_attn.{ours}_proj.weight", True))
        if spec.attn_bias and ours != "o":
            out.append(Tensor(f"blocks/attn/{ours}/bias", f"{layer}self_attn.{ours}_proj.bias"))
    if spec.qk_norm:
        out += [Tensor(f"blocks/attn/{n}/scale", f"{layer}self_attn.{n}.weight") for n in ("q_norm", "k_norm")]
    for ours in ("gate", "up", "down"):
        out.append(Tensor(f"blocks/mlp/{ours}/kernel", f"{layer}mlp.{ours}_proj.weight", True))
    if not spec.tied:
        out.append(Tensor("unembed", "lm_head.weight"))
    return out
