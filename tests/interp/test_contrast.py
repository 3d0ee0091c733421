"""Directions from two lists of texts: against activations read one by one, and a planted difference."""

import jax
import numpy as np
import pytest

import welfare_jax as wj
from welfare_jax.interp import contrast

GOOD = ["I reached the shell.", "We won.", "It went well, I am glad", "I found it and I was happy", "It is here"]
BAD = ["I missed the shell.", "We lost.", "It went badly, I am sad", "I lost it and I was sad"]


@pytest.fixture(scope="module")
def lm():
    return wj.load("tiny")


@pytest.mark.parametrize(("position", "hook", "plain"), [("last", "resid_post", False), ("mean", "z", True)])
def test_the_direction_is_the_difference_in_means(lm, position, hook, plain):
    """Of texts of several lengths, read in batches that do not come out even."""
    found = wj.read_direction(lm, GOOD, BAD, position=position, hook=hook, folds=2, batch=4, plain=plain)
    means = []
    for texts in (GOOD, BAD):
        rows = []
        for text in texts:
            tokens = np.array([lm.tokenizer.encode(text)]) if plain else wj.encode(lm.tokenizer, text)[0]
            every = np.arange(tokens.shape[1])[None]
            act = np.asarray(wj.forward(lm.graphdef, lm.params, tokens, read=every, hook=hook).residual)[:, 0]
            rows.append(act[:, -1] if position == "last" else act.mean(1))
        means.append(np.mean(rows, 0))
    np.testing.assert_allclose(found.vectors, means[0] - means[1], atol=1e-4)
    iv = found.steer(2.0, layer=1)
    assert int(iv.ops[0].layer) == 1 and iv.ops[0].at == hook
    np.testing.assert_allclose(iv.ops[0].vector, found.vectors[1])
    assert f"layer {found.layer} of 4" in repr(found)


def planted(monkeypatch, strength, pairs=40, seed=0):
    """Activations of two layers, the second with the lists apart along its first axis; a pair shares a subject."""
    rng = np.random.default_rng(seed)
    about = 3 * rng.normal(size=(2, pairs, 16))
    act = np.concatenate([about, about], 1) + rng.normal(size=(2, 2 * pairs, 16))
    act[1, :pairs, 0] += strength
    monkeypatch.setattr(contrast, "activations", lambda *args, **named: act.astype("f4"))
    return ["x"] * pairs


@pytest.mark.parametrize("method", contrast.METHODS)
def test_a_planted_axis_is_found(method, monkeypatch):
    texts = planted(monkeypatch, 6.0)
    found = wj.read_direction(None, texts, texts, method=method)
    assert found.layer == 1 and found.auroc[1] > 0.8 > found.auroc[0]
    assert found.vectors[1, 0] > 0.9 * np.linalg.norm(found.vectors[1])
    np.testing.assert_allclose(np.linalg.norm(found.vectors[1]), 6.0, atol=1.0)


def test_without_a_difference_held_out_texts_are_at_chance(monkeypatch):
    """The mean over 100 data sets; on the texts that a direction was made from it would be near one."""
    areas = []
    for seed in range(100):
        texts = planted(monkeypatch, 0.0, pairs=12, seed=seed)
        areas.append(wj.read_direction(None, texts, texts).auroc)
    assert abs(np.mean(areas) - 0.5) < 0.05


WRONG = {
    "one text": (dict(positive="good"), "not a single text"),
    "too few": (dict(positive=GOOD[:3]), "folds=4"),
    "no pairs": (dict(method="pca"), "5 positive and 4 negative"),
    "no folds": (dict(folds=1), "folds=1"),
    "nothing to read": (dict(positive=[*GOOD, ""], plain=True), "text 5: has no token"),
    "no hook point": (dict(hook="resid"), "resid_mid"),
    "no method": (dict(method="lda"), "means, pca"),
    "no position": (dict(position="first"), "last, mean"),
}


@pytest.mark.parametrize("case", WRONG)
def test_refused_in_a_line(case, lm):
    changes, names = WRONG[case]
    with pytest.raises(wj.InputError, match=names):
        wj.read_direction(lm, **dict(positive=GOOD, negative=BAD) | changes)


def test_chat_answers_as_generate_does(lm):
    prompts = ["How is it going?", [{"role": "user", "content": "How do you feel?"}]]
    steer = wj.add(40 * np.random.default_rng(0).normal(size=lm.spec.width), 2)
    tokens, mask = wj.encode(lm.tokenizer, prompts, multiple=32)
    new, kept = wj.generate(
        lm.graphdef, lm.params, tokens, mask, jax.random.key(0), max_new_tokens=9, interventions=steer,
        stop=wj.stop_ids(lm.tokenizer),
    )  # fmt: skip
    want = [lm.tokenizer.decode(i[k], skip_special_tokens=True) for i, k in zip(np.asarray(new), np.asarray(kept))]
    assert wj.chat(lm, prompts, steer, max_new_tokens=9) == want
    assert wj.chat(lm, prompts[0], steer, max_new_tokens=9) == want[0]
    assert wj.chat(lm, prompts[:1], steer, max_new_tokens=9) == want[:1]
    assert wj.chat(lm, prompts[1], max_new_tokens=9) != want[1]
    assert "." not in wj.chat(lm, prompts[0], max_new_tokens=9, stop_strings=["."])[:-1]


def test_columns_of_a_data_set_are_lists_of_texts(lm):
    """Whatever can be gone through, with and without the chat template."""
    for plain in (False, True):
        want = wj.read_direction(lm, GOOD, BAD, folds=2, plain=plain)
        rows = ({"text": text, "label": 1} for text in GOOD)
        found = wj.read_direction(lm, rows, np.array(BAD), folds=2, plain=plain)
        np.testing.assert_array_equal(found.vectors, want.vectors)
