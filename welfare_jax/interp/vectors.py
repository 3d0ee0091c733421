"""Vector files: safetensors whose metadata says what the numbers are and where they act."""

import hashlib
import json
import pathlib

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from welfare_jax.errors import InputError
from welfare_jax.interp import geometry
from welfare_jax.interp.names import Vector
from welfare_jax.models.interventions import HOOKS


def of_classes(sums, counts) -> dict:
    """{"mold/rest": [L, D], ...}: both class vectors against every baseline; sums, counts as from `class_sums`."""
    return {
        Vector(geometry.NAMES[c], b).entry: geometry.difference_in_means(sums, counts, c, b)
        for c in (geometry.MOLD, geometry.GOLD)
        for b in geometry.BASELINES
    }


def data_hash(*arrays) -> str:
    """Short SHA-256 of the tokens that vectors were computed from."""
    digest = hashlib.sha256()
    for a in arrays:
        digest.update(np.ascontiguousarray(a).tobytes())
    return digest.hexdigest()[:16]


def save(
    path, vectors: dict, *, model: str, hook: str, data: str, layers: dict, position="",
    operation="difference in means", more=None,
):  # fmt: skip
    """Write vectors {"mold/rest": [L, D], ...}; `layers` maps a class to its chosen steering layer.

    Metadata: model, hook point, position in a trajectory, classes, baselines, operation, norms per layer, chosen
    layers, data hash, and what else of texts `more` has.
    """
    if hook not in HOOKS:
        raise InputError(f"{path}: hook point {hook!r} is unknown: use one of {', '.join(HOOKS)}")
    arrays = {k: np.ascontiguousarray(np.asarray(v, np.float32)) for k, v in vectors.items()}
    metadata = {
        "model": model, "hook": hook, "operation": operation, "data": data, "position": position,
        "classes": json.dumps(sorted({Vector.of_entry(k).of for k in arrays})),
        "layers": json.dumps(layers),
        "norms": json.dumps({k: np.linalg.norm(v, axis=-1).round(6).tolist() for k, v in arrays.items()}),
        "convention": "row l acts at block l, zero-based", **(more or {}),
    }  # fmt: skip
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, path, metadata)
    return path


def load(path) -> tuple[dict, dict]:
    """(vectors, metadata). Refuses a file that does not say at which known hook point its vectors act."""
    try:
        with safe_open(path, "numpy") as f:
            metadata = dict(f.metadata() or {})
            arrays = {k: f.get_tensor(k) for k in f.keys()}
    except (SafetensorError, OSError, TypeError, ValueError, OverflowError, AttributeError) as error:
        # NumPy knows not all types that such files can hold, and says so in its own way.
        raise InputError(f"{path}: not a readable vector file ({' '.join(str(error).split())[:150]})") from None
    for name, values in arrays.items():
        if values.dtype.kind != "f" or not np.isfinite(values).all():
            raise InputError(f"{path}: {name} must hold finite floating-point numbers, it is {values.dtype}")
    if metadata.get("hook") not in HOOKS:
        raise InputError(f"{path}: hook point {metadata.get('hook')!r} is unknown, so it is not clear where to steer")
    return arrays, metadata


def named(path, model: str = "") -> tuple[dict[Vector, np.ndarray], dict[str, int]]:
    """(vectors by what each is, chosen layers); model: whose the file is, where that is known."""
    arrays, metadata = load(path)
    about = {"model": model, "hook": metadata["hook"], "position": metadata.get("position", "")}
    return {Vector.of_entry(name, **about): v for name, v in arrays.items()}, chosen(path, metadata)


def chosen(path, metadata: dict) -> dict[str, int]:
    """The steering layer of each class, as the metadata of a vector file names it; empty where it names none."""
    try:
        found = json.loads(metadata.get("layers", "{}"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(type(layer) is int and layer >= 0 for layer in found.values()):
        raise InputError(f"{path}: its metadata 'layers' is no JSON object of layer numbers; write the file again")
    return found


def fitting(path, spec, names=None) -> tuple[dict, dict]:
    """`load`, where every vector is a row for each of the model's layers; `names`: only these entries."""
    arrays, metadata = load(path)
    for name in names or ():
        if name not in arrays:
            raise InputError(f"{path}: no vector {name!r}, it has {', '.join(sorted(arrays))}")
    arrays = {k: v for k, v in arrays.items() if not names or k in names}
    for name, rows in arrays.items():
        if rows.shape != (spec.layers, spec.width):
            raise InputError(
                f"{path}: {name} has shape {rows.shape}, the model needs a row a layer, ({spec.layers}, {spec.width})"
            )
    return arrays, metadata
