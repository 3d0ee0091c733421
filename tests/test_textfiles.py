"""Text files as people bring them: encodings, line ends, layouts, compression; and any bytes at all."""

import csv
import gzip
import io
import json

import pytest
from hypothesis import given
from mutations import bytes_like, few, one_line

from welfare_jax import textfiles
from welfare_jax.errors import InputError
from welfare_jax.evals import journal, prompts
from welfare_jax.interp.axes import texts
from welfare_jax.sft import corpus
from welfare_jax.text import arithmetic, preferences
from welfare_jax.train import checkpoints

MARKS = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\u00a0h"  # str.splitlines would cut at most of these
TILES = ("p", "g", "m")


def write(path, data: bytes):
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def encoded(layout: str, rows: list[dict]) -> str:
    if layout == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if layout == ".json":
        return json.dumps(rows, indent=1, ensure_ascii=False)
    out = io.StringIO(newline="")
    table = csv.DictWriter(out, list(rows[0]), delimiter="\t" if layout == ".tsv" else ",", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", textfiles.MARK], ids=["plain", "marked"])
@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("layout", [".jsonl", ".json", ".csv", ".tsv"])
def test_every_layout_gives_the_same_records(layout, packed, mark, end, tmp_path):
    rows = [{"prompt": MARKS, "text": 'say "no", 1'}, {"prompt": "two", "text": "\ttabbed é"}]
    path = write(tmp_path / f"x{layout}{packed}", mark + encoded(layout, rows).replace("\n", end).encode())
    found = textfiles.records(path)
    assert [row for _, row in found] == rows
    if layout == ".jsonl":
        assert [at for at, _ in found] == [1, 2]
        assert list(textfiles.Lines(path)[i] for i in range(2)) == found


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_plain_text(packed, tmp_path):
    path = write(tmp_path / f"x.txt{packed}", textfiles.MARK + f"one {MARKS}\r\n\r\nthree\n".encode())
    assert textfiles.text(path) == f"one {MARKS}\n\nthree\n"
    assert textfiles.lines(path) == [(1, f"one {MARKS}"), (3, "three")]
    assert textfiles.records(path, "prompt") == [(1, {"prompt": f"one {MARKS}"}), (3, {"prompt": "three"})]
    assert prompts.read(path, TILES)[1].prompt == "three" and texts.lines(path, "") == [f"one {MARKS}", "three"]
    with pytest.raises(InputError, match=r"x\.txt.*the ending says no layout"):
        textfiles.records(path)


def test_a_quoted_field_keeps_its_line_ends(tmp_path):
    path = write(tmp_path / "x.csv", b'a,b\n"1\r\n2","3\n4"\n\nx,y\n')
    assert textfiles.records(path) == [(4, {"a": "1\r\n2", "b": "3\n4"}), (6, {"a": "x", "b": "y"})]


def test_a_field_as_long_as_a_book(tmp_path):
    path = write(tmp_path / "x.csv", b"a,b\n" + b"x" * 200_000 + b",1\n")
    assert len(textfiles.records(path)[0][1]["a"]) == 200_000


def refused(call, *named):
    assert one_line(lambda: (call(), "read"), *named) is None


BAD = {
    "cut.jsonl": (b'{"a": 1}\n\n{"a": ', "line 3", "not JSON"),
    "deep.jsonl": (b'{"a": 1}\n' + b"[" * 100_000, "line 2", "not JSON"),
    "half.jsonl": (b'{"a": "\\ud83d"}\n', "line 1", "not JSON"),
    "latin.jsonl": ('{}\n{}\n"\u00e9"'.encode("latin-1"), "line 3", "UTF-8"),
    "utf16.csv": ("a,b\n1,2\n".encode("utf-16"), "line 1", "UTF-8"),
    "not.jsonl.gz": (None, "cannot be read"),
    "long.csv": (b"a,b\n1,2\n1,2,3\n", "line 3", "2 fields"),
    "short.csv": (b"a,b\n1\n", "line 2", "2 fields"),
    "twice.csv": (b"a,a\n1,2\n", "line 1", "one name"),
    "open.csv": (b'prompt\n"abc\ndef\n', "not a table"),
    "quoted.csv": (b'a,b\n"x"y,1\n', "line 2", "not a table"),
    "comma.json": (b'[{"a": 1},\n]', "line 2", "comma before the end"),
    "more.json": (b'[{"a": 1}]\n{"b": 2}\n', "line 2", "more after the end"),
    "deep.json": (b"[" * 100_000, "line 1", "not JSON"),
    "list.xml": (b"<a/>", "the ending"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_named(name, tmp_path):
    data, *said = BAD[name]
    (tmp_path / name).write_bytes(b'{"a": 1}' if data is None else data)
    refused(lambda: textfiles.records(tmp_path / name), name, *said)
    refused(lambda: textfiles.records(tmp_path / "nowhere.csv"), "nowhere.csv", "cannot be read")


def test_a_gz_that_was_cut_short(tmp_path):
    whole = gzip.compress(b'{"a": 1}\n' * 999)
    (tmp_path / "x.jsonl.gz").write_bytes(whole[:-9])
    refused(lambda: textfiles.records(tmp_path / "x.jsonl.gz"), "x.jsonl.gz")
    refused(lambda: textfiles.Lines(tmp_path / "x.jsonl.gz"), "x.jsonl.gz")


# Any bytes: a result, or one line; never another error. Mutations of good files reach further than noise does.
GOOD = {
    ".jsonl": b'{"key": "k", "step": 1, "prompt": "p", "text": "t", "chosen": "c", "rejected": "r"}\n{"a": "\\u00e9"}',
    ".json": b'[{"prompt": "p", "text": "t", "chosen": "c", "rejected": "r"}, {"prompt": "q"}]\n',
    ".csv": b'prompt,text,chosen,rejected\np,"t\nu",c,r\np,t,c,r\n',
    ".txt": b"one\n\ntwo\n",
}


def try_all(path, readers):
    for read in readers:
        one_line(lambda read=read: read(str(path)))


def walk(path):
    rows = corpus.source(path, 0, arithmetic.Level(1, 9, "+-"))
    return [rows[i] for i in range(len(rows))]


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("layout", GOOD)
def test_any_bytes_in_a_text_file(layout, packed, tmp_path):
    readers = (
        lambda path: prompts.read(path, TILES), lambda path: texts.records(path, "", ("text",)), preferences.read,
        lambda path: texts.records(path, "", ("prompt", "text")), lambda path: texts.lines(path, ""), journal.read,
        checkpoints.read_metrics, walk,
    )  # fmt: skip

    @few(60)
    @given(bytes_like(GOOD[layout]))
    def run(data):
        try_all(write(tmp_path / f"x{layout}{packed}", data), readers)

    run()
