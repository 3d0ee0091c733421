"""Tensors of safetensors and GGUF files, read by ranges straight into place.

Nothing is mapped: mapped pages would count as resident memory beside the array that they are copied to. A matrix that
has to be turned is read some rows at a time and turned in tiles, which is several times as fast as turning it whole.
"""

import contextlib
import json
import math
import os
import pathlib
from typing import NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from welfare_jax.errors import InputError

FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
# Of GGUF: rows are kept as blocks of 32 or 256 small integers with a scale or two.
BLOCKS = (
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS",
)  # fmt: skip
TILE = 128
POINTER = b"version https://git-lfs.github.com/"
# The sixteen values of a four-bit float with two bits of exponent and one of mantissa (OCP Microscaling Formats 1.0).
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


class Source(NamedTuple):
    """Where a tensor lies, and how its rows differ from a Hugging Face checkpoint's."""

    file: pathlib.Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int  # bytes from the beginning of the file
    pairs: int = 0  # rows of a head whose rotary pairs are neighbours in the file, halves of the head elsewhere
    shift: float = 0.0  # what is added to every number


def no_pointer(file: pathlib.Path) -> None:
    """Refuse what `git clone` leaves in place of a large file where Git LFS is not installed."""
    with contextlib.suppress(OSError), open(file, "rb") as f:
        if f.read(len(POINTER)) == POINTER:
            raise InputError(f"{file}: a Git LFS pointer and not the file itself; run `git lfs pull` in its folder")


def sources(file: pathlib.Path) -> dict[str, Source]:
    """Every tensor of a file whose header and length `safetensors` finds in order."""
    no_pointer(file)
    try:
        with safe_open(file, "numpy"):
            pass
        with open(file, "rb") as f:
            size = int.from_bytes(f.read(8), "little")
            header = json.loads(f.read(size))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: truncated or corrupted ({error}); download or write it again") from None
    header.pop("__metadata__", None)
    return {
        name: Source(file, name, t["dtype"], tuple(t["shape"]), 8 + size + t["data_offsets"][0])
        for name, t in header.items()
    }


def check(source: Source, shape: tuple[int, ...], dtypes=(*FLOATS, *BLOCKS)) -> None:
    if source.dtype not in dtypes:
        raise InputError(f"{source.file}: {source.name} has type {source.dtype}, need {' or '.join(dtypes)}")
    if source.shape != shape:
        raise InputError(f"{source.file}: {source.name} has shape {source.shape}, its config asks for {shape}")


def read(source: Source, begin: int = 0, end: int | None = None) -> np.ndarray:
    """The rows [begin:end] along the first axis, or the whole scalar."""
    end = (source.shape or (1,))[0] if end is None else end
    if not source.pairs:
        rows = _stored_rows(source, begin, end)
    else:  # of all heads that the rows belong to
        first, last = begin - begin % source.pairs, end + -end % source.pairs
        rows = _stored_rows(source, first, last)
        heads = rows.reshape(-1, source.pairs // 2, 2, *rows.shape[1:])
        rows = heads.swapaxes(1, 2).reshape(rows.shape)[begin - first : end - first]
    return rows.astype(np.float32) + np.float32(source.shift) if source.shift else rows


def _stored_rows(source: Source, begin: int, end: int) -> np.ndarray:
    """Rows as the file has them; of blocks, the float32 numbers that they stand for."""
    if source.dtype in BLOCKS:
        import gguf

        kind = gguf.GGMLQuantizationType[source.dtype]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        out = np.empty((end - begin, *source.shape[1:-1], source.shape[-1] // block * size), np.uint8)
        _read_into(out, source, begin)
        return gguf.dequantize(out, kind)
    out = np.empty((end - begin, *source.shape[1:]), np.uint8 if source.dtype == "U8" else FLOATS[source.dtype])
    _read_into(out, source, begin)
    return out


def _read_into(out: np.ndarray, source: Source, begin: int) -> None:
    """Fill `out` with the file's bytes from row `begin` on."""
    row = math.prod(out.shape[1:]) * out.itemsize
    view, at = out.reshape(-1).view(np.uint8).data, source.start + begin * row
    with open(source.file, "rb", buffering=0) as f:
        while view:
            done = os.preadv(f.fileno(), [view], at)
            if not done:
                raise InputError(f"{source.file}: {source.name} ends early; download the file again")
            view, at = view[done:], at + done


def equal(a: Source, b: Source, dtype: str) -> bool:
    """Whether two tensors hold the same numbers once both are `dtype`; some rows at a time."""
    if a.shape != b.shape or not {a.dtype, b.dtype} <= {*FLOATS}:
        return False
    kind, rows = np.dtype(dtype), (a.shape or (1,))[0]
    parts = ((at, min(at + 8 * TILE, rows)) for at in range(0, rows, 8 * TILE))
    rows_of = lambda x, part: read(x, *part).astype(kind)
    return all(np.array_equal(rows_of(a, part), rows_of(b, part)) for part in parts)


def fill(out: np.ndarray, source: Source, transpose: bool, part=None) -> None:
    """Put a tensor, or a `Part` of it, into `out`, turned and converted as needed."""
    first, last, index = 0, source.shape[0], None
    if part is not None and part.axis == 0 and part.step == 1:
        first, last = part.start, part.stop
    elif part is not None:
        index = part.slices(len(source.shape))
    step = TILE if len(source.shape) < 3 else 1
    if index is not None and len(source.shape) < 2:
        step = last
    for at in range(first, last, step):
        end = min(at + step, last)
        rows = read(source, at, end)
        rows = rows if index is None else rows[index]
        if transpose and rows.ndim > 2:  # one matrix of many
            _turn(out[at - first], rows[0])
        elif transpose:
            _turn(out[:, at - first : end - first], rows)
        else:
            _copy(out[at - first : end - first], rows)


def fill_packed(out: np.ndarray, packed: Source, scales: Source, part=None) -> None:
    """Unpack MXFP4 into out [E, in, out], from blocks [E, out, G, 16] and a power of two for each, [E, out, G].

    A byte holds two values, the low half first. `part` picks neurons along `out`.
    """
    rows = slice(None) if part is None else slice(part.start, part.stop, part.step)
    for e in range(out.shape[0]):
        block, scale = read(packed, e, e + 1)[0][rows], read(scales, e, e + 1)[0][rows]
        pairs = np.stack([FP4[block & 15], FP4[block >> 4]], -1)
        values = np.ldexp(pairs, scale.astype(np.int32)[..., None, None] - 127)
        _turn(out[e], values.reshape(len(values), -1))


def _bits(a):
    """bfloat16 as integers: NumPy moves those several times as fast."""
    return a.view(np.uint16) if a.dtype == ml_dtypes.bfloat16 else a


def _copy(out, a):
    if out.dtype == a.dtype:
        out, a = _bits(out), _bits(a)
    out[...] = a


def _turn(out, a):
    a = a.astype(out.dtype, copy=False)
    out, a = _bits(out), _bits(a)
    for i in range(0, a.shape[0], TILE):
        for j in range(0, a.shape[1], TILE):
            out[j : j + TILE, i : i + TILE] = a[i : i + TILE, j : j + TILE].T
