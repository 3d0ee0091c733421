"""Low-rank adapters: no effect when fresh, the same as merged weights, and alone in being trained."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import padded, run, tiny_model

from welfare_jax.errors import InputError
from welfare_jax.models import decoder, layers, lora
from welfare_jax.models.layers import Lora

TOKENS, MASK = padded()
ALL = ["attn/q", "attn/k", "attn/v", "attn/o", "mlp/gate", "mlp/up", "mlp/down"]


def paths(tree):
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in jax.tree.leaves_with_path(tree)}


@pytest.fixture(scope="module")
def base():
    return tiny_model("gemma3")


@pytest.fixture(scope="module")
def fresh(base):
    return lora.attach(*base, Lora(4, 8.0), jax.random.key(1))


@pytest.fixture(scope="module")
def moved(fresh):
    """Adapters as after some training."""
    graphdef, params = fresh
    rng = np.random.default_rng(0)

    def move(path, x):
        return jnp.asarray(rng.normal(size=x.shape) * 0.2, x.dtype) if "lora" in path[-1].key else x

    return graphdef, jax.tree_util.tree_map_with_path(move, params)


def test_fresh_adapters_change_nothing(base, fresh):
    got, want = (run(*m, TOKENS, mask=MASK).logits for m in (fresh, base))
    np.testing.assert_allclose(got, want, atol=1e-5)
    a, b = paths(base[1]), paths(fresh[1])
    assert all(np.array_equal(b[k], v) for k, v in a.items())
    assert sorted(set(b) - set(a)) == sorted(f"blocks/{n}/lora_{x}" for n in ALL for x in "ab")


def test_fresh_factors(fresh):
    """B is zero; A is uniform within one over the square root of the fan in, and no two are alike."""
    factors = {k: np.asarray(v) for k, v in paths(fresh[1]).items() if "lora" in k}
    assert all((v == 0).all() for k, v in factors.items() if k.endswith("b"))
    first = {k: v for k, v in factors.items() if k.endswith("a")}
    for name, a in first.items():
        bound = a.shape[1] ** -0.5
        assert a.shape[-1] == 4 and 0.9 * bound < np.abs(a).max() <= bound, name
        assert abs(a.mean()) < bound / 5 and abs(a.std() - bound / 3**0.5) < bound / 10, name
    for (m, a), (n, b) in itertools.combinations(first.items(), 2):
        assert not np.intersect1d(a * a.shape[1] ** 0.5, b * b.shape[1] ** 0.5).size, (m, n)
    assert not np.array_equal(factors["blocks/attn/q/lora_a"][0], factors["blocks/attn/q/lora_a"][1])


def test_the_key_decides(base, fresh):
    again, other = (lora.attach(*base, Lora(4, 8.0), jax.random.key(k))[1] for k in (1, 2))
    assert np.array_equal(again["blocks"]["mlp"]["up"]["lora_a"], fresh[1]["blocks"]["mlp"]["up"]["lora_a"])
    assert not np.array_equal(again["blocks"]["mlp"]["up"]["lora_a"], other["blocks"]["mlp"]["up"]["lora_a"])


def test_merged_equals_adapted(base, moved):
    merged = lora.merge(*moved)
    assert paths(merged[1]).keys() == paths(base[1]).keys() and merged[0] == base[0]
    got, want, plain = (np.asarray(run(*m, TOKENS, mask=MASK).logits)[MASK] for m in (merged, moved, base))
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert np.abs(plain - want).max() > 0.1
    assert lora.merge(*base)[1] is base[1]


def test_merged_kernel_in_closed_form(base, moved):
    """W + alpha / r * A B, layer by layer."""
    merged, adapted = lora.merge(*moved)[1]["blocks"]["mlp"]["down"], moved[1]["blocks"]["mlp"]["down"]
    for l in range(3):
        a, b = (np.asarray(adapted[f"lora_{n}"][l], np.float64) for n in "ab")
        np.testing.assert_allclose(merged["kernel"][l], np.asarray(adapted["kernel"][l]) + 2.0 * a @ b, atol=1e-5)


@pytest.mark.parametrize(
    ("targets", "covered"),
    [(r"attn/(q|v)", ["attn/q", "attn/v"]), (r"mlp/.*", ["mlp/gate", "mlp/up", "mlp/down"]), (r".*", ALL)],
)
def test_targets(base, targets, covered):
    _, params = lora.attach(*base, Lora(2, targets=targets), jax.random.key(0))
    found = {k for k in paths(params) if re.fullmatch(lora.PATTERN, k)}
    assert found == {f"blocks/{n}/lora_{x}" for n in covered for x in "ab"}
    run(decoder.structure(decoder.static(base[0])[0], Lora(2, targets=targets))[0], params, TOKENS, mask=MASK)


def test_targets_that_match_nothing_are_refused(base):
    """Training no parameter at all would look like a very stable run."""
    with pytest.raises(InputError, match="q_proj"):
        lora.attach(*base, Lora(2, targets="q_proj|v_proj"), jax.random.key(0))


def split(params):
    """(trained, frozen) as dicts by path."""
    flat = paths(params)
    trained = {k: v for k, v in flat.items() if re.fullmatch(lora.PATTERN, k)}
    return trained, {k: v for k, v in flat.items() if k not in trained}


def test_gradients_of_the_adapters_alone(moved):
    """Equal to the chain rule through the full kernel: dA = s dW B', dB = s A' dW; the rest gets none."""
    graphdef, params = moved
    trained, frozen = split(params)
    tree = jax.tree.structure(params)
    order = list(paths(params))

    @jax.jit
    def grads(trained, frozen):
        def loss(trained, frozen):
            merged = jax.tree.unflatten(tree, [(trained | frozen)[k] for k in order])
            logits = decoder.forward(graphdef, merged, TOKENS, mask=MASK).logits
            return jnp.sum(jnp.where(MASK[..., None], jnp.sin(logits), 0.0))

        return jax.grad(loss)(trained, frozen), jax.grad(loss, 1)(trained, frozen)

    by_factor, by_weight = grads(trained, frozen)
    assert set(by_factor) == set(trained)
    for name in ALL:
        a, b = (np.asarray(trained[f"blocks/{name}/lora_{x}"], np.float64) for x in "ab")
        dw = np.asarray(by_weight[f"blocks/{name}/kernel"], np.float64)
        want = {"a": 2.0 * dw @ b.swapaxes(1, 2), "b": 2.0 * a.swapaxes(1, 2) @ dw}
        for x in "ab":
            got = np.asarray(by_factor[f"blocks/{name}/lora_{x}"])
            assert np.abs(got).max() > 0
            np.testing.assert_allclose(got, want[x], atol=1e-4 * np.abs(want[x]).max(), err_msg=name + x)


def test_fresh_adapters_learn_through_b_first(fresh):
    """With B zero the gradient of A is zero and that of B is not."""
    graphdef, params = fresh

    @jax.jit
    def grad(params):
        return jax.grad(lambda p: jnp.sum(decoder.forward(graphdef, p, TOKENS, mask=MASK).logits[MASK] ** 2))(params)

    for name, g in paths(grad(params)).items():
        if "lora" in name:
            assert (np.abs(g).max() > 0) == name.endswith("b"), name


def test_the_narrow_product_has_the_gradients_of_a_product():
    kx, ka, kg = jax.random.split(jax.random.key(3), 3)
    x, a = jax.random.normal(kx, (2, 40, 24)), jax.random.normal(ka, (2, 24, 4))
    g = jax.random.normal(kg, (2, 40, 4))
    for have, want in zip(
        jax.jit(jax.vmap(lambda x, a, g: jax.vjp(layers.narrow_product, x, a)[1](g)))(x, a, g),
        (jnp.einsum("bnr,bir->bni", g, a), jnp.einsum("bni,bnr->bir", x, g)),
        strict=True,
    ):
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)


def test_the_merged_product_has_the_value_and_the_gradients_of_its_three():
    rng = np.random.default_rng(4)
    x, w, a, b, g = (rng.normal(size=s) for s in ((40, 24), (24, 16), (24, 4), (4, 16), (40, 16)))
    kernel = w + a @ b
    wanted = (x @ kernel, g @ kernel.T, x.T @ g, x.T @ (g @ b.T), (x @ a).T @ g)

    def both(x, a, b, w, g):
        y, back = jax.vjp(layers.merged_product, x, w, a, b)
        return (y, *back(g))

    # Two organisms over one kernel.
    twice = [jnp.float32(np.stack([v, v])) for v in (x, a, b)]
    have = jax.jit(jax.vmap(both, in_axes=(0, 0, 0, None, None)))(*twice, jnp.float32(w), jnp.float32(g))
    for got, want in zip(have, wanted, strict=True):
        np.testing.assert_allclose(got, np.stack([want, want]), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "rows, dtype, merged", [(64, "float32", True), (4, "float32", False), (64, "bfloat16", False)]
)
def test_adapters_are_merged_where_that_is_less_work_and_loses_nothing(rows, dtype, merged):
    layer = layers.Linear("attn/q", 16, 16, lora=Lora(2, 4.0), dtype=jnp.dtype(dtype))
    program = str(jax.make_jaxpr(layer)(jnp.ones((1, rows, 16), dtype)))
    assert ("merged_product" in program) == merged and ("narrow_product" in program) != merged


def test_the_program_of_an_accelerator_keeps_adapters_apart():
    def program():
        return str(jax.make_jaxpr(layers.Linear("attn/q", 16, 16, lora=Lora(2, 4.0)))(jnp.ones((1, 64, 16))))

    with layers.for_accelerators():
        assert "merged_product" not in program()
    assert "merged_product" in program()
