"""Conversations as padded token rows, and which of their tokens the assistant said."""

from collections.abc import Mapping

import numpy as np

from welfare_jax import templates
from welfare_jax.errors import InputError

FIELDS = ("messages", "prompt", "text")  # of a data set's row, the one that holds what is said


def rows(given) -> list:
    """Texts or conversations as a list: of a list, or of whatever can be gone through, such as a data set.

    Of `datasets` (Hugging Face) that is a column, `data["text"]`, or a table, whose rows are told apart by `content`.
    """
    if isinstance(given, str):
        return [given]
    if isinstance(given, Mapping) and "role" not in given:  # going through it would give its keys
        raise InputError(f"texts: got a dictionary of {', '.join(map(str, given))}; choose one, such as data['train']")
    return list(given)


def content(row):
    """What is said in a row of a data set: its field "messages", "prompt" or "text"; all else as it is."""
    if not isinstance(row, Mapping) or "role" in row:
        return row
    found = [name for name in FIELDS if row.get(name)]
    if len(found) != 1:
        raise InputError(
            f"row with {', '.join(map(str, row))}: needs one of {', '.join(FIELDS)}, has {len(found)} of them; "
            f"pass the column that is meant, such as data['question']"
        )
    return row[found[0]]


def messages(prompt) -> list[dict]:
    """A string as one user message; a list of {"role", "content"} as it is; of a data set's row, its `content`."""
    prompt = content(prompt)
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    good = isinstance(prompt, list | tuple) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and "content" in m for m in prompt
    )
    if not good or not prompt:
        raise InputError(f"prompt {str(prompt)[:80]!r}: needs a text, or a list of messages with role and content")
    return list(prompt)


def render(tokenizer, prompt, template=None) -> str:
    """The chat template's text, with the generation prompt unless the assistant has spoken last."""
    said = messages(prompt)
    return templates.render(tokenizer, said, template, opening=said[-1]["role"] != "assistant")


def encode(tokenizer, prompts, template=None, *, multiple: int = 1):
    """(tokens int32 [B, T], mask bool [B, T]) of rendered conversations, left-padded NumPy arrays.

    prompts: one string, or a list of strings (one user message each) or of lists of {"role", "content"}, or a data
    set of them (`rows`); template: keyword arguments of the chat template, e.g. {"enable_thinking": False}. T is
    rounded up to a `multiple`, so that few shapes are compiled.
    Raises `InputError` on an empty list, and where the template refuses a prompt or there is none.
    """
    prompts = several(tokenizer, prompts)
    rows = [tokenizer.encode(render(tokenizer, p, template), add_special_tokens=False) for p in prompts]
    return pad(rows, multiple)


def several(tokenizer, prompts) -> list:
    """Prompts as a list, as `rows` has them; refuses an empty one."""
    prompts = rows(prompts)
    if not prompts:
        raise InputError(f"prompts {prompts!r} for tokenizer {tokenizer.name_or_path}: need a list of at least one")
    return prompts


def pad(rows, multiple: int = 1, *, width: int = 0, left: bool = True):
    """Lists of token ids as (tokens int32, mask bool) [B, T], padded at the left or the right; T is `width` or else
    the longest, rounded up to a `multiple`."""
    if multiple < 1:
        raise InputError(f"multiple={multiple}: must be at least 1")
    width = width or -(-max(map(len, rows)) // multiple) * multiple
    tokens, mask = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        at = slice(width - len(row), None) if left else slice(len(row))
        tokens[i, at], mask[i, at] = row, True
    return tokens, mask


def assistant_tokens(tokenizer, prompts, template=None, *, opening: bool = True, multiple: int = 1):
    """bool [B, T] beside the tokens of `encode`: those whose text is an assistant message's content.

    opening: also the last token of the generation prompt, where the next answer begins. The rendering is compared
    piece by piece with the messages, so a template that changes its history is seen; it ends in `InputError`.
    """
    rows = []
    for prompt in several(tokenizer, prompts):
        text = render(tokenizer, prompt, template)
        spans = assistant_spans(tokenizer, prompt, text, template)
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        on = [any(a < end and start < b for start, end in spans) for a, b in found]
        on[-1] |= opening and messages(prompt)[-1]["role"] != "assistant"
        rows.append(on)
    return pad(rows, multiple)[0].astype(bool)


def assistant_spans(tokenizer, prompt, text: str, template=None) -> list[tuple[int, int]]:
    """(start, end) characters of every assistant message's content in the rendered `text`.

    What stands around the contents is found by rendering the same conversation with stand-ins for them.
    """
    said = messages(prompt)
    stand_ins = [f"\u27e6{i}\u27e7" for i in range(len(said))]
    glue = render(tokenizer, [m | {"content": s} for m, s in zip(said, stand_ins)], template)
    spans, at, rest = [], 0, glue
    for message, stand_in in zip(said, stand_ins):
        before, found, rest = rest.partition(stand_in)
        content = next(
            (c for c in (message["content"], message["content"].strip()) if text.startswith(before + c, at)), None
        )
        if not found or content is None:
            raise InputError(
                f"chat template: does not render the {message['role']} message {message['content'][:40]!r} "
                f"word for word; pass the positions to steer yourself"
            )
        start = at + len(before)
        at = start + len(content)
        if message["role"] == "assistant":
            spans.append((start, at))
    return spans
