"""Chips by the names that JAX and the clouds give them."""

import math

import pytest

from welfare_jax.errors import InputError
from welfare_jax.planning import devices


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("v5e-8", "v5e", 8), ("v6e-32", "v6e", 32), ("v5p-16", "v5p", 8), ("v4-8", "v4", 4), ("1xH100", "H100", 1),
        ("8xH200", "H200", 8), ("16 x A100-80GB", "A100-80GB", 16), ("v7x-8", "v7x", 8), ("8xB200", "B200", 8),
        ("72xGB200", "GB200", 72), ("1xL40S", "L40S", 1), ("2 x RTX 4090", "RTX4090", 2),
    ],
)  # fmt: skip
def test_topologies(name, kind, count):
    assert devices.topology(name) == (devices.CHIPS[kind], count)


@pytest.mark.parametrize(
    "name", ["", "v5e", "v5p-3", "v9x-8", "0xH100", "8xH1000", "H100", "H100-8", "8xv5e", "v5e-0"]
)
def test_unknown_topologies_are_refused(name):
    with pytest.raises(InputError) as error:
        devices.topology(name)
    assert repr(name) in str(error.value) and "v5e-8" in str(error.value) and "\n" not in str(error.value)


class Fake:
    platform = "gpu"

    def __init__(self, kind, limit):
        self.device_kind, self.limit = kind, limit

    def memory_stats(self):
        return self.limit and {"bytes_limit": self.limit}


@pytest.mark.parametrize(
    ("kind", "limit", "memory"),
    [
        ("NVIDIA B200", None, 180e9),  # says nothing
        ("NVIDIA GeForce RTX 4090", 0.92 * 25.3e9, 24e9),  # more than stated
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 0.92 * 9.9e9, 9.9e9),  # a part
        ("Radeon Instinct", 0.92 * 64e9, 64e9),  # not in the list
    ],
)
def test_the_devices_here(kind, limit, memory, monkeypatch):
    monkeypatch.setattr(devices.jax, "local_devices", lambda: [Fake(kind, limit)])
    monkeypatch.setattr(devices.jax, "device_count", lambda: 4)
    chip, count = devices.topology("here")
    assert chip.memory == pytest.approx(memory) and count == 4
    assert math.isnan(chip.flops) == ("Radeon" in kind)


def test_a_device_of_which_nothing_is_known(monkeypatch):
    monkeypatch.setattr(devices.jax, "local_devices", lambda: [Fake("Radeon Instinct", None)])
    with pytest.raises(InputError, match="Radeon Instinct is not known"):
        devices.topology("here")


def test_cpus_share_the_machines_memory():
    chip, count = devices.topology("here")
    assert count == devices.jax.device_count() and 1e9 < chip.memory * count < 1e14 and math.isnan(chip.flops)


def test_common_ones_are_known():
    assert all(devices.topology(name)[1] >= 1 for name in devices.COMMON)


def test_utilisation_needs_a_known_peak():
    assert devices.peak("NVIDIA H200", "bfloat16") == devices.peak("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert devices.peak("TPU v5 lite", "bfloat16") == 197e12 and devices.peak("TPU v5p", "bfloat16") == 459e12
    assert devices.peak("TPU v5", "bfloat16") == 459e12 and devices.peak("TPU v6 lite", "bfloat16") == 918e12
    assert devices.peak("TPU7x", "bfloat16") == 1153.5e12 and devices.peak("NVIDIA GB200", "bfloat16") == 2500e12
    assert devices.peak("NVIDIA L40S", "bfloat16") == 362.05e12 and devices.peak("NVIDIA L40", "bfloat16") is None
    assert devices.peak("cpu", "bfloat16") is None and devices.peak("NVIDIA H200", "float32") is None
