"""What a vector is, and its names there and back."""

import dataclasses

import pytest

from welfare_jax.interp import names
from welfare_jax.interp.names import Vector


@pytest.mark.parametrize(
    ("vector", "entry", "label"),
    [
        (Vector("mold", "rest", "trained"), "mold/rest", "v_mold"),
        (Vector("gold", "path", "untrained"), "gold/path", "u_gold"),
        (Vector("gold", names.RESIDUAL), "gold/residual", "gold"),
        (Vector("success"), "success", "success"),
        (Vector("mold", "", "trained", control="permuted_12"), "mold", "permuted_12/v_mold"),
        (Vector("urge_v", control="random_0"), "urge_v", "random_0/urge_v"),
    ],
)
def test_there_and_back(vector, entry, label):
    assert (vector.entry, vector.label) == (entry, label)
    about = {"model": vector.model, "control": vector.control}
    assert Vector.of_entry(entry, **about) == vector
    assert Vector.of_label(label) == dataclasses.replace(vector, baseline="")


def test_files_that_are_there(tmp_path):
    assert names.files(tmp_path) == {} and names.file(tmp_path, "permuted").name == "permuted.safetensors"
    for model, kind in (("untrained", ""), ("trained", ""), ("untrained", "axes")):
        path = names.file(tmp_path, model, kind)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert [*names.files(tmp_path)] == ["trained", "untrained"]
    assert names.files(tmp_path, "axes") == {"untrained": tmp_path / "vectors" / "axes_untrained.safetensors"}
