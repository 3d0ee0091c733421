"""Control-vector GGUF files against the gguf package's own reader and writer, and against the model's own steering."""

import gguf
import numpy as np
import pytest
from helpers import padded, run, tiny_model
from hypothesis import given
from mutations import bytes_like, few, one_line

from welfare_jax.errors import InputError
from welfare_jax.interp import control_vector
from welfare_jax.models import interventions as iv

A, B = np.random.default_rng(0).normal(size=(2, 24)).astype("f4")


def tensors(path):
    return {t.name: np.array(t.data) for t in gguf.GGUFReader(str(path)).tensors}


def test_the_gguf_package_reads_the_right_tensors(tmp_path):
    """resid_pre of block 3 is the output of block 2; several vectors at one block add up."""
    both = iv.combine(iv.add(A, 1, 2.0), iv.add(B, 3, at="resid_pre"), iv.add(B, -1, 0.5), iv.add(A, 3, at="mlp_out"))
    path = control_vector.save(tmp_path / "new" / "v.gguf", both, model="qwen3", layers=4)
    got = tensors(path)
    assert got.keys() == {"direction.1", "direction.2", "direction.3"}
    for name, want in (("direction.1", 2 * A), ("direction.2", B), ("direction.3", 0.5 * B + A)):
        assert got[name].dtype == np.float32 and got[name].shape == (24,)
        np.testing.assert_array_equal(got[name], want.astype("f4"))
    reader = gguf.GGUFReader(str(path))
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.model_hint").contents() == "qwen3"
    assert reader.get_field("controlvector.layer_count").contents() == 3


def test_round_trip_is_exact_and_steers_the_same(tmp_path):
    graphdef, params = tiny_model()
    tokens, mask = padded()
    given = iv.combine(iv.add(A, 1, 3.0), iv.add(B, 2))
    path = control_vector.save(tmp_path / "v.gguf", given, model="qwen3", layers=3)
    back = control_vector.load(path)
    again = control_vector.save(tmp_path / "w.gguf", back, model="qwen3", layers=3)
    for name, value in tensors(path).items():
        np.testing.assert_array_equal(tensors(again)[name], value)
    one, two = (run(graphdef, params, tokens, mask=mask, interventions=x).logits for x in (given, back))
    np.testing.assert_allclose(one, two, atol=1e-5)
    plain = run(graphdef, params, tokens, mask=mask).logits
    assert np.abs(np.asarray(one - plain)).max() > 0.1
    off = run(graphdef, params, tokens, mask=mask, interventions=control_vector.load(path, 0.0)).logits
    np.testing.assert_array_equal(off, plain)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (iv.add(A, 0), "block 0"),
        (iv.add(A, 1, at="resid_pre"), "block 0"),
        (iv.add(A, -4), "block 0"),
        (iv.ablate(A), "can only add"),
        (iv.combine(iv.add(A, 1), iv.ablate(A, 2)), "can only add"),
        (iv.scale_neurons(np.ones((4, 40))), "can only add"),
        (iv.add(A, 1, where=np.ones((2, 3))), "every row and token"),
        (iv.add(np.stack([A, B]), 1), "every row and token"),
        (iv.add(A, [1, 2]), "every row and token"),
        (iv.add(A, 1, at="attn_out"), "resid_post"),
        (iv.combine(), "no vector"),
    ],
)
def test_what_the_format_cannot_express_is_refused(given, said, tmp_path):
    with pytest.raises(InputError, match=said):
        control_vector.save(tmp_path / "v.gguf", given, model="qwen3", layers=4)
    assert not list(tmp_path.iterdir())


def other_architecture(path):
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def with_tensor(name, value):
    def make(path):
        writer = gguf.GGUFWriter(str(path), "controlvector")
        writer.add_tensor(name, value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    return make


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: None, "cannot be read"),
        (lambda p: p.write_bytes(b"nonsense" * 9), "not a GGUF file"),
        (with_tensor("direction.2", np.array([1, np.nan], "f4")), "finite"),
        (with_tensor("direction.20000", A), "direction.N"),
        (other_architecture, "not a control vector"),
        (with_tensor("direction.0", A), "direction.0"),
        (with_tensor("weights", A), "'weights'"),
        (with_tensor("direction.2", A.astype("f2")), "float32"),
        (with_tensor("direction.2", np.stack([A, B])), "direction.N"),
    ],
)
def test_other_files_are_refused(make, said, tmp_path):
    path = tmp_path / "v.gguf"
    make(path)
    with pytest.raises(InputError) as error:
        control_vector.load(path)
    assert said in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_any_bytes(tmp_path):
    """A vector of finite numbers at each layer that the file names, or one line."""
    good = control_vector.save(tmp_path / "good.gguf", iv.add(A, 2), model="qwen3", layers=4).read_bytes()

    @few(60)
    @given(bytes_like(good))
    def run(data):
        (tmp_path / "v.gguf").write_bytes(data)
        if found := one_line(lambda: control_vector.load(tmp_path / "v.gguf"), "v.gguf"):
            assert found.ops and all(np.isfinite(op.vector).all() and op.at == "resid_post" for op in found.ops)

    run()
