"""The compilers of accelerators on a machine without one: XLA:TPU in `libtpu`, XLA:GPU in JAX's CUDA plugin."""

import importlib.util
import math
import os
from typing import NamedTuple

import jax
from jax.experimental import topologies

from welfare_jax.errors import InputError
from welfare_jax.planning import devices

SLICES = {"v5e": 2, "v6e": 2, "v4": 3, "v5p": 3}  # along how many axes a slice's chips lie
HOST = 4  # chips of a TPU host
NEEDED = {"tpu": "libtpu", "cuda": "jax_plugins.xla_cuda13"}


class _Gpu(NamedTuple):
    """What XLA must know of a GPU to compile for it, as NVIDIA states it. Sizes in bytes."""

    name: str
    major: int  # compute capability
    cores: int  # streaming multiprocessors
    units: int  # float32 units of each
    shared: int  # shared memory of each
    cache: int  # second level
    clock: float  # GHz
    memory: int


GPUS = {
    "A100": _Gpu("NVIDIA A100-SXM4-40GB", 8, 108, 64, 164 << 10, 40 << 20, 1.41, 42_298_834_944),
    "A100-80GB": _Gpu("NVIDIA A100-SXM4-80GB", 8, 108, 64, 164 << 10, 40 << 20, 1.41, 85_100_068_864),
    "H100": _Gpu("NVIDIA H100 80GB HBM3", 9, 132, 128, 228 << 10, 50 << 20, 1.98, 84_978_434_048),
    "H200": _Gpu("NVIDIA H200 141GB HBM3e", 9, 132, 128, 228 << 10, 50 << 20, 1.98, 151_397_597_184),
}
# Without a device nothing is tried out, and some products then have no Triton tiling: they become cuBLAS calls.
OPTIONS = {"cuda": {"xla_gpu_enable_triton_gemm": False}, "tpu": {}}


def find(name: str) -> tuple[list, dict]:
    """(devices to compile for, options of the compiler) of a topology; `InputError` where its compiler is missing."""
    chip, count = devices.topology(name)
    kind = next(kind for kind, known in devices.CHIPS.items() if known is chip)
    platform = "tpu" if kind in SLICES else "cuda"
    if importlib.util.find_spec(NEEDED[platform].split(".")[0]) is None or not importlib.util.find_spec(
        NEEDED[platform]
    ):
        raise InputError(f"plan=compile: no compiler for {name}; install the extra: pip install -e .[rehearse]")
    try:
        found = _tpu(kind, count) if platform == "tpu" else _gpu(kind, chip, count)
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"topology={name!r}: its compiler does not know such a machine ({why})") from None
    return list(found.devices), OPTIONS[platform]


def shape(kind: str, chips: int) -> tuple[int, ...]:
    """How the chips of a TPU slice lie: v5e-32 as 4 x 8, v5p-16 (eight chips) as 2 x 2 x 2."""
    axes, rest = [1] * SLICES[kind], chips
    while rest > 1:
        factor = next(f for f in range(2, rest + 1) if rest % f == 0)
        i = min(range(len(axes)), key=lambda i: (axes[i], i))
        axes[i], rest = axes[i] * factor, rest // factor
    return tuple(sorted(axes)) if len(axes) == 2 or axes[-1] > 1 else tuple(axes)


def _tpu(kind: str, chips: int):
    # There is no machine to ask about itself, and no chip that only one process may have.
    for name, value in (("SKIP_MDS_QUERY", "1"), ("WORKER_HOSTNAMES", "localhost")):
        os.environ.setdefault(f"TPU_{name}", value)
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    axes = shape(kind, chips)
    name = f"{kind}:{'x'.join(map(str, axes))}"
    bounds = [2, 2, 1] if chips % HOST == 0 else [*axes, *[1] * (3 - len(axes))]
    return topologies.get_topology_desc(name, "tpu", chips_per_host_bounds=bounds)


def _gpu(kind: str, chip, count: int):
    of = GPUS[kind]
    target = f"""gpu_device_info {{
      threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
      shared_memory_per_core: {of.shared} threads_per_core_limit: 2048 core_count: {of.cores}
      fpus_per_core: {of.units} block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
      memory_bandwidth: {chip.bandwidth:.0f} l2_cache_size: {of.cache} clock_rate_ghz: {of.clock}
      device_memory_size: {of.memory} shared_memory_per_block_optin: {of.shared - 1024}
      cuda_compute_capability {{ major: {of.major} }} registers_per_core_limit: 65536 registers_per_block_limit: 65536
    }}
    platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 8 }} runtime_version {{ major: 13 }}
    device_description_str: "{of.name}\""""
    hosts = math.ceil(count / 8)
    return topologies.get_topology_desc("", "cuda", target_config=target, topology=f"1x{hosts}x{count // hosts}")
