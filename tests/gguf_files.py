"""GGUF files as converters write them, of transformers models and tokenizers; names come from the gguf package."""

import json

import gguf
import numpy as np

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma2": gguf.MODEL_ARCH.GEMMA2, "gemma3_text": gguf.MODEL_ARCH.GEMMA3, "phi3": gguf.MODEL_ARCH.PHI3,
}  # fmt: skip
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def metadata(config) -> dict:
    """What a converter says of the architecture, under the architecture's own prefix."""
    rope = config.rope_parameters
    far = rope.get("full_attention", rope)
    out = {
        "context_length": config.max_position_embeddings, "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers, "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads, "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps), "rope.freq_base": float(far["rope_theta"]),
    }  # fmt: skip
    if head_dim := getattr(config, "head_dim", None):
        out |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    if config.model_type == "llama":
        out |= {"vocab_size": config.vocab_size, "rope.dimension_count": head_dim}
    if far["rope_type"] in ("linear", "yarn"):
        out |= {"rope.scaling.type": far["rope_type"], "rope.scaling.factor": far["factor"]}
        if far["rope_type"] == "yarn":
            out["rope.scaling.original_context_length"] = far["original_max_position_embeddings"]
    if config.model_type == "phi3":
        whole = config.hidden_size // config.num_attention_heads
        out |= {
            "rope.dimension_count": int(whole * far.get("partial_rotary_factor", 1.0)),
            "rope.scaling.original_context_length": config.original_max_position_embeddings,
            "attention.sliding_window": config.sliding_window or 0,
        }
        if far["rope_type"] == "longrope":
            scale = config.max_position_embeddings / config.original_max_position_embeddings
            out["rope.scaling.attn_factor"] = (
                1 + np.log(scale) / np.log(config.original_max_position_embeddings)
            ) ** 0.5
    if config.model_type.startswith("gemma"):
        out["attention.sliding_window"] = config.sliding_window
        for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
            if value := getattr(config, cap):
                out[cap] = float(value)
    return out


def neighbours(array, heads: int):
    """A head's rotary halves as neighbouring pairs: how converters turn the queries and keys of Llama."""
    return array.reshape(heads, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def tensors(model) -> dict:
    """The file's names -> float32 arrays."""
    config = model.config
    names = gguf.get_tensor_name_map(ARCHITECTURES[config.model_type], config.num_hidden_layers)
    out = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        value = value.float().numpy()
        if config.model_type == "llama" and ("q_proj" in name or "k_proj" in name):
            value = neighbours(value, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads)
        if config.model_type.startswith("gemma") and name.endswith("norm.weight"):
            value = value + 1
        out[names.get_name(name, (".weight", ".bias"))] = value
    rope = config.rope_parameters
    if rope.get("rope_type") == "longrope":
        for length in ("long", "short"):
            out[f"rope_factors_{length}.weight"] = np.array(rope[f"{length}_factor"], np.float32)
    if rope.get("rope_type") == "llama3":
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        plain = rope["rope_theta"] ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
        scaled = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0].numpy()
        out["rope_freqs.weight"] = (plain / scaled).astype(np.float32)
    return out


def write(path, model, tokenizer=None, kind="F32", arrays=None, values=None, architecture=None):
    """Write `model` to `path`; matrices in the type `kind`; `arrays` and `values` replace, or with None remove."""
    arch = architecture or gguf.MODEL_ARCH_NAMES[ARCHITECTURES[model.config.model_type]]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name("a small model")
    said = {f"{arch}.{k}": v for k, v in metadata(model.config).items()} | (tokenizer or {}) | (values or {})
    for key, value in said.items():
        _add(writer, key, value)
    for name, value in (tensors(model) | (arrays or {})).items():
        if isinstance(value, tuple):  # (bytes, type) as they are
            writer.add_tensor(name, value[0], raw_dtype=value[1])
        elif value is not None and value.ndim > 1 and kind != "F32":
            kind_ = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(name, gguf.quantize(value, kind_), raw_dtype=kind_)
        elif value is not None:
            writer.add_tensor(name, np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer, key: str, value) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float | np.floating):
        writer.add_float32(key, float(value))
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value is not None:
        writer.add_array(key, value)


def tokenizer_metadata(folder, pre: str, model="gpt2", rows: int = 0) -> dict:
    """A tokenizer.json as a converter writes it; `rows` of the embedding are filled up with unused tokens."""
    whole = json.loads((folder / "tokenizer.json").read_text())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    vocabulary, merges = whole["model"]["vocab"], whole["model"]["merges"]
    added = {t["id"]: t for t in whole["added_tokens"]}
    count = max([*vocabulary.values(), *added]) + 1
    tokens = [f"[PAD{i}]" for i in range(max(count, rows))]
    kinds = [UNUSED] * len(tokens)
    for token, i in vocabulary.items():
        tokens[i], kinds[i] = token, BYTE if model == "llama" and token.startswith("<0x") else NORMAL
    for i, token in added.items():
        tokens[i], kinds[i] = token["content"], CONTROL if token["special"] else USER_DEFINED
    if model == "llama":
        tokens = [t.replace("▁", " ") if k == USER_DEFINED else t for t, k in zip(tokens, kinds)]
    out = {"model": model, "pre": pre, "tokens": tokens, "token_type": kinds}
    if model == "gpt2":
        out["merges"] = [m if isinstance(m, str) else " ".join(m) for m in merges]
    else:
        out |= {"scores": [-1000.0 if k == USER_DEFINED else -float(i) for i, k in enumerate(kinds)]}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token = config.get(f"{name}_token")
        token = token["content"] if isinstance(token, dict) else token
        if token is not None:
            out[f"{key}_token_id"] = tokens.index(token)
    out = {f"tokenizer.ggml.{k}": v for k, v in out.items()}
    template = folder / "chat_template.jinja"
    text = template.read_text() if template.is_file() else config.get("chat_template")
    return out | ({"tokenizer.chat_template": text} if text else {})
