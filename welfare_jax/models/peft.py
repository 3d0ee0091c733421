"""LoRA adapters as PEFT folders, out and in. D in, O out, r rank.

Where a checkpoint fuses what this package adapts apart (qkv_proj, gate_up_proj), n adapters of rank r become one of
rank n * r: their A below one another, their B in blocks on the diagonal, alpha scaled along, so that the product is
the same. The file's metadata names the blocks, and reading takes them apart again.
"""

import dataclasses
import json
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import safe_open
from safetensors.numpy import save_file

from welfare_jax.errors import InputError
from welfare_jax.models import decoder, hf, lora, stream
from welfare_jax.models.layers import Lora

CONFIG, WEIGHTS, BLOCKS = "adapter_config.json", "adapter_model.safetensors", "welfare_jax.blocks"
# Settings of adapter_config.json that are read here, and those that change no output.
READ = {"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"}
INERT = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "init_lora_weights", "lora_dropout", "peft_version",
    "megatron_core", "qalora_group_size", "revision", "target_modules", "task_type", "layers_to_transform",
    "layers_pattern", "exclude_modules", "runtime_config", "ensure_weight_tying", "ephemeral_gpu_offload",
}  # fmt: skip


def _modules(lm) -> dict[str, list]:
    """Checkpoint module of a layer ("self_attn.q_proj") -> the `Tensor`s of the kernels in it."""
    out = {}
    for t in hf.family_of(lm.spec).tensors(lm.spec, ()):
        if t.path.startswith("blocks/") and t.path.endswith("/kernel"):
            out.setdefault(t.name.split(".{i}.", 1)[1].removesuffix(".weight"), []).append(t)
    return out


def save_peft(lm: hf.LM, folder) -> pathlib.Path:
    """Write the LoRA adapters of `lm` as a folder that `peft.PeftModel.from_pretrained(base, folder)` loads.

    Raises `InputError` where there are none, or where PEFT has no form for them (experts, routers).
    """
    _, adapters = decoder.static(lm.graphdef)
    if adapters is None:
        raise InputError("save_peft: the model has no LoRA adapters")
    flat = traverse_util.flatten_dict(lm.params, sep="/")
    tensors, ranks, alphas, blocks = {}, {}, {}, {}
    multimodal = "text_config" in hf.raw_config(pathlib.Path(lm.path))
    prefix = "base_model.model.model." + ("language_model." if multimodal else "") + "layers."
    for module, kernels in _modules(lm).items():
        paths = [t.path.removesuffix("kernel") for t in kernels]
        pieces = [(t, p) for t, p in zip(kernels, paths, strict=True) if p + "lora_a" in flat]
        if not pieces:
            continue
        if not module.endswith("_proj") or "experts" in module:
            raise InputError(
                f"save_peft: {pieces[0][1]}lora_a: PEFT has no such adapter on {module}; train with "
                "lora.targets='attn/.*', or write merged weights with wj.save_hf"
            )
        name, n = module.rsplit(".", 1)[-1], len(pieces)
        if n > 1:
            ranks[name], alphas[name] = n * adapters.rank, n * adapters.alpha
        if kernels[0].part:
            blocks[module] = [t.path for t, _ in pieces]
        host = [(t, np.asarray(flat[p + "lora_a"]), np.asarray(flat[p + "lora_b"])) for t, p in pieces]
        for i in range(lm.spec.layers):
            a = np.concatenate([a[i].T for _, a, _ in host])
            rows = kernels[0].part.total if kernels[0].part else host[0][2].shape[-1]
            b = np.zeros((rows, len(a)), np.float32)
            for k, (t, _, piece) in enumerate(host):
                to = slice(t.part.start, t.part.stop) if t.part else slice(None)
                b[to, k * adapters.rank : (k + 1) * adapters.rank] = piece[i].T
            tensors[f"{prefix}{i}.{module}.lora_A.weight"] = np.ascontiguousarray(a)
            tensors[f"{prefix}{i}.{module}.lora_B.weight"] = b
    names = sorted({key.split(".lora_")[0].rsplit(".", 1)[-1] for key in tensors})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(lm.path), "r": adapters.rank,
        "lora_alpha": adapters.alpha, "rank_pattern": ranks, "alpha_pattern": alphas, "lora_dropout": 0.0,
        "bias": "none", "fan_in_fan_out": False, "use_rslora": False, "inference_mode": True,
        "target_modules": rf".*language_model.*\.({'|'.join(names)})" if multimodal else names,
    }  # fmt: skip
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, {"format": "pt", BLOCKS: json.dumps(blocks)})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    return folder


def load_peft(lm: hf.LM, folder) -> hf.LM:
    """`lm` with the LoRA adapters of a PEFT folder, kept apart from the weights (`lora.merge` folds them in).

    Adapters of several ranks are padded to the largest. Raises `InputError` on any setting or tensor that this package
    cannot represent.
    """
    folder = pathlib.Path(folder)
    if decoder.static(lm.graphdef)[1] is not None:
        raise InputError(f"{folder}: the model already has adapters; load them on the plain model")
    config = _config(folder)
    with_modules = _modules(lm)
    found = _pairs(folder, lm.spec, with_modules)
    with safe_open(folder / WEIGHTS, "numpy") as f:
        blocks = json.loads((f.metadata() or {}).get(BLOCKS, "{}"))
    factors, scales = {}, {}  # parameter path -> [(A [L, D, r], B [L, r, O])]
    for module, layers in found.items():
        a, b = (np.stack([stream.read(pair[x]).astype(np.float32) for pair in layers]) for x in "AB")
        scale = _scale(config, module, a.shape[1])
        rank = a.shape[1] // len(blocks.get(module, [0]))
        for t in with_modules[module]:
            mine, rows = slice(None), slice(t.part.start, t.part.stop) if t.part else slice(None)
            if module in blocks:
                if t.path not in blocks[module]:
                    continue
                at = blocks[module].index(t.path) * rank
                mine = slice(at, at + rank)
            path = t.path.removesuffix("/kernel")
            factors[path] = a[:, mine].swapaxes(1, 2), b[:, rows, mine].swapaxes(1, 2)
            scales[path] = scale
    rank, scale = max(a.shape[-1] for a, _ in factors.values()), next(iter(scales.values()))
    targets = "|".join(re.escape(p.removeprefix("blocks/")) for p in factors)
    graphdef, params = lora.attach(lm.graphdef, lm.params, Lora(rank, scale * rank, targets), jax.random.key(0))
    flat = traverse_util.flatten_dict(params, sep="/")
    for path, (a, b) in factors.items():
        more = rank - a.shape[-1]
        for name, x in (("lora_a", np.pad(a, ((0, 0), (0, 0), (0, more)))),
                        ("lora_b", np.pad(b * (scales[path] / scale), ((0, 0), (0, more), (0, 0))))):  # fmt: skip
            want = flat[f"{path}/{name}"].shape
            if x.shape != want:
                raise InputError(f"{folder / WEIGHTS}: {path}/{name} is {x.shape}, the model needs {want}")
            flat[f"{path}/{name}"] = jnp.asarray(x)
    return dataclasses.replace(lm, graphdef=graphdef, params=traverse_util.unflatten_dict(flat, sep="/"))


def _config(folder) -> dict:
    try:
        config = json.loads((folder / CONFIG).read_text())
        kind = config.get("peft_type")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{folder / CONFIG}: not readable as a JSON object ({error})") from None
    if kind != "LORA":
        raise InputError(f"{folder / CONFIG}: peft_type={kind!r} is not supported (only 'LORA')")
    for name, value in sorted(config.items()):
        if name not in READ | INERT and value and not (name == "bias" and value == "none"):
            raise InputError(f"{folder / CONFIG}: {name}={value!r} is not supported")
    return config


def _pairs(folder, spec, modules) -> dict[str, list[dict[str, stream.Source]]]:
    """Module -> per layer its {"A": ..., "B": ...}: every tensor has its place and every place its tensor."""
    out = {}
    for name, source in stream.sources(folder / WEIGHTS).items():
        match = re.fullmatch(r"(?!.*vision).*\blayers\.(\d+)\.(.+)\.lora_([AB])(?:\.default)?\.weight", name)
        if not match or match[2] not in modules or int(match[1]) >= spec.layers:
            raise InputError(f"{folder / WEIGHTS}: {name} fits no linear layer of this model")
        out.setdefault(match[2], [{} for _ in range(spec.layers)])[int(match[1])][match[3]] = source
    for module, layers in out.items():
        for i, pair in enumerate(layers):
            if set(pair) != {"A", "B"} or any(pair[x].shape != layers[0][x].shape for x in "AB"):
                raise InputError(f"{folder / WEIGHTS}: layer {i} lacks {module}, or has it with another rank")
            a, b = pair["A"], pair["B"]
            if a.shape[0] != b.shape[-1]:
                raise InputError(f"{a.file}: {a.name} is {a.shape} and its B {b.shape}: the ranks differ")
    if not out:
        raise InputError(f"{folder / WEIGHTS}: holds no adapters")
    return out


def _scale(config, module, rank) -> float:
    """alpha / r of a module, as PEFT looks it up: the first pattern that ends its name."""
    patterns = config.get("alpha_pattern") or {}
    alpha = next((v for k, v in patterns.items() if re.match(rf"(.*\.)?({k})$", module)), config.get("lora_alpha", 8))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
