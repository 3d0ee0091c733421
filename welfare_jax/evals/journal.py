"""JSON lines that survive a kill: rows are appended whole, found again by their key, and never written twice."""

import hashlib
import json
import pathlib

from welfare_jax import textfiles
from welfare_jax.errors import InputError


def key(*parts) -> str:
    """A short name for everything that a row depends on, the same in every process."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]


def read(path) -> dict[str, dict]:
    """The whole rows of a journal by key; a torn last line is left out, any other bad line is an `InputError`."""
    path, rows = pathlib.Path(path), {}
    lines = textfiles.data(path).split(b"\n") if path.is_file() else []
    for number, line in enumerate(lines, 1):
        row = _row(line)
        if row is not None:
            rows[row["key"]] = row
        elif line.strip() and number < len(lines):  # what follows the last line end was torn
            raise InputError(f"{path}, line {number}: not a row with a key; remove the line and run again")
    return rows


def _row(line: bytes) -> dict | None:
    """The row in a line, None where there is none."""
    try:
        row = textfiles.loads(line, "row")
        return row if isinstance(row["key"], str) else None
    except (InputError, TypeError, KeyError):
        return None


class Journal:
    """Rows by key, on disk as they come."""

    def __init__(self, path):
        self.path, self.rows = pathlib.Path(path), read(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.is_file():
            with self.path.open("rb+") as file:
                whole = file.read()
                last = whole.rfind(b"\n") + 1
                if _row(whole[last:]) is None:
                    file.truncate(last)  # what a kill tore off
                else:
                    file.write(b"\n")
        self.file = self.path.open("a", encoding="utf-8")

    def __contains__(self, name) -> bool:
        return name in self.rows

    def __getitem__(self, name) -> dict:
        return self.rows[name]

    def add(self, rows):
        """Append rows, each with its `key`; once this has returned, they survive a kill."""
        self.file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        self.file.flush()
        self.rows |= {row["key"]: row for row in rows}

    def close(self):
        self.file.close()
