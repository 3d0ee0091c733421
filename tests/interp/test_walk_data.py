"""Walks that are read: kept out by class and length, asked about, and read again and again while a model trains."""

import jax
import numpy as np
import pytest
import worlds

from welfare_jax import mesh as mesh_lib
from welfare_jax import settings
from welfare_jax.errors import InputError
from welfare_jax.interp import extract, geometry, reading
from welfare_jax.models import decoder
from welfare_jax.train import state

MESH = mesh_lib.make()


@pytest.fixture(scope="module")
def world(tiny_tokenizer):
    return worlds.make(tiny_tokenizer)


def test_walk_data(world):
    """A share of every class and length is held out; the hash names the tokens."""
    args = (world.pieces, world.maze, MESH)
    data, facts = extract.walk_data(*args, extract.WalkSettings(5, 0.4, 8), 0)
    fit, held = (np.concatenate([np.asarray(b.label).ravel() for b in part]) for part in data)
    for c in range(3):
        assert (held == c).sum() == 2 * worlds.TURNS
        assert (fit == c).sum() == 3 * worlds.TURNS == facts["counts"][geometry.NAMES[c]]
    assert facts["directions"].keys() == {"path", "gold", "mold"}
    again, other = (extract.walk_data(*args, extract.WalkSettings(5, 0.4, 8), seed)[1]["data"] for seed in (0, 1000))
    assert facts["data"] == again != other


def test_of_two_walks_one_is_held_out_whatever_the_share(world):
    data, _ = extract.walk_data(world.pieces, world.maze, MESH, extract.WalkSettings(2, 0.2, 8), 0)
    fit, held = (np.concatenate([np.asarray(b.label).ravel() for b in part]) for part in data)
    for c in range(3):
        assert (held == c).sum() == (fit == c).sum() == worlds.TURNS


def test_walks_that_are_asked_about(world, tiny_tokenizer):
    """The question stands after every walk, whatever its length, and is read where the answer begins."""
    questions = ("", "How is it going?")
    which = [extract.WalkSettings(2, 0.5, 8, q) for q in questions]
    data, facts = zip(*(extract.walk_data(world.pieces, world.maze, MESH, w, 0) for w in which))
    assert [f["position"] for f in facts] == ["the final letter", "where the answer to 'How is it going?' begins"]
    for plain, asked in zip(*([row for b in d.fit for row in _rows(b)] for d in data)):
        (before, at), (tokens, last) = plain, asked
        assert at == len(before) - 1 and last == len(tokens) - 1 and tokens[: len(before)] == before
        assert tiny_tokenizer.decode(tokens[len(before) :]) == "<|end|><|user|>How is it going?<|assistant|>"


@pytest.mark.parametrize("change", [{"per_length": 0}, {"batch": 0}, {"held_out": 1.0}, {"held_out": -0.1}])
def test_settings_are_refused_by_name(change):
    ((name, value),) = change.items()
    with pytest.raises(InputError, match=rf"^extract\.{name}={value}: "):
        section = {"per_length": 5, "held_out": 0.2, "batch": 8, "question": "", "x": 1} | change
        settings.typed(extract.WalkSettings, {"extract": section}, "extract")


def _rows(bucket):
    """(tokens without padding, the position that is read) of every row."""
    for tokens, mask, read in zip(*(np.asarray(a).reshape(-1, a.shape[-1]) for a in bucket[:3])):
        yield tokens[mask].tolist(), int(read[0])


def test_live_curve_of_trained_and_untrained(world):
    data, _ = extract.walk_data(world.pieces, world.maze, MESH, extract.WalkSettings(2, 0.5, 8), 0)
    curve = reading.make_live(reading.live_program(world.graphdef, state.join), data)
    a, b = curve(world.trainable, world.frozen), curve({k: 0 * v for k, v in world.trainable.items()}, world.frozen)
    separate = {f"{k}_{c}" for k in ("auroc", "d", "norm") for c in ("mold", "gold")}
    assert a.keys() == {"cos_rest", "cos_path"} | separate and all(len(v) == 3 for v in a.values())
    assert all(abs(x) <= 1 for k in ("cos_rest", "cos_path") for x in a[k]) and not np.allclose(
        a["cos_path"], b["cos_path"], atol=1e-4
    )


def test_live_curve_beside_given_axes(world):
    """An axis that is v_gold itself, and one that has nothing to do with it: against NumPy."""
    data, _ = extract.walk_data(world.pieces, world.maze, MESH, extract.WalkSettings(2, 0.5, 8), 0)
    model = decoder.bind(world.graphdef, state.join(world.trainable, world.frozen))
    found = jax.jit(extract.moments)(model, data.fit)
    v = {
        c: np.asarray(geometry.difference_in_means(found.sums, found.counts, getattr(geometry, c.upper())))
        for c in ("mold", "gold")
    }
    axes = {"itself": v["gold"], "other": np.random.default_rng(0).normal(size=v["gold"].shape).astype(np.float32)}
    program = reading.live_program(world.graphdef, state.join)
    got = reading.make_live(program, data, axes)(world.trainable, world.frozen)
    np.testing.assert_allclose(got["axis_gold/itself"], 1.0, atol=1e-5)
    for c in v:
        want = (v[c] * axes["other"]).sum(-1) / np.linalg.norm(v[c], axis=-1) / np.linalg.norm(axes["other"], axis=-1)
        np.testing.assert_allclose(got[f"axis_{c}/other"], want, atol=1e-5)
