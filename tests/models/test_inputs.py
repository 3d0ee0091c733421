"""What users pass in place of arrays: it works, or one line says what to pass."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny_model

import welfare_jax as wj
from welfare_jax.errors import InputError
from welfare_jax.models import decoder, inputs

TOKENS = [[3, 4, 5, 6], [7, 8, 9, 10]]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_a_plain_call_equals_the_jitted_one(model):
    """Lists, -1 for the last token, weights and several hook points; compiled once for each shape."""
    array, mask = jnp.array(TOKENS), jnp.ones((2, 4), bool)
    iv = wj.add(np.ones(24), 1, 0.5)
    hook = ["resid_mid", "z"]
    got = wj.forward(*model, TOKENS, mask=mask.tolist(), read=[-1, 0], hook=hook, interventions=iv)
    ours = jax.jit(
        lambda p, iv: decoder.forward(model[0], p, array, read=jnp.array([3, 0]), hook=tuple(hook), interventions=iv)
    )
    want = ours(model[1], iv)
    np.testing.assert_allclose(got.logits, want.logits, atol=1e-5)
    for a, b in zip(got.residual, want.residual):
        np.testing.assert_allclose(a, b, atol=1e-5)
    before = decoder._forward_compiled._cache_size()
    wj.forward(*model, TOKENS, mask=mask.tolist(), read=[1, 2], hook=hook, interventions=wj.add(np.zeros(24), 2, 9.0))
    assert decoder._forward_compiled._cache_size() == before
    weights = np.full((2, 1, 4), 0.25, "f4")
    mean = wj.forward(*model, TOKENS, read=weights).residual[:, :, 0]
    every = wj.forward(*model, TOKENS, read=np.tile(np.arange(4), (2, 1))).residual.mean(2)
    np.testing.assert_allclose(mean, every, atol=1e-5)


WRONG = {
    "a text": (dict(tokens="How is it going?"), "wj.encode"),
    "texts": (dict(tokens=["How", "is it"]), "wj.encode"),
    "rows of several lengths": (dict(tokens=[[1, 2], [3]]), "wj.encode"),
    "one row": (dict(tokens=[1, 2, 3]), "[batch, tokens]"),
    "numbers that are no ids": (dict(tokens=[[1.5, 2.0]]), "float"),
    "a mask of another shape": (dict(mask=np.ones((2, 3), bool)), "mask"),
    "beyond the end": (dict(read=[4, 0]), "position 4 is outside of rows of 4"),
    "before the beginning": (dict(read=[-5, 0]), "position -5"),
    "a position too few": (dict(read=[3]), "read: has shape (1, 1)"),
    "weights of other tokens": (dict(read=np.ones((2, 1, 3), "f4")), "weights [2, P, 4]"),
    "an unknown hook point": (dict(read=[0, 0], hook="resid"), "'resid' is unknown: use one of resid_pre"),
    "one of them unknown": (dict(read=[0, 0], hook=("z", "q")), "'q' is unknown"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_meant_is_refused_in_a_line(case, model):
    changes, names = WRONG[case]
    given = dict(tokens=TOKENS) | changes
    with pytest.raises(InputError) as error:
        wj.forward(*model, given.pop("tokens"), **given)
    assert names in str(error.value) and "\n" not in str(error.value)


def test_a_seed_is_a_key(model):
    ask = lambda key: wj.generate(*model, TOKENS, np.ones((2, 4), bool), key, max_new_tokens=5, temperature=1.0)[0]
    for key in (7, np.int64(7), jax.random.PRNGKey(7)):
        np.testing.assert_array_equal(ask(key), ask(jax.random.key(7)))
    assert (np.asarray(ask(7)) != np.asarray(ask(8))).any()


def test_a_cache_without_room_is_refused(model):
    """What does not fit would be written over what is there."""
    spec = decoder.static(model[0])[0]
    cache = decoder.empty_cache(spec, 2, 6, jnp.float32)
    cache = wj.forward(*model, TOKENS, cache=cache).cache
    with pytest.raises(InputError, match="cache: 4 of its 6 slots are used, 4 more tokens do not fit"):
        wj.forward(*model, TOKENS, cache=cache)
    wj.forward(*model, np.array(TOKENS)[:, :2], cache=cache)
    with pytest.raises(InputError, match="1 rows need"):
        wj.forward(*model, TOKENS[:1], cache=cache)


@pytest.mark.parametrize("stop", ["a", (3.5,), ["."]])
def test_stops_are_ids(stop, model):
    with pytest.raises(InputError, match="needs token ids"):
        wj.generate(*model, TOKENS, np.ones((2, 4), bool), 0, max_new_tokens=2, stop=stop)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_nothing_at_all_is_refused(shape, model):
    for call in (wj.forward, lambda *a: wj.generate(*a, np.ones(shape, bool), 0, max_new_tokens=2)):
        with pytest.raises(InputError, match="at least one of each"):
            call(*model, np.zeros(shape, np.int32))


def test_prompts_of_every_form(tiny_tokenizer):
    """One text is one prompt; what no tokenizer can read is named."""
    for read in (wj.encode, wj.assistant_tokens):
        one, several = read(tiny_tokenizer, "hi"), read(tiny_tokenizer, (p for p in ["hi"]))
        np.testing.assert_array_equal(np.array(one), np.array(several))
        for prompts, names in (([], "at least one"), ("\ud83d", "half a character"), (["a", "b\udc00"], "half a")):
            with pytest.raises(InputError, match=names):
                read(tiny_tokenizer, prompts)
        with pytest.raises(InputError, match="multiple=0"):
            read(tiny_tokenizer, ["hi"], multiple=0)
    with pytest.raises(InputError, match="renders nothing"):
        wj.encode(tiny_tokenizer, "hi", {"chat_template": ""})
    for strings in (["\ud83d"], [3], [""]):
        with pytest.raises(InputError, match="stop string"):
            wj.stop_strings(tiny_tokenizer, strings)
    with pytest.raises(InputError, match="k=9: the unembedding has 5 tokens"):
        wj.logit_lens(jnp.ones(4), jnp.ones((5, 4)), k=9)


def test_traced_positions_pass():
    assert jax.jit(lambda read: inputs.positions(read, (2, 3)))(jnp.array([9, 9])).shape == (2, 1)


def test_a_model_is_shown_in_three_lines():
    lm = wj.load("tiny", dtype=jnp.bfloat16)
    family, size, place = repr(lm).splitlines()
    assert "qwen3" in family and "879,616 parameters, bfloat16: 4 layers of width 128" in size and "1 x cpu" in place
    assert repr(dataclasses.replace(lm, params=jax.device_get(lm.params))).endswith("on the host")
