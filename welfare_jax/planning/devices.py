"""Accelerators as their makers state them, the names of machines made of them, and the devices that are here.

Figures are those of the data sheets: dense bfloat16 with sums in float32. Of the HGX and NVL72 systems, whose sheets
give sums over all GPUs, a GPU's share.
"""

import math
import os
import re
from typing import NamedTuple

import jax

from welfare_jax.errors import InputError

HERE = "here"  # the topology that is this machine's devices
CLAIMED = 0.92  # of a GPU's memory, what JAX is let have (`runtime.claim_gpu`)


class Chip(NamedTuple):
    """One device as JAX counts them: a GPU, a TPU chip, or of v7x one of a chip's two halves."""

    flops: float  # dense bfloat16 FLOP/s
    memory: float  # bytes
    bandwidth: float  # of the memory, bytes/s
    kind: tuple[str, ...]  # how `jax.Device.device_kind` begins
    cores: int = 1  # what a TPU's name counts: v5p-16 are 16 cores, 8 chips

    @property
    def tpu(self) -> bool:
        return self.kind[0].startswith("TPU")


CHIPS = {
    "v4": Chip(275e12, 32e9, 1228e9, ("TPU v4",), 2),
    "v5e": Chip(197e12, 16e9, 819e9, ("TPU v5 lite", "TPU v5e")),
    "v5p": Chip(459e12, 95e9, 2765e9, ("TPU v5p", "TPU v5"), 2),
    "v6e": Chip(918e12, 32e9, 1638e9, ("TPU v6 lite", "TPU v6e")),
    "v7x": Chip(2307e12 / 2, 192e9 / 2, 7380e9 / 2, ("TPU7x",)),  # its name counts halves
    "A100": Chip(312e12, 40e9, 1555e9, ("NVIDIA A100-SXM4-40GB",)),
    "A100-80GB": Chip(312e12, 80e9, 2039e9, ("NVIDIA A100",)),
    "H100": Chip(989e12, 80e9, 3350e9, ("NVIDIA H100",)),
    "H200": Chip(989e12, 141e9, 4800e9, ("NVIDIA H200",)),
    "B200": Chip(2250e12, 180e9, 8000e9, ("NVIDIA B200",)),
    "GB200": Chip(2500e12, 186e9, 8000e9, ("NVIDIA GB200",)),
    "L40S": Chip(362.05e12, 48e9, 864e9, ("NVIDIA L40S",)),
    "RTX4090": Chip(165.2e12, 24e9, 1008e9, ("NVIDIA GeForce RTX 4090",)),
}
COMMON = (
    "1xA100-80GB",
    "8xA100-80GB",
    "1xH100",
    "8xH100",
    "1xH200",
    "8xH200",
    "8xB200",
    "8xL40S",
    "v5e-8",
    "v5e-32",
    "v5p-16",
    "v6e-8",
    "v6e-32",
    "v7x-8",
)


def topology(name: str) -> tuple[Chip, int]:
    """(chip, how many) of v5e-8, v5p-16, 8xH100 and their like, or "here"; `InputError` names what is known."""
    if name == HERE:
        return here()
    tpu, gpu = re.fullmatch(r"(v\w+?)-(\d+)", name), re.fullmatch(r"(\d+) ?x ?(.+)", name)
    kind, count = (tpu[1], int(tpu[2])) if tpu else (gpu[2].replace(" ", ""), int(gpu[1])) if gpu else ("", 0)
    chip = CHIPS.get(kind)
    if chip is None or count < 1 or count % chip.cores or bool(tpu) != kind.startswith("v"):
        raise InputError(
            f"topology={name!r}: name a TPU slice or GPUs such as v5e-8, v5p-16, 8xH100, or {HERE}; chips: "
            + ", ".join(CHIPS)
        )
    return chip, count // chip.cores


def peak(kind: str, dtype: str) -> float | None:
    """Stated FLOP/s of a `device_kind`; None where it is not known: CPUs, and float32 anywhere."""
    chip = _named(kind)
    return chip.flops if chip and dtype == "bfloat16" else None


def _named(kind: str) -> Chip | None:
    return next((chip for chip in CHIPS.values() if kind.startswith(chip.kind)), None)


def here() -> tuple[Chip, int]:
    """(chip, how many) of the devices that JAX sees, over all processes.

    Memory is what the device itself reports, where it reports any and that is less than its data sheet says: a part
    of a GPU, or what another program has left. Of a chip that is not known, rates are nan. A CPU has its machine's
    memory, shared among the devices that JAX makes of it.
    """
    device, count = jax.local_devices()[0], jax.device_count()
    if device.platform == "cpu":
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / count
        return Chip(math.nan, memory, math.nan, (device.device_kind,)), count
    chip = _named(device.device_kind)
    reported = (device.memory_stats() or {}).get("bytes_limit", math.inf) / CLAIMED
    if chip is None and math.isinf(reported):
        raise InputError(f"topology={HERE!r}: {device.device_kind} is not known and does not say what memory it has")
    chip = chip or Chip(math.nan, reported, math.nan, (device.device_kind,))
    return chip._replace(memory=min(chip.memory, reported)), count
