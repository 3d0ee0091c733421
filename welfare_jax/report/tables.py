"""Tables, the numbers behind every figure: dicts of equally long columns, written as CSV and drawn from."""

import csv
import itertools
import math

# Columns that say where a number stands: they alone make no table.
INDEX = {"step", "organism", "layer", "model", "vector", "class", "chosen", "episode", "turn", "rank", "side", "axis"}
INDEX |= {"cell", "run", "run_step", "baseline", "layers", "norm", "word", "kind"}


def kept(tables: dict) -> dict:
    """{name: table} without tables that hold not a single number or text."""
    return {name: table for name, table in tables.items() if _holds_something(table)}


def write(tables: dict, folder) -> None:
    """One `<name>.csv` per table; floats in full precision, a missing number as an empty cell."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8", errors="replace") as file:
            out = csv.writer(file)
            out.writerow(table)
            out.writerows(["" if _is_nan(v) else v for v in row] for row in zip(*table.values(), strict=True))


def rows_of(columns: dict, **wanted) -> list[dict]:
    rows = (dict(zip(columns, r, strict=True)) for r in zip(*columns.values(), strict=True))
    return [r for r in rows if all(r[k] == v for k, v in wanted.items())]


def _holds_something(table) -> bool:
    values = itertools.chain.from_iterable(v for name, v in table.items() if name not in INDEX)
    return any(v not in (None, "") and not _is_nan(v) for v in values)


def _is_nan(value) -> bool:
    return isinstance(value, float) and math.isnan(value)
