"""Gradients of several devices: added up in float32, once a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny_model

from welfare_jax import mesh as mesh_lib
from welfare_jax.models import decoder
from welfare_jax.models.layers import Lora
from welfare_jax.planning import collectives
from welfare_jax.rl import rollout
from welfare_jax.train import state, step

ROWS, SLOTS = 32, 12

needs_devices = pytest.mark.skipif(jax.device_count() != 8, reason="needs 8 (virtual) devices")


@pytest.fixture(scope="module")
def parts():
    """(loss, trainable, frozen, examples) of a small decoder in bfloat16 with float32 adapters."""
    graphdef, params = tiny_model("qwen3", lora=Lora(2, 4.0))
    trainable, frozen = state.split(params, r".*/lora_[ab]")
    frozen = {k: v.astype(jnp.bfloat16) for k, v in frozen.items()}
    rng = np.random.default_rng(0)
    examples = step.Examples(
        rng.integers(0, 20, (ROWS, SLOTS)).astype(np.int32), np.ones((ROWS, SLOTS), bool),
        np.tile(np.int32([5, 11]), (ROWS, 1)), rng.normal(size=(ROWS, 2, 4)).astype(np.float32),
    )  # fmt: skip

    def loss(frozen, trainable, part, devices):
        model = decoder.bind(graphdef, state.join(trainable, frozen))
        _, logits = rollout.replay(model, *part[:3], jnp.arange(4), hold=devices.hold)
        value = jnp.sum(jax.nn.log_softmax(logits) * part.batch)
        return value, (jnp.float32(part.batch.size), {"most_max": jnp.max(part.batch), "sum": part.batch.sum()})

    return loss, trainable, frozen, examples


def program(parts, size, mesh=None):
    loss, trainable, frozen, examples = parts
    devices = mesh_lib.ONE if mesh is None else mesh_lib.Devices(mesh=mesh)
    run = jax.jit(lambda t, f, e: step.accumulate(lambda *args: loss(f, *args), t, e, size, devices))
    if mesh is not None:
        put = lambda flat: {k: jax.device_put(v, mesh_lib.sharding(mesh, k, v.shape)) for k, v in flat.items()}
        trainable, frozen = put(trainable), put(frozen)
        examples = jax.device_put(examples, mesh_lib.rows(mesh))
    return run.lower(trainable, frozen, examples).compile(), (trainable, frozen, examples)


@needs_devices
@pytest.mark.parametrize("axes", [(8, 1, 1), (4, 2, 1)], ids=str)
def test_devices_add_up_to_one(axes, parts):
    """Of the same passes, to float32's rounding where whole rows meet whole weights: a pass of one device has the rows
    that each of eight has in theirs."""
    one, given = program(parts, 4)
    (want, (count, metrics)), gradients = one(*given)
    many, given = program(parts, 16, mesh_lib.make(*axes))
    (have, (counted, found)), sums = many(*given)
    assert counted == count and found["most_max"] == metrics["most_max"]
    np.testing.assert_allclose(have, want, rtol=1e-5)
    np.testing.assert_allclose(found["sum"], metrics["sum"], rtol=1e-5)
    rounding = 3e-6 if axes[1] == 1 else 2e-2
    for name, g in gradients.items():
        assert sums[name].dtype == jnp.float32
        np.testing.assert_allclose(sums[name], g, rtol=0, atol=rounding * np.abs(g).max(), err_msg=name)


@needs_devices
def test_they_meet_once_a_step(parts):
    """Over the data axis nothing is sent within the loops over micro-batches and layers."""
    found = collectives.of(program(parts, 16, mesh_lib.make(8, 1, 1))[0].as_text())
    size = sum(4 * leaf.size for leaf in parts[1].values())
    assert not [one for one in found if one.deep]
    assert size <= collectives.total(found) <= 1.1 * size + 1000


def test_gradients_of_adapters_are_not_rounded(parts):
    """In bfloat16 nothing of a gradient would be left after the eighth bit."""
    run, given = program(parts, ROWS)
    for g in run(*given)[1].values():
        g = np.asarray(g)
        assert (g != np.asarray(jnp.asarray(g, jnp.bfloat16), np.float32)).mean() > 0.9
