"""The text files that users name, read in one way: UTF-8 with or without a byte order mark, plain or packed (.gz).

A line ends at a line feed, with or without a carriage return before it, and nowhere else: U+2028, U+0085 and form
feeds are text. What cannot be read is an `InputError` that names the file and, where there is one, the line.
"""

import array
import csv
import gzip
import io
import json
import pathlib
import re
import zlib

from welfare_jax.errors import InputError

MARK = b"\xef\xbb\xbf"  # the byte order mark that some editors put first


def kind(path) -> str:
    """The ending that says how a file is laid out, in small letters: .jsonl of both a.jsonl and a.JSONL.gz."""
    path = pathlib.Path(path)
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def stem(path) -> str:
    """The name without its endings: a of a.jsonl.gz."""
    path = pathlib.Path(path)
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).stem


def data(path) -> bytes:
    """The bytes of a file, unpacked and without a byte order mark."""
    path = pathlib.Path(path).expanduser()
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            return file.read().removeprefix(MARK)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from None


def text(path) -> str:
    """The whole text of a file, its lines ended by line feeds alone."""
    return _decode(data(path), path).replace("\r\n", "\n")


def lines(path) -> list[tuple[int, str]]:
    """(number, line) of every line of a file that is not blank, counted from 1."""
    return [(i, line) for i, line in enumerate(text(path).split("\n"), 1) if line.strip()]


def records(path, column: str | None = None) -> list[tuple[int, object]]:
    """(line, record) of every record: of JSON (an array), JSON lines, CSV or TSV (objects of strings), by its ending.

    column: in a .txt file a record is a line that is not blank, under this name; without it there is no such layout.
    """
    path, layout = pathlib.Path(path).expanduser(), kind(path)
    if layout == ".jsonl":
        return [(i, loads(line, f"{path}, line {i}")) for i, line in lines(path)]
    if layout in (".csv", ".tsv"):
        return list(_table(path, "\t" if layout == ".tsv" else ","))
    if layout == ".json":
        return list(_array(path))
    if layout == ".txt" and column:
        return [(i, {column: line.strip()}) for i, line in lines(path)]
    known = ", ".join([".json", ".jsonl", ".csv", ".tsv"] + [".txt"] * bool(column))
    raise InputError(f"{path}: the ending says no layout that is read here; use one of {known}, plain or with .gz")


class Lines:
    """Random access to the records of a JSONL file, `len` and `[number] -> (line, record)`, found by where they begin.

    A plain file stays on the disk; one with .gz is held unpacked in memory.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path).expanduser()
        self.unpacked = data(self.path) if self.path.suffix.lower() == ".gz" else None
        self.starts, self.numbers = array.array("q"), array.array("q")
        with self._open() as file:
            at = len(MARK) if file.read(len(MARK)) == MARK else 0
            file.seek(at)
            for number, line in enumerate(file, 1):
                if line.strip():
                    self.starts.append(at)
                    self.numbers.append(number)
                at += len(line)

    def _open(self):
        try:
            return self.path.open("rb") if self.unpacked is None else io.BytesIO(self.unpacked)
        except OSError as error:
            raise _unreadable(self.path, error) from None

    def __len__(self):
        return len(self.starts)

    def __getitem__(self, number):
        with self._open() as file:
            file.seek(self.starts[number])
            line = file.readline()
        return self.numbers[number], loads(line, f"{self.path}, line {self.numbers[number]}")


def loads(line: str | bytes, where: str):
    """The value of a line of JSON; `where` names it in the `InputError`. Control characters in strings are text."""
    try:
        line = line.decode("utf-8") if isinstance(line, bytes) else line
        value = json.loads(line, strict=False)
        _whole(value, line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({_line(error)})") from None
    return value


def json_object(path) -> dict:
    """The JSON object that a whole file is, such as a config.json."""
    found = loads(data(path), str(path))
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a JSON object")
    return found


def _decode(found: bytes, path) -> str:
    try:
        return found.decode("utf-8")
    except UnicodeDecodeError as error:
        number = found.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {number}: not UTF-8 text ({_line(error)}); save the file as UTF-8") from None


def _unreadable(path, error) -> InputError:
    return InputError(f"{path}: cannot be read ({_line(error)}); name a text file, plain or .gz")


def _line(error) -> str:
    return " ".join(str(error).split())[:200]


def _whole(value, source: str):
    """Refuse half characters, which JSON can spell (\\ud83d alone) and no tokenizer can read."""
    if "\\u" in source:
        json.dumps(value, ensure_ascii=False).encode("utf-8")


def _table(path, delimiter: str):
    """The rows of a CSV or TSV file, each with the line where it ends."""
    # A quoted field may hold line ends, so the lines go to the reader as they are.
    csv.field_size_limit(2**31 - 1)  # documents are longer than the 131,072 characters that the module allows
    rows = csv.reader(io.StringIO(_decode(data(path), path), newline="\n"), delimiter=delimiter, strict=True)
    names = None
    try:
        for row in rows:
            if not row:
                continue
            if names is None:
                names = row
                if len(set(names)) < len(names):
                    raise InputError(f"{path}, line {rows.line_num}: two columns have one name")
                continue
            if len(row) != len(names):
                raise InputError(f"{path}, line {rows.line_num}: has {len(row)} fields, needs {len(names)} fields")
            yield rows.line_num, dict(zip(names, row))
    except csv.Error as error:
        raise InputError(f"{path}, line {rows.line_num}: not a table ({_line(error)})") from None


def _array(path):
    """The elements of a JSON array one by one, each with the line where it begins."""
    source, decoder, blank = text(path), json.JSONDecoder(strict=False), re.compile(r"[ \t\n\r]*")
    line = lambda position: source.count("\n", 0, position) + 1
    position = blank.match(source).end()
    if source[position : position + 1] != "[":
        raise InputError(f"{path}, line {line(position)}: need a JSON array of objects")
    position = blank.match(source, position + 1).end()
    while source[position : position + 1] != "]":
        begin = position
        try:
            value, position = decoder.raw_decode(source, position)
            _whole(value, source[begin:position])
        except (ValueError, RecursionError) as error:
            number = getattr(error, "lineno", line(begin))
            raise InputError(f"{path}, line {number}: not JSON ({_line(error)})") from None
        yield line(begin), value
        position = blank.match(source, position).end()
        if source[position : position + 1] == ",":
            position = blank.match(source, position + 1).end()
            if source[position : position + 1] == "]":
                raise InputError(f"{path}, line {line(position)}: not JSON (a comma before the end of the array)")
        elif source[position : position + 1] != "]":
            raise InputError(f"{path}, line {line(position)}: need a comma or the end of the array")
    rest = blank.match(source, position + 1).end()
    if rest < len(source):
        raise InputError(f"{path}, line {line(rest)}: there is more after the end of the array")
