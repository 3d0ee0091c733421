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

from welfare_jax import textfiles
from welfare_jax.errors import InputError
from welfare_jax.models import checks, decoder, hf, lora, tensor_files
from welfare_jax.models.layers import Lora

CONFIG, WEIGHTS, BLOCKS = "adapter_config.json", "adapter_model.safetensors", "welfare_jax.blocks"
# Settings of adapter_config.json that are read here, and those that change no output.
READ = {
    "peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "init_lora_weights",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
}  # fmt: skip
INERT = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout", "peft_version", "megatron_core",
    "qalora_group_size", "revision", "task_type", "runtime_config", "ensure_weight_tying", "ephemeral_gpu_offload",
    "fan_in_fan_out", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
}  # fmt: skip
# Beginnings of an adapter that leave the weights under it alone. The others change those again at every load.
BEGINNINGS = (None, True, False, "gaussian", "orthogonal", "eva", "mica")


def _modules(lm) -> dict[str, list]:
    """Checkpoint module of a layer ("self_attn.q_proj") -> the `Tensor`s of the kernels in it."""
    out = {}
    for t in hf.family_of(lm.spec).tensors(lm.spec, ()):
        if t.path.startswith("blocks/") and t.path.endswith("/kernel"):
            out.setdefault(t.name.split(".{i}.", 1)[1].removesuffix(".weight"), []).append(t)
    return out


def _linear(module: str) -> bool:
    """Whether PEFT finds a linear layer there: experts are bare tensors, and a router is a module of its own kind."""
    return module.endswith("_proj") and "experts" not in module


def _prefix(lm) -> str:
    """What stands before a layer's number in the full name of a module, which PEFT matches its patterns against."""
    inside = "text_config" in hf.raw_config(pathlib.Path(lm.path))
    return "model.language_model.layers." if inside else "model.layers."


def save_peft(lm: hf.LM, folder, base: str = "") -> pathlib.Path:
    """Write the LoRA adapters of `lm` as a folder that `peft.PeftModel.from_pretrained(base, folder)` loads.

    base: the name by which the folder is to know the model under the adapters; empty: the path it was loaded from.
    Raises `InputError` where there are none, or where PEFT has no form for them (experts, routers).
    """
    _, adapters = decoder.static(lm.graphdef)
    if adapters is None:
        raise InputError("save_peft: the model has no LoRA adapters")
    flat = lora.flat(lm.params)
    tensors, ranks, alphas, blocks = {}, {}, {}, {}
    prefix = _prefix(lm)
    for module, kernels in _modules(lm).items():
        paths = [t.path.removesuffix("kernel") for t in kernels]
        pieces = [(t, p) for t, p in zip(kernels, paths, strict=True) if p + "lora_a" in flat]
        if not pieces:
            continue
        if not _linear(module):
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
            tensors[f"base_model.model.{prefix}{i}.{module}.lora_A.weight"] = np.ascontiguousarray(a)
            tensors[f"base_model.model.{prefix}{i}.{module}.lora_B.weight"] = b
    names = sorted({key.split(".lora_")[0].rsplit(".", 1)[-1] for key in tensors})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base or str(lm.path),
        "r": adapters.rank, "lora_alpha": adapters.alpha, "rank_pattern": ranks, "alpha_pattern": alphas,
        "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "use_rslora": False, "inference_mode": True,
        "target_modules": rf".*language_model.*\.({'|'.join(names)})" if "language_model" in prefix else names,
    }  # fmt: skip
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, {"format": "pt", BLOCKS: json.dumps(blocks)})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    return folder


def load_peft(lm: hf.LM, folder) -> hf.LM:
    """`lm` with the LoRA adapters of a PEFT folder, kept apart from the weights (`lora.merge` folds them in).

    Adapters of several ranks are padded to the largest; layers without one get zeros. Raises `InputError` on any
    setting or tensor that this package cannot represent, and where PEFT would make an adapter that the file lacks.
    """
    folder = pathlib.Path(folder)
    if decoder.static(lm.graphdef)[1] is not None:
        raise InputError(f"{folder}: the model already has adapters; load them on the plain model")
    modules, prefix = {m: kernels for m, kernels in _modules(lm).items() if _linear(m)}, _prefix(lm)
    places = {f"{prefix}{i}.{module}": (module, i) for module in modules for i in range(lm.spec.layers)}
    settings = _settings(folder / CONFIG, places)
    pairs, blocks = _pairs(folder / WEIGHTS, prefix, places, settings)
    kernels, factors = lora.flat(lm.params), {}
    for name, pair in pairs.items():  # factors: parameter path -> layer -> (A [D, r], B [r, O], alpha / r)
        (module, layer), (rank, scale) = places[name], settings[name]
        first = modules[module][0]
        wide, high = kernels[first.path].shape[-2:]
        for x, want in (("A", (rank, wide)), ("B", (first.part.total if first.part else high, rank))):
            if pair[x].shape != want:
                raise InputError(
                    f"{folder / WEIGHTS}: {first.path.removesuffix('kernel')}lora_{x.lower()} is {pair[x].shape} in "
                    f"layer {layer}; the model, and rank {rank} by {CONFIG}, need {want}"
                )
            tensor_files.check(pair[x], want)
        a, b = (tensor_files.read(pair[x]).astype(np.float32) for x in "AB")
        named = blocks.get(module)
        pieces = list(_pieces(modules[module], named, rank))
        if named is not None and (len(pieces) != len(named) or not named or rank % len(named)):
            raise InputError(
                f"{folder / WEIGHTS}: its metadata {BLOCKS} does not fit {module}; write the adapter again"
            )
        for t, ranks, rows in pieces:
            path = t.path.removesuffix("/kernel")
            factors.setdefault(path, {})[layer] = a[ranks].T, b[rows, ranks].T, scale
    every = [piece for layers in factors.values() for piece in layers.values()]
    rank, scale = max(a.shape[1] for a, _, _ in every), next((s for _, _, s in every if s), 1.0)
    targets = "|".join(re.escape(p.removeprefix("blocks/")) for p in factors)
    graphdef, params = lora.attach(lm.graphdef, lm.params, Lora(rank, scale * rank, targets), jax.random.key(0))
    flat = lora.flat(params)
    for path, layers in factors.items():
        down, up = (np.zeros(flat[f"{path}/{name}"].shape, np.float32) for name in ("lora_a", "lora_b"))
        for i, (a, b, s) in layers.items():
            down[i, :, : len(b)], up[i, : len(b)] = a, b * (s / scale)
        flat |= {f"{path}/lora_a": jnp.asarray(down), f"{path}/lora_b": jnp.asarray(up)}
    return dataclasses.replace(lm, graphdef=graphdef, params=traverse_util.unflatten_dict(flat, sep="/"))


def _settings(file: pathlib.Path, names) -> dict[str, tuple[int, float]]:
    """{full name: (rank, alpha / r)} of the modules among `names` that PEFT puts an adapter on."""
    config = textfiles.json_object(file)
    if (kind := config.get("peft_type")) != "LORA":
        raise InputError(f"{file}: peft_type={checks.short(kind)} is not supported (only 'LORA')")
    for name, value in sorted(config.items()):
        if name not in READ | INERT and value and not (name == "bias" and value == "none"):
            raise InputError(f"{file}: {name}={checks.short(value)} is not supported")
    if isinstance(config.get("target_modules"), str):
        for name in ("layers_to_transform", "layers_pattern"):
            if config.get(name) is not None:
                raise InputError(f"{file}: {name} beside target_modules that are one pattern, which PEFT refuses")
    if (begun := config.get("init_lora_weights", True)) not in BEGINNINGS:
        raise InputError(
            f"{file}: init_lora_weights={checks.short(begun)} changes the weights under the adapter; save it again by "
            f"PEFT with path_initial_model_for_weight_conversion, or merge it there and load the whole model"
        )
    try:
        return {name: _scale(config, name) for name in names if _targeted(config, name)}
    except (TypeError, ValueError, AttributeError, ArithmeticError, re.error) as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"{file}: a rank, an alpha, a pattern or a list of modules is none ({why})") from None


def _scale(config, name: str) -> tuple[int, float]:
    """(rank, alpha / r) of a module by its full name: of the first pattern that matches it or the end of it."""

    def of(setting, patterns):
        given = (config.get(patterns) or {}).items()
        return next((v for k, v in given if re.match(rf"(.*\.)?({k})$", name)), config.get(setting, 8))

    rank = checks.whole(of("r", "rank_pattern"), f"{name}: rank")
    alpha = checks.number(of("lora_alpha", "alpha_pattern"), f"{name}: alpha")
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _targeted(config, name: str) -> bool:
    """Whether PEFT adapts the module of this full name."""
    targets, only = config.get("target_modules"), config.get("layers_to_transform")
    if _named(config.get("exclude_modules") or [], name):
        return False
    if targets == "all-linear" or not _named(targets, name):
        return targets == "all-linear"
    if isinstance(targets, str) or name in targets or only is None or only == []:
        return True
    lists = config.get("layers_pattern") or [r"[^.]*"]  # names of a model's lists of layers, here always `layers`
    lists = [lists] if isinstance(lists, str) else lists
    layer = next((m[1] for p in lists if (m := re.match(rf"(?:.*?\.)?(?:{p})\.(\d+)\.", name))), None)
    return layer is not None and int(layer) in ([only] if isinstance(only, int) else only)


def _named(patterns, name: str) -> bool:
    """By one pattern for the whole name, or by a list of whole names and of ends of names."""
    if isinstance(patterns, str):
        return re.fullmatch(patterns, name) is not None
    return any(name == p or name.endswith(f".{p}") for p in patterns)


def _pairs(file, prefix, places, settings):
    """({full name: {"A": ..., "B": ...}}, blocks): every tensor has its place and every place its tensor."""
    pairs = {}
    for tensor, source in tensor_files.sources(file).items():
        match = re.fullmatch(
            r"(?:base_model\.)?(?:model\.|language_model\.)*layers\.(\d+\..+)\.lora_([AB])(?:\.default)?\.weight",
            tensor,
        )
        name = prefix + match[1] if match else ""
        if match is None or name not in places:
            raise InputError(f"{file}: {tensor} fits no linear layer of this model")
        if name not in settings:
            raise InputError(f"{file}: {tensor} is on a layer that the target_modules of {CONFIG} leave out")
        if match[2] in (pair := pairs.setdefault(name, {})):
            raise InputError(f"{file}: {tensor} is there twice, also as {pair[match[2]].name}")
        pair[match[2]] = source
    if not pairs:
        raise InputError(f"{file}: holds no adapters")
    for name in settings:
        if set(pairs.get(name, ())) != {"A", "B"}:
            module, layer = places[name]
            raise InputError(f"{file}: layer {layer} lacks {module}, which {CONFIG} names, or a half of it")
    with safe_open(file, "numpy") as f:
        text = (f.metadata() or {}).get(BLOCKS, "{}")
    try:
        return pairs, {module: [*map(str, paths)] for module, paths in json.loads(text).items()}
    except (ValueError, AttributeError, TypeError):
        raise InputError(f"{file}: its metadata {BLOCKS} is broken; write the adapter again") from None


def _pieces(kernels, named, rank: int):
    """(parameter, its ranks, its rows) for each parameter in an adapter on one tensor of the checkpoint.

    named: the parameters' paths, where this package wrote their adapters as blocks.
    """
    each = rank // len(named or [0])
    for t in kernels:
        rows = slice(t.part.start, t.part.stop) if t.part else slice(None)
        if named is None:
            yield t, slice(None), rows
        elif t.path in named:
            at = named.index(t.path) * each
            yield t, slice(at, at + each), rows
