"""Tables, the numbers behind every figure: written as CSV and drawn from."""

import csv
import itertools
import math

# Columns that say where a number stands: they alone make no table.
INDEX = {"step", "organism", "layer", "model", "vector", "class", "chosen", "episode", "turn", "rank", "side", "axis"}
INDEX |= {"cell", "run", "run_step", "baseline", "layers", "norm", "word", "kind"}


class Table(dict):
    """Columns by name, lists of one length. Raises ValueError where they are not."""

    def __init__(self, columns):
        super().__init__(columns)
        if len({len(values) for values in self.values()}) > 1:
            raise ValueError(f"columns of different lengths: {', '.join(self)}")

    def __bool__(self):
        """Whether it has a row."""
        return any(self.values())

    @classmethod
    def of(cls, rows, names):
        """Of rows that are tuples, in the order of `names`."""
        return cls({name: [row[i] for row in rows] for i, name in enumerate(names)})

    @classmethod
    def of_dicts(cls, rows, names=None):
        """Of rows that are dicts; NaN where one has nothing. names: the columns, or else all that there are."""
        names = dict.fromkeys(k for row in rows for k in row) if names is None else names
        return cls({name: [math.nan if row.get(name) is None else row[name] for row in rows] for name in names})

    def rows(self, **wanted) -> list[dict]:
        """The rows as dicts, of those columns that are named only with these values."""
        rows = (dict(zip(self, row, strict=True)) for row in zip(*self.values(), strict=True))
        return [row for row in rows if all(row[name] == value for name, value in wanted.items())]

    def where(self, **wanted) -> "Table":
        rows = self.rows(**wanted)
        return Table({name: [row[name] for row in rows] for name in self})


def kept(tables: dict) -> dict:
    """{name: table} without tables that hold not a single number or text."""
    return {name: Table(table) for name, table in tables.items() if _holds_something(table)}


def write(tables: dict, folder) -> None:
    """One `<name>.csv` per table; floats in full precision, a missing number as an empty cell."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8", errors="replace") as file:
            out = csv.writer(file)
            out.writerow(table)
            out.writerows(["" if _is_nan(v) else v for v in row] for row in zip(*table.values(), strict=True))


def _holds_something(table) -> bool:
    values = itertools.chain.from_iterable(v for name, v in table.items() if name not in INDEX)
    return any(v not in (None, "") and not _is_nan(v) for v in values)


def _is_nan(value) -> bool:
    return isinstance(value, float) and math.isnan(value)
