"""The partition table covers every parameter once, and a mesh changes no number."""

import re

import jax
import numpy as np
import optax
import pytest
import worlds
from helpers import tiny_spec
from jax.sharding import PartitionSpec as P

from welfare_jax import mesh as mesh_lib
from welfare_jax.errors import InputError
from welfare_jax.models import decoder
from welfare_jax.models.layers import Lora
from welfare_jax.train import state, step

# All dimensions differ, so that an axis can be told by its size.
SHAPE = dict(vocab=64, width=24, heads=8, kv_heads=2, head_dim=4, mlp=40, layers=3)
D, V, R = 24, 64, 5


def parameters(kind, **changes):
    shapes = decoder.structure(tiny_spec(kind, **SHAPE | changes), Lora(R, 1.0))[1]
    return {
        jax.tree_util.keystr(p, simple=True, separator="/"): leaf.shape
        for p, leaf in jax.tree.leaves_with_path(shapes)
    }


def intended(path, shape):
    """The stream's width lies on fsdp; heads, neurons, words on tensor; layers, experts and norms are whole."""
    kind = path.split("/")[-1]
    whole = [None] * (len(shape) - 1)
    if kind == "scale" or path == "blocks/mlp/router/bias":
        return P()
    if kind in ("bias", "sinks"):
        return P(*whole, "tensor")
    if kind == "lora_a":
        return P(*whole[1:], "fsdp", None)
    if kind == "lora_b" or path == "blocks/mlp/router/kernel":
        return P(*whole, "tensor") if kind == "lora_b" else P(None, "fsdp", None)
    return P(*(("fsdp" if n == D else "tensor") if i >= len(shape) - 2 else None for i, n in enumerate(shape)))


EVERYTHING = [
    ("qwen3", {}), ("qwen3", dict(tied=False, attn_bias=True)), ("gemma3", {}), ("gemma3", dict(tied=False)),
    ("qwen3", dict(attn_bias=True, out_bias=True, sinks=True, experts=6, active=2)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "changes"), EVERYTHING)
def test_every_parameter_matches_exactly_the_intended_rule(kind, changes):
    found = parameters(kind, **changes)
    assert ("unembed" in found) == ("tied" in changes) and any("bias" in k for k in found) == ("attn_bias" in changes)
    for path, shape in found.items():
        fits = [spec for pattern, spec in mesh_lib.RULES if re.fullmatch(pattern, path)]
        assert fits == [intended(path, shape)], path
        assert mesh_lib.spec_for(path) == fits[0] and len(fits[0]) in (0, len(shape))


def test_every_rule_is_used():
    paths = [p for kind, changes in EVERYTHING for p in parameters(kind, **changes)] + list(state.value_head(D))
    for pattern, _ in mesh_lib.RULES:
        assert any(re.fullmatch(pattern, p) for p in paths), pattern


@pytest.mark.parametrize("path", ["blocks/attn/q/weight", "head", "blocks/attn/r/kernel", "xembed"])
def test_an_unknown_parameter_is_refused(path):
    with pytest.raises(InputError) as error:
        mesh_lib.spec_for(path)
    assert path in str(error.value) and "\n" not in str(error.value)


needs_devices = pytest.mark.skipif(jax.device_count() != 8, reason="needs 8 (virtual) devices")


@needs_devices
def test_make():
    assert dict(mesh_lib.make().shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(mesh_lib.make(0, 2, 2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}


@needs_devices
@pytest.mark.parametrize("axes", [(3, 1, 1), (0, 3, 1), (8, 2, 1), (0, 16, 1), (0, 0, 1), (-8, -1, 1), (1, 1, 1)])
def test_a_mesh_that_does_not_fit_is_refused(axes):
    with pytest.raises(InputError) as error:
        mesh_lib.make(*axes)
    text = str(error.value)
    assert "\n" not in text and "8 devices" in text and "config.mesh" in text


@needs_devices
def test_an_axis_that_does_not_divide_stays_whole():
    mesh = mesh_lib.make(1, 4, 2)
    assert mesh_lib.sharding(mesh, "embed", (64, 24)).spec == P("tensor", "fsdp")
    assert mesh_lib.sharding(mesh, "embed", (61, 24)).spec == P(None, "fsdp")
    assert mesh_lib.sharding(mesh, "embed", (61, 26)).spec == P(None, None)


def one_step(world, mesh):
    """(metrics, gradient by SGD of rate one, trajectory) of one collect and update over `mesh`, or on one device."""
    cfg = worlds.train_config(groups=4, micro_batch=8)
    if mesh is not None:
        place = lambda part: {k: jax.device_put(v, mesh_lib.sharding(mesh, k, v.shape)) for k, v in part.items()}
        world = world._replace(trainable=place(world.trainable), frozen=place(world.frozen))
    tx = optax.sgd(1.0)
    played, _ = worlds.collector(world, cfg, mesh=mesh)(
        world.trainable, world.frozen, jax.random.key(0), 0, cfg.temperature
    )
    now, metrics = worlds.updater(world, cfg, tx)(worlds.fresh(world, tx), world.frozen, None, played, cfg.temperature)
    return jax.device_get((step.values(metrics), now.trainable, played)), now.trainable


@pytest.mark.slow
@needs_devices
@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 2, 2)])
def test_a_mesh_changes_no_number(axes, tiny_tokenizer):
    """Rollout and update over eight devices, with plain SGD so that a wrong factor cannot hide."""
    world = worlds.make(tiny_tokenizer)
    (want, after, episodes), _ = one_step(world, None)
    mesh = mesh_lib.make(*axes)
    (got, spread, again), live = one_step(world, mesh)
    assert got == pytest.approx(want, rel=1e-5, abs=1e-5)
    np.testing.assert_array_equal(again.tokens, episodes.tokens)
    np.testing.assert_array_equal(again.actions, episodes.actions)
    np.testing.assert_allclose(again.logits, episodes.logits, atol=1e-4)
    step_size = max(np.abs(after[k] - np.asarray(world.trainable[k])).max() for k in after)
    assert step_size > 1e-4
    for name in after:
        np.testing.assert_allclose(spread[name], after[name], atol=1e-4 * step_size, err_msg=name)
    if axes == (2, 2, 2):
        assert live["blocks/attn/q/lora_a"].sharding.shard_shape((3, 24, 2)) == (3, 12, 2)
