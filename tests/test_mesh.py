"""The partition table covers every parameter once, and a mesh changes no number."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import worlds
from helpers import tiny_spec
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from welfare_jax import mesh as mesh_lib
from welfare_jax.errors import InputError
from welfare_jax.models import decoder
from welfare_jax.models.layers import Lora
from welfare_jax.train import parallel, state, step

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


@needs_devices
@pytest.mark.parametrize("turns", [2, 3, 5])
def test_rows_come_back_in_their_order(turns):
    """A product whose result lies on every axis; with rows on (data, fsdp), that of two or three turns is wrong."""
    mesh, rng = mesh_lib.make(2, 2, 2), np.random.default_rng(0)
    x, w = (rng.normal(size=s).astype(np.float32) for s in ((16, turns, 40), (24, 40)))
    spread = NamedSharding(mesh, P(*mesh_lib.ROWS, None, "tensor"))
    product = jax.jit(lambda x, w: (x.reshape(-1, 40) @ w.T).reshape(16, turns, 24), out_shardings=spread)
    got = product(jax.device_put(x, mesh_lib.rows(mesh)), jax.device_put(w, NamedSharding(mesh, P("fsdp", "tensor"))))
    np.testing.assert_allclose(got, x @ w.T, atol=1e-4)


def either():
    """Plain gradient descent, in which no wrong factor can hide, or Adam: the state says which, at one compilation."""
    adam = optax.scale_by_adam()

    def update(grads, state, params=None, *, lr, **_):
        steps, after = adam.update(grads, state["adam"])
        mix = lambda a, g: -lr * (a * state["use"] + 20.0 * g * (1 - state["use"]))
        return jax.tree.map(mix, steps, grads), {"adam": after, "use": state["use"]}

    init = lambda params: {"adam": adam.init(params), "use": jnp.float32(0)}
    return optax.GradientTransformationExtraArgs(init, update)


CFG = worlds.train_config(groups=4, micro_batch=8, rollout_batch=8)


def learn(world, mesh=None, way="jit"):
    """{rule: (metrics of five steps, trajectories, change of the parameters)}, and the last state on its devices."""
    where = parallel.devices(way, mesh)
    one = jax.make_mesh((1, 1, 1), mesh_lib.AXES, devices=jax.devices()[:1], axis_types=(AxisType.Auto,) * 3)
    mesh, tx, settings = mesh or one, either(), {"groups": CFG.groups, "group_size": CFG.group_size}
    collect = step.make_collect(
        world.graphdef, world.pieces, world.maze, **settings, mesh=mesh, at_once=CFG.rollout_batch, devices=where
    )
    update = step.make_update(world.graphdef, world.pieces, tx, CFG, world.maze, devices=where)
    place = lambda part: {
        k: jax.device_put(np.asarray(v), mesh_lib.sharding(mesh, k, v.shape)) for k, v in part.items()
    }
    frozen = place(world.frozen)
    out, programs = {}, None
    for rule in ("sgd", "adam"):
        trainable = place(world.trainable)
        now = state.State(jnp.int32(0), trainable, tx.init(trainable) | {"use": jnp.float32(rule == "adam")})
        places = state.shardings(mesh, now)
        now, rows, seen = jax.device_put(now, places), [], []
        programs = programs or (
            parallel.collect(collect, where, mesh),
            parallel.update(
                lambda now, frozen, _, __, played, *___: update(now, frozen, None, played, 0.7), where, mesh, places
            ),
        )
        for i in range(5):
            played, _ = programs[0](now.trainable, frozen, jax.random.key(0), i, 0.7, None, None)
            now, metrics = programs[1](now, frozen, None, None, played, None, None)
            rows.append(step.values(metrics))
            seen.append(jax.device_get(played))
        out[rule] = rows, seen, {k: np.asarray(now.trainable[k]) - np.asarray(v) for k, v in world.trainable.items()}
    return out, now


@pytest.fixture(scope="module")
def world(tiny_tokenizer):
    return worlds.make(tiny_tokenizer)


@pytest.fixture(scope="module")
def alone(world):
    return learn(world)[0]


@pytest.mark.slow
@needs_devices
@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 4, 1), (2, 2, 2), "pmap"], ids=str)
def test_other_devices_change_no_number(axes, world, alone):
    """Five steps of rollout in two parts and update in two micro-batches, by plain gradient descent and by Adam."""
    got, live = learn(world, mesh_lib.make(8, 1, 1), "pmap") if axes == "pmap" else learn(world, mesh_lib.make(*axes))
    for rule, (rows, seen, change) in alone.items():
        for a, b in zip(got[rule][0], rows):
            assert worlds.same(a, b), (rule, a, b)
        for a, b in zip(got[rule][1], seen):
            np.testing.assert_array_equal(a.tokens, b.tokens)
            np.testing.assert_array_equal(a.actions, b.actions)
            np.testing.assert_allclose(a.logits, b.logits, atol=1e-4)
        most = max(np.abs(v).max() for v in change.values())
        assert most > 1e-3, rule
        for name, want in change.items():
            np.testing.assert_allclose(got[rule][2][name], want, atol=1e-3 * most, err_msg=f"{rule} {name}")
    if axes == (2, 2, 2):
        assert live.trainable["blocks/attn/q/lora_a"].sharding.shard_shape((3, 24, 2)) == (3, 12, 2)
