"""Texts from files that the user names, or from the samples in `data/`, as tokens to read activations from."""

import csv
import io
import json
import pathlib

import numpy as np

from welfare_jax.errors import InputError
from welfare_jax.interp import extract
from welfare_jax.models import chat

DATA = pathlib.Path(__file__).parent / "data"


def _read(path, sample):
    path = pathlib.Path(path).expanduser() if path else DATA / sample
    try:
        return path, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); name a text file, or leave the setting empty") from None


def lines(path, sample: str) -> list[str]:
    """Entries of a text file: a line each, or, where all is on one line, separated by commas; blanks do not count."""
    path, text = _read(path, sample)
    found = [line.strip() for line in text.splitlines() if line.strip()]
    found = [part.strip() for part in found[0].split(",") if part.strip()] if len(found) == 1 else found
    if not found:
        raise InputError(f"{path}: is empty; give one entry a line")
    return found


def records(path, sample: str, fields: tuple[str, ...]) -> list[dict]:
    """Objects with at least `fields`, from JSON (a list), JSON lines, CSV or TSV; names of columns in any case."""
    path, text = _read(path, sample)
    try:
        if path.suffix in (".csv", ".tsv"):
            rows = list(csv.DictReader(io.StringIO(text), delimiter="\t" if path.suffix == ".tsv" else ","))
        elif path.suffix == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            rows = json.loads(text)
        rows = [{str(k).lower(): v for k, v in row.items()} for row in rows]
    except (ValueError, AttributeError, csv.Error) as error:
        raise InputError(f"{path}: not a list of records ({' '.join(str(error).split())[:120]})") from None
    for i, row in enumerate(rows):
        missing = [name for name in fields if not row.get(name)]
        if missing:
            raise InputError(f"{path}: record {i + 1} has no {missing[0]!r}; it needs {', '.join(fields)}")
    if not rows:
        raise InputError(f"{path}: holds no records")
    return rows


def spread(items: list, limit: int) -> list:
    """At most `limit` of the items, evenly from the whole list."""
    if not limit or len(items) <= limit:
        return items
    return [items[i * len(items) // limit] for i in range(limit)]


def _samples(rows, read, labels, width=None) -> extract.Samples:
    width = width or max(map(len, rows))
    tokens, mask = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], mask[i, : len(row)] = row, True
    labels = np.asarray(labels, np.int32)[:, None]
    return extract.Samples(tokens, mask, read(mask), labels, np.arange(len(rows), dtype=np.int32))


def plain(tokenizer, texts, longest: int) -> list[list[int]]:
    """Token ids of texts without a chat template, cut after `longest`."""
    return [tokenizer.encode(text)[:longest] for text in texts]


def chats(tokenizer, prompts, template=None) -> list[list[int]]:
    """Token ids of prompts as user messages, up to where the answer begins."""
    tokens, mask = chat.encode(tokenizer, prompts, template)
    return [row[keep].tolist() for row, keep in zip(tokens, mask)]


def at_the_end(rows, labels) -> extract.Samples:
    """Read at the last token."""
    return _samples(rows, lambda mask: mask.sum(1, dtype=np.int32)[:, None] - 1, labels)


def averaged(rows, labels, first: int, width=None) -> extract.Samples:
    """Read as the average over tokens from number `first` (counted from 1) on; shorter rows have no class."""

    def weights(mask):
        late = (mask & (np.arange(mask.shape[1]) >= first - 1)).astype(np.float32)
        return (late / np.maximum(late.sum(1, keepdims=True), 1))[:, None]

    return _samples(rows, weights, [c if len(row) >= first else -1 for c, row in zip(labels, rows)], width)
