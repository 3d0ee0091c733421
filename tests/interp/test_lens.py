"""The logit lens against the full product in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import VOCAB, tiny_model

from welfare_jax.interp import lens
from welfare_jax.models import decoder

VECTORS = np.random.default_rng(0).normal(size=(2, 24)).astype("f4")
CASES = [("qwen3", {}, True), ("qwen3", {}, False), ("qwen3", {"tied": False}, True), ("gemma3", {}, True)]


@pytest.mark.parametrize(("kind", "changes", "fold"), CASES)
def test_top_tokens(kind, changes, fold):
    graphdef, params = tiny_model(kind, **changes)
    found = jax.jit(lambda p, v: lens.of_model(decoder.bind(graphdef, p), v, 5, fold))(params, VECTORS)
    v = VECTORS.astype("f8")
    if fold:
        v = v * (np.asarray(params["final_norm"]["scale"], "f8") + (kind == "gemma3"))
    logits = v / np.linalg.norm(v, axis=-1, keepdims=True) @ np.asarray(params.get("unembed", params["embed"]), "f8").T
    assert logits.shape == (2, VOCAB)
    order = np.argsort(-logits, -1)
    for (values, ids), want in ((found[0], order[:, :5]), (found[1], order[:, ::-1][:, :5])):
        np.testing.assert_array_equal(ids, want)
        np.testing.assert_allclose(values, np.take_along_axis(logits, want, -1), atol=1e-5)


def test_length_of_a_vector_does_not_matter_and_its_sign_does():
    graphdef, params = tiny_model()
    model = decoder.bind(graphdef, params)
    up, down = lens.of_model(model, VECTORS, 4)
    for a, b in zip((up, down), lens.of_model(model, 99 * VECTORS, 4)):
        np.testing.assert_allclose(a[0], b[0], rtol=1e-5)
    np.testing.assert_array_equal(lens.of_model(model, -VECTORS, 4)[0][1], down[1])
    assert np.isfinite(lens.of_model(model, 0 * VECTORS, 4)[0][0]).all()


def test_bfloat16_is_exact_without_a_wide_copy():
    """Values as in float64 over the stored weights; the program's working memory is far below a float32 copy."""
    rng = np.random.default_rng(1)
    table = jnp.asarray(rng.normal(size=(5000, 256)), jnp.bfloat16)
    vectors, weight = rng.normal(size=(2, 3, 256)).astype("f4"), rng.random(256).astype("f4")
    program = jax.jit(lambda v, u, w: lens.logit_lens(v, u, w, 6)).lower(vectors, table, weight).compile()
    (up, _), (down, _) = program(vectors, table, weight)
    v = vectors.astype("f8") * weight
    logits = v / np.linalg.norm(v, axis=-1, keepdims=True) @ np.asarray(table, "f8").T
    order = np.sort(logits, -1)
    np.testing.assert_allclose(up, order[..., ::-1][..., :6], atol=2e-6)
    np.testing.assert_allclose(down, order[..., :6], atol=2e-6)
    assert program.memory_analysis().temp_size_in_bytes < table.size * 4 / 4


def test_words_say_where_else_a_token_is_listed(tiny_tokenizer):
    values = np.array([[2.0, 1.0], [4.0, 3.0]])
    n, e, s, w = (tiny_tokenizer.encode(t, add_special_tokens=False)[0] for t in "NESW")
    found = ((values, np.array([[n, e], [w, n]])), (-values, np.array([[s, w], [e, s]])))
    got = lens.words(tiny_tokenizer, found, ("mold", "gold"))
    assert got["mold"]["promoted"] == [["N", 2.0, "gold promoted"], ["E", 1.0, "gold suppressed"]]
    assert got["mold"]["suppressed"] == [["S", -2.0, "gold suppressed"], ["W", -1.0, "gold promoted"]]
    assert got["gold"]["promoted"] == [["W", 4.0, "mold suppressed"], ["N", 3.0, "mold promoted"]]
