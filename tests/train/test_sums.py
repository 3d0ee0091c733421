"""The sums by which checkpoints are proven and weights are named see every bit, wherever the numbers lie."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from welfare_jax.train import checkpoints


def test_a_digest_sees_every_bit_and_not_where_it_lies():
    rng = np.random.default_rng(0)
    tree = {"a": rng.normal(size=(4, 6)).astype("f4"), "b": jnp.asarray(rng.normal(size=8), jnp.bfloat16)}
    want = checkpoints.digest(tree)
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    assert checkpoints.digest(jax.device_put(tree, place)) == want
    swapped, flipped, renamed = ({k: np.array(v) for k, v in tree.items()} for _ in range(3))
    swapped["a"][[0, 3]] = swapped["a"][[3, 0]]
    flipped["a"].view(np.uint32)[2, 3] ^= 1
    renamed["c"] = renamed.pop("b")
    assert len({want, *map(checkpoints.digest, (swapped, flipped, renamed))}) == 4


def test_sums_depend_on_every_bit_and_its_place():
    rng = np.random.default_rng(0)
    leaf = rng.normal(size=(6, 5, 4)).astype(np.float32)
    whole = checkpoints.sums({"a": jnp.asarray(leaf)})["a"]
    for _ in range(40):
        other = leaf.copy()
        place = tuple(rng.integers(0, n) for n in leaf.shape)
        other.view(np.uint32)[place] ^= np.uint32(1 << rng.integers(0, 32))
        assert checkpoints.sums({"a": jnp.asarray(other)})["a"] != whole
    for order in ([1, 0, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]):
        assert checkpoints.sums({"a": jnp.asarray(leaf[order])})["a"] != whole
    # By hand, in plain Python, for a small one of each width.
    for dtype, width in ((jnp.float32, np.uint32), (jnp.bfloat16, np.uint16), (jnp.int32, np.uint32)):
        small = np.asarray(jnp.asarray([[1, -2, 3], [4, 5, -6]], dtype))
        bits, want = small.view(width).astype(int), 0
        a, b = checkpoints.PRIMES[:2]
        for i in range(2):
            for j in range(3):
                mixed = int(bits[i, j]) * (2 * (i * a + j * b) + 1) % 2**32
                mixed = (mixed ^ mixed >> 16) * checkpoints.MIX % 2**32
                want += mixed ^ mixed >> 15
        assert checkpoints.sums({"a": jnp.asarray(small)})["a"] == want % 2**32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["negated", "two signs", "all signs gone", "doubled", "halved", "two rows exchanged"])
def test_sums_see_what_would_cancel_bit_by_bit(name, dtype):
    """In 40 leaves each: the highest bits and the exponents of many numbers at once."""
    for seed in range(40):
        leaf = jnp.asarray(np.random.default_rng(seed).normal(size=(6, 8)), dtype)
        other = {
            "negated": -leaf, "two signs": leaf.at[1, 2].multiply(-1).at[4, 0].multiply(-1),
            "all signs gone": -jnp.abs(leaf), "doubled": 2 * leaf, "halved": leaf / 2,
            "two rows exchanged": leaf[jnp.array([1, 0, 2, 3, 4, 5])],
        }[name]  # fmt: skip
        assert checkpoints.sums({"a": leaf}) != checkpoints.sums({"a": other})


@pytest.mark.parametrize("shape", [(), (1,), (7,), (5, 3), (3, 70_000), (2, 3, 130), (2, 1, 3, 5), (0, 3)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_sums_are_the_same_by_the_host_and_by_a_device(shape, dtype, monkeypatch):
    rng = np.random.default_rng(0)
    leaves = {"a": jnp.asarray(100 * rng.normal(size=shape), dtype), "b/c": jnp.int32(3)}
    want = checkpoints.sums(leaves)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert checkpoints.sums(leaves) == want
