"""Shams are as large as what training did, module by module and layer by layer, and point elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from welfare_jax.errors import InputError
from welfare_jax.train import shams

L, I, R, O = 3, 20, 4, 30


def flat(seed, b=0.0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return {
        "blocks/attn/q/lora_a": draw(L, I, R), "blocks/attn/q/lora_b": b * draw(L, R, O),
        "blocks/mlp/experts/up/lora_a": draw(L, 2, I, R), "blocks/mlp/experts/up/lora_b": b * draw(L, 2, R, O),
        "blocks/norm/scale": draw(L, I), "value_head/kernel": draw(I),
    }  # fmt: skip


def changes(initial, now):
    """{name: change of the weights}, adapters as products."""
    out = {}
    for name in now:
        if name.endswith("lora_a"):
            b = name[:-1] + "b"
            out[name] = np.einsum("...ir,...ro->...io", now[name], now[b])
            out[name] -= np.einsum("...ir,...ro->...io", initial[name], initial[b])
        elif not name.endswith("lora_b"):
            out[name] = np.asarray(now[name] - initial[name])
    return out


def test_norms_are_those_of_training_and_directions_are_not():
    initial, trained = flat(0), flat(1, b=0.5)
    found = [shams.draw(initial, trained, jax.random.key(k)) for k in range(2)]
    assert found[0].keys() == trained.keys()
    want, *got = (changes(initial, now) for now in (trained, *found))
    for name, change in want.items():
        axes = {"blocks/norm/scale": -1, "value_head/kernel": None}.get(name, (-2, -1))
        for other in got:
            np.testing.assert_allclose(
                np.sqrt((other[name] ** 2).sum(axes)), np.sqrt((change**2).sum(axes)), rtol=1e-4, err_msg=name
            )
            assert abs(np.corrcoef(other[name].ravel(), change.ravel())[0, 1]) < 0.35, name
        assert abs(np.corrcoef(got[0][name].ravel(), got[1][name].ravel())[0, 1]) < 0.35, name


def test_what_was_not_trained_stays():
    initial = flat(0)
    same = shams.draw(initial, initial, jax.random.key(0))
    assert all((c == 0).all() for c in changes(initial, same).values())


def test_adapters_that_did_not_begin_at_zero_are_refused():
    with pytest.raises(InputError, match="outcome.shams: blocks/attn/q/lora_b is not zero before training"):
        shams.draw(flat(0, b=0.1), flat(1, b=0.5), jax.random.key(0))
