"""Accelerators as their makers state them, and the names of machines made of them."""

import re
from typing import NamedTuple

from welfare_jax.errors import InputError


class Chip(NamedTuple):
    """One device as JAX counts them: a GPU, or a TPU chip."""

    flops: float  # dense bfloat16 FLOP/s
    memory: float  # bytes
    bandwidth: float  # of the memory, bytes/s
    kind: tuple[str, ...]  # how `jax.Device.device_kind` begins
    cores: int = 1  # what a TPU's name counts: v5p-16 are 16 cores, 8 chips


CHIPS = {
    "v4": Chip(275e12, 32e9, 1228e9, ("TPU v4",), 2),
    "v5e": Chip(197e12, 16e9, 819e9, ("TPU v5 lite", "TPU v5e")),
    "v5p": Chip(459e12, 95e9, 2765e9, ("TPU v5p", "TPU v5"), 2),
    "v6e": Chip(918e12, 32e9, 1638e9, ("TPU v6 lite", "TPU v6e")),
    "A100": Chip(312e12, 40e9, 1555e9, ("NVIDIA A100-SXM4-40GB",)),
    "A100-80GB": Chip(312e12, 80e9, 2039e9, ("NVIDIA A100",)),
    "H100": Chip(989e12, 80e9, 3350e9, ("NVIDIA H100",)),
    "H200": Chip(989e12, 141e9, 4800e9, ("NVIDIA H200",)),
}
COMMON = (
    "1xA100-80GB",
    "8xA100-80GB",
    "1xH100",
    "8xH100",
    "1xH200",
    "8xH200",
    "v5e-8",
    "v5e-32",
    "v5p-16",
    "v6e-8",
    "v6e-32",
)


def topology(name: str) -> tuple[Chip, int]:
    """(chip, how many) of v5e-8, v5p-16, 8xH100 and their like; `InputError` names what is known."""
    tpu, gpu = re.fullmatch(r"(v\w+?)-(\d+)", name), re.fullmatch(r"(\d+) ?x ?(.+)", name)
    kind, count = (tpu[1], int(tpu[2])) if tpu else (gpu[2], int(gpu[1])) if gpu else ("", 0)
    chip = CHIPS.get(kind)
    if chip is None or count < 1 or count % chip.cores or bool(tpu) != kind.startswith("v"):
        raise InputError(
            f"topology={name!r}: name a TPU slice or GPUs such as v5e-8, v5p-16, 8xH100; chips: {', '.join(CHIPS)}"
        )
    return chip, count // chip.cores


def peak(kind: str, dtype: str) -> float | None:
    """Stated FLOP/s of a `device_kind`; None where it is not known: CPUs, and float32 anywhere."""
    found = (c.flops for c in CHIPS.values() for begins in c.kind if kind.startswith(begins))
    return next(found, None) if dtype == "bfloat16" else None
