"""Arithmetic against closed forms; memory against counts by hand and against what XLA reserves."""

import jax
import jax.numpy as jnp
import pytest
import worlds
from helpers import tiny_spec

from welfare_jax.envs import maze
from welfare_jax.models import decoder
from welfare_jax.models.layers import Lora
from welfare_jax.models.spec import small
from welfare_jax.planning import cost
from welfare_jax.text import pieces as text
from welfare_jax.train import state, step

A = jax.ShapeDtypeStruct((64, 64), jnp.float32)
ONE = 64 * 64 * 4  # bytes of A
PRODUCT = 2 * 64**3


def test_flops_of_a_decoder():
    """Against the closed form, every query at full context."""
    spec = tiny_spec()
    graphdef, params = decoder.structure(spec)
    tokens = jax.ShapeDtypeStruct((2, 7), jnp.int32)
    found = cost.of(lambda p, t: decoder.forward(graphdef, p, t).logits, params, tokens)
    assert found.flops == 2 * 7 * spec.flops_per_token(7, head=True)


def layers(x, w, remat=False):
    body = lambda x, w: (jnp.tanh(x @ w), None)
    return jax.lax.scan(jax.checkpoint(body) if remat else body, x, w)[0]


@pytest.mark.parametrize(
    ("function", "products"),
    [
        (lambda a: a @ a @ a, 2),
        (jax.jit(lambda a: jnp.sin(a) @ a), 1),
        (lambda a: jnp.einsum("bi,ci->bc", a, a), 1),
        (lambda a: layers(a, jnp.stack([a] * 5)), 5),
        (lambda a: jax.grad(lambda x: layers(x, jnp.stack([a] * 5)).sum())(a), 10),
        (lambda a: jax.grad(lambda x: layers(x, jnp.stack([a] * 5), remat=True).sum())(a), 15),
        (lambda a: jax.lax.cond(a[0, 0] > 0, lambda: a @ a @ a, lambda: a), 2),
        (lambda a: jax.vmap(lambda b: a @ b)(jnp.ones((3, 64, 2))), 3 / 32),
        (lambda a: a + a, 0),
    ],
)
def test_flops(function, products):
    assert cost.of(function, A).flops == products * PRODUCT


@pytest.mark.parametrize(
    ("function", "arrays"),
    [
        (lambda a: a @ a, 1),
        (lambda a: a @ a @ a @ a, 2),  # the first product is gone when the third is made
        (lambda a: jnp.tanh(a @ a) + 1, 1),  # written over the product
        (lambda a: jnp.sum(jnp.exp(a) * 2), 4 / ONE),  # fused into the sum
        (lambda a: (lambda x, y: x @ y)(a @ a, a.T @ a), 3),
        (lambda a: (a @ a).reshape(-1).reshape(32, 128), 1),
        (lambda a: jax.lax.fori_loop(0, 9, lambda i, x: x.at[i].set(1.0), a @ a), 1),
        (lambda a: jax.lax.scan(lambda c, _: (c[0], 2 * c)[::-1], a, None, length=64), 2),  # carry, rows
        (lambda a: jnp.pad(a @ a, ((0, 64), (0, 0))), 3),
    ],
)
def test_bytes(function, arrays):
    assert cost.of(function, A).bytes == pytest.approx(arrays * ONE, rel=0.02)


def test_donated_memory_is_used_again():
    add = lambda tree, g: jax.tree.map(lambda a: a - g @ g, tree)
    assert cost.of(add, (A, A), A).bytes > cost.of(add, (A, A), A, donated=True).bytes
    assert cost.of(lambda a, g: a * 2 + g, A, A, donated=True).bytes == 0


def test_nothing_is_computed_and_keys_weigh_nothing():
    key = jax.eval_shape(lambda: jax.random.key(0))
    huge = jax.ShapeDtypeStruct((1 << 20, 1 << 20), jnp.float32)
    found = cost.of(lambda k, x: jax.random.normal(k, (8, 1 << 20)) @ x, key, huge)
    assert found.flops == 2 * 8 * 2**40 and found.bytes == pytest.approx(2 * 8 * 2**20 * 4, rel=0.01)


@pytest.mark.slow
def test_memory_is_about_what_xla_reserves():
    """The training step's own programs, on one device: the estimate is within a quarter of the compiler's figure."""
    cfg, pieces = worlds.train_config(groups=4, group_size=8, micro_batch=16), text.stand_in(21)
    world = maze.Params(size=21, turns=5)
    graphdef, params = decoder.structure(small(300, width=64, heads=4, kv_heads=2, head_dim=32, mlp=256), Lora(4, 8.0))
    trainable, frozen = jax.eval_shape(lambda p: state.split(p, r".*/lora_[ab]"), params)
    args = (trainable, frozen, jax.random.key(0), 0, 0.7)
    collect = step.make_collect(graphdef, pieces, world, groups=4, group_size=8)
    tx, played = state.optimizer(cfg), jax.eval_shape(collect, *args)[0]
    now = state.State(jax.ShapeDtypeStruct((), jnp.int32), trainable, jax.eval_shape(tx.init, trainable))
    learn = step.make_update(graphdef, pieces, tx, cfg, world)
    for program, given, donated in ((collect, args, False), (learn, (now, frozen, None, played, 0.7), True)):
        compiled = jax.jit(program, donate_argnums=(0,) * donated).lower(*given).compile()
        reserved = compiled.memory_analysis().temp_size_in_bytes
        found = cost.of(program, *given, donated=donated).bytes
        assert found == pytest.approx(reserved, rel=0.25)
