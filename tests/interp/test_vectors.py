"""Vector files say what they hold and where it acts, or are refused."""

import json

import numpy as np
import pytest
from helpers import tiny_spec
from hypothesis import given
from mutations import VALUES, bytes_like, changed, few, one_line, text
from safetensors import safe_open
from safetensors.numpy import save_file

from welfare_jax.errors import InputError
from welfare_jax.interp import vectors
from welfare_jax.models.interventions import HOOKS

RNG = np.random.default_rng(0)
VECTORS = {f"{c}/{b}": RNG.normal(size=(4, 8)).astype("f4") for c in ("mold", "gold") for b in ("rest", "path")}
ABOUT = dict(model="tiny (trained)", hook="resid_post", data="abc123", layers={"mold": 2, "gold": 3})


def test_round_trip_is_exact(tmp_path):
    path = vectors.save(tmp_path / "new" / "v.safetensors", VECTORS, **ABOUT)
    got, metadata = vectors.load(path)
    assert got.keys() == VECTORS.keys()
    for name, value in VECTORS.items():
        np.testing.assert_array_equal(got[name], value)
        np.testing.assert_allclose(json.loads(metadata["norms"])[name], np.linalg.norm(value, axis=1), atol=1e-5)
    assert metadata["hook"] == "resid_post" and metadata["model"] == "tiny (trained)" and metadata["data"] == "abc123"
    assert json.loads(metadata["layers"]) == ABOUT["layers"] and json.loads(metadata["classes"]) == ["gold", "mold"]
    assert metadata["operation"] == "difference in means" and "zero-based" in metadata["convention"]


def test_other_programs_can_read_it(tmp_path):
    """Plain safetensors; arrays that are views, or of another type, are written as contiguous float32."""
    odd = {"mold/rest": VECTORS["mold/rest"].astype("f8").T.copy().T[::-1]}
    with safe_open(vectors.save(tmp_path / "v.safetensors", odd, **ABOUT), "pt") as f:
        np.testing.assert_array_equal(f.get_tensor("mold/rest").numpy(), VECTORS["mold/rest"][::-1])


def test_unknown_hook_is_not_written(tmp_path):
    with pytest.raises(InputError) as error:
        vectors.save(tmp_path / "v.safetensors", VECTORS, **ABOUT | dict(hook="resid_middle"))
    assert "resid_middle" in str(error.value) and "resid_post" in str(error.value) and not list(tmp_path.iterdir())


def without_hook(path):
    save_file(VECTORS, path)


def strange_hook(path):
    save_file(VECTORS, path, {"hook": "blocks.3"})


def cut(path):
    vectors.save(path, VECTORS, **ABOUT)
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (without_hook, "hook point None"),
        (strange_hook, "'blocks.3'"),
        (cut, "not a readable"),
        (lambda path: path.write_bytes(b"nonsense"), "not a readable"),
        (lambda path: path.write_bytes(b""), "not a readable"),
        (lambda path: path.mkdir(), "not a readable"),
        (lambda path: None, "not a readable"),
    ],
)
def test_what_is_refused(make, said, tmp_path):
    path = tmp_path / "v.safetensors"
    make(path)
    with pytest.raises(InputError) as error:
        vectors.load(path)
    line = str(error.value)
    assert "\n" not in line and said in line and str(path) in line


def test_data_hash_tells_data_apart():
    a, b = np.arange(6).reshape(2, 3), np.ones((2, 3), bool)
    assert vectors.data_hash(a, b) == vectors.data_hash(a.copy(), b.copy()) == vectors.data_hash(a.T.copy().T, b)
    assert (
        len({vectors.data_hash(a, b), vectors.data_hash(a + 1, b), vectors.data_hash(a, ~b), vectors.data_hash(a)})
        == 4
    )


SPEC = tiny_spec(layers=4, width=8, rope_of=(0,) * 4, windows=(0,) * 4)


def read(path):
    """What steering reads of a file: finite rows for every layer, a known hook point, the layer of each class."""
    if found := one_line(lambda: vectors.fitting(path, SPEC), path.name):
        arrays, metadata = found
        assert all(a.shape == (4, 8) and np.isfinite(a).all() for a in arrays.values())
        assert metadata["hook"] in HOOKS
        chosen = one_line(lambda: vectors.chosen(path, metadata), path.name)
        assert chosen is None or all(type(layer) is int and layer >= 0 for layer in chosen.values())


def test_any_bytes(tmp_path):
    good = vectors.save(tmp_path / "good.safetensors", VECTORS, **ABOUT).read_bytes()

    @few(80)
    @given(bytes_like(good))
    def run(data):
        (tmp_path / "v.safetensors").write_bytes(data)
        read(tmp_path / "v.safetensors")

    run()


def test_any_header(tmp_path):
    """Shapes, types, places and metadata: one of them is another, or missing, or there twice."""
    data = vectors.save(tmp_path / "good.safetensors", VECTORS, **ABOUT).read_bytes()
    size = 8 + int.from_bytes(data[:8], "little")

    @few(120)
    @given(changed(json.loads(data[8:size]), values=(*VALUES, "F64", "I32", "BF16", "{", "[1]", '{"mold": -1}')))
    def run(header):
        head = text(header).encode()
        (tmp_path / "v.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + data[size:])
        read(tmp_path / "v.safetensors")

    run()
