"""Parts are read back where all they depend on is the same, and made again where anything is not."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from welfare_jax.experiments.axis import parts
from welfare_jax.interp.axes.comparison import Axes

FROZEN = {"w": jnp.arange(6.0).reshape(2, 3)}


class Pair(NamedTuple):
    a: jax.Array
    b: list


@jax.jit
def program(x):
    return {"pair": Pair(x + 1, [x > 0, jnp.int32(3)]), "none": None}


def made(folder, frozen=FROZEN, **bound):
    return parts.Parts(folder, frozen, **({"walks": {"count": 3}} | bound))


def alter(path):
    """Other values under the same binding, by which one sees that a part was read."""
    with safe_open(path, "np") as file:
        arrays, metadata = {k: file.get_tensor(k) for k in file.keys()}, file.metadata()
    save_file({k: a + 100 if a.dtype == np.float32 else a for k, a in arrays.items()}, path, metadata)


def test_a_part_is_read_and_not_made_again(tmp_path):
    x = jnp.linspace(-1, 1, 4)
    first = made(tmp_path).tree("trained", {"weights": "x"}, program, x)
    np.testing.assert_array_equal(first["pair"].a, np.asarray(x) + 1)
    assert [path.name for path in tmp_path.iterdir()] == ["trained.safetensors"]
    again = made(tmp_path).tree("trained", {"weights": "x"}, program, x)
    assert jax.tree.structure(again) == jax.tree.structure(first)
    jax.tree.map(np.testing.assert_array_equal, again, first)
    alter(tmp_path / "trained.safetensors")
    assert (made(tmp_path).tree("trained", {"weights": "x"}, program, x)["pair"].a > 90).all()


@pytest.mark.parametrize("what", ["weights", "frozen", "walks", "shape", "torn"])
def test_what_depends_on_something_else_is_made_again(what, tmp_path):
    x, frozen, bound, key = jnp.linspace(-1, 1, 4), FROZEN, {}, {"weights": "x"}
    made(tmp_path).tree("trained", key, program, x)
    path = tmp_path / "trained.safetensors"
    alter(path)
    if what == "weights":
        key = {"weights": "y"}
    elif what == "frozen":
        frozen = {"w": FROZEN["w"].at[1, 2].set(5.0001)}
    elif what == "walks":
        bound = {"walks": {"count": 4}}
    elif what == "shape":
        x = jnp.linspace(-1, 1, 5)
    else:
        path.write_bytes(path.read_bytes()[:-3])
    found = made(tmp_path, frozen, **bound).tree("trained", key, program, x)
    np.testing.assert_array_equal(found["pair"].a, np.asarray(x) + 1)


def test_content_counts_every_value_and_place():
    base = {"a": np.arange(3), "b": ("x", 1)}
    assert parts.content(base) == parts.content({"b": ("x", 1), "a": np.arange(3)})
    others = [base | {"a": np.arange(3) + 1}, base | {"a": np.arange(3.0)}, base | {"b": ("y", 1)}, {"c": base["a"]}]
    assert len({parts.content(tree) for tree in (base, *others)}) == 5


@pytest.mark.parametrize("told", [True, False])
def test_axes_come_back_whole(told, tmp_path):
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype("f4")
    named = {"sentiment, reviews": draw(2, 3), "emotions, first component": draw(2, 3)}
    axes = Axes(
        named, {name: draw(5, 2, 3) for name in named}, ("joy", "fear") if told else (),
        draw(2, 2, 3) if told else None, {"stories": [3, 4]},
    )  # fmt: skip
    made(tmp_path).axes("axes_trained", {"asked": "x"}, lambda: axes)
    back = made(tmp_path).axes("axes_trained", {"asked": "x"}, lambda: pytest.fail("made again"))
    assert (back.words, back.facts, list(back.named)) == (axes.words, axes.facts, list(named))
    for a, b in ((axes.named, back.named), (axes.null, back.null)):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    assert (back.emotions is None) == (axes.emotions is None)
    if told:
        np.testing.assert_array_equal(back.emotions, axes.emotions)
    other = axes._replace(facts={})
    assert made(tmp_path).axes("axes_trained", {"asked": "y"}, lambda: other) is other
