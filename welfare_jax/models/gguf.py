"""GGUF files: architecture and weights from the one file, as a Hugging Face folder would give them.

The header is read here and not by the `gguf` package, whose reader maps the file and takes three seconds for a
vocabulary of 49,000; the package knows the block types (`tensor_files.py` has it turn blocks into numbers).
"""

import math
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np

from welfare_jax.errors import InputError
from welfare_jax.models import checks, tensor_files
from welfare_jax.models.families.common import Fields, alternating
from welfare_jax.models.spec import Spec

SCALARS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
STRING, ARRAY = 8, 9
SHARD = re.compile(r".*-(\d{5})-of-\d{5}\.gguf")
ARCHITECTURES = {  # general.architecture -> model_type and the class, as config.json has them
    "llama": ("llama", "LlamaForCausalLM"), "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"), "gemma2": ("gemma2", "Gemma2ForCausalLM"),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"), "phi3": ("phi3", "Phi3ForCausalLM"),
}  # fmt: skip
LEAVES = {  # of the names in a Hugging Face checkpoint
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm", "model.embed_tokens": "token_embd", "model.norm": "output_norm",
    "lm_head": "output",
}  # fmt: skip
ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")


class Header(NamedTuple):
    """What a file says before its numbers: metadata by key, and tensors by the file's own names."""

    file: pathlib.Path
    values: dict[str, object]
    tensors: dict[str, tensor_files.Source]

    def get(self, key: str, kind, default=None):
        """A value of the metadata, which must be of this kind, where there is one."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, kind):
            raise InputError(f"{self.file}: metadata {key!r} is {checks.short(value)}; convert the model again")
        return value


def find(path) -> pathlib.Path | None:
    """The GGUF file that a path stands for: itself, or the only one in a folder without config.json; else None."""
    path = pathlib.Path(path)
    if path.suffix == ".gguf" and path.is_file():
        return path
    if not path.is_dir() or (path / "config.json").is_file():
        return None
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        raise InputError(f"model {path}: holds {', '.join(f.name for f in files)[:200]}; pass one of them")
    return files[0] if files else None


class _Cursor:
    """Values of a GGUF header, one after another; `EOFError` where the file ends before them."""

    def __init__(self, f, left: int):
        self.f, self.left = f, left

    def take(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise EOFError("ends within its header")
        return self.f.read(size)

    def number(self, size: int = 8) -> int:
        return int.from_bytes(self.take(size), "little")

    def string(self) -> str:
        return self.take(self.number()).decode()

    def value(self, kind: int):
        """A Python number, bool or string, a list of strings or a NumPy array."""
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            kind, count = self.number(4), self.number()
            if kind == STRING:
                return [self.string() for _ in range(count)]
            dtype = np.dtype(SCALARS[kind])
            return np.frombuffer(self.take(count * dtype.itemsize), dtype)
        dtype = np.dtype(SCALARS[kind])
        number = np.frombuffer(self.take(dtype.itemsize), dtype)[0]
        return float(str(number)) if kind == 6 else number.item()  # 1e-5, not the float32 next to it


def read(file: pathlib.Path) -> Header:
    """A file's header; every tensor lies within the file. Raises `InputError` on all that is not such a file."""
    if SHARD.fullmatch(file.name):
        raise InputError(f"{file}: one part of a split GGUF; join them with `llama-gguf-split --merge`")
    tensor_files.no_pointer(file)
    try:
        with open(file, "rb") as f:
            size = os.path.getsize(file)
            cursor = _Cursor(f, size)
            if cursor.take(4) != b"GGUF":
                raise InputError(f"{file}: not a GGUF file (it does not begin with 'GGUF')")
            version = cursor.number(4)
            if version not in (2, 3):
                raise InputError(f"{file}: GGUF version {version} is not supported (2 or 3, little-endian)")
            count, keys = cursor.number(), cursor.number()
            values = {cursor.string(): cursor.value(cursor.number(4)) for _ in range(keys)}
            infos = [_tensor(cursor) for _ in range(count)]
            start = size - cursor.left
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    except (EOFError, UnicodeDecodeError, KeyError, MemoryError, OverflowError) as error:
        raise InputError(f"{file}: truncated or corrupted ({error}); download it again") from None
    align = values.get("general.alignment", 32)
    start += -start % (align if type(align) is int and align > 0 else 32)
    tensors = {}
    for name, shape, kind, offset in infos:
        dtype, length = _stored(file, name, shape, kind)
        if name in tensors:
            raise InputError(f"{file}: tensor {name} is there twice; download it again")
        if start + offset + length > size:
            raise InputError(f"{file}: truncated ({name} ends beyond the file); download it again")
        tensors[name] = tensor_files.Source(file, name, dtype, shape, start + offset)
    return Header(file, values, tensors)


def _tensor(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """(name, shape, type number, offset in the data); GGUF writes the fastest axis first."""
    name = cursor.string()
    shape = tuple(cursor.number() for _ in range(cursor.number(4)))[::-1]
    return name, shape, cursor.number(4), cursor.number()


def _stored(file, name: str, shape, kind: int) -> tuple[str, int]:
    """(type, bytes) of a tensor."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        kind = GGMLQuantizationType(kind)
    except ValueError:
        raise InputError(f"{file}: {name} has type {kind}, which the gguf package does not know") from None
    block, size = GGML_QUANT_SIZES[kind]
    if not shape or shape[-1] % block:
        shown = checks.short(shape)
        raise InputError(f"{file}: {name} of shape {shown} cannot be of type {kind.name}; download it again")
    return kind.name, math.prod(shape) // block * size


def config(header: Header) -> dict:
    """The config.json that the metadata stand for. Whatever they say of the architecture must be understood here."""
    arch = header.get("general.architecture", str)
    if arch not in ARCHITECTURES:
        raise InputError(
            f"{header.file}: architecture {arch!r} is not supported (only {', '.join(ARCHITECTURES)}); "
            f"pass the model's Hugging Face folder"
        )
    if "token_embd.weight" not in header.tensors:
        raise InputError(f"{header.file}: no token_embd.weight; not a whole language model")
    ids = {name: header.get(f"tokenizer.ggml.{name}_token_id", int) for name in ("bos", "eos", "padding")}
    prefix = arch + "."
    about = {k.removeprefix(prefix): v for k, v in header.values.items() if k.startswith(prefix)}
    f = Fields({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in about.items()}, str(header.file))
    f("vocab_size"), f("rope.scaling.finetuned"), f("tensor_data_layout")  # said again by the tensors, or history
    f.expect("expert_count", 0)
    f.expect("expert_used_count", 0)
    width, heads = _count(f, "embedding_length"), _count(f, "attention.head_count")
    head_dim = _count(f, "attention.key_length", width // heads)
    f.expect("attention.value_length", head_dim)
    model_type, class_name = ARCHITECTURES[arch]
    epsilon = checks.number(f("attention.layer_norm_rms_epsilon"), f"{f.where}: 'attention.layer_norm_rms_epsilon'")
    made = {
        "model_type": model_type, "architectures": [class_name],
        "vocab_size": header.tensors["token_embd.weight"].shape[0],
        "hidden_size": width, "num_attention_heads": heads, "head_dim": head_dim,
        "num_hidden_layers": _count(f, "block_count", most=checks.MANY),
        "intermediate_size": _count(f, "feed_forward_length"),
        "num_key_value_heads": _count(f, "attention.head_count_kv", heads),
        "max_position_embeddings": _count(f, "context_length"), "rms_norm_eps": epsilon,
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "bos_token_id": ids["bos"], "eos_token_id": ids["eos"], "pad_token_id": ids["padding"],
    }  # fmt: skip
    made |= _rope(f, header, made)
    if arch in ("llama", "qwen3"):
        made["attention_bias"] = "blk.0.attn_q.bias" in header.tensors
    if arch == "phi3":
        made["sliding_window"] = f("attention.sliding_window", 0) or None
    elif arch.startswith("gemma"):
        made |= _gemma(f, arch, made)
    f.finish()
    return made


def _count(f: Fields, name: str, default=None, most: int = checks.LARGEST) -> int:
    """A whole number that every file of a language model has, one for all layers."""
    value = f(name, default)
    if value is None:
        raise InputError(f"{f.where}: metadata {name!r} is missing")
    return checks.whole(value, f"{f.where}: metadata {name!r}", most=most)


def _rope(f: Fields, header: Header, made: dict) -> dict:
    """`rope_parameters`, and what Phi keeps beside them."""
    theta = checks.number(f("rope.freq_base", 1e4), f"{f.where}: metadata 'rope.freq_base'", 1)
    dim, longest = made["head_dim"], made["max_position_embeddings"]
    settings = {"rope_type": "default", "rope_theta": theta}
    if (turned := _count(f, "rope.dimension_count", dim)) != dim and made["model_type"] == "phi3":
        settings["partial_rotary_factor"] = turned / dim
    else:
        f.expect("rope.dimension_count", dim)
    kind, factor = f("rope.scaling.type", "none"), f("rope.scaling.factor", f("rope.scale_linear", 1.0))
    original, stretch = f("rope.scaling.original_context_length", longest), f("rope.scaling.attn_factor", 1.0)
    freqs, short, long = (_numbers(header, name) for name in ROPE_FACTORS)
    if short and long:
        settings |= {"rope_type": "longrope", "short_factor": short, "long_factor": long, "attention_factor": stretch}
        if made["model_type"] == "phi3":
            return {"rope_parameters": settings, "original_max_position_embeddings": original}
        return {"rope_parameters": settings | {"factor": 1.0, "original_max_position_embeddings": original}}
    if freqs:  # Llama 3's bands, already worked out: the same divisors at every length
        settings |= {"rope_type": "longrope", "short_factor": freqs, "long_factor": freqs, "attention_factor": 1.0}
        return {"rope_parameters": settings | {"factor": 1.0, "original_max_position_embeddings": longest}}
    if kind not in ("none", "linear", "yarn") or stretch != 1.0:
        raise InputError(
            f"{f.where}: rope.scaling.type={checks.short(kind)} with attn_factor={stretch} is not supported"
        )
    if factor != 1.0 and kind != "yarn":
        settings |= {"rope_type": "linear", "factor": factor}
    elif kind == "yarn":
        settings |= {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
        for name in ("beta_fast", "beta_slow"):
            if value := f(f"rope.scaling.yarn_{name}"):
                settings[name] = value
    return {"rope_parameters": settings}


def _numbers(header: Header, name: str) -> list[float]:
    """A small tensor's values; an empty list where there is none."""
    if name not in header.tensors:
        return []
    tensor_files.check(header.tensors[name], header.tensors[name].shape)
    return [float(x) for x in tensor_files.read(header.tensors[name]).reshape(-1)]


def _gemma(f: Fields, arch: str, made: dict) -> dict:
    """What only Gemma has. The scale of the scores is not in the file: it follows from the number of layers."""
    large = made["num_hidden_layers"] == {"gemma2": 46, "gemma3": 62}[arch]  # 27B
    out = {
        "query_pre_attn_scalar": made["hidden_size"] // made["num_attention_heads"] if large else made["head_dim"],
        "sliding_window": _count(f, "attention.sliding_window"),
        "attn_logit_softcapping": f("attn_logit_softcapping", 50.0 if arch == "gemma2" else None),
        "final_logit_softcapping": f("final_logit_softcapping", 30.0 if arch == "gemma2" else None),
    }
    if arch == "gemma3":
        pattern = f("attention.sliding_window_pattern", 6)  # every how many layers one sees everything, or which
        local = ["full_attention", "sliding_attention"]
        if isinstance(pattern, list) and all(isinstance(p, bool) for p in pattern):
            kinds = [local[p] for p in pattern]
        else:
            kinds = alternating(made["num_hidden_layers"], _count(f, "attention.sliding_window_pattern", 6))
        near = {"rope_type": "default", "rope_theta": f("rope.freq_base_swa", 1e4)}
        out["layer_types"] = kinds
        out["rope_parameters"] = {"full_attention": made["rope_parameters"], "sliding_attention": near}
    return out


def sources(header: Header, spec: Spec, family) -> dict[str, tensor_files.Source]:
    """Tensors by the names that a Hugging Face checkpoint of this family has; what is none of these keeps its name."""
    wanted, gemma = {}, bool(spec.norm_offset)
    for t in family.tensors(spec, ()):
        for i in range(spec.layers) if "{i}" in t.name else [0]:
            wanted[_name(t.name, i, gemma)] = t.name.format(i=i)
    missing = [n for n in wanted if n not in header.tensors]
    if missing:
        raise InputError(f"{header.file}: {len(missing)} tensors are missing, first {missing[0]}")
    out = {}
    for name, source in header.tensors.items():
        if name in ROPE_FACTORS:
            continue
        if spec.family == "llama" and re.search(r"\.attn_[qk]\.", name):
            source = source._replace(pairs=spec.head_dim)
        if gemma and name.endswith("norm.weight"):
            source = source._replace(shift=-spec.norm_offset)
        out[wanted.get(name, name)] = source
    return out


def _name(name: str, layer: int, gemma: bool) -> str:
    """The name in a GGUF file of a tensor of a Hugging Face checkpoint."""
    module, end = name.rsplit(".", 1)
    inner = module.removeprefix("model.layers.{i}.")
    leaf = "post_attention_norm" if gemma and inner == "post_attention_layernorm" else LEAVES[inner]
    return f"{leaf}.{end}" if inner == module else f"blk.{layer}.{leaf}.{end}"
