"""Hugging Face folders and GGUF files, read strictly: every tensor is accounted for, or loading fails in one line."""

import concurrent.futures
import dataclasses
import itertools
import math
import mmap
import os
import pathlib
import re
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from welfare_jax import textfiles
from welfare_jax.errors import InputError
from welfare_jax.models import checks, decoder, gguf, gguf_tokenizer, hub, stops, tensor_files
from welfare_jax.models.families import FAMILIES
from welfare_jax.models.families.common import Tensor
from welfare_jax.models.spec import Spec

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TINY = pathlib.Path(__file__).parents[1] / "tiny_base"  # the small decoder that ships with the package
PUBLISHED = pathlib.Path(__file__).parent / "published"  # <owner>/<name>/config.json of released models
# Multimodal models of which the decoder is read; which family that is, their text_config says.
MULTIMODAL = ("gemma3", "mistral3")
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")


@dataclasses.dataclass
class LM:
    """A loaded model: pure parts plus its tokenizer; `wj.forward(lm.graphdef, lm.params, ...)` runs it.

    `path` is the folder or GGUF file that it was read from, wherever the hub's cache may have put it. Weights without
    a tokenizer are a model too: asking for `tokenizer` then raises the `InputError` that is kept in its place.
    """

    graphdef: object
    params: dict
    spec: Spec
    tokenizer_or_error: Any
    path: str

    @property
    def tokenizer(self) -> Any:
        if isinstance(self.tokenizer_or_error, InputError):
            raise self.tokenizer_or_error
        return self.tokenizer_or_error

    @tokenizer.setter
    def tokenizer(self, tokenizer):
        self.tokenizer_or_error = tokenizer

    def __repr__(self):
        spec, leaves = self.spec, jax.tree.leaves(self.params)
        size, dtypes = sum(x.size for x in leaves), "/".join(sorted({str(x.dtype) for x in leaves}))
        devices = sorted({d.id: d.device_kind for x in leaves for d in getattr(x, "devices", set)()}.items())
        place = f"{len(devices)} x {devices[0][1]}" if devices else "the host"
        return (
            f"LM {spec.family} from {self.path}\n"
            f"  {size:,} parameters, {dtypes}: {spec.layers} layers of width {spec.width}, {spec.vocab:,} tokens\n"
            f"  on {place}"
        )


def resolve(path_or_repo: str, weights: bool = True, revision: str = "") -> pathlib.Path:
    """A local folder or GGUF file as it is; "tiny" is the package's own; a hub name by `huggingface_hub` or its cache.

    revision: a branch, tag or commit of a hub model; empty: its main branch. A folder without config.json that holds
    one GGUF file stands for that file. Without `weights`, only the small files of a hub folder are fetched; where that
    fails, the architectures in `published/` stand in, which have nothing but a config.json.
    """
    folder = TINY if path_or_repo == "tiny" else pathlib.Path(path_or_repo).expanduser()
    local = folder if (folder / "config.json").is_file() else gguf.find(folder)
    if local and revision:
        raise InputError(
            f"model {path_or_repo}: only hub models have revisions, and this one is on disk; leave out "
            f"model.revision={revision!r}, or name the model as OWNER/NAME"
        )
    if local:
        return local
    advice = "pass a folder with config.json and *.safetensors, or a *.gguf file (--config.model.path=PATH)"
    if folder.exists() or path_or_repo.startswith((".", "/", "~")) or path_or_repo.count("/") != 1:
        reason = "does not exist"
        if folder.exists():
            reason = "has no config.json" if folder.is_dir() else "is not a *.gguf file"
        raise InputError(f"model {path_or_repo}: {reason}; {advice}")
    wanted = {
        "allow_patterns": ["*.json", "*.jinja", "tokenizer.model", "*.txt"] + ["*.safetensors"] * weights,
        "ignore_patterns": ["*/*", "consolidated*"],  # the same weights again, in other programs' formats
        "revision": revision or None,
    }
    found, cause = hub.snapshot(path_or_repo, **wanted)
    if found:
        return found
    if not weights and not revision and (PUBLISHED / path_or_repo / "config.json").is_file():
        return PUBLISHED / path_or_repo
    raise InputError(
        f"model {path_or_repo}{revision and f' at revision {revision!r}'}: not in the local hub cache and not "
        f"downloadable ({cause}); log in with `hf auth login` where the model is gated, or {advice}"
    )


def named(model) -> str:
    """What the settings `path` and `revision` of a model ask for, in a word: OWNER/NAME@REVISION, or a path."""
    return "@".join(filter(None, (model.path or "tiny", model.revision)))


def raw_config(folder: pathlib.Path) -> dict:
    """A folder's config.json as it stands, or what a GGUF file says in its place; empty where there is neither."""
    if file := gguf.find(folder):
        return gguf.config(gguf.read(file))
    where = folder / "config.json"
    return textfiles.json_object(where) if where.is_file() else {}


def read_config(folder: pathlib.Path) -> tuple[Spec, object]:
    """(spec, family module) of a folder's config.json or a GGUF file, class defaults filled in by `transformers`."""
    where = str(gguf.find(folder) or folder / "config.json")
    raw = raw_config(folder)
    kind, families = raw.get("model_type"), {t: f for f in FAMILIES for t in f.MODEL_TYPES}
    nested = kind in MULTIMODAL
    if not nested and str(kind) not in families:
        raise InputError(
            f"{where}: model_type={checks.short(kind)} is not supported (known: {', '.join((*families, *MULTIMODAL))})"
        )
    if nested and not isinstance(raw.get("text_config"), dict):
        raise InputError(f"{where}: model_type={kind!r} without a text_config, which describes its decoder")
    for name in ("num_hidden_layers", "num_labels"):  # transformers makes lists of so many
        for said in (raw, raw["text_config"] if nested else {}):
            if isinstance(said.get(name), int):
                checks.whole(said[name], f"{where}: {name}", 0, checks.MANY)
    from transformers import CONFIG_MAPPING

    try:
        full = CONFIG_MAPPING[str(kind)].from_dict(raw).to_dict()
    except Exception as error:  # whatever transformers finds wrong, over several lines
        raise InputError(f"{where}: transformers refuses it ({' '.join(str(error).split())[:300]})") from None
    # Class defaults come from transformers; whatever the file itself says must be understood here.
    base = dict(full["text_config"]) if nested else full
    base.update({k: v for k, v in (raw["text_config"] if nested else raw).items() if k not in base})
    if nested:  # the head belongs to the outer model; what the inner config says of tying is not used
        base["tie_word_embeddings"] = full.get("tie_word_embeddings", True)
        base["quantization_config"] = raw.get("quantization_config")
    if (family := families.get(base["model_type"])) is None:
        raise InputError(
            f"{where}: text_config has model_type={base['model_type']!r}, which is not supported "
            f"(known: {', '.join(families)})"
        )
    return family.spec(base, where), family


def family_of(spec: Spec):
    """The module in `families/` that a spec was made by."""
    return next(f for f in FAMILIES if f.__name__.endswith("." + spec.family))


def files(folder: pathlib.Path) -> dict[str, tensor_files.Source]:
    """Tensor name -> where it lies, from the index where there is one. Every file's header and length are checked.

    As in `transformers`, model.safetensors goes before an index and before whatever else lies beside it.
    """
    index = folder / INDEX
    if (adapter := folder / "adapter_config.json").is_file():
        raise InputError(
            f"{adapter}: an adapter beside a whole model, which transformers would add to it; move the adapter to a "
            f"folder of its own, and use wj.load_peft for the two together"
        )
    if (folder / SINGLE).is_file():
        return tensor_files.sources(folder / SINGLE)
    if not index.is_file():
        found, seen = {}, sorted(folder.glob("*.safetensors"))
        if not seen:
            other = next(folder.glob("*.gguf"), None)
            advice = f"pass {other} itself" if other else "this package reads no other folders of weights"
            raise InputError(f"{folder}: no *.safetensors file; {advice}")
        for path in seen:
            for name, source in tensor_files.sources(path).items():
                if name in found:
                    raise InputError(f"{path}: tensor {name} is also in {found[name].file.name}")
                found[name] = source
        return found
    shards = textfiles.json_object(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise InputError(f"{index}: its weight_map does not name a file for each tensor; download it again")
    inside = {}
    for shard in sorted(set(shards.values())):
        if pathlib.PurePath(shard).name != shard:
            raise InputError(f"{index}: shard {shard!r} points outside its folder")
        if not os.path.isfile(folder / shard):  # no name is too odd for it
            raise InputError(f"{index}: shard {shard} is missing; download it again")
        inside[shard] = tensor_files.sources(folder / shard)
    for name, shard in shards.items():
        if name not in inside[shard]:
            raise InputError(f"{folder / shard}: tensor {name} is not in it, as {INDEX} says; download it again")
    extra = sorted((name, shard) for shard, names in inside.items() for name in names if shards.get(name) != shard)
    if extra:
        raise InputError(f"{folder / extra[0][1]}: tensor {extra[0][0]} is not placed there by {INDEX}")
    return {name: inside[shard][name] for name, shard in shards.items()}


def renamed(where: dict[str, tensor_files.Source]) -> dict[str, tensor_files.Source]:
    """Tensors by the names that a causal model's checkpoint has for them.

    `AutoModel.save_pretrained` leaves the leading `model.` out, and multimodal models put `language_model.` around.
    """
    out = {}
    for name, source in where.items():
        new = re.sub(r"^(model\.)*language_model\.(model\.)*", "model.", name)
        new = re.sub(r"^(model\.)*(?=(embed_tokens|layers|norm|rotary_emb)\.)", "model.", new)
        new = re.sub(r"^(model\.)*(?=lm_head\.)", "", new)
        if new in out:
            raise InputError(f"{source.file}: tensors {out[new].name} and {name} are both {new}; keep one of them")
        out[new] = source
    return out


def tie(spec: Spec, where: dict[str, tensor_files.Source], dtype: str):
    """(spec, tensors) where the config says that the unembedding is the embedding and the files hold both.

    As in `transformers`, a head that differs in the type that is loaded is a head of its own, an equal one is left
    out, and a head without an embedding stands for it.
    """
    if not spec.tied or HEAD not in where:
        return spec, where
    rest = {name: source for name, source in where.items() if name != HEAD}
    if EMBED not in where:
        return spec, rest | {EMBED: where[HEAD]}
    if tensor_files.equal(where[EMBED], where[HEAD], dtype):
        return spec, rest
    return dataclasses.replace(spec, tied=False), where


def plan(spec: Spec, family, names, where="checkpoint") -> dict[str, Tensor]:
    """Parameter path -> its place in the checkpoint `where`. Refuses unknown and missing names."""
    tensors = family.tensors(spec, names)
    needed = list(dict.fromkeys(n for t in tensors for at in places(spec, t) for n in stored(t, at)))
    missing = [n for n in needed if n not in names]
    if missing:
        raise InputError(f"{where}: {len(missing)} tensors are missing, first {missing[0]}")
    unknown = sorted(n for n in set(names) - set(needed) if not any(re.fullmatch(p, n) for p in family.IGNORED))
    if unknown:
        raise InputError(f"{where}: {len(unknown)} unknown tensors, first {unknown[0]}")
    return {t.path: t for t in tensors}


def places(spec: Spec, t: Tensor) -> list[tuple[int, ...]]:
    """The indices (), (layer,) or (layer, expert) of the pieces of a parameter that a checkpoint keeps apart."""
    axes = [range(n) for mark, n in (("{i}", spec.layers), ("{e}", spec.experts)) if mark in t.name]
    return list(itertools.product(*axes))


def stored(t: Tensor, at: tuple[int, ...]) -> tuple[str, ...]:
    """The names under which a checkpoint keeps a piece of a parameter."""
    name = t.name.format(**dict(zip("ie", at, strict=False)))
    return (f"{name}_blocks", f"{name}_scales") if t.packed else (name,)


def raw_shape(t: Tensor, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in the checkpoint of the tensor that holds a parameter of this shape (of one piece)."""
    sizes = [*shape[:-2], shape[-1], shape[-2]] if t.transpose else list(shape)
    if t.part is not None:
        sizes[t.part.axis] = t.part.total
    return tuple(sizes)


def _check(shape: tuple[int, ...], t: Tensor, where, at: tuple[int, ...]) -> None:
    """That the files hold a piece of a parameter, which has this shape here."""
    found, shape = [where[n] for n in stored(t, at)], raw_shape(t, shape)
    if t.packed:
        experts, n_in, n_out = shape
        tensor_files.check(found[0], (experts, n_out, n_in // 32, 16), ("U8",))
        tensor_files.check(found[1], (experts, n_out, n_in // 32), ("U8",))
    else:
        tensor_files.check(found[0], shape)


def _fill(out, t: Tensor, where, at: tuple[int, ...]) -> None:
    found = [where[n] for n in stored(t, at)]
    if t.packed:
        tensor_files.fill_packed(out, found[0], found[1], t.part)
    else:
        tensor_files.fill(out, found[0], t.transpose, t.part)


def load_params(folder: pathlib.Path, dtype="float32", place=None, attention="plain"):
    """(graphdef, params, spec), one parameter at a time; `place(path, array)` puts it on devices.

    Beside the parameters, the host holds the one that is being read, and a few rows.
    """
    spec, family = read_config(folder)
    spec = dataclasses.replace(spec, attention=attention)
    if file := gguf.find(folder):
        where = gguf.sources(gguf.read(file), spec, family)
    else:
        spec, where = tie(spec, renamed(files(folder)), dtype)
    graphdef, shapes = decoder.structure(spec, None, dtype)
    leaves: dict[str, Any] = traverse_util.flatten_dict(shapes, sep="/")
    place = place or (lambda path, array: jax.device_put(array))
    places_of = {t: places(spec, t) for t in plan(spec, family, where, folder).values()}
    for t, every in places_of.items():  # before memory is taken for what the files do not hold
        for at in every:
            _check(leaves[t.path].shape[len(at) :], t, where, at)
    params = {}
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for t, every in places_of.items():
            array = _pages(leaves[t.path].shape, leaves[t.path].dtype)
            list(pool.map(lambda at, t=t, array=array: _fill(array[at], t, where, at), every))
            params[t.path] = jax.block_until_ready(place(t.path, array))
    return graphdef, traverse_util.unflatten_dict(params, sep="/"), spec


def _pages(shape, dtype):
    """An uninitialised array on pages of its own: a CPU device takes it over as it is, and freed, it is gone."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, max(size, 1)), dtype, math.prod(shape)).reshape(shape)


def has_tokenizer(folder: pathlib.Path) -> bool:
    if file := gguf.find(folder):
        return gguf_tokenizer.TOKENS in gguf.read(file).values
    return any((folder / name).is_file() for name in VOCABULARIES)


def load_tokenizer(folder: pathlib.Path) -> Any:
    """The tokenizer of a folder, never running code from it, or of a GGUF file.

    Its `listed_ends` are what the model's files say an answer ends with, for `stops.stop_ids`.
    """
    if file := gguf.find(folder):
        return gguf_tokenizer.build(gguf.read(file))
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()  # its advice on options that we do not use
    if not has_tokenizer(folder):  # transformers would make an empty one up
        raise InputError(f"{folder}: no tokenizer ({' or '.join(VOCABULARIES)}); download the whole folder")
    for name in VOCABULARIES:
        tensor_files.no_pointer(folder / name)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{folder}: no usable tokenizer ({first[:120]})") from None
    tokenizer.listed_ends = stops.listed_in(folder)
    return tokenizer


def load(path_or_repo, dtype="float32", mesh=None, attention="plain", revision="") -> LM:
    """Load open weights from a Hugging Face folder, a hub name or a GGUF file.

    dtype: "float32" or "bfloat16"; mesh: a `jax.sharding.Mesh` to spread the parameters over; attention: "plain", or
    "xla" or "cudnn" for `jax.nn.dot_product_attention` (families without soft caps and sinks; cuDNN needs a GPU and
    bfloat16); revision: a branch, tag or commit of a hub model. Returns an `LM` with `.graphdef`, `.params`, `.spec`,
    `.tokenizer`. Raises `InputError` in one line on anything it cannot account for.
    """
    dtype = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", str(dtype))  # jnp.bfloat16 too
    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"dtype={dtype!r}: use 'float32' or 'bfloat16'")
    if attention == "cudnn" and (jax.default_backend() != "gpu" or dtype != "bfloat16"):
        raise InputError("attention='cudnn': needs an NVIDIA GPU and dtype='bfloat16'; use 'plain' or 'xla'")
    folder = resolve(str(path_or_repo), revision=revision)
    place = None
    if mesh is not None:
        from welfare_jax import hosts
        from welfare_jax.mesh import sharding

        def place(path, array):
            return hosts.put(array, sharding(mesh, path, array.shape))

    graphdef, params, spec = load_params(folder, dtype, place, attention)
    try:
        tokenizer = load_tokenizer(folder)
        tokenizer.listed_ends = tuple(i for i in tokenizer.listed_ends if i < spec.vocab)
    except InputError as error:
        if has_tokenizer(folder):
            raise  # one that is broken is not one that is not there
        tokenizer = error
    return LM(graphdef, params, spec, tokenizer, str(folder))
