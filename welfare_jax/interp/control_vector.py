"""Steering as a control-vector GGUF, the format that llama.cpp applies, and back.

The format knows one thing: tensors `direction.N`, N >= 1, each added to the output of the zero-based block N.
"""

import pathlib
import re

import jax
import numpy as np

from welfare_jax.errors import InputError
from welfare_jax.models import gguf, interventions, tensor_files

ARCHITECTURE = "controlvector"
_BLOCK = {"resid_post": 0, "mlp_out": 0, "resid_pre": -1}  # at which block's output the same sum appears


def directions(iv: interventions.Interventions, layers: int) -> dict[int, np.ndarray]:
    """{block: float32 [D]} of an intervention's additions, scales multiplied in. Raises for all that is not one."""
    out: dict[int, np.ndarray] = {}
    for op in iv.ops:
        name = type(op).__name__.lower()
        if not isinstance(op, interventions.Add):
            raise InputError(f"{name}: a control vector can only add; keep it as an intervention of this package")
        vector, layer, scale = (np.asarray(jax.device_get(x)) for x in (op.vector, op.layer, op.scale))
        if op.where is not None or vector.ndim > 1 or layer.ndim or scale.ndim:
            raise InputError(
                f"{name} at {op.at}: a control vector acts alike on every row and token; leave `where` out"
            )
        if op.at not in _BLOCK:
            raise InputError(f"{name} at {op.at}: a control vector acts on block outputs; use resid_post")
        block = int(layer) % layers + _BLOCK[op.at]
        if block < 1:
            raise InputError(f"{name} at {op.at}, layer {int(layer)}: a control vector cannot reach block 0's output")
        out[block] = out.get(block, np.float32(0)) + np.float32(scale) * vector.astype(np.float32)
    return out


def save(path, iv: interventions.Interventions, *, model: str, layers: int):
    """Write additions (`wj.add`, `wj.combine`) of a model with `layers` blocks; `model` is kept as a hint."""
    from gguf import GGUFWriter

    found = directions(iv, layers)
    if not found:
        raise InputError(f"{path}: there is no vector to write")
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(str(path), ARCHITECTURE)
    writer.add_string(f"{ARCHITECTURE}.model_hint", model)
    writer.add_uint32(f"{ARCHITECTURE}.layer_count", max(found))
    for block, vector in sorted(found.items()):
        writer.add_tensor(f"direction.{block}", np.ascontiguousarray(vector))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def load(path, scale: float = 1.0) -> interventions.Interventions:
    """The additions of a control-vector file as an intervention at resid_post."""
    header = gguf.read(pathlib.Path(path))
    if header.values.get("general.architecture") != ARCHITECTURE:
        raise InputError(f"{path}: not a control vector; its architecture must be {ARCHITECTURE!r}")
    ops = []
    for name, source in header.tensors.items():
        named = re.fullmatch(r"direction\.([1-9]\d{0,3})", name)
        if named is None or source.dtype != "F32" or len(source.shape) != 1:
            raise InputError(f"{path}: tensor {name!r} is not a float32 direction.N with N of 1 or more")
        vector = tensor_files.read(source)
        if not np.isfinite(vector).all():
            raise InputError(f"{path}: tensor {name!r} must hold finite numbers")
        ops.append(interventions.add(vector, int(named[1]), scale))
    if not ops:
        raise InputError(f"{path}: holds no direction")
    return interventions.combine(*ops)
