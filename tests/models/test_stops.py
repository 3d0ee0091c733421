"""Stop strings against a plain search in the decoded text; what ends an answer by files, marks and templates."""

import json
import shutil

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from welfare_jax.errors import InputError
from welfare_jax.models import hf, stops
from welfare_jax.text import pieces

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


def small_tokenizer(marks, template=None, eos=None, first=0):
    """Bytes from id 0 on (from 200 on they are moved by `first`) and added marks."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({c: i + first * (i >= 200) for i, c in enumerate(letters)}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens([AddedToken(m, special=True) for m in marks])
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=eos)
    fast.chat_template = template
    return fast


def marks_of(tokenizer, template=None):
    return set(tokenizer.convert_ids_to_tokens(stops.stop_ids(tokenizer, template)))


def test_ids_with_holes():
    """The largest id lies beyond the number of tokens: tables and sizes go by the id."""
    tokenizer = small_tokenizer(["<end>"], first=40)
    size = max(tokenizer.get_vocab().values()) + 1
    assert stops.vocabulary_size(tokenizer) == size > len(tokenizer)
    ids, table = tokenizer.encode("xzéab ab"), stops.stop_strings(tokenizer, "éa")
    assert table.shape[1] == size and run(table, ids) == search(tokenizer, ids, ["éa"])


@pytest.mark.parametrize(("name", "marks"), [
    ("qwen3", {"<|im_end|>", "<|endoftext|>"}), ("gemma3", {"<end_of_turn>", "<eos>"}),
    ("llama3_1", {"<|eot_id|>", "<|end_of_text|>"}), ("gptoss", {"<|return|>", "<|call|>", "<|endoftext|>"}),
    ("tiny", {"<|end|>", "<|user|>"}),
])  # fmt: skip
def test_ends_of_known_tokenizers(name, marks, shared_tokenizer, tiny_tokenizer):
    """Without any file: what ends a turn and what ends a text, and nothing else."""
    assert marks_of(tiny_tokenizer if name == "tiny" else shared_tokenizer(name)) == marks


PLAIN = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}END{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.mark.parametrize(("behind", "found"), [
    ("<stop>", {"<stop>"}), (" \n<stop> ", {"<stop>"}), ("<stop><next>", {"<stop>"}), (" and <stop>", set()),
    ("", set()), ("{% if not loop.last %}<next>{% endif %}", {"<next>"}),
    ("{{ '<stop>' if loop.last else '<next>' }}", {"<stop>", "<next>"}), ("<stop>2", {"<stop>2"}),
    ("{{ raise_exception('no answers') if m.role == 'assistant' }}<stop>", set()),
])  # fmt: skip
def test_the_mark_that_a_template_writes_behind_an_answer(behind, found):
    tokenizer = small_tokenizer(["<stop>", "<next>", "<stop>2", " "], PLAIN.replace("END", behind))
    assert marks_of(tokenizer) == found
    tokenizer.chat_template = None
    given = {"chat_template": PLAIN.replace("END", "<next>")}
    assert marks_of(tokenizer) == set() and marks_of(tokenizer, given) == {"<next>"}


HARMONY = ("<|startoftext|>", "<|endoftext|>", "<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>",
           "<|call|>", "<|constrain|>")  # fmt: skip
HEADS = {  # of an answer: whether an end of a message is the end of the answer
    "<|start|>assistant": False,
    "<|start|>assistant<|channel|>analysis<|message|>": False,
    "<|start|>assistant<|channel|>finally<|message|>": False,
    "<|start|>assistant<|channel|>final": False,
    "<|start|>assistant<|channel|>final<|message|>": True,
    "<|start|>assistant<|channel|>final <|constrain|>json<|message|>[": True,
    "<|start|>assistant<|channel|>analysis<|message|>No.<|end|><|start|>assistant<|channel|>final<|message|>": True,
    "<|start|>assistant<|channel|>final<|message|>No.<|end|><|start|>assistant": False,
}


@pytest.mark.parametrize("head", HEADS)
def test_the_end_of_a_channel_is_the_end_of_an_answer_in_the_final_one(head):
    template = (
        "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}" + head + "{% endif %}"
    )
    always = {"<|return|>", "<|call|>", "<|endoftext|>"}
    want = always | ({"<|end|>"} if HEADS[head] else set())
    tokenizer = small_tokenizer(HARMONY, template, "<|return|>")
    assert marks_of(tokenizer) == want
    tokenizer.chat_template = None
    assert marks_of(tokenizer) == always and marks_of(tokenizer, {"chat_template": template}) == want
    tokenizer.listed_ends = (tokenizer.convert_tokens_to_ids("<|end|>"),)
    assert marks_of(tokenizer) == always | {"<|end|>"}  # the files say so
    channels = pieces.arguments(tokenizer)  # what the maze and the evaluations render with
    tokenizer.listed_ends = ()
    assert marks_of(tokenizer, channels) == always | {"<|end|>"}


def said(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


@pytest.mark.parametrize(("config", "generation", "want"), [
    ({}, {}, ()), ({"eos_token_id": 7}, {}, (7,)), ({"eos_token_id": [7, 9]}, {"eos_token_id": None}, (7, 9)),
    ({"eos_token_id": None}, {"eos_token_id": [11, 7, 11]}, (7, 11)),
    ({"eos_token_id": 3}, {"eos_token_id": 5}, (3, 5)),
    ({"text_config": {"eos_token_id": 5}}, {}, (5,)), ({"eos_token_id": -1}, {"eos_token_id": []}, ()),
    ({"eos_token_id": 1, "text_config": {"eos_token_id": 5}}, {}, (1,)), ({"text_config": 5}, {}, ()),
    ({"eos_token_id": 10**12}, {}, (10**12,)),
])  # fmt: skip
def test_ends_that_the_files_of_a_folder_list(config, generation, want, tmp_path):
    assert stops.listed_in(said(tmp_path, config=config, generation_config=generation)) == want


@pytest.mark.parametrize("name", ["config", "generation_config"])
@pytest.mark.parametrize("content", [
    "[7]", "{", "", '{"eos_token_id": "7"}', '{"eos_token_id": 7.0}', '{"eos_token_id": true}',
    '{"eos_token_id": [7, [8]]}', '{"eos_token_id": {"id": 7}}', '{"eos_token_id": [7, null]}',
])  # fmt: skip
def test_files_that_do_not_say_what_ends_an_answer(name, content, tmp_path):
    with pytest.raises(InputError) as error:
        stops.listed_in(said(tmp_path, **{name: content}))
    assert f"{name}.json" in str(error.value) and "\n" not in str(error.value)


def test_ends_of_a_model_travel_with_its_tokenizer(one_layer_dir, tmp_path):
    """Those that the model has a row for; a word that the files list ends an answer, and is not part of it."""
    folder = shutil.copytree(one_layer_dir, tmp_path / "model")
    own = set(stops.stop_ids(hf.load(folder).tokenizer))
    rows = hf.load(folder).spec.vocab
    said(folder, generation_config={"eos_token_id": [321, rows - 1, rows, 10**12]})
    lm = hf.load(folder)
    assert set(stops.stop_ids(lm.tokenizer)) == own | {321, rows - 1}
    assert {321, rows - 1} <= set(stops.only_listed(lm.tokenizer)) <= {321, rows - 1} | own
    assert set(stops.stop_ids(hf.load_tokenizer(folder))) >= own | {321, rows - 1}
    said(folder, generation_config={"eos_token_id": "</s>"})
    with pytest.raises(InputError, match=r"generation_config\.json: eos_token_id=</s>: need a token id"):
        hf.load(folder)
    assert stops.without_end(np.array([5, 321]), (3, 321)).tolist() == [5]
    assert stops.without_end([321, 5], (3, 321)) == [321, 5] and stops.without_end([], (3,)) == []


def test_what_stands_before_a_stop_string(tiny_tokenizer):
    """Whole tokens, up to the first that has a part in it; what only looks like its beginning stays."""
    text = "a goal\n\nUser: b\n\nUs is\n\nUser:c"
    ids = tiny_tokenizer.encode(text, add_special_tokens=False)
    left = stops.cut(stops.stop_strings(tiny_tokenizer, "\n\nUser:"), ids)
    assert left == ids[: len(left)] and tiny_tokenizer.decode(left) == "a goal"
    left = stops.cut(stops.stop_strings(tiny_tokenizer, "\n\nUser:c"), ids)
    assert tiny_tokenizer.decode(left) == text.removesuffix("\n\nUser:c")
    assert stops.cut(stops.stop_strings(tiny_tokenizer, "walrus"), [*ids, 10**6]) == [*ids, 10**6]
