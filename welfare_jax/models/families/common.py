"""What family files share: reading a transformers config strictly, and the key map of a Llama-type checkpoint."""

import functools
import inspect
import math
import warnings
from typing import NamedTuple

from welfare_jax.errors import InputError
from welfare_jax.models import checks
from welfare_jax.models.rope import KINDS, Rope
from welfare_jax.models.spec import Spec

# Attributes of every transformers config that do not change the forward pass of a text decoder.
INERT = frozenset(
    """architectures attention_dropout bos_token_id chunk_size_feed_forward dtype torch_dtype eos_token_id id2label
    initializer_range is_encoder_decoder label2id max_position_embeddings max_window_layers model_type
    output_attentions output_hidden_states pad_token_id problem_type return_dict transformers_version use_cache
    _name_or_path name_or_path hidden_dropout _attn_implementation cache_implementation tie_encoder_decoder
    finetuning_task prefix tokenizer_class auto_map num_labels""".split()
)
# What transformers' masks, caches and loader read from any config, whether its class declares it or not.
ANYWHERE = frozenset(
    "attention_chunk_size is_causal layer_types quantization_config sliding_window transformers_weights".split()
)
SILU = ("silu", "swish")  # two names of one function
COUNTS = frozenset(  # attributes that are whole numbers from one on
    """vocab_size hidden_size intermediate_size moe_intermediate_size num_hidden_layers num_attention_heads
    num_key_value_heads head_dim max_position_embeddings original_max_position_embeddings sliding_window
    sliding_window_pattern _sliding_window_pattern num_experts num_local_experts num_experts_per_tok
    decoder_sparse_step""".split()
)
ABOVE = {  # attributes that are numbers, and above what
    "attention_multiplier": 0, "attn_logit_softcapping": 0, "embedding_multiplier": -math.inf,
    "final_logit_softcapping": 0, "logits_scaling": 0, "partial_rotary_factor": 0, "query_pre_attn_scalar": 0,
    "residual_multiplier": -math.inf, "rope_local_base_freq": 1, "rope_theta": 1,
}  # fmt: skip
VISION = (r"(model\.)?vision_tower\..*", r"(model\.)?multi_modal_projector\..*")  # tensors beside a decoder
ROPE_SETTINGS = {  # what each kind may be told, beside theta and the rotated share; True: must be
    "default": {},
    "linear": {"factor": True},
    "dynamic": {"factor": True},
    "llama3": {"factor": True, "low_freq_factor": True, "high_freq_factor": True},
    "yarn": {
        "factor": True, "attention_factor": False, "mscale": False, "mscale_all_dim": False, "beta_fast": False,
        "beta_slow": False, "truncate": False,
    },
    "longrope": {"factor": False, "attention_factor": False, "short_factor": True, "long_factor": True},
}  # fmt: skip


class Part(NamedTuple):
    """The piece of a fused tensor along one of its axes: [start:stop:step] of `total`."""

    axis: int
    start: int
    stop: int
    step: int
    total: int

    def slices(self, ndim: int) -> tuple[slice, ...]:
        at = [slice(None)] * ndim
        at[self.axis] = slice(self.start, self.stop, self.step)
        return tuple(at)


class Tensor(NamedTuple):
    """Where one parameter lies in a checkpoint; `{i}` in the name is the layer, `{e}` the expert."""

    path: str
    name: str
    transpose: bool = False  # checkpoints keep linear weights [out, in], or [experts, out, in]
    part: Part | None = None  # of the tensor as the checkpoint keeps it
    packed: bool = False  # MXFP4, in two tensors NAME_blocks and NAME_scales


@functools.cache
def declared(model_type: str | None, name: str) -> bool:
    """Whether a model type's config class in `transformers` knows an attribute; without a type, all are known.

    It keeps what it does not know, and its forward pass never asks for it.
    """
    from transformers import CONFIG_MAPPING

    if model_type is None or name in ANYWHERE:
        return True
    cls = CONFIG_MAPPING[model_type]
    arguments = (inspect.signature(c.__init__).parameters for c in cls.__mro__)
    return name in cls.attribute_map or hasattr(cls, name) or any(name in known for known in arguments)


@functools.cache
def _defaults(model_type: str | None):
    """The config of a model type that sets nothing."""
    from transformers import CONFIG_MAPPING

    return None if model_type is None else CONFIG_MAPPING[model_type]()


class Fields:
    """A config's attributes: each must be read, known to be inert, at its default, or unknown to `transformers`."""

    def __init__(self, values: dict, where: str):
        self.values, self.where, self.read = values, where, set()

    def __call__(self, name, default=None):
        self.read.add(name)
        value, where = self.values.get(name), f"{self.where}: {name}"
        if value is None:
            return default
        if name in COUNTS:
            return checks.whole(value, where)
        return checks.number(value, where, ABOVE[name]) if name in ABOVE else value

    def expect(self, name, *allowed):
        """Refuse a value that the code does not implement; an absent attribute passes."""
        value = self(name, allowed[0])
        if value not in allowed:
            raise InputError(
                f"{self.where}: {name}={value!r} is not supported (only {' or '.join(map(repr, allowed))})"
            )

    def quantised(self) -> str | None:
        """The method by which the weights are quantised; None where they are not."""
        said = self("quantization_config", {})
        return said.get("quant_method") if isinstance(said, dict) else checks.short(said)

    def finish(self):
        kind = self.values.get("model_type")
        left = sorted(k for k in set(self.values) - self.read - INERT if self.values[k] is not None)
        known = [k for k in left if declared(kind, k)]
        odd = [k for k in known if self.values[k] != getattr(_defaults(kind), k, None)]
        if "quantization_config" in odd:
            raise InputError(
                f"{self.where}: quantization_config has quant_method={self.quantised()!r}, and quantised weights of a "
                f"{kind} model are not read; use the model's release in bfloat16"
            )
        if odd:
            raise InputError(f"{self.where}: attribute {odd[0]}={repr(self.values[odd[0]])[:100]} is not handled")
        if ignored := ", ".join(k for k in left if k not in known):
            # Python shows a warning of the same words once.
            warnings.warn(f"{self.where}: transformers does not know {ignored}: ignored", stacklevel=2)


def rope(
    f: Fields, head_dim: int, settings: dict | None = None, theta: float | None = None, partial: bool = False
) -> Rope:
    """One rotary embedding, from `rope_parameters` (new) or from `rope_scaling`, `rope_theta` and others (old).

    partial: whether this family can rotate a share of each head; of others `transformers` ignores the setting.
    """
    old, theta, share = f("rope_scaling"), theta or f("rope_theta", 1e4), f("partial_rotary_factor", 1.0)
    settings = f("rope_parameters", old) if settings is None else settings
    given, where = _given(settings or {}, f.where), f"{f.where}: rope setting "
    old_kind = given.pop("type", "default")
    kind = given.pop("rope_type", old_kind)
    theta, share = given.pop("rope_theta", theta), given.pop("partial_rotary_factor", share)
    if kind not in KINDS:
        raise InputError(f"{f.where}: rope_type={kind!r} is not supported (only {', '.join(KINDS)})")
    longest = f("max_position_embeddings", 0)
    original = given.pop("original_max_position_embeddings", longest)
    original = f("original_max_position_embeddings", original)  # Phi keeps it outside, and then it counts
    wrong = sorted(set(given) - set(ROPE_SETTINGS[kind]))
    if wrong:
        raise InputError(f"{where}{wrong[0]!r} is not handled for rope_type={kind!r}")
    lacking = [k for k, needed in ROPE_SETTINGS[kind].items() if needed and k not in given]
    if lacking:
        raise InputError(f"{where}{lacking[0]!r} is missing for rope_type={kind!r}")
    checks.number(share, f"{where}'partial_rotary_factor'", 0)
    if share != 1 and not partial:
        raise InputError(
            f"{f.where}: partial_rotary_factor={share}: the heads of this family are rotated whole, whatever a config "
            f"says; take it out if the model was made with `transformers`"
        )
    made: dict = {"theta": theta, "dim": int(head_dim * share), "kind": kind, "factor": given.get("factor", 1.0)}
    if kind == "dynamic":
        made["original"] = longest
    elif kind != "default" and kind != "linear":
        made["original"] = checks.whole(original, f"{where}'original_max_position_embeddings'", 2)
    if kind == "llama3":
        made |= {"low": given["low_freq_factor"], "high": given["high_freq_factor"]}
    elif kind == "yarn":
        made |= {"low": given.get("beta_slow") or 1.0, "high": given.get("beta_fast") or 32.0}
        made |= {"truncate": given.get("truncate", True), "attention": _yarn_attention(made["factor"], given)}
    elif kind == "longrope":
        made["factor"] = factor = given.get("factor", longest / original)
        made |= {"short": tuple(given["short_factor"]), "long": tuple(given["long_factor"])}
        stretch = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        made["attention"] = given.get("attention_factor", stretch)
    return _within(f.where, Rope, made)


def _within(where: str, make, arguments: dict):
    """`make(**arguments)`, whose complaints gain the name of the file."""
    try:
        return make(**arguments)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _given(settings, where: str) -> dict:
    """The settings of a rotary embedding that are not null, each of the kind that it must be."""
    if not isinstance(settings, dict):
        raise InputError(f"{where}: the settings of a rotary embedding are {checks.short(settings)}, no object")
    for name, value in settings.items():
        at = f"{where}: rope setting {name!r}"
        if name in ("rope_type", "type", "truncate"):
            if not isinstance(value, bool if name == "truncate" else str):
                raise InputError(f"{at} is {checks.short(value)}")
        elif isinstance(value, list) and name in ("short_factor", "long_factor"):
            for number in value:
                checks.number(number, at, 0)
        elif value is not None or name in ("rope_theta", "partial_rotary_factor"):
            checks.number(value, at)
    return {k: v for k, v in settings.items() if v is not None}


def ropes_by_layer(f: Fields, head_dim: int, windows, far: float | None = None, near: float | None = None) -> dict:
    """`ropes` and `rope_of` of a spec whose layers with a window have a rotary embedding of their own.

    far and near: the bases of layers without and with a window, where the settings do not say.
    """
    settings = dict(f("rope_parameters", {}))
    full, sliding = settings.pop("full_attention", None), settings.pop("sliding_attention", None)
    if full is None and sliding is None:  # an older file: only layers without a window stretch
        full, sliding, settings = f("rope_scaling", settings), {}, {}
    if settings:
        raise InputError(f"{f.where}: rope_parameters has {sorted(settings)[0]!r} beside those of each kind of layer")
    for name, found, used in (("full", full, not all(windows)), ("sliding", sliding, any(windows))):
        if used and found is None:
            raise InputError(f"{f.where}: rope_parameters has nothing for '{name}_attention', which some layers are")
    ropes = rope(f, head_dim, full or {}, far), rope(f, head_dim, sliding or {}, near)
    return {"ropes": ropes, "rope_of": tuple(int(w > 0) for w in windows)}


def _yarn_attention(factor: float, given: dict) -> float:
    """What cosine and sine are multiplied by (arXiv:2309.00071 §3.4)."""

    def stretch(weight):
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if given.get("mscale") and given.get("mscale_all_dim"):
        inferred = stretch(given["mscale"]) / (stretch(given["mscale_all_dim"]) or math.nan)
    else:
        inferred = stretch(1.0)
    return given.get("attention_factor", inferred)


def windows(f: Fields, layers: int, default=None) -> tuple[int, ...]:
    """Per layer how far it sees, from `layer_types` (`default` where absent) and `sliding_window`; 0: everything."""
    types, window = f("layer_types", default or ["full_attention"] * layers), f("sliding_window", 0)
    odd = set(types) - {"full_attention", "sliding_attention"}
    if odd:
        raise InputError(
            f"{f.where}: layer_types has {sorted(odd)[0]!r}, only full and sliding attention are supported"
        )
    if "sliding_attention" in types and not window:
        raise InputError(f"{f.where}: layer_types has 'sliding_attention', but sliding_window is not set")
    return tuple(window if t == "sliding_attention" else 0 for t in types)


def alternating(layers: int, every: int = 2) -> list[str]:
    """Layer types of which the last of `every` sees everything."""
    return ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(layers)]


def llama_spec(f: Fields, family: str, partial: bool = False, **differences) -> Spec:
    """The spec of a Llama-type config, which is read to its end; `differences` are what this family does otherwise.

    partial: see `rope`.
    """
    layers, heads, width = f("num_hidden_layers"), f("num_attention_heads"), f("hidden_size")
    head_dim = f("head_dim", width // heads)
    made = {
        "family": family, "vocab": f("vocab_size"), "width": width, "layers": layers, "heads": heads,
        "kv_heads": f("num_key_value_heads", heads), "head_dim": head_dim, "mlp": f("intermediate_size"),
        "rope_of": (0,) * layers, "windows": (0,) * layers, "norm_eps": f("rms_norm_eps"),
        "tied": bool(f("tie_word_embeddings")),
    } | differences  # fmt: skip
    if "ropes" not in made:
        made["ropes"] = (rope(f, head_dim, partial=partial),)
    f.expect("is_causal", True)
    f.finish()
    return _within(f.where, Spec, made)


def llama_tensors(spec: Spec, norms: dict[str, str] | None = None, fused: tuple[str, ...] = ()) -> list[Tensor]:
    """The key map shared by the Llama line of checkpoints.

    `norms` maps our norm names to theirs; `fused` lists what the checkpoint keeps in one tensor: "qkv", "gate_up".
    """
    norms = norms or {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    layer = "model.layers.{i}."
    heads, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    out = [Tensor("embed", "model.embed_tokens.weight"), Tensor("final_norm/scale", "model.norm.weight")]
    out += [Tensor(f"blocks/{ours}/scale", f"{layer}{theirs}.weight") for ours, theirs in norms.items()]
    for name, part in _parts("qkv", (heads, kv, kv), "qkv" in fused):
        theirs = f"{layer}self_attn.{'qkv' if part else name}_proj"
        out.append(Tensor(f"blocks/attn/{name}/kernel", f"{theirs}.weight", True, part))
        if spec.attn_bias:
            out.append(Tensor(f"blocks/attn/{name}/bias", f"{theirs}.bias", part=part))
    out.append(Tensor("blocks/attn/o/kernel", f"{layer}self_attn.o_proj.weight", True))
    if spec.out_bias:
        out.append(Tensor("blocks/attn/o/bias", f"{layer}self_attn.o_proj.bias"))
    if spec.qk_norm:
        out += [Tensor(f"blocks/attn/{n}/scale", f"{layer}self_attn.{n}.weight") for n in ("q_norm", "k_norm")]
    if not spec.experts:
        for name, part in _parts(("gate", "up"), (spec.mlp, spec.mlp), "gate_up" in fused):
            theirs = "gate_up" if part else name
            out.append(Tensor(f"blocks/mlp/{name}/kernel", f"{layer}mlp.{theirs}_proj.weight", True, part))
        out.append(Tensor("blocks/mlp/down/kernel", f"{layer}mlp.down_proj.weight", True))
    if not spec.tied:
        out.append(Tensor("unembed", "lm_head.weight"))
    return out


def _parts(names, sizes, fused):
    """(name, its rows of the fused tensor or None) for each name."""
    start = 0
    for name, size in zip(names, sizes, strict=True):
        yield name, Part(0, start, start + size, 1, sum(sizes)) if fused else None
        start += size
