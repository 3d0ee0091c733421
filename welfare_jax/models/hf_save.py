"""Write a model back as a Hugging Face folder: the key map of its family, read in the other direction."""

import json
import pathlib

import numpy as np
from flax import traverse_util
from safetensors.numpy import save_file

from welfare_jax.errors import InputError
from welfare_jax.models import hf, lora
from welfare_jax.models.spec import Spec

SHARD_BYTES = 5 << 30


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


def tensors(params: dict, spec: Spec, family) -> dict[str, np.ndarray]:
    """Checkpoint tensors by name, layers unstacked and linear weights turned back to [out, in]."""
    flat = traverse_util.flatten_dict(params, sep="/")
    out = {}
    for t in family.tensors(spec, ()):
        array = np.asarray(flat[t.path])
        rows = enumerate(array) if "{i}" in t.name else [(0, array)]
        for i, a in rows:
            out[t.name.format(i=i)] = np.ascontiguousarray(a.T if t.transpose else a)
    return out


def save_hf(lm: hf.LM, folder, dtype: str | None = None) -> pathlib.Path:
    """Write config, tokenizer and safetensors shards that `transformers` loads; adapters are merged first.

    dtype: "float32" or "bfloat16", by default that of the parameters. Returns the folder.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _, params = lora.merge(lm.graphdef, lm.params)
    dtype = dtype or params["embed"].dtype.name
    source = pathlib.Path(lm.path) / "config.json"
    config = json.loads(source.read_text()) if source.is_file() else qwen3_config(lm.spec, lm.tokenizer, dtype)
    if "text_config" in config:
        raise InputError(f"{lm.path}: writing a multimodal folder back is not supported yet")
    config["torch_dtype"] = dtype
    config.pop("dtype", None)
    family = next(f for f in hf.FAMILIES if config["model_type"] in f.MODEL_TYPES)
    import ml_dtypes

    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32
    shards, size = [{}], 0
    for name, array in tensors(params, lm.spec, family).items():
        array = array.astype(kind)
        if size + array.nbytes > SHARD_BYTES and shards[-1]:
            shards, size = [*shards, {}], 0
        shards[-1][name] = array
        size += array.nbytes
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    names = names if len(shards) > 1 else ["model.safetensors"]
    mine = {*names, hf.INDEX} if len(shards) > 1 else set(names)
    if others := sorted({p.name for p in folder.glob("*.safetensors*")} - mine):
        raise InputError(
            f"{folder}: already holds {others[0]}, which would be read as part of this model; use another folder"
        )
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    lm.tokenizer.save_pretrained(folder)
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, folder / name, {"format": "pt"})
    if len(shards) == 1:
        return folder
    index = {k: name for name, shard in zip(names, shards, strict=True) for k in shard}
    total = sum(a.nbytes for shard in shards for a in shard.values())
    (folder / hf.INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=1))
    return folder
