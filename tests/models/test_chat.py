"""Rendered conversations against the tokenizer's own, and the assistant's tokens against their text."""

import numpy as np
import pytest

from welfare_jax.errors import InputError
from welfare_jax.models import chat

TALK = [
    {"role": "user", "content": "How is it going? N"},
    {"role": "assistant", "content": "N"},
    {"role": "user", "content": "You said N."},
    {"role": "assistant", "content": "Yes, and then  East."},
    {"role": "user", "content": "Good"},
]
NAMES = ("qwen3", "gemma3", "llama3_1", "gptoss", "tiny")


@pytest.fixture
def tokenizer(request, shared_tokenizer, tiny_tokenizer):
    name = request.param
    found = tiny_tokenizer if name == "tiny" else shared_tokenizer(name)
    if not found.chat_template:
        pytest.skip(f"{name} comes without a chat template")
    return found


@pytest.mark.parametrize("tokenizer", NAMES, indirect=True)
@pytest.mark.parametrize("turns", [1, 3, 4, 5])
def test_assistant_tokens_hold_what_the_assistant_said(tokenizer, turns):
    talk = TALK[:turns]
    tokens, mask = chat.encode(tokenizer, [talk, TALK[:1]], multiple=16)
    where = chat.assistant_tokens(tokenizer, [talk, TALK[:1]], multiple=16)
    assert tokens.shape == mask.shape == where.shape and tokens.shape[1] % 16 == 0
    assert not (where & ~mask).any()
    opened = talk[-1]["role"] == "user"
    assert where[0, -1] == opened and where[1].sum() == 1
    said = where[0].copy()
    said[-1] &= not opened
    text = tokenizer.decode(tokens[0][said])
    want = "".join(m["content"] for m in talk if m["role"] == "assistant")
    assert text.replace(" ", "") == want.replace(" ", "")
    want = tokenizer.apply_chat_template(talk, add_generation_prompt=opened, return_dict=True)["input_ids"]
    np.testing.assert_array_equal(tokens[0][mask[0]], want)


def test_opening_can_be_left_out(tiny_tokenizer):
    assert not chat.assistant_tokens(tiny_tokenizer, ["How are you?"], opening=False).any()


def test_a_template_that_changes_what_was_said_is_refused(tiny_tokenizer):
    import copy

    changed = copy.deepcopy(tiny_tokenizer)
    changed.chat_template = changed.chat_template.replace(
        "'<|assistant|>' + message['content']", "'<|assistant|>' + message['content'] | upper"
    )
    with pytest.raises(InputError, match="assistant message 'Yes"):
        chat.assistant_tokens(changed, [[TALK[0], {"role": "assistant", "content": "Yes, so"}, TALK[2]]])


def test_prompts_are_rendered_by_the_chat_template(tiny_tokenizer):
    prompts = ["How are you doing?", "You are at (3, 4).\nNorth: \U0001f9fe\nHow is it going?"]
    tokens, mask = chat.encode(tiny_tokenizer, prompts)
    for row, prompt in enumerate(prompts):
        want = tiny_tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        np.testing.assert_array_equal(tokens[row][mask[row]], want)
        assert mask[row, -1] and (np.diff(mask[row].astype(int)) >= 0).all()  # against the right edge


class Column:
    """As a column of `datasets`: no list, and no string."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)

    def __len__(self):
        return len(self.rows)


@pytest.mark.parametrize(
    "given",
    [
        Column(["Hi", "How is it going?"]),
        [{"text": "Hi", "label": 1}, {"text": "How is it going?", "label": 0}],
        Column([{"prompt": "Hi"}, {"messages": [{"role": "user", "content": "How is it going?"}]}]),
        (text for text in ("Hi", "How is it going?")),
        np.array(["Hi", "How is it going?"]),
    ],
    ids=["column", "rows", "table", "generator", "array"],
)
def test_data_sets_are_lists_of_prompts(given, tiny_tokenizer):
    got = chat.encode(tiny_tokenizer, given)
    for a, b in zip(got, chat.encode(tiny_tokenizer, ["Hi", "How is it going?"])):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train": ["Hi"], "test": ["Ho"]}, "a dictionary of train, test"),
        ([{"question": "Hi"}], "row with question: needs one of messages, prompt, text, has 0"),
        ([{"prompt": "Hi", "text": "Ho"}], "has 2 of them"),
    ],
)
def test_rows_that_do_not_say_what_is_meant_are_refused(given, said, tiny_tokenizer):
    with pytest.raises(InputError, match=said) as error:
        chat.encode(tiny_tokenizer, given)
    assert "\n" not in str(error.value)


def test_padding_at_either_side_and_to_a_width():
    rows = [[1, 2, 3], [4]]
    tokens, mask = chat.pad(rows, 4)
    assert tokens.tolist() == [[0, 1, 2, 3], [0, 0, 0, 4]] and mask.tolist() == (tokens > 0).tolist()
    tokens, mask = chat.pad(rows, 4, left=False)
    assert tokens.tolist() == [[1, 2, 3, 0], [4, 0, 0, 0]] and mask.tolist() == (tokens > 0).tolist()
    assert chat.pad(rows, width=5)[0].tolist() == [[0, 0, 1, 2, 3], [0, 0, 0, 0, 4]]
    assert chat.pad([[], [4]], width=2, left=False)[0].tolist() == [[0, 0], [4, 0]]
