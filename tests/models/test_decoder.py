"""The forward pass against itself in other shapes: cached, one row at a time, without queries, rematerialised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import VOCAB, padded, run, tiny_model, tiny_spec

from welfare_jax.errors import InputError
from welfare_jax.models import attention, decoder, interventions
from welfare_jax.models.layers import Lora

KINDS = ("qwen3", "gemma3")
TOKENS, MASK = padded((12, 9, 9), "-lr", 12)


@pytest.fixture(scope="module")
def models():
    return {kind: tiny_model(kind) for kind in KINDS}


# Chunk widths, and per row how many slots at the left of each chunk are padding.
LAYOUTS = {
    "left": ((5, 5, 5), [[0, 0, 0], [4, 0, 0], [5, 5, 2]]),
    "between": ((5, 5, 5), [[0, 0, 0], [2, 0, 3], [4, 5, 0]]),
    "singles": ((5, 1, 1, 5, 1), [[0, 0, 0, 0, 0], [1, 0, 0, 1, 1], [3, 1, 0, 2, 0]]),
}


@pytest.mark.parametrize(("kind", "layout"), [("gemma3", layout) for layout in LAYOUTS] + [("qwen3", "singles")])
def test_chunks_through_a_cache_equal_one_forward(kind, layout, models):
    """Also where a row's first chunk is all padding."""
    graphdef, params = models[kind]
    widths, empty = LAYOUTS[layout]
    total = sum(widths)
    tokens = np.random.default_rng(1).integers(3, VOCAB, (3, total)).astype(np.int32)
    mask = np.concatenate([np.arange(w) >= np.array(empty)[:, i : i + 1] for i, w in enumerate(widths)], 1)
    cache = decoder.empty_cache(decoder.static(graphdef)[0], 3, 17, jnp.float32)
    logits, at = [], 0
    for w in widths:
        out = run(graphdef, params, tokens[:, at : at + w], mask=mask[:, at : at + w], cache=cache)
        cache, at = out.cache, at + w
        logits.append(np.asarray(out.logits))
    assert int(cache.used) == total and (np.asarray(cache.count) == mask.sum(1)).all()
    dense, kept = np.zeros((3, 15), np.int32), np.arange(15) < mask.sum(1)[:, None]
    dense[kept] = tokens[mask]
    want = np.asarray(run(graphdef, params, dense, mask=kept).logits)
    np.testing.assert_allclose(np.concatenate(logits, 1)[mask], want[kept], atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_batch_equals_rows_one_by_one(kind, models):
    graphdef, params = models[kind]
    logits = np.asarray(run(graphdef, params, TOKENS, mask=MASK).logits)
    for row in range(3):
        alone = run(graphdef, params, TOKENS[row][MASK[row]][None]).logits[0]
        np.testing.assert_allclose(logits[row][MASK[row]], alone, atol=2e-5)
    assert np.isfinite(logits).all()  # padded queries too: a NaN there would poison every gradient


def test_padding_tokens_do_not_matter(models):
    graphdef, params = models["gemma3"]
    other = np.where(MASK, TOKENS, 7)
    a, b = (np.asarray(run(graphdef, params, t, mask=MASK).logits) for t in (TOKENS, other))
    assert (a[MASK] == b[MASK]).all() and not np.allclose(a, b)


@pytest.mark.parametrize(("kind", "cached"), [("qwen3", True), ("gemma3", True), ("gemma3", False)])
def test_only_what_is_read_equals_everything(kind, cached, models):
    graphdef, params = models[kind]
    spec = decoder.static(graphdef)[0]
    read = jnp.array([[11, 3], [11, 4], [0, 8]])

    @jax.jit
    def both(params):
        model = decoder.bind(graphdef, params)
        cache = decoder.empty_cache(spec, 3, 12, jnp.float32) if cached else None
        return [decoder.backbone(model, TOKENS, MASK, cache=cache, read=read, everywhere=e)[:2] for e in (True, False)]

    full, few = both(params)
    picked = np.take_along_axis(np.asarray(full[0]), np.asarray(read)[..., None], 1)
    np.testing.assert_allclose(few[0], picked, atol=1e-5)
    assert few[1].shape == full[1].shape == (spec.layers, 3, 2, spec.width)
    np.testing.assert_allclose(few[1], full[1], atol=1e-5)


def test_read_takes_one_position_a_row_or_several(models):
    graphdef, params = models["qwen3"]
    whole = run(graphdef, params, TOKENS, mask=MASK, read=jnp.broadcast_to(jnp.arange(12), (3, 12))).residual
    one = run(graphdef, params, TOKENS, mask=MASK, read=jnp.array([11, 5, 8])).residual
    assert one.shape == (3, 3, 1, 24)
    np.testing.assert_array_equal(one[:, :, 0], np.asarray(whole)[:, np.arange(3), [11, 5, 8]])


def test_rematerialised_gradients(models):
    """Of the scanned layers and of the last one, which runs by itself."""
    graphdef, params = models["gemma3"]
    read = jnp.array([[11, 3], [11, 4], [0, 8]])

    def loss(params, remat):
        model = decoder.bind(graphdef, params)
        hidden, residual, _ = decoder.backbone(model, TOKENS, MASK, read=read, everywhere=False, remat=remat)
        return jnp.sum(jnp.sin(decoder.unembed(model, hidden))) + jnp.sum(residual**2)

    plain, *again = jax.jit(lambda p: [jax.grad(loss)(p, remat) for remat in (False, "nothing", "dots")])(params)
    for (path, a), *others in zip(jax.tree.leaves_with_path(plain), *map(jax.tree.leaves, again)):
        for b in others:
            np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max(), err_msg=jax.tree_util.keystr(path))
        assert np.abs(a).max() > 0, path


def test_rematerialisation_keeps_less(models):
    """What the backward pass needs is the stream between the layers, not what happens inside one."""
    graphdef, params = models["qwen3"]

    def kept(remat):
        def f(params):
            return jnp.sum(decoder.backbone(decoder.bind(graphdef, params), TOKENS, MASK, remat=remat)[0])

        residuals = jax.eval_shape(lambda p: jax.vjp(f, p)[1], params)
        return sum(x.size for x in jax.tree.leaves(residuals))

    weights = sum(x.size for x in jax.tree.leaves(params))
    assert kept(True) - weights < 0.3 * (kept(False) - weights)
    assert kept("nothing") == kept(True) < kept("dots") < kept(False)


@pytest.mark.parametrize("vocabulary_rows", [None, [5, 60, 0, 17]])
def test_unembed_of_some_tokens(vocabulary_rows, models):
    graphdef, params = models["qwen3"]
    hidden = jax.random.normal(jax.random.key(0), (2, 3, 24))
    rows = None if vocabulary_rows is None else jnp.array(vocabulary_rows)
    got = decoder.unembed(decoder.bind(graphdef, params), hidden, rows)
    want = np.asarray(hidden) @ np.asarray(params["embed"]).T
    np.testing.assert_allclose(got, want if rows is None else want[..., vocabulary_rows], atol=1e-4)


def naive(q, k, v, qpos, kpos, window, scale, cap=0.0, sinks=None):
    """Softmax attention over repeated key-value heads, everything written out; a sink is a key without a value."""
    k, v = (jnp.repeat(a, q.shape[1] // k.shape[1], axis=1) for a in (k, v))
    scores = jnp.einsum("bhtd,bhsd->bhts", q, k) * scale
    scores = cap * jnp.tanh(scores / cap) if cap else scores
    seen = kpos[:, None, :] <= qpos[:, :, None]
    if window is not None:
        seen &= kpos[:, None, :] > qpos[:, :, None] - window
    scores = jnp.where(seen[:, None], scores, -1e9)
    if sinks is not None:
        sink = jnp.broadcast_to(sinks[None, :, None, None], (*scores.shape[:3], 1))
        scores, v = jnp.concatenate([scores, sink], -1), jnp.pad(v, ((0, 0), (0, 0), (0, 1), (0, 0)))
    return jnp.einsum("bhts,bhsd->bhtd", jax.nn.softmax(scores, -1), v)


def attention_inputs(T, seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    q = jax.random.normal(keys[0], (2, 6, T, 8))
    k, v = (jax.random.normal(key, (2, 2, T, 8)) for key in keys[1:3])
    real = np.arange(T) >= np.array([[0], [T // 3]])  # the second row is padded at the left
    pos = jnp.where(real, jnp.cumsum(real, -1) - 1, attention.NOWHERE)
    weight = jax.random.normal(keys[3], q.shape) * real[:, None, :, None]
    return q, k, v, pos, weight


SINKS = jnp.array([0.5, -1.0, 2.0, 0.0, 1.0, 3.0])


@pytest.mark.parametrize(
    ("T", "window", "cap", "sinks"), [(100, None, 0.0, None), (333, 40, 0.0, None), (210, 40, 1.5, SINKS)]
)
def test_query_blocks_equal_plain_attention(T, window, cap, sinks):
    """Values and gradients; 100 tokens make one block, 333 three of uneven length."""
    q, k, v, pos, weight = attention_inputs(T)

    def total(f, q, k, v, sinks):
        return jnp.sum(weight * f(q, k, v, pos, pos, window, 0.4, cap, sinks))

    of = (0, 1, 2) if sinks is None else (0, 1, 2, 3)
    got, want = (
        jax.jit(jax.value_and_grad(lambda *a, f=f: total(f, *a), of))(q, k, v, sinks)
        for f in (attention.attend_causal, naive)
    )
    np.testing.assert_allclose(got[0], want[0], rtol=1e-4, atol=1e-3)
    for a, b in zip(got[1], want[1]):
        assert np.abs(b).max() > 0.01
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(("cap", "sinks"), [(0.0, None), (1.5, SINKS)])
def test_keys_in_two_stretches_equal_one(cap, sinks):
    q, k, v, pos, _ = attention_inputs(20)
    parts = tuple((k[:, :, s], v[:, :, s], pos[:, s]) for s in (slice(0, 7), slice(7, 20)))
    got = jax.jit(lambda q, parts: attention.attend(q, parts, pos, 6, 0.4, cap, sinks))(q, parts)
    real = np.asarray(pos) != attention.NOWHERE
    want = jax.jit(lambda *a: naive(*a, pos, pos, 6, 0.4, cap, sinks))(q, k, v)
    np.testing.assert_allclose(np.moveaxis(got, 1, 2)[real], np.moveaxis(want, 1, 2)[real], atol=1e-5)
    if sinks is None:
        got = jax.jit(lambda q, parts: attention.attend_library(q, parts, pos, 6, 0.4, "xla"))(q, parts)
        np.testing.assert_allclose(np.moveaxis(got, 1, 2)[real], np.moveaxis(want, 1, 2)[real], atol=1e-5)


@pytest.mark.parametrize("shift", [0.0, -400.0, 400.0])
def test_padding_among_older_keys_takes_no_part_however_scores_lie(shift):
    """Real scores are moved by `shift`, as by a bias of the keys; an empty key's zero would lie far above or below."""
    q, k, v, pos, weight = attention_inputs(20)
    real = np.asarray(pos) != attention.NOWHERE
    q = q.at[..., 0].set(1.0)
    k = k.at[..., 0].set(shift / 0.4) * real[:, None, :, None]

    def total(q, k, v):
        filled = attention.fill(k, pos)
        parts = tuple((filled[:, :, s], v[:, :, s], pos[:, s]) for s in (slice(0, 12), slice(12, 20)))
        out = attention.attend(q[:, :, 12:], parts, pos[:, 12:], None, 0.4, filled=True)
        return jnp.sum(weight[:, :, 12:] * out * real[:, None, 12:, None]), out

    def plain(q, k, v):
        out = naive(q, k, v, pos, pos, None, 0.4)[:, :, 12:]
        return jnp.sum(weight[:, :, 12:] * out * real[:, None, 12:, None]), out

    (_, got), got_grads = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(q, k, v)
    (_, want), want_grads = jax.jit(jax.value_and_grad(plain, (0, 1, 2), has_aux=True))(q, k, v)
    rows = real[:, 12:]
    np.testing.assert_allclose(np.moveaxis(got, 1, 2)[rows], np.moveaxis(want, 1, 2)[rows], atol=1e-3)
    # Scores of 400 are rounded to 2e-5, and what is left of them in the queries' first number is multiplied by 1,000.
    rounding = np.zeros(q.shape[-1])
    rounding[0] = 1e-4 * abs(shift)
    for a, b in zip(got_grads, want_grads):
        assert (np.abs(a - b) <= 2e-3 * max(1.0, np.abs(b).max()) + rounding).all()


def test_a_cache_of_fresh_parts_equals_one_forward(models):
    """A stretch that is full, one with room, which holds copies that nobody counts, and the new part."""
    graphdef, params = models["qwen3"]
    model = decoder.bind(graphdef, params)
    want = run(graphdef, params, TOKENS, mask=MASK).logits
    part = lambda a, b, cache: decoder.backbone(model, TOKENS[:, a:b], MASK[:, a:b], cache=cache, fresh=True)
    third, end = TOKENS.shape[1] // 3, TOKENS.shape[1]
    hidden, _, first = part(0, third, None)
    more, _, second = part(third, 2 * third, (first, decoder.room_after(first, 2)))
    filling = decoder.append(decoder.room_after(first, third + 5), second)
    again, _, last = part(2 * third, end, (first, filling))
    got = jnp.concatenate([decoder.unembed(model, h) for h in (hidden, more, again)], 1)
    np.testing.assert_allclose(np.asarray(got)[MASK], np.asarray(want)[MASK], atol=2e-5)
    rest = decoder.append(decoder.append(decoder.room_after(first, end - third), second), last)
    assert int(rest.used) == end - third and (np.asarray(rest.count) == MASK[:, third:].sum(1)).all()
    assert ((np.asarray(rest.pos) != attention.NOWHERE) == MASK[:, third:]).all()


def test_one_compilation_for_all_layers_scales_vectors_and_masks(models):
    graphdef, params = models["qwen3"]
    traces = []

    @jax.jit
    def f(params, tokens, iv):
        traces.append(1)
        return decoder.forward(graphdef, params, tokens, interventions=iv).logits

    seen = []
    for i in range(4):
        iv = interventions.combine(
            interventions.add(jnp.full(24, float(i)), i % 3, 0.5 * i, where=TOKENS > 10 * i),
            interventions.ablate(jnp.arange(24.0) + i, layer=-1 - i % 3),
            interventions.scale_neurons(jnp.full((3, 40), 1.0 - 0.1 * i)),
        )
        seen.append(np.asarray(f(params, jnp.asarray(TOKENS), iv)))
    assert f._cache_size() == len(traces) == 1
    assert all(not np.allclose(seen[0], s) for s in seen[1:])


def test_equal_graphdefs_share_a_compilation():
    lora = Lora(2)
    a, b = (decoder.structure(tiny_spec(), lora)[0] for _ in range(2))
    decoder.structure.cache_clear()
    c, _ = decoder.structure(tiny_spec(), lora)
    assert a == b == c and hash(a) == hash(c)
    assert decoder.structure(tiny_spec(mlp=41), lora)[0] != a != decoder.structure(tiny_spec(), Lora(3))[0]
    assert decoder.static(a) == (tiny_spec(), lora)


def rename(tree):
    tree["blocks"]["attn"]["w"] = tree["blocks"]["attn"].pop("q")


def reshape(tree):
    tree["blocks"]["mlp"]["up"]["kernel"] = tree["blocks"]["mlp"]["up"]["kernel"].swapaxes(1, 2)


@pytest.mark.parametrize(
    ("spoil", "names"),
    [
        (rename, "blocks/attn/"),
        (reshape, "blocks/mlp/up/kernel"),
        (lambda t: t.pop("embed"), "embed"),
        (lambda t: t.update(unembed=t["embed"]), "unembed"),
        (lambda t: t["final_norm"].update(scale=jnp.ones(25)), "final_norm/scale"),
    ],
)
def test_bind_refuses_other_parameters(spoil, names, models):
    graphdef, params = models["qwen3"]
    params = jax.tree.map(lambda x: x, params)
    spoil(params)
    with pytest.raises(InputError, match=names) as error:
        decoder.forward(graphdef, params, TOKENS)
    assert "\n" not in str(error.value)


def test_inputs_of_the_wrong_shape_are_refused(models):
    graphdef, params = models["qwen3"]
    with pytest.raises(InputError, match="tokens"):
        decoder.forward(graphdef, params, TOKENS[0])
    with pytest.raises(InputError, match="mask"):
        decoder.forward(graphdef, params, TOKENS, mask=MASK[:, :-1])


@pytest.mark.parametrize("odd", [VOCAB, -1, -100, 2**32 + 5])
@pytest.mark.parametrize("make", [np.int64, np.int32, jnp.int32])
def test_ids_without_a_row_are_refused(odd, make, models):
    """In padding too, as in transformers; of a traced array nothing is known."""
    model, (tokens, mask) = models["qwen3"], padded((5, 3), "-l", 5)
    tokens = tokens.astype(np.int64)
    tokens[1, 0] = odd = odd if make is np.int64 else min(odd, 2**31 - 1)
    with pytest.raises(InputError) as error:
        decoder.forward(*model, make(tokens), mask=mask)
    assert str(odd) in str(error.value) and "(1, 0)" in str(error.value) and "\n" not in str(error.value)
    jax.eval_shape(lambda t: decoder.forward(*model, t).logits, jnp.zeros((2, 5), jnp.int32))


def test_ids_are_whole_numbers(models):
    with pytest.raises(InputError, match="float32"):
        decoder.forward(*models["qwen3"], np.ones((2, 5), "f4"))


def test_forward_under_vmap(models):
    graphdef, params = models["gemma3"]
    batches = jnp.stack([TOKENS, TOKENS[:, ::-1]])

    def f(tokens):
        return decoder.forward(graphdef, params, tokens).logits

    got = jax.jit(jax.vmap(f))(batches)
    np.testing.assert_allclose(got, [run(graphdef, params, b).logits for b in batches], atol=2e-5)


def test_bfloat16_stays_near_float32(models):
    graphdef, params = models["gemma3"]
    exact = run(graphdef, params, TOKENS, mask=MASK).logits
    coarse, _ = decoder.structure(decoder.static(graphdef)[0], None, "bfloat16")
    out = run(coarse, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params), TOKENS, mask=MASK)
    assert out.logits.dtype == jnp.float32
    error = np.abs(np.asarray(out.logits - exact))[MASK]
    assert 0 < error.mean() < 0.05 * np.asarray(exact)[MASK].std()


@pytest.mark.parametrize(
    "changes", [dict(kv_heads=3), dict(windows=(0, 0)), dict(rope_of=(0,) * 4)], ids=["heads", "windows", "ropes"]
)
def test_spec_refuses_what_does_not_fit(changes):
    with pytest.raises(InputError):
        tiny_spec(**changes)


def test_flops_against_the_matrix_sizes():
    """Twice the multiply-adds of every matrix product, from the parameters and the visible keys."""
    spec = tiny_spec()
    _, params = tiny_model()
    matrices = sum(x.size for p, x in jax.tree.leaves_with_path(params["blocks"]) if p[-1].key == "kernel")
    scores = 2 * spec.layers * spec.heads * spec.head_dim * 10
    assert spec.flops_per_token(10) == 2 * (matrices + scores)
    assert spec.flops_per_token(10, head=True) == 2 * (matrices + scores + params["embed"].size)


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_parameters(kind):
    """Norms at one, every matrix random with its own numbers, activations neither dying nor growing."""
    spec = tiny_spec(kind, vocab=300, width=64, mlp=160, tied=False)
    graphdef, params = jax.jit(decoder.init, static_argnums=0)(spec, jax.random.key(0))
    matrices = []
    for path, leaf in jax.tree.leaves_with_path(params):
        if path[-1].key == "scale":
            assert (np.asarray(leaf) == 1.0 - spec.norm_offset).all(), path
        else:
            matrices.append(np.asarray(leaf).ravel()[:64])
            assert abs(float(leaf.mean())) < 0.02 and 0.01 < float(leaf.std()) < 0.3, path
    assert np.abs(np.corrcoef(matrices) - np.eye(len(matrices))).max() < 0.6
    out = run(graphdef, params, np.arange(300, dtype=np.int32).reshape(10, 30), read=jnp.full(10, 29))
    size = np.asarray(out.residual).std((1, 2, 3))
    assert 0.5 < size[-1] / size[0] < 5 and 0.1 < np.asarray(out.logits).std() < 3
