"""Stop strings against a plain search in the decoded text."""

import numpy as np
import pytest

from welfare_jax.errors import InputError
from welfare_jax.models import stops

TEXT = "One\n\ntwo: naïve 🗂 café,  Answer: 12.\nQuestion: why?\n\nQ: I can't — can't!\n\n\nEnd"
STRINGS = (["\n\n"], ["Question:"], ["🗂", "Answer"], ["can't!"], ["aab", "\n\n\n"], ["é", "ïve"])


def run(table, ids):
    """The number of tokens until a string is complete, None if none ever is."""
    state = 0
    for n, i in enumerate(ids, 1):
        state = table[state, i]
        if state == stops.DONE:
            return n
    return None


def search(tokenizer, ids, strings):
    return next((n for n in range(1, len(ids) + 1) if any(s in tokenizer.decode(ids[:n]) for s in strings)), None)


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "llama3_1", "gptoss", "tiny"])
def test_found_where_a_search_in_the_text_finds_them(name, shared_tokenizer, tiny_tokenizer):
    tokenizer = tiny_tokenizer if name == "tiny" else shared_tokenizer(name)
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    assert tokenizer.decode(ids) == TEXT
    for strings in STRINGS:
        table = stops.stop_strings(tokenizer, strings)
        assert table.dtype == np.int16 and table.shape[1] == len(tokenizer)
        assert run(table, ids) == search(tokenizer, ids, strings), strings


def test_every_token_spells_what_it_decodes_to(shared_tokenizer):
    for name in ("qwen3", "gemma3"):
        tokenizer = shared_tokenizer(name)
        texts = stops.token_bytes(tokenizer)
        ids = np.random.default_rng(0).integers(300, 100_000, 3000).tolist()
        for i in ids:
            said = tokenizer.decode([ids[0], i])[len(tokenizer.decode([ids[0]])) :]
            if "\ufffd" not in said:  # part of a character
                assert texts[i].decode() == said


def test_overlapping_starts():
    """ "aab" in "aaab": the automaton falls back to the longest prefix that still fits."""
    step = stops._automaton([b"aab", b"bc"])
    state = 0
    for byte in b"aaa":
        state = step[state, byte]
    assert step[state, ord("b")] == stops.DONE
    state = step[0, ord("b")]
    assert step[state, ord("c")] == stops.DONE and step[state, ord("a")] == step[0, ord("a")]


@pytest.mark.parametrize("strings", [[], [""], ["a", ""]])
def test_nothing_to_stop_at_is_refused(strings, tiny_tokenizer):
    with pytest.raises(InputError, match="stop strings"):
        stops.stop_strings(tiny_tokenizer, strings)


def test_stop_ids(tiny_tokenizer):
    assert tiny_tokenizer.eos_token_id in stops.stop_ids(tiny_tokenizer)


@pytest.mark.parametrize(("name", "mark"), [("qwen3", "<|im_end|>"), ("gemma3", "<end_of_turn>")])
def test_stop_ids_hold_the_end_of_a_turn(name, mark, shared_tokenizer):
    tokenizer = shared_tokenizer(name)
    ids = stops.stop_ids(tokenizer)
    assert tokenizer.convert_tokens_to_ids(mark) in ids and tokenizer.unk_token_id not in ids
    assert max(ids) < len(tokenizer)
