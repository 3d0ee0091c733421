"""Chips by the names that JAX and the clouds give them."""

import pytest

from welfare_jax.errors import InputError
from welfare_jax.planning import devices


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("v5e-8", "v5e", 8), ("v6e-32", "v6e", 32), ("v5p-16", "v5p", 8), ("v4-8", "v4", 4), ("1xH100", "H100", 1),
        ("8xH200", "H200", 8), ("16 x A100-80GB", "A100-80GB", 16),
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


def test_common_ones_are_known():
    assert all(devices.topology(name)[1] >= 1 for name in devices.COMMON)


def test_utilisation_needs_a_known_peak():
    assert devices.peak("NVIDIA H200", "bfloat16") == devices.peak("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert devices.peak("TPU v5 lite", "bfloat16") == 197e12 and devices.peak("TPU v5p", "bfloat16") == 459e12
    assert devices.peak("TPU v5", "bfloat16") == 459e12 and devices.peak("TPU v6 lite", "bfloat16") == 918e12
    assert devices.peak("cpu", "bfloat16") is None and devices.peak("NVIDIA H200", "float32") is None
