"""Hugging Face folders, read strictly: every tensor is accounted for, or loading fails with one line."""

import contextlib
import dataclasses
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open

from welfare_jax.errors import InputError
from welfare_jax.models import decoder
from welfare_jax.models.families import gemma3, qwen3
from welfare_jax.models.spec import Spec

FAMILIES = (qwen3, gemma3)
INDEX = "model.safetensors.index.json"
TINY = pathlib.Path(__file__).parents[1] / "tiny_base"  # the small decoder that ships with the package
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")


@dataclasses.dataclass
class LM:
    """A loaded model: pure parts plus its tokenizer; `wj.forward(lm.graphdef, lm.params, ...)` runs it.

    `path` is the folder that it was read from, wherever the hub's cache may have put it.
    """

    graphdef: object
    params: dict
    spec: Spec
    tokenizer: object
    path: str


def resolve(path_or_repo: str) -> pathlib.Path:
    """A local folder as it is; "tiny" is the package's own; a hub name through `huggingface_hub` or its cache."""
    if path_or_repo == "tiny":
        return TINY
    folder = pathlib.Path(path_or_repo).expanduser()
    if (folder / "config.json").is_file():
        return folder
    advice = "pass a folder with config.json and *.safetensors (--config.model.path=DIR)"
    if folder.exists() or path_or_repo.startswith((".", "/", "~")) or path_or_repo.count("/") != 1:
        reason = "has no config.json" if folder.is_dir() else "does not exist"
        raise InputError(f"model {path_or_repo}: {reason}; {advice}")
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "*.txt"]
    for offline in (False, True):
        try:
            return pathlib.Path(snapshot_download(path_or_repo, allow_patterns=patterns, local_files_only=offline))
        except Exception as error:  # the hub raises a dozen kinds: no network, gated, unknown name
            cause = type(error).__name__
    raise InputError(
        f"model {path_or_repo}: not in the local hub cache and not downloadable ({cause}); "
        f"log in with `hf auth login` where the model is gated, or {advice}"
    )


def read_config(folder: pathlib.Path) -> tuple[Spec, object]:
    """(spec, family module) of a folder's config.json, class defaults filled in by `transformers`."""
    where = str(folder / "config.json")
    try:
        raw = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: not readable as JSON ({error})") from None
    kind = raw.get("model_type") if isinstance(raw, dict) else None
    family = next((f for f in FAMILIES if kind in f.MODEL_TYPES), None)
    if family is None:
        known = ", ".join(t for f in FAMILIES for t in f.MODEL_TYPES)
        raise InputError(f"{where}: model_type={kind!r} is not supported (known: {known})")
    from transformers import AutoConfig

    try:
        full = AutoConfig.from_pretrained(folder).to_dict()
    except Exception as error:  # whatever transformers finds wrong, over several lines
        raise InputError(f"{where}: transformers refuses it ({' '.join(str(error).split())[:300]})") from None
    # Class defaults come from transformers; whatever the file itself says must be understood here.
    nested = "text_config" in full
    base = dict(full["text_config"]) if nested else full
    base.update({k: v for k, v in (raw.get("text_config", {}) if nested else raw).items() if k not in base})
    if nested:  # the head belongs to the outer model; what the inner config says of tying is not used
        base["tie_word_embeddings"] = full.get("tie_word_embeddings", True)
    return family.spec(base, where), family


def files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Tensor name -> file, from the index where there is one."""
    index = folder / INDEX
    if index.is_file():
        try:
            shards = dict(json.loads(index.read_text())["weight_map"])
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{index}: not a JSON object with a weight_map; download it again") from None
        for name in set(shards.values()):
            if pathlib.PurePath(name).name != name:
                raise InputError(f"{index}: shard {name!r} points outside its folder")
            if not (folder / name).is_file():
                raise InputError(f"{index}: shard {name} is missing; download it again")
    else:
        shards, seen = {}, sorted(folder.glob("*.safetensors"))
        if not seen:
            raise InputError(f"{folder}: no *.safetensors file; this package reads no other weight format")
        for path in seen:
            with _open(path) as f:
                for name in f.keys():
                    if name in shards:
                        raise InputError(f"{path}: tensor {name} is also in {shards[name]}")
                    shards[name] = path.name
    return {name: folder / shard for name, shard in shards.items()}


@contextlib.contextmanager
def _open(path):
    try:
        with safe_open(path, "numpy") as f:
            yield f
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: truncated or corrupted ({error}); download or write it again") from None


def plan(spec: Spec, family, names) -> dict[str, tuple[tuple[str, ...], bool]]:
    """Parameter path -> (checkpoint names, one a layer if stacked; transpose?). Refuses unknown and missing names."""
    wanted = {}
    for t in family.tensors(spec, names):
        layers = range(spec.layers) if "{i}" in t.name else [None]
        wanted[t.path] = (tuple(t.name.format(i=i) for i in layers), t.transpose)
    needed = [n for group, _ in wanted.values() for n in group]
    missing = [n for n in needed if n not in names]
    if missing:
        raise InputError(f"checkpoint: {len(missing)} tensors are missing, first {missing[0]}")
    ignored = family.IGNORED + ((r"(.*\.)?lm_head\.weight",) if spec.tied else ())
    unknown = sorted(n for n in set(names) - set(needed) if not any(re.fullmatch(p, n) for p in ignored))
    if unknown:
        raise InputError(f"checkpoint: {len(unknown)} unknown tensors, first {unknown[0]}")
    return wanted


def _read(name, path, transpose, shape, dtype, opened):
    if path not in opened:
        opened[path] = opened["stack"].enter_context(_open(path))
    try:
        tensor = opened[path].get_tensor(name)
    except SafetensorError as error:
        raise InputError(f"{path}: tensor {name} cannot be read ({error}); download the folder again") from None
    if tensor.dtype.kind not in "fV" and tensor.dtype.name != "bfloat16":
        raise InputError(f"{path}: {name} has type {tensor.dtype}, need a float type")
    tensor = tensor.T if transpose else tensor
    if tensor.shape != shape:
        raise InputError(f"{path}: {name} has shape {tensor.shape}, config.json asks for {shape}")
    return tensor.astype(dtype)


def load_params(folder: pathlib.Path, dtype="float32", place=None):
    """(graphdef, params, spec): streams one parameter at a time; `place(path, array)` puts it on devices."""
    spec, family = read_config(folder)
    where = files(folder)
    graphdef, shapes = decoder.structure(spec, None, dtype)
    flat = traverse_util.flatten_dict(shapes, sep="/")
    wanted = plan(spec, family, where)
    place = place or (lambda path, a: jnp.asarray(a))
    params = {}
    with contextlib.ExitStack() as stack:
        opened = {"stack": stack}
        for path, (names, transpose) in wanted.items():
            shape, np_dtype = flat[path].shape, flat[path].dtype
            if path.startswith("blocks/"):
                array = np.empty(shape, np_dtype)
                for i, name in enumerate(names):
                    array[i] = _read(name, where[name], transpose, shape[1:], np_dtype, opened)
            else:
                array = _read(names[0], where[names[0]], transpose, shape, np_dtype, opened)
            params[path] = place(path, array)
    return graphdef, traverse_util.unflatten_dict(params, sep="/"), spec


def load_tokenizer(folder: pathlib.Path):
    """The folder's tokenizer, never running code from it."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()  # its advice on options that we do not use
    if not any((folder / name).is_file() for name in VOCABULARIES):  # transformers would make an empty one up
        raise InputError(f"{folder}: no tokenizer ({' or '.join(VOCABULARIES)}); download the whole folder")
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{folder}: no usable tokenizer ({first[:120]})") from None


def load(path_or_repo, dtype="float32", mesh=None) -> LM:
    """Load open weights from a Hugging Face folder or hub name.

    dtype: "float32" or "bfloat16"; mesh: a `jax.sharding.Mesh` to spread the parameters over. Returns an `LM` with
    `.graphdef`, `.params`, `.spec`, `.tokenizer`. Raises `InputError` in one line on anything it cannot account for.
    """
    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"dtype={dtype!r}: use 'float32' or 'bfloat16'")
    folder = resolve(str(path_or_repo))
    place = None
    if mesh is not None:
        from welfare_jax.mesh import sharding

        def place(path, array):
            return jax.device_put(array, sharding(mesh, path, array.shape))

    graphdef, params, spec = load_params(folder, dtype, place)
    return LM(graphdef, params, spec, load_tokenizer(folder), str(folder))
