"""Every operation at every hook point against torch forward hooks on the same model in transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers import hf_model, padded, params, run, save, tiny_model, torch_run

from welfare_jax import mesh as mesh_lib
from welfare_jax.errors import InputError
from welfare_jax.models import decoder, interventions, lora
from welfare_jax.models.interventions import (
    HOOKS,
    ablate,
    add,
    combine,
    hook_width,
    patch,
    scale_neurons,
    without_masks,
)
from welfare_jax.models.layers import Lora

B, T, D, F, L = 3, 9, 40, 56, 3
TOKENS, MASK = padded((9, 6, 7), "-lr", T)
RNG = np.random.default_rng(3)
VECTORS, NEURONS = RNG.normal(size=(B, D)).astype("f4"), RNG.normal(size=(B, F)).astype("f4")
LAYERS, SCALES = np.array([0, 2, -2]), np.array([2.0, -1.0, 0.5], "f4")
WHERE = RNG.random((B, T)) < 0.6


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """(torch model, graphdef, params) by family."""
    out = {}
    for kind in ("qwen3", "gemma3"):
        model = hf_model(kind, num_hidden_layers=L)
        graphdef, weights, _ = params(save(model, tmp_path_factory.mktemp(kind)))
        out[kind] = (model, graphdef, weights)
    return out


def on_rows(layers, layer):
    """[B, 1, 1]: which rows an operation with per-row `layers` touches at `layer`."""
    hit = np.array([n % L == layer for n in np.broadcast_to(layers, B)])
    return torch.tensor(hit)[:, None, None]


def torch_add(vector, layers, scale, where=None):
    push = torch.tensor(
        np.broadcast_to(scale, B)[:, None, None] * np.broadcast_to(vector, (B, np.shape(vector)[-1]))[:, None]
    )
    where = torch.ones(B, T, 1, dtype=bool) if where is None else torch.tensor(where)[..., None]
    return lambda layer, x: torch.where(on_rows(layers, layer) & where, x + push, x)


def torch_ablate(direction, layers=None, where=None):
    unit = torch.tensor(direction / np.linalg.norm(direction, axis=-1, keepdims=True))
    unit = unit[:, None] if unit.ndim == 2 else unit
    where = torch.ones(B, T, 1, dtype=bool) if where is None else torch.tensor(where)[..., None]

    def edit(layer, x):
        hit = where if layers is None else where & on_rows(layers, layer)
        return torch.where(hit, x - (x * unit).sum(-1, keepdim=True) * unit, x)

    return edit


def torch_scale(factors, where=None):
    factors = torch.tensor(np.broadcast_to(factors, (B, L, F)))
    where = torch.ones(B, T, 1, dtype=bool) if where is None else torch.tensor(where)[..., None]
    return lambda layer, x: torch.where(where, x * factors[:, layer][:, None], x)


def compare(side, iv, edits, atol=1e-4):
    model, graphdef, weights = side
    read = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
    out = run(graphdef, weights, TOKENS, mask=MASK, interventions=iv, read=read)
    with torch.no_grad():
        logits, stream, _ = torch_run(model, TOKENS, MASK, edits)
        before = torch_run(model, TOKENS, MASK)[0]
    assert (logits - before).abs().max() > 0.05  # the intervention does something
    np.testing.assert_allclose(np.asarray(out.logits)[MASK], logits.numpy()[MASK], atol=atol)
    np.testing.assert_allclose(np.asarray(out.residual)[:, MASK], stream.numpy()[:, MASK], atol=atol)


@pytest.mark.parametrize("kind", ["qwen3", "gemma3"])
@pytest.mark.parametrize("at", HOOKS)
def test_add_then_ablate_at_a_hook_point(kind, at, sides):
    """Per-row vectors, layers and scales and a mask, then a projection at one layer of the mask's complement."""
    width = hook_width(decoder.static(sides[kind][1])[0], at)
    data = np.random.default_rng(4).normal(size=(B, width)).astype("f4")
    iv = combine(add(data, LAYERS, SCALES, WHERE, at=at), ablate(10 * data[0], layer=-1, where=~WHERE, at=at))
    edits = [(at, torch_add(data, LAYERS, SCALES, WHERE)), (at, torch_ablate(data[0], -1, ~WHERE))]
    compare(sides[kind], iv, edits)


def torch_patch(values, layers, where):
    values, where = torch.tensor(values), torch.tensor(where)[..., None]
    return lambda layer, x: torch.where(on_rows(layers, layer) & where, values, x)


@pytest.mark.parametrize("kind", ["qwen3", "gemma3"])
@pytest.mark.parametrize("at", HOOKS)
def test_activations_set_at_a_hook_point(kind, at, sides):
    """For every row and token, for every row, and for all; then read where the last layer does only what it must."""
    spec = decoder.static(sides[kind][1])[0]
    values = np.random.default_rng(5).normal(size=(B, T, hook_width(spec, at))).astype("f4")
    for some in (values, values[:, 0], values[0, 0]):
        wide = np.broadcast_to(some if some.ndim != 2 else some[:, None], values.shape)
        compare(sides[kind], patch(some, LAYERS, WHERE, at=at), [(at, torch_patch(wide, LAYERS, WHERE))])
    _, graphdef, weights = sides[kind]
    read = np.array([[8, 2], [8, 4], [5, 0]])
    iv = patch(values, L - 1, WHERE, at=at)
    want = run(graphdef, weights, TOKENS, mask=MASK, interventions=iv, read=read).residual
    model = decoder.bind(graphdef, weights)
    got = decoder.backbone(model, TOKENS, MASK, iv=iv, read=read, everywhere=False)[1]
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_another_run_patched_in_makes_this_one_it(sides):
    """All tokens of one run's last stream, set in a run on other tokens, give the first run's logits."""
    _, graphdef, weights = sides["qwen3"]
    other = TOKENS[::-1].copy()
    everywhere = np.broadcast_to(np.arange(T), (B, T))
    there = run(graphdef, weights, other, mask=MASK, read=everywhere)
    iv = patch(there.residual[-1], -1)
    here = run(graphdef, weights, TOKENS, mask=MASK, interventions=iv)
    np.testing.assert_allclose(here.logits, there.logits, atol=1e-4)
    assert without_masks(iv).ops == () and interventions.per_row(iv)


def test_shared_vector_at_one_layer(sides):
    compare(sides["qwen3"], add(VECTORS[0], -2, 3.0), [("resid_post", torch_add(VECTORS[0], 1, np.float32(3.0)))])


def test_ablation_everywhere_removes_the_direction(sides):
    iv = ablate(VECTORS)
    compare(sides["gemma3"], iv, [("resid_post", torch_ablate(VECTORS))])
    _, graphdef, weights = sides["gemma3"]
    read = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
    stream = np.asarray(run(graphdef, weights, TOKENS, mask=MASK, interventions=iv, read=read).residual)
    assert np.abs(np.einsum("lbtd,bd->lbt", stream, VECTORS)).max() < 1e-3 * np.abs(stream).max()


@pytest.mark.parametrize("per_row", [False, True])
def test_neurons_scaled(per_row, sides):
    factors = RNG.choice([0.0, 1.0, 2.5], size=(B, L, F) if per_row else (L, F)).astype("f4")
    where = WHERE if per_row else None
    compare(sides["gemma3"], scale_neurons(factors, where), [("mlp_neurons", torch_scale(factors, where))])


@pytest.mark.parametrize("first", ["add", "ablate"])
def test_order_of_combination(first, sides):
    """Adding along a direction and projecting it out do not commute; the order given is the order applied."""
    ours = {"add": add(VECTORS[1], 1, 2.0), "ablate": ablate(VECTORS[1] + VECTORS[2], 1)}
    theirs = {"add": torch_add(VECTORS[1], 1, np.float32(2)), "ablate": torch_ablate(VECTORS[1] + VECTORS[2], 1)}
    names = ["add", "ablate"] if first == "add" else ["ablate", "add"]
    compare(sides["qwen3"], combine(*(ours[n] for n in names)), [("resid_post", theirs[n]) for n in names])


@pytest.mark.parametrize("layer", range(L))
def test_layers_before_the_steered_one_are_bit_identical(layer, sides):
    _, graphdef, weights = sides["gemma3"]
    read = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))

    def stream(scale):
        iv = add(VECTORS, layer, scale)
        return np.asarray(run(graphdef, weights, TOKENS, mask=MASK, interventions=iv, read=read).residual)

    plain, steered = stream(0.0), stream(4.0)
    np.testing.assert_array_equal(steered[:layer], plain[:layer])
    np.testing.assert_allclose((steered - plain)[layer], np.broadcast_to(4 * VECTORS[:, None], (B, T, D)), atol=1e-5)


def test_unmasked_tokens_before_the_first_steered_one_are_untouched(sides):
    _, graphdef, weights = sides["qwen3"]
    where = np.arange(T) >= 4
    logits = [
        np.asarray(run(graphdef, weights, TOKENS[:1], interventions=add(VECTORS[:1], 0, s, where[None])).logits)
        for s in (0.0, 5.0)
    ]
    np.testing.assert_array_equal(logits[0][:, :4], logits[1][:, :4])
    assert np.abs(logits[0] - logits[1])[:, 4:].max(-1).min() > 0.01


def test_vmap_over_vectors(sides):
    _, graphdef, weights = sides["qwen3"]

    def f(vector):
        return decoder.forward(graphdef, weights, TOKENS, mask=MASK, interventions=add(vector, 1, 2.0)).logits

    got = jax.jit(jax.vmap(f))(jnp.asarray(VECTORS))
    one = [run(graphdef, weights, TOKENS, mask=MASK, interventions=add(v, 1, 2.0)).logits for v in VECTORS]
    np.testing.assert_allclose(got, one, atol=1e-4)


def test_vmap_over_layers_and_scan_over_strengths(sides):
    """Every layer in one batched program, every strength in one loop, each equal to its own forward."""
    _, graphdef, weights = sides["gemma3"]

    def f(layer, scale):
        iv = combine(add(VECTORS, layer, scale, WHERE), ablate(VECTORS[0], layer))
        return decoder.forward(graphdef, weights, TOKENS, mask=MASK, interventions=iv).logits

    by_layer = jax.jit(jax.vmap(f, (0, None)))(jnp.arange(L), 2.0)
    by_scale = jax.jit(lambda scales: jax.lax.scan(lambda _, s: (None, f(1, s)), None, scales)[1])(SCALES)
    one = jax.jit(f)
    np.testing.assert_allclose(by_layer, [one(layer, 2.0) for layer in range(L)], atol=1e-4)
    np.testing.assert_allclose(by_scale, [one(1, s) for s in SCALES], atol=1e-4)
    assert np.abs(np.diff(by_layer, axis=0)).max((1, 2, 3)).min() > 0.05


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 2, 2)])
def test_on_a_mesh_as_on_one_device(axes, sides):
    """Rows, their vectors, layers, scales and masks sharded with the batch; parameters by the partition rules."""
    _, graphdef, weights = sides["qwen3"]
    mesh = mesh_lib.make(*axes)
    tokens, mask, where = (np.tile(a, (8, 1))[:8] for a in (TOKENS, MASK, WHERE))
    rows = lambda a: np.tile(a, (8,) + (1,) * (a.ndim - 1))[:8]
    iv = combine(
        add(rows(VECTORS), rows(LAYERS), rows(SCALES), where),
        ablate(VECTORS[0], where=where, at="resid_pre"),
        scale_neurons(np.linspace(0, 2, 8 * L * F, dtype="f4").reshape(8, L, F)),
    )

    def f(weights, tokens, mask, iv):
        return decoder.forward(graphdef, weights, tokens, mask=mask, interventions=iv).logits

    want = jax.jit(f)(weights, tokens, mask, iv)
    placed = jax.tree_util.tree_map_with_path(
        lambda p, a: jax.device_put(
            a, mesh_lib.sharding(mesh, jax.tree_util.keystr(p, simple=True, separator="/"), a.shape)
        ),
        weights,
    )
    spread = lambda a: jax.device_put(a, mesh_lib.rows(mesh) if a.shape[:1] == (8,) else mesh_lib.replicated(mesh))
    got = jax.jit(f)(placed, *jax.tree.map(spread, (tokens, mask, iv)))
    assert len(got.sharding.device_set) == 8
    np.testing.assert_allclose(np.asarray(got)[mask], np.asarray(want)[mask], atol=1e-4)


def test_nothing_compiles_again_for_other_data(sides):
    """Layer, vector, scale and mask are leaves; only what is done, and where, is structure."""
    _, graphdef, weights = sides["qwen3"]
    f = jax.jit(
        lambda iv: decoder.forward(graphdef, weights, TOKENS, mask=MASK, interventions=iv, read=LAYERS * 0).logits
    )
    for i in range(4):
        f(combine(
            add(i * VECTORS, (LAYERS + i) % L, i * SCALES, np.roll(WHERE, i, 1)), ablate(VECTORS + i, i % L),
            scale_neurons(np.full((L, F), i, "f4")),
        ))  # fmt: skip
    assert f._cache_size() == 1
    f(add(VECTORS, 0, at="attn_out"))
    assert f._cache_size() == 2


def test_gradient_with_respect_to_vector_and_scale(sides):
    """Against torch's own gradient through the hook, and against a finite difference along one direction."""
    model, graphdef, weights = sides["gemma3"]
    weight = (RNG.normal(size=(B, T, 61)) * MASK[..., None]).astype("f4")

    @jax.jit
    def f(vector, scale):
        out = decoder.forward(graphdef, weights, TOKENS, mask=MASK, interventions=add(vector, 1, scale, WHERE))
        return jnp.sum(out.logits * weight)

    got, along = jax.grad(f, (0, 1))(VECTORS[0], 2.0)
    vector, scale = torch.tensor(VECTORS[0], requires_grad=True), torch.tensor(2.0, requires_grad=True)
    where = torch.tensor(WHERE)[..., None]
    edit = lambda layer, x: torch.where(where, x + scale * vector, x) if layer == 1 else x
    (torch_run(model, TOKENS, MASK, [("resid_post", edit)])[0] * torch.tensor(weight)).sum().backward()
    np.testing.assert_allclose(got, vector.grad, atol=1e-3 * float(vector.grad.abs().max()))
    np.testing.assert_allclose(along, scale.grad, rtol=1e-3)
    step = 0.02
    difference = (f(VECTORS[0], 2.0 + step) - f(VECTORS[0], 2.0 - step)) / (2 * step)
    np.testing.assert_allclose(along, difference, rtol=0.02)


def everything(where):
    """One of each kind, per row."""
    part = lambda w, s: None if w is None else w[:, s]
    return lambda s: combine(
        add(VECTORS, LAYERS, SCALES, part(where, s)),
        add(VECTORS[::-1].copy(), 1, at="attn_out"),
        ablate(VECTORS[0], where=part(where, s), at="resid_pre"),
        scale_neurons(np.linspace(0, 2, B * L * F, dtype="f4").reshape(B, L, F), part(where, s)),
    )


def test_cached_equals_uncached(sides):
    _, graphdef, weights = sides["gemma3"]
    whole = run(graphdef, weights, TOKENS, mask=MASK, interventions=everything(WHERE)(slice(None))).logits
    cache, parts = decoder.empty_cache(decoder.static(graphdef)[0], B, T, jnp.float32), []
    for i in range(0, T, 3):
        s = slice(i, i + 3)
        out = run(graphdef, weights, TOKENS[:, s], mask=MASK[:, s], interventions=everything(WHERE)(s), cache=cache)
        cache = out.cache
        parts.append(out.logits)
    np.testing.assert_allclose(np.concatenate(parts, 1)[MASK], np.asarray(whole)[MASK], atol=1e-4)


def test_last_layer_cut_to_what_is_read(sides):
    """There the masks are cut with the tokens."""
    _, graphdef, weights = sides["qwen3"]
    read = jnp.array([[8, 2], [8, 4], [1, 6]])
    iv = everything(WHERE)(slice(None))

    @jax.jit
    def both(iv):
        model = decoder.bind(graphdef, weights)
        return [decoder.backbone(model, TOKENS, MASK, iv=iv, read=read, everywhere=e)[:2] for e in (True, False)]

    (full, stream), (few, cut) = both(iv)
    np.testing.assert_allclose(few, np.take_along_axis(np.asarray(full), np.asarray(read)[..., None], 1), atol=1e-4)
    np.testing.assert_allclose(cut, stream, atol=1e-4)


def test_with_adapters_as_with_merged_weights(sides):
    _, graphdef, weights = sides["qwen3"]
    adapted = lora.attach(graphdef, weights, Lora(2, 4.0), jax.random.key(0))
    adapted = (adapted[0], jax.tree.map(lambda x: x + 0.02, adapted[1]))
    iv = everything(None)(slice(None))
    got, want = (run(*m, TOKENS, mask=MASK, interventions=iv).logits for m in (adapted, lora.merge(*adapted)))
    np.testing.assert_allclose(np.asarray(got)[MASK], np.asarray(want)[MASK], atol=1e-4)


def test_no_intervention_and_neutral_ones_change_nothing(sides):
    _, graphdef, weights = sides["qwen3"]
    plain = run(graphdef, weights, TOKENS, mask=MASK).logits
    neutral = combine(
        add(VECTORS, 1, 0.0), add(VECTORS, 1, 9.0, np.zeros((B, T), bool)), scale_neurons(np.ones((L, F)))
    )
    for iv in (combine(), neutral, ablate(np.zeros(D))):
        np.testing.assert_allclose(
            run(graphdef, weights, TOKENS, mask=MASK, interventions=iv).logits, plain, atol=1e-5
        )


def test_what_treats_rows_differently():
    one, rows, mask = np.ones(8), np.ones((3, 8)), np.ones((3, 5), bool)
    alike = [interventions.add(one, 0), interventions.ablate(one, 1), interventions.scale_neurons(np.ones((2, 4)))]
    apart = [
        interventions.add(rows, 0), interventions.add(one, np.arange(3)), interventions.add(one, 0, np.ones(3)),
        interventions.add(one, 0, where=mask), interventions.ablate(rows), interventions.ablate(one, np.arange(3)),
        interventions.scale_neurons(np.ones((3, 2, 4))),
    ]  # fmt: skip
    assert not any(map(interventions.per_row, [None, *alike, interventions.combine(*alike)]))
    assert all(map(interventions.per_row, [*apart, interventions.combine(alike[0], apart[0])]))


def test_masks_can_be_dropped():
    iv = add(VECTORS, 1, where=WHERE) + ablate(VECTORS, where=WHERE)
    assert all(op.where is None for op in without_masks(iv).ops) and without_masks(None) is None
    assert all(op.where is not None for op in iv.ops)


ZERO = np.zeros(24, "f4")
WRONG = {  # for a model of width 24, mlp 40, 3 layers, on tokens [2, 5]
    "hook point": (lambda: add(ZERO, 0, at="resid_middle"), "resid_middle"),
    "vector width": (lambda: add(np.zeros(23), 0), "23"),
    "neuron vector at the stream": (lambda: ablate(np.zeros(40)), "40"),
    "stream vector at neurons": (lambda: add(ZERO, 0, at="mlp_neurons"), "24"),
    "layer too high": (lambda: add(ZERO, 3), "layer 3"),
    "layer too low": (lambda: ablate(ZERO, -4), "layer -4"),
    "one row's layer": (lambda: add(ZERO, [0, 7]), "layer 7"),
    "mask of other tokens": (lambda: add(ZERO, 0, where=np.ones((2, 4), bool)), "where"),
    "mask of one row": (lambda: ablate(ZERO, where=np.ones(5, bool)), "where"),
    "values of other tokens": (lambda: patch(np.zeros((2, 4, 24)), 0), "values"),
    "values for heads": (lambda: patch(ZERO, 0, at="z"), "24"),
    "rows of vectors": (lambda: add(np.zeros((3, 24)), 0), "vector"),
    "rows of layers": (lambda: add(ZERO, [0, 1, 2]), "layer"),
    "rows of scales": (lambda: add(ZERO, 0, np.ones(3)), "scale"),
    "rows of directions": (lambda: ablate(np.ones((4, 24))), "direction"),
    "factors of one layer": (lambda: scale_neurons(np.ones(40)), "factors"),
    "factors of too few layers": (lambda: scale_neurons(np.ones((2, 40))), "factors"),
    "factors of too many rows": (lambda: scale_neurons(np.ones((3, 3, 40))), "factors"),
    "factors of another width": (lambda: scale_neurons(np.ones((3, 24))), "24"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused(case):
    make, names = WRONG[case]
    graphdef, weights = tiny_model()
    with pytest.raises(InputError) as error:
        decoder.forward(graphdef, weights, np.zeros((2, 5), np.int32), interventions=make())
    assert names in str(error.value) and "\n" not in str(error.value)
