"""Write a model back as a Hugging Face folder: the key map of its family, read in the other direction."""

import collections
import json
import math
import pathlib
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from welfare_jax import textfiles
from welfare_jax.errors import InputError
from welfare_jax.models import decoder, hf, lora, stops
from welfare_jax.models.spec import Spec

SHARD_BYTES = 5 << 30
# The model type and class of a decoder, by its family, that is written without the multimodal model around it.
DECODERS = {
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
    "mistral": ("mistral", "MistralForCausalLM"),
    "ministral3": ("ministral3", "Ministral3ForCausalLM"),
}
TOKENIZER_FILES = {
    *hf.VOCABULARIES, "tokenizer_config.json", "chat_template.jinja", "chat_template.json", "merges.txt",
    "special_tokens_map.json", "added_tokens.json",
}  # fmt: skip
TOKENIZER_CONFIG, BACKEND = "tokenizer_config.json", "TokenizersBackend"  # how transformers 5 calls a fast tokenizer


def qwen3_config(spec: Spec, tokenizer, dtype: str) -> dict:
    """A config.json for a Qwen3-type decoder made here."""
    if spec.family != "qwen3":
        raise InputError(f"family {spec.family!r}: a config can only be written anew for 'qwen3'; keep the loaded one")
    rope = spec.ropes[0]
    scaling = {} if rope.kind == "default" else {"rope_scaling": {"rope_type": rope.kind, "factor": rope.factor}}
    return scaling | {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": spec.vocab,
        "hidden_size": spec.width, "intermediate_size": spec.mlp, "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads, "num_key_value_heads": spec.kv_heads, "head_dim": spec.head_dim,
        "hidden_act": "silu", "rms_norm_eps": spec.norm_eps, "rope_theta": rope.theta,
        "tie_word_embeddings": spec.tied, "attention_bias": False, "max_position_embeddings": 4096,
        "torch_dtype": dtype, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }  # fmt: skip


def tensors(params: dict, spec: Spec, family):
    """Checkpoint tensors as (name, array): layers unstacked, linear weights turned back to [out, in], pieces fused."""
    flat, names = lora.flat(params), {}
    for t in family.tensors(spec, ()):
        names.setdefault(t.name, []).append(t)
    for pieces in names.values():
        host = [(t, np.asarray(flat[t.path])) for t in pieces]
        for at in hf.places(spec, pieces[0]):
            out: Any = None
            for t, array in host:
                array = array[at]
                if t.part is None:
                    out = array.T if t.transpose else array
                    continue
                out = np.empty(hf.raw_shape(t, array.shape), array.dtype) if out is None else out
                out[t.part.slices(out.ndim)] = array.T if t.transpose else array
            yield hf.stored(pieces[0], at)[0], out


def config_json(lm: hf.LM, dtype: str) -> dict:
    """The config of what is written: that of the folder it came from, or its text part where it is multimodal."""
    config = hf.raw_config(pathlib.Path(lm.path)) or qwen3_config(lm.spec, lm.tokenizer, dtype)
    if "text_config" in config:
        outer, config = config, dict(config["text_config"])
        kind, name = DECODERS[lm.spec.family]
        config |= {"model_type": kind, "architectures": [name]}
        config |= {k: outer[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id") if k in outer}
    for stale in ("dtype", "quantization_config"):  # experts are written unpacked
        config.pop(stale, None)
    return config | {"torch_dtype": dtype, "tie_word_embeddings": lm.spec.tied}


def save_hf(lm: hf.LM, folder, dtype: str | None = None, merge_lora: bool = True) -> pathlib.Path:
    """Write config, safetensors shards and the tokenizer, if there is one, that `transformers` loads; of a multimodal
    model the decoder.

    dtype: "float32" or "bfloat16", by default that of the parameters; merge_lora: fold adapters into the weights, else
    the weights are written as if there were none (`wj.save_peft` writes adapters alone). Returns the folder.
    """
    folder = pathlib.Path(folder)
    dtype = dtype or lm.params["embed"].dtype.name
    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"dtype={dtype!r}: use 'float32' or 'bfloat16'")
    params = lora.merge(lm.graphdef, lm.params)[1] if merge_lora else lm.params
    config = config_json(lm, dtype)
    family = hf.family_of(lm.spec)
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32)
    made = ((name, array.astype(kind, copy=False)) for name, array in tensors(params, lm.spec, family))
    sizes = {name: array.size * kind.itemsize for name, array in tensors(params, lm.spec, family)}
    generation, bare = generation_config(lm), isinstance(lm.tokenizer_or_error, InputError)
    if bare and (other := next((p for p in sorted(TOKENIZER_FILES) if (folder / p).exists()), None)):
        raise InputError(
            f"{folder}: holds {other}, which would be read as part of this model without a tokenizer; use another "
            f"folder"
        )
    write(folder, config, sizes, made)
    (folder / stops.GENERATION).unlink(missing_ok=True)  # of what the folder held before
    if generation:
        (folder / stops.GENERATION).write_bytes(generation)
    if not bare:
        save_tokenizer(lm.tokenizer, folder)
    return folder


def generation_config(lm: hf.LM) -> bytes | None:
    """What generation_config.json should say: as in the folder that the model came from. Of a GGUF file, the ids that
    end an answer, where its config.json has no place for them all; None where there is nothing to say."""
    source = pathlib.Path(lm.path)
    if (source / stops.GENERATION).is_file():
        return (source / stops.GENERATION).read_bytes()
    if (source / stops.CONFIG).is_file() or isinstance(lm.tokenizer_or_error, InputError):
        return None
    first = lm.tokenizer.eos_token_id
    if not (more := [i for i in stops.listed(lm.tokenizer) if i != first]):
        return None
    said = {"bos_token_id": lm.tokenizer.bos_token_id, "eos_token_id": more if first is None else [first, *more]}
    return (json.dumps(said | {"pad_token_id": lm.tokenizer.pad_token_id}, indent=2) + "\n").encode()


def save_tokenizer(tokenizer, folder: pathlib.Path) -> None:
    """Write a tokenizer's files, for older readers too: `transformers` before version 5, and what goes by its files.

    Version 5 has names of its own for the class of a tokenizer.json, and for the special tokens beside the usual ones.
    """
    import transformers

    source = tokenizer.name_or_path and pathlib.Path(tokenizer.name_or_path) / TOKENIZER_CONFIG
    named = textfiles.json_object(source).get("tokenizer_class") if source and source.is_file() else None
    written = {pathlib.Path(path).name for path in tokenizer.save_pretrained(folder)}
    if folder.resolve() != pathlib.Path(tokenizer.name_or_path).resolve():
        for stale in TOKENIZER_FILES - written:  # of another tokenizer that was here before
            (folder / stale).unlink(missing_ok=True)
    said = textfiles.json_object(folder / TOKENIZER_CONFIG)
    if said.get("tokenizer_class") == BACKEND:
        known = isinstance(named, str) and named != BACKEND and hasattr(transformers, named)
        said["tokenizer_class"] = named if known else "PreTrainedTokenizerFast"
    if isinstance(said.get("extra_special_tokens"), list):
        said["additional_special_tokens"] = said.pop("extra_special_tokens")
    if isinstance(said.get("model_specific_special_tokens"), dict):
        said["extra_special_tokens"] = said.pop("model_specific_special_tokens")
    text = json.dumps(said, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / TOKENIZER_CONFIG).write_text(text, encoding="utf-8")


def write(folder: pathlib.Path, config: dict, sizes: dict[str, int], made, shard_bytes: int = 0) -> None:
    """Write config.json and, in shards, the tensors of `made` (name, array), whose bytes by name are `sizes`."""
    index, count, filled = {}, 1, 0
    for name, size in sizes.items():
        if filled and filled + size > (shard_bytes or SHARD_BYTES):
            count, filled = count + 1, 0
        index[name], filled = count, filled + size
    files = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    files = files if count > 1 else ["model.safetensors"]
    mine = {*files, hf.INDEX} if count > 1 else set(files)
    if others := sorted({p.name for p in folder.glob("*.safetensors*")} - mine):
        raise InputError(
            f"{folder}: already holds {others[0]}, which would be read as part of this model; use another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shard, left = {}, collections.Counter(index.values())
    for name, array in made:
        shard[name] = np.ascontiguousarray(array)
        left[index[name]] -= 1
        if not left[index[name]]:
            save_file(shard, folder / files[index[name] - 1], {"format": "pt"})
            shard = {}
    if count > 1:
        where = {name: files[i - 1] for name, i in index.items()}
        total = {"total_size": sum(sizes.values())}
        (folder / hf.INDEX).write_text(json.dumps({"metadata": total, "weight_map": where}, indent=1))


def write_random(folder: pathlib.Path, spec: Spec, tokenizer, dtype: str, shard_bytes: int = 1 << 30) -> int:
    """A checkpoint of random numbers in the shape of `spec`, never held whole, to measure reading with: its bytes."""
    kind = np.dtype(dtype)
    numbers = np.random.default_rng(0).standard_normal(1 << 20, np.float32).astype(kind)
    flat, shapes = lora.flat(decoder.structure(spec, None, dtype)[1]), {}
    for t in hf.family_of(spec).tensors(spec, ()):
        places = hf.places(spec, t)
        shape = hf.raw_shape(t, flat[t.path].shape[len(places[0]) :])
        shapes |= {hf.stored(t, at)[0]: shape for at in places}
    sizes = {name: math.prod(shape) * kind.itemsize for name, shape in shapes.items()}
    made = ((name, np.resize(numbers, shape)) for name, shape in shapes.items())
    write(folder, qwen3_config(spec, tokenizer, dtype), sizes, made, shard_bytes)
    return sum(sizes.values())
