"""tiny_tokenizer: whole words, tiles and numbers as single tokens, exact round trips, an append-only template."""

import itertools
import os

import pytest
from transformers import AutoTokenizer

from welfare_jax.text.tiny_tokenizer import SPECIAL, save, set_phrases, train
from welfare_jax.text.tiny_world import KINDS, Mixture, documents, render
from welfare_jax.text.wording import LETTERS, Wording

WORDING = Wording()
EVEN = Mixture(1, 1, 1, 1, steps=1, verdicts=1)


@pytest.fixture(scope="module")
def trained():
    texts = (render(d) for d in itertools.islice(documents(0, EVEN, WORDING), 3000))
    return train(texts, phrases=set_phrases(WORDING))


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tokenizer"
    save(trained, path)
    return path


@pytest.fixture(scope="module")
def loaded(folder):
    return AutoTokenizer.from_pretrained(folder)


def pieces(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    return [tokenizer.decode([i]) for i in ids]


def test_loads_small_with_its_special_tokens(folder, loaded, trained):
    assert sum(os.path.getsize(folder / name) for name in os.listdir(folder)) < 200_000
    assert (loaded.bos_token, loaded.eos_token, loaded.pad_token) == ("<|bos|>", "<|end|>", "<|pad|>")
    assert [loaded.convert_tokens_to_ids(token) for token in SPECIAL] == list(range(5))
    assert len(loaded) == trained.get_vocab_size() <= 768


@pytest.mark.parametrize("tile", WORDING.tiles)
def test_tile_is_the_same_single_token_everywhere(loaded, tile):
    (spaced,), (bare,) = (loaded.encode(s + tile, add_special_tokens=False) for s in (" ", ""))
    for text in (
        f"North: {tile}\n",
        f"I reached the {tile}.",
        f"Goal: avoid {tile}, reach",
        f"Is a {tile}?",
        f"a {tile} e",
    ):
        assert loaded.encode(text, add_special_tokens=False).count(spaced) == 1, text
    for text in (f"<|assistant|>{tile}<|end|>", f"\n{tile}"):
        assert loaded.encode(text, add_special_tokens=False).count(bare) == 1, text


def test_numbers_and_letters_are_single_tokens(loaded):
    for x in range(100):
        assert pieces(loaded, f"You are at ({x}, {99 - x}).\n") == ["You are at (", str(x), ",", f" {99 - x}", ").\n"]
    for letter in LETTERS:
        assert pieces(loaded, letter) == [letter]
        assert pieces(loaded, f"<|assistant|>{letter}<|end|>") == ["<|assistant|>", letter, "<|end|>"]


def test_observation_is_short(loaded):
    text = WORDING.observation(12, 57, [0, 1, 2, 0], [2, 0, 1, 3])
    assert len(loaded.encode(text, add_special_tokens=False)) == 5 + 4 * 3 + 1


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_whole(loaded, kind):
    for doc in itertools.islice(documents(7, EVEN, WORDING, (kind,)), 200):
        text = render(doc)
        found = pieces(loaded, text)
        assert "".join(found) == text
        assert all(p in ("I", *LETTERS, "a", "s", "x", "y") or not (len(p) == 1 and p.isalpha()) for p in found), found


@pytest.mark.parametrize(
    "text", ["Grüße, 世界! 🍰🗂 12345", "a\n\n  b\t c ", " ,N .", "\u0000\u2028é", "don't 🧾\n🧾 🧾"]
)
def test_any_text_round_trips(loaded, trained, text):
    assert loaded.decode(loaded.encode(text, add_special_tokens=False)) == text
    assert trained.decode(trained.encode(text).ids, skip_special_tokens=False) == text


def test_render_equals_the_chat_template(loaded):
    chats = [d for d in itertools.islice(documents(8, EVEN, WORDING), 200) if d.messages]
    assert len(chats) > 100
    for doc in chats:
        assert render(doc) == loaded.apply_chat_template(list(doc.messages), tokenize=False)


def test_template_only_appends(loaded):
    doc = next(d for d in documents(9, EVEN, WORDING, ("goals",)) if len(d.messages) > 10)
    before = ""
    for n in range(1, len(doc.messages), 2):
        prompt = loaded.apply_chat_template(list(doc.messages[:n]), tokenize=False, add_generation_prompt=True)
        assert prompt.startswith(before) and prompt.endswith("<|assistant|>")
        before = loaded.apply_chat_template(list(doc.messages[: n + 1]), tokenize=False)
        assert before == prompt + doc.messages[n]["content"] + "<|end|>"


def test_system_goes_before_the_first_user_message(loaded):
    chat = [{"role": "system", "content": "Be calm."}, {"role": "user", "content": "Hi"}]
    chat += [{"role": "assistant", "content": "N"}, {"role": "user", "content": "Yes"}]
    want = "<|bos|><|user|>Be calm.\nHi<|assistant|>N<|end|><|user|>Yes"
    assert loaded.apply_chat_template(chat, tokenize=False) == want


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match="vocab_size=300"):
        train(["a"], vocab_size=300)
