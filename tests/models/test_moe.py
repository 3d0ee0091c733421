"""The mixture of experts against a loop over tokens in NumPy, and its gradients against plain autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import edit_config, hf_model, padded, params, run, save, tiny_model, tiny_spec
from safetensors.numpy import load_file

from welfare_jax.errors import InputError
from welfare_jax.models import decoder, interventions, lora, moe
from welfare_jax.models.layers import Lora

E, K, TOKENS = 6, 2, padded()[0]
CHANGES = dict(experts=E, active=K, swiglu_limit=0.8, attn_bias=True, out_bias=True, sinks=True, qk_norm=False)


@pytest.fixture(scope="module")
def model():
    return tiny_model(**CHANGES)


def by_hand(w, x, scale=None):
    """One token x [D] through the experts of one layer; `scale` [E, F] multiplies the gate's activations."""
    logits = x @ w["router"]["kernel"] + w["router"]["bias"]
    best = np.argsort(-logits)[:K]
    weight = np.exp(logits[best]) / np.exp(logits[best]).sum()
    out = 0
    for p, e in zip(weight, best):
        gate, up = (x @ w["experts"][n]["kernel"][e] + w["experts"][n]["bias"][e] for n in ("gate", "up"))
        gate, up = np.minimum(gate, 0.8), np.clip(up, -0.8, 0.8)
        neurons = gate / (1 + np.exp(-1.702 * gate)) * (1 if scale is None else scale[e])
        out = out + p * ((up + 1) * neurons @ w["experts"]["down"]["kernel"][e] + w["experts"]["down"]["bias"][e])
    return out


@pytest.mark.parametrize("scaled", [False, True])
def test_against_a_loop(model, scaled):
    graphdef, params = model
    scale = np.random.default_rng(1).uniform(0, 2, (E, 40)) if scaled else None
    edit = (lambda n: n * scale.reshape(-1)) if scaled else None
    x = np.random.default_rng(0).normal(size=(3, 19, 24)).astype(np.float32)
    one = jax.tree.map(lambda a: a[1], params["blocks"]["mlp"])

    @jax.jit
    def f(params, x):
        blocks = decoder.bind(graphdef, params).blocks
        return jax.tree.map(lambda a: a[1], blocks).mlp(x, edit)

    got = f(params, x)
    weights = jax.tree.map(lambda a: np.asarray(a, np.float64), one)
    want = [[by_hand(weights, t, scale) for t in row] for row in x]
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.abs(want).max() > 0.3


@pytest.mark.parametrize("tokens", [1, 19, 700])
def test_blocks_hold_every_choice_once_and_alone(tokens):
    """Also where one expert gets nearly all, and where tokens are many enough for larger blocks."""
    rng = np.random.default_rng(tokens)
    choice = np.argsort(rng.normal(size=(tokens, E)) - 3 * (np.arange(E) == 4), -1)[:, :K]
    slot, expert, size = jax.jit(moe.blocks, static_argnums=1)(jnp.asarray(choice), E)
    slot, expert, size = np.asarray(slot), np.asarray(expert), int(size)
    assert len(set(slot)) == slot.size == choice.size and slot.max() < expert.size * size
    assert (expert[slot // size] == choice.reshape(-1)).all()


def test_gradients_of_grouped_products():
    rng = np.random.default_rng(0)
    x, w, expert = rng.normal(size=(7, 4, 5)), rng.normal(size=(3, 5, 6)), jnp.array([0, 0, 2, 2, 2, 0, 2])
    weight = rng.normal(size=(7, 4, 6))
    got, want = (
        jax.jit(jax.grad(lambda x, w, f=f: jnp.sum(weight * jnp.sin(f(x, w))), (0, 1)))(x, w)
        for f in (lambda x, w: moe.grouped(x, w, expert), lambda x, w: jnp.einsum("msi,mio->mso", x, w[expert]))
    )
    for a, b in zip(got, want):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert (np.asarray(got[1][1]) == 0).all()


def test_rows_vmap_and_neurons_of_chosen_experts_only(model):
    """A row alone gives what it gives in its batch; ablating every neuron leaves what no neuron made."""
    graphdef, params = model
    logits = run(graphdef, params, TOKENS).logits
    np.testing.assert_allclose(run(graphdef, params, TOKENS[:1]).logits[0], logits[0], atol=2e-5)
    each = jax.jit(jax.vmap(lambda t: decoder.forward(graphdef, params, t[None]).logits[0]))(TOKENS)
    np.testing.assert_allclose(each, logits, atol=2e-5)
    off = interventions.scale_neurons(jnp.zeros((3, E * 40)))
    none = jax.tree.map(lambda x: x, params)
    down = params["blocks"]["mlp"]["experts"]["down"]
    none["blocks"]["mlp"]["experts"]["down"] = down | {"kernel": jnp.zeros_like(down["kernel"])}
    want = run(graphdef, none, TOKENS).logits
    np.testing.assert_allclose(run(graphdef, params, TOKENS, interventions=off).logits, want, atol=2e-5)
    assert np.abs(np.asarray(want - logits)).max() > 0.1


def test_adapters_of_experts(model):
    """They cover attention and experts but not the router, change the output, and merge into what they compute."""
    graphdef, params = lora.attach(*model, Lora(2, 4.0), jax.random.key(0))
    assert "lora_a" not in params["blocks"]["mlp"]["router"]
    assert params["blocks"]["mlp"]["experts"]["down"]["lora_b"].shape == (3, E, 2, 24)
    params = jax.tree_util.tree_map_with_path(lambda path, x: x + 0.1 if path[-1].key == "lora_b" else x, params)
    got, base = run(graphdef, params, TOKENS).logits, run(*model, TOKENS).logits
    np.testing.assert_allclose(got, run(*lora.merge(graphdef, params), TOKENS).logits, atol=1e-4)
    assert np.abs(np.asarray(got - base)).max() > 0.1


def test_flops_count_the_chosen_experts():
    spec, dense = tiny_spec(**CHANGES), tiny_spec()
    assert spec.flops_per_token(0) - dense.flops_per_token(0) == 3 * (6 * 24 * 40 * (K - 1) + 2 * 24 * E)
    assert spec.neurons == E * 40


def test_both_layouts_of_experts_read_alike(tmp_path):
    """One by one as in released folders, or a layer's in two tensors as `transformers` holds them."""
    model = hf_model("qwen3_moe")
    save(model, tmp_path / "apart")
    save(model, tmp_path / "fused", save_original_format=False)
    apart, fused = (load_file(tmp_path / name / "model.safetensors") for name in ("apart", "fused"))
    assert len(apart) > len(fused) and any(n.endswith("mlp.experts.gate_up_proj") for n in fused)
    (_, a, one), (_, b, other) = (params(tmp_path / name) for name in ("apart", "fused"))
    assert one == other and jax.tree.all(jax.tree.map(jnp.array_equal, a, b))


DENSE = {  # what makes a layer dense, and the first such layer
    "decoder_sparse_step=2": (dict(decoder_sparse_step=2), 0),
    "mlp_only_layers=.1, 2.": (dict(mlp_only_layers=[1, 2]), 1),
}


@pytest.mark.parametrize("named", DENSE)
def test_dense_layers_among_experts_are_refused_by_name(named, tmp_path):
    changes, layer = DENSE[named]
    save(hf_model("qwen3_moe"), tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(InputError, match=f"config.json: .*{named}.*layer {layer} dense; only") as error:
        params(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["decoder_sparse_step", "num_local_experts", "num_experts_per_tok"])
def test_no_experts_at_all_are_refused_by_name(name, tmp_path):
    save(hf_model("qwen3_moe"), tmp_path)
    edit_config(tmp_path, **{name: 0})
    with pytest.raises(InputError, match=f"config.json: {name}=0: must be a whole number from 1 to"):
        params(tmp_path)


def test_lists_that_make_no_layer_dense(tmp_path):
    save(hf_model("qwen3_moe"), tmp_path)
    before = params(tmp_path)[2]
    edit_config(tmp_path, mlp_only_layers=[3, 9])  # of three layers
    assert params(tmp_path)[2] == before
