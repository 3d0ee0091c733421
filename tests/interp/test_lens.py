"""The logit lens against the full product in NumPy."""

import jax
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
    found = jax.jit(lambda p, v: lens.logit_lens(decoder.bind(graphdef, p), v, 5, fold))(params, VECTORS)
    v = VECTORS.astype("f8")
    if fold:
        v = v * (np.asarray(params["final_norm"]["scale"], "f8") + (kind == "gemma3"))
    logits = v / np.linalg.norm(v, axis=-1, keepdims=True) @ np.asarray(params.get("unembed", params["embed"]), "f8").T
    assert logits.shape == (2, VOCAB)
    order = np.argsort(-logits, -1)
    for (values, ids), want, sign in ((found[0], order[:, :5], 1), (found[1], order[:, ::-1][:, :5], -1)):
        np.testing.assert_array_equal(ids, want)
        np.testing.assert_allclose(values, sign * np.take_along_axis(logits, want, -1), atol=1e-5)


def test_length_of_a_vector_does_not_matter_and_its_sign_does():
    graphdef, params = tiny_model()
    model = decoder.bind(graphdef, params)
    up, down = lens.logit_lens(model, VECTORS, 4)
    for a, b in zip((up, down), lens.logit_lens(model, 99 * VECTORS, 4)):
        np.testing.assert_allclose(a[0], b[0], rtol=1e-5)
    np.testing.assert_array_equal(lens.logit_lens(model, -VECTORS, 4)[0][1], down[1])
    assert np.isfinite(lens.logit_lens(model, 0 * VECTORS, 4)[0][0]).all()


def test_words(tiny_tokenizer):
    values = np.array([[2.0, 1.0], [4.0, 3.0]])
    ids = [tiny_tokenizer.encode(t, add_special_tokens=False) for t in "NESW"]
    up, down = np.array([ids[0] + ids[1], ids[1] + ids[0]]), np.array([ids[2] + ids[3], ids[3] + ids[2]])
    got = lens.words(tiny_tokenizer, ((values, up), (values, down)))
    assert got[0] == {"promoted": [["N", 2.0], ["E", 1.0]], "suppressed": [["S", -2.0], ["W", -1.0]]}
    assert got[1]["promoted"][0] == ["E", 4.0]
