"""Texts from files that the user names, or from the samples in `data/`, as tokens to read activations from."""

import pathlib

import numpy as np

from welfare_jax import textfiles
from welfare_jax.errors import InputError
from welfare_jax.interp import extract
from welfare_jax.models import chat

DATA = pathlib.Path(__file__).parent / "data"


def _place(path, sample: str) -> pathlib.Path:
    return pathlib.Path(path).expanduser() if path else DATA / sample


def lines(path, sample: str) -> list[str]:
    """Entries of a text file: a line each, or, where all is on one line, separated by commas; blanks do not count."""
    path = _place(path, sample)
    found = [line.strip() for _, line in textfiles.lines(path)]
    found = [part.strip() for part in found[0].split(",") if part.strip()] if len(found) == 1 else found
    if not found:
        raise InputError(f"{path}: is empty; give one entry a line")
    return found


def records(path, sample: str, fields: tuple[str, ...]) -> list[dict]:
    """Objects with at least the texts `fields`, from any layout of `textfiles.records`; names of columns in any case.

    Of a .txt file a line is the one field that is asked for.
    """
    path, rows = _place(path, sample), []
    for number, row in textfiles.records(path, fields[0] if len(fields) == 1 else None):
        row = {str(k).strip().lower(): v for k, v in row.items()} if isinstance(row, dict) else {}
        named = {name: str(v) for name in fields if isinstance(v := row.get(name), str | int | float)}
        missing = [name for name in fields if not named.get(name, "").strip()]
        if missing:
            raise InputError(f"{path}, line {number}: has no {missing[0]!r}; it needs {', '.join(fields)}")
        rows.append(row | named)
    if not rows:
        raise InputError(f"{path}: holds no records")
    return rows


def spread(items: list, limit: int) -> list:
    """At most `limit` of the items, evenly from the whole list."""
    if not limit or len(items) <= limit:
        return items
    return [items[i * len(items) // limit] for i in range(limit)]


def _samples(rows, read, labels, width=None) -> extract.Samples:
    tokens, mask = chat.pad(rows, width=width or 0, left=False)
    labels, unit = np.asarray(labels, np.int32)[:, None], np.arange(len(rows), dtype=np.int32)
    return extract.Samples(tokens, mask, read(mask), labels, unit, unit // 2)


def plain(tokenizer, texts, longest: int | None) -> list[list[int]]:
    """Token ids of texts without a chat template, cut after `longest`; None: whole."""
    return [tokenizer.encode(text)[:longest] for text in texts]


def lead(tokenizer) -> list[int]:
    """What a tokenizer sets before every text: the token for its beginning, or nothing."""
    whole, bare = tokenizer.encode("a"), tokenizer.encode("a", add_special_tokens=False)
    return next((whole[:i] for i in range(len(whole)) if whole[i : i + len(bare)] == bare), [])


def chats(tokenizer, prompts, template=None) -> list[list[int]]:
    """Token ids of prompts as user messages, up to where the answer begins."""
    tokens, mask = chat.encode(tokenizer, prompts, template)
    return [row[keep].tolist() for row, keep in zip(tokens, mask)]


def at_the_end(rows, labels) -> extract.Samples:
    """Read at the last token."""
    return _samples(rows, lambda mask: mask.sum(1, dtype=np.int32)[:, None] - 1, labels)


def averaged(rows, labels, first: int, width=None, before=()) -> extract.Samples:
    """Read as the average over tokens from number `first` (counted from 1) on; shorter rows have no class.

    before: tokens that are set before each row, are not counted and not read: see `lead`.
    """
    first, width = first + len(before), width and width + len(before)
    rows = [[*before, *row] for row in rows]

    def weights(mask):
        late = (mask & (np.arange(mask.shape[1]) >= first - 1)).astype(np.float32)
        return (late / np.maximum(late.sum(1, keepdims=True), 1))[:, None]

    return _samples(rows, weights, [c if len(row) >= first else -1 for c, row in zip(labels, rows)], width)
