"""Comparison axes against plain NumPy on the same activations; the files they are made from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds
from helpers import tiny_spec
from published import SHARED
from sklearn.decomposition import PCA

from welfare_jax import config
from welfare_jax.errors import InputError
from welfare_jax.interp import extract
from welfare_jax.interp.axes import assent, comparison, emotions, sentiment, success, texts
from welfare_jax.interp.axes.settings import AxesSettings
from welfare_jax.models import decoder
from welfare_jax.settings import typed
from welfare_jax.text.wording import Wording
from welfare_jax.train import state

L, N, D = 2, 40, 12
RNG = np.random.default_rng(0)


def published(name):
    path = SHARED / "data" / name
    if not path.is_file():
        pytest.skip(f"needs {path}")
    return str(path)


def test_packaged_samples():
    assert len(texts.lines("", "emotions.txt")) == 24 and len(texts.lines("", "topics.txt")) == 12
    for name, fields in (
        ("reviews.csv", ("sentiment", "text")), ("prompt_pairs.jsonl", ("positive", "negative")),
        ("statements.jsonl", ("statement",)), ("dialogues.jsonl", ("text",)),
    ):  # fmt: skip
        assert len(texts.records("", name, fields)) >= 12


def test_published_files(tiny_tokenizer):
    words = texts.lines(published("axes/emotions_171.txt"), "")
    assert len(words) == 171 and "at ease" in words
    assert len(texts.lines(published("axes/story_topics.txt"), "")) == 100
    assert len(texts.records(published("axes/vaa_statements.json"), "", ("statement",))) == 175
    samples = sentiment.reviews(tiny_tokenizer, published("imdb_cad/dev_paired.tsv"), 20, 64)
    assert samples.label[:, 0].tolist().count(1) == 10 and samples.tokens.shape == (20, 64)
    assert len(texts.records(published("imdb_cad/dev_paired.tsv"), "", ("sentiment", "text"))) == 490


BAD = {
    "absent": (None, "x.txt", "cannot be read"),
    "empty": ("\n\n", "x.txt", "is empty"),
    "torn": ('[{"statement": ', "x.json", "not JSON"),
    "no_object": ('["a"]', "x.json", "has no 'statement'"),
    "no_field": ('{"statement": "a"}\n{"said": "b"}', "x.jsonl", "line 2: has no 'statement'"),
    "no_rows": ("Statement,Split\n", "x.csv", "holds no records"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_named_in_one_line(case, tmp_path):
    text, name, said = BAD[case]
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as error:
        if name.endswith("txt"):
            texts.lines(path, "")
        else:
            texts.records(path, "", ("statement",))
    assert said in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_other_sentiments_are_refused(tiny_tokenizer, tmp_path):
    (tmp_path / "r.csv").write_text("Sentiment,Text\nneutral,so so\n")
    with pytest.raises(InputError, match="'neutral'"):
        sentiment.reviews(tiny_tokenizer, tmp_path / "r.csv", 8, 8)


def test_spread():
    assert texts.spread(list(range(10)), 5) == [0, 2, 4, 6, 8] and texts.spread([1, 2], 0) == texts.spread([1, 2], 9)


@pytest.fixture(scope="module")
def world(tiny_tokenizer):
    return worlds.make(tiny_tokenizer)


def full(world):
    return state.join(world.trainable, world.frozen)


def test_reading_at_the_end_and_averaged(world):
    """One forward of padded rows against rows alone; rows too short to average have no class."""
    model = decoder.bind(world.graphdef, full(world))
    rows = [RNG.integers(3, 60, n).tolist() for n in (4, 9, 2, 7)]
    single = [
        np.asarray(decoder.backbone(model, jnp.array([r]), read=jnp.arange(len(r))[None])[1])[:, 0] for r in rows
    ]
    ends = extract.buckets(texts.at_the_end(rows, [0, 1, 0, 1]), 4, 1)
    act, labels = extract.collect(model, ends)
    order = np.argsort([len(r) for r in rows])
    for i, j in enumerate(order):
        np.testing.assert_allclose(act[:, i], single[j][:, -1], atol=1e-5)
    assert labels.tolist() == [[0, 1, 0, 1][j] for j in order]
    late = extract.buckets(texts.averaged(rows, [0, 1, 0, 1], 4), 4, 1)
    act, labels = extract.collect(model, late)
    for i, j in enumerate(order):
        assert labels[i] == (-1 if j == 2 else [0, 1, 0, 1][j])
        if j != 2:
            np.testing.assert_allclose(act[:, i], single[j][:, 3:].mean(1), atol=1e-5)
    act, labels = extract.collect(model, extract.buckets(texts.averaged(rows, [0, 1, 0, 1], 4, 9, [7]), 4, 1))
    whole = decoder.backbone(model, jnp.array([[7, *rows[1]]]), read=jnp.arange(10)[None])[1][:, 0]
    np.testing.assert_allclose(act[:, 3], np.asarray(whole)[:, 4:].mean(1), atol=1e-5)
    assert sorted(labels.tolist()) == [-1, 0, 1, 1]


@pytest.mark.parametrize(("name", "begins"), [("gemma3", [2]), ("llama3_1", [128000]), ("qwen3", []), ("gptoss", [])])
def test_stories_begin_as_every_text_does(name, begins, shared_tokenizer):
    """A model that knows texts with a token for their beginning reads its own stories with it as well."""
    tokenizer = shared_tokenizer(name)
    assert texts.lead(tokenizer) == begins == tokenizer.encode("So it went.")[: len(begins)]
    samples = texts.averaged([[5, 6, 7]], [0], 2, 4, texts.lead(tokenizer))
    assert samples.tokens[0, : len(begins) + 3].tolist() == [*begins, 5, 6, 7]
    assert samples.read[0, 0].nonzero()[0].tolist() == [len(begins) + 1, len(begins) + 2]


def test_assent_axis():
    act, logits = RNG.normal(size=(L, N, D)) + 5, RNG.normal(size=N)
    act[..., 0] += 6 * logits
    act[1, :, 0] *= -1
    found = np.asarray(assent.from_activations(jnp.asarray(act), jnp.asarray(logits)))
    for layer in range(L):
        x = act[layer] - act[layer].mean(0)
        want = np.linalg.svd(x)[2][0]
        want = want * np.sign(np.corrcoef(x @ want, logits)[0, 1])
        np.testing.assert_allclose(found[layer], want, atol=1e-4)
    assert found[0, 0] > 0.9 and found[1, 0] < -0.9
    more = np.concatenate([act, 99 * np.ones((L, 3, D))], 1), np.concatenate([logits, np.full(3, 99.0)])
    again = assent.from_activations(*map(jnp.asarray, more), jnp.arange(N + 3) < N)
    np.testing.assert_allclose(again, found, atol=1e-4)


def test_emotion_vectors_and_neutral_components():
    act, label = RNG.normal(size=(L, N, D)), RNG.integers(0, 4, N)
    label[label == 3] = -1  # an emotion without stories, and readings of none
    sums = extract.add(extract.nothing(*act.shape[::2], 0, 4), jnp.asarray(act), jnp.asarray(label), jnp.zeros((0, N)))
    found = np.asarray(emotions.vectors(sums.sums, sums.counts))
    for e in range(3):
        mine, others = label == e, (label != e) & (label >= 0)
        np.testing.assert_allclose(found[e], act[:, mine].mean(1) - act[:, others].mean(1), atol=1e-5)
    assert (found[3] == 0).all()
    neutral = RNG.normal(size=(L, 30, D)) * np.linspace(5, 0.2, D)
    parts = np.asarray(emotions.neutral_components(jnp.asarray(neutral)))
    left = np.asarray(emotions.without(jnp.asarray(found), jnp.asarray(parts)))
    for layer in range(L):
        pca = PCA().fit(neutral[layer])
        count = int(np.searchsorted(np.cumsum(pca.explained_variance_ratio_), 0.5)) + 1
        assert (np.abs(parts[:, layer]).max(-1) > 0).sum() == count < D
        basis = pca.components_[:count]
        np.testing.assert_allclose(left[:, layer], found[:, layer] - found[:, layer] @ basis.T @ basis, atol=1e-4)
    use = jnp.arange(33) < 30
    padded = np.concatenate([neutral, 77 * np.ones((L, 3, D))], 1)
    again = emotions.without(jnp.asarray(found), emotions.neutral_components(jnp.asarray(padded), use))
    np.testing.assert_allclose(again, left, atol=1e-4)


def test_emotion_axes_take_their_sign_from_sentiment():
    found = jnp.asarray(RNG.normal(size=(9, L, D)))
    like = jnp.asarray(RNG.normal(size=(L, D)))
    for sign in (1, -1):
        both, share = emotions.axes(found, sign * like)
        assert ((both[0] * sign * like).sum(-1) > 0).all() and share.shape == (L, 2)
        for layer in range(L):
            want = PCA(2).fit(np.asarray(found[:, layer]))
            np.testing.assert_allclose(np.abs((both[:, layer] * want.components_).sum(-1)), 1, atol=1e-4)


def settings(**changes):
    few = {"limit": 12, "topics_limit": 1, "stories": 1, "max_new_tokens": 6, "first_token": 3, "max_tokens": 16}
    return typed(AxesSettings, config.rl(), "axes", **few | {"batch": 8} | changes)


@pytest.mark.slow
def test_all_axes_of_a_model(world, tiny_tokenizer):
    """Every kind, from the packaged samples; a second model compiles nothing anew; strength of a text is its own."""
    cfg = settings(emotions_limit=6)
    given = comparison.load(cfg, tiny_tokenizer)
    key = jax.random.key(0)
    one = comparison.read(world.graphdef, full(world), given, tiny_tokenizer, cfg, key)
    kinds = {"sentiment, reviews", "sentiment, prompts", "valence-assent"}
    assert one.named.keys() == kinds | {"emotions, first component", "emotions, second component"}
    assert all(v.shape == (3, 24) and np.isfinite(v).all() and np.abs(v).max() > 0 for v in one.named.values())
    assert 3 <= len(one.words) <= 6 and one.emotions.shape == (len(one.words), 3, 24)
    sizes = [f._cache_size() for f in (comparison._difference, comparison._assent, comparison._emotions)]
    other = {k: v * 0.5 for k, v in world.trainable.items()}
    two = comparison.read(world.graphdef, state.join(other, world.frozen), given, tiny_tokenizer, cfg, key)
    assert sizes == [f._cache_size() for f in (comparison._difference, comparison._assent, comparison._emotions)]
    assert not np.allclose(two.named["valence-assent"], one.named["valence-assent"], atol=1e-3)
    # By hand: the review axis from rows alone.
    samples, model = sentiment.reviews(tiny_tokenizer, "", 12, 16), decoder.bind(world.graphdef, full(world))
    act, labels = extract.collect(model, extract.buckets(samples, 4, 1))
    want = np.asarray(act)[:, np.asarray(labels) == 1].mean(1) - np.asarray(act)[:, np.asarray(labels) == 0].mean(1)
    np.testing.assert_allclose(one.named["sentiment, reviews"], want, atol=1e-4)


def test_reviews_of_many_lengths_are_not_filled_up_to_the_longest(world, tiny_tokenizer, tmp_path):
    path, words = tmp_path / "reviews.csv", ("gold", "mold", "path")
    rows = [(n % 2, " ".join(words[(n + i) % 3] for i in range(1 + n))) for n in range(32)]
    path.write_text("Sentiment,Text\n" + "".join(f"{label},{text}\n" for label, text in rows))
    cfg = settings(kinds="reviews", reviews=str(path), limit=32, max_tokens=512)
    given = comparison.load(cfg, tiny_tokenizer)
    samples = sentiment.reviews(tiny_tokenizer, str(path), 32, 512)
    assert len(given.reviews) == 4 and sum(b.tokens.size for b in given.reviews) < 0.75 * samples.tokens.size
    found = comparison.read(world.graphdef, full(world), given, tiny_tokenizer, cfg, jax.random.key(0), draws=3)
    model = decoder.bind(world.graphdef, full(world))
    act, labels = map(np.asarray, extract.collect(model, extract.buckets(samples, 32, 1)))
    want = act[:, labels == 1].mean(1) - act[:, labels == 0].mean(1)
    np.testing.assert_allclose(found.named["sentiment, reviews"], want, atol=1e-5)
    alike = dataclasses.replace(cfg, reviews=str(tmp_path / "alike.csv"))
    (tmp_path / "alike.csv").write_text("Sentiment,Text\n" + "".join(f"{n % 2},gold path\n" for n in range(32)))
    assert len(comparison.load(alike, tiny_tokenizer).reviews) == 1


def test_success_axes(world, tiny_tokenizer):
    """Means of successes less means of failures over texts whose tokens say which they are; asked for by name."""
    given = comparison.load(settings(kinds="success", limit=24), tiny_tokenizer, question="How did it go?")
    found = comparison.read(world.graphdef, full(world), given, tiny_tokenizer, settings(), jax.random.key(0)).named
    assert list(found) == ["success, accounts", "success, walks"]
    model = decoder.bind(world.graphdef, full(world))
    for name, samples in (
        ("success, accounts", success.accounts(tiny_tokenizer, Wording(), 24)),
        ("success, walks", success.walks(tiny_tokenizer, Wording(), 24, "How did it go?")),
    ):
        labels = samples.label[:, 0]
        assert labels.sum() == 12 and (samples.read[:, 0] == samples.mask.sum(1) - 1).all()
        told = [tiny_tokenizer.decode(t[m]) for t, m in zip(samples.tokens, samples.mask)]
        if name == "success, walks":
            assert all(t.endswith("<|user|>How did it go?<|assistant|>") for t in told)
        act, order = extract.collect(model, extract.buckets(samples, 4, 1))
        act, order = np.asarray(act), np.asarray(order)
        want = act[:, order == 1].mean(1) - act[:, order == 0].mean(1)
        np.testing.assert_allclose(found[name], want, atol=1e-4)
    assert comparison.load(settings(kinds="success", limit=4), tiny_tokenizer).walks is None  # nothing is asked


def test_settings_are_checked(world, tiny_tokenizer):
    with pytest.raises(InputError, match="'moods' is unknown"):
        settings(kinds="reviews, moods")
    assert settings(kinds="").asked == []
    with pytest.raises(InputError, match="nowhere.csv"):
        comparison.load(settings(reviews="/nowhere.csv"), tiny_tokenizer)


@pytest.mark.parametrize(("kind", "named"), [
    ("reviews", "reviews"), ("prompts", "prompts"), ("assent", "statements"), ("emotions", "dialogues"),
    ("success", "accounts of success"),
])  # fmt: skip
def test_texts_that_the_model_has_no_rows_for(kind, named, tiny_tokenizer):
    spec = tiny_spec(vocab=len(tiny_tokenizer))
    cfg = settings(kinds=kind)
    comparison.load(cfg, tiny_tokenizer, spec=spec)
    with pytest.raises(InputError, match=f"axes: the {named}: id .* has no row in the model"):
        comparison.load(cfg, tiny_tokenizer, spec=dataclasses.replace(spec, vocab=50))
