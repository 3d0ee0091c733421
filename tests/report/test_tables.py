"""Tables: columns of one length, their rows, and what is kept and written of them."""

import csv
import math

import pytest

from welfare_jax.report.tables import Table, kept, write


def test_rows_by_what_they_hold():
    found = Table.of([(0, "a", 1.0), (1, "a", None), (1, "b", 3.0)], ("step", "name", "value"))
    assert found.rows(name="a", step=1) == [{"step": 1, "name": "a", "value": None}]
    assert found.where(name="a") == {"step": [0, 1], "name": ["a", "a"], "value": [1.0, None]}
    assert found.where(name="a").rows() == found.rows()[:2] and not found.where(name="c") and found
    with pytest.raises(KeyError):
        found.rows(nmae="a")


def test_rows_that_are_dicts_may_lack_something():
    found = Table.of_dicts([{"a": 1}, {"b": 2, "a": None}])
    assert list(found) == ["a", "b"] and found["a"][0] == 1 and found["b"][1] == 2
    assert math.isnan(found["a"][1]) and math.isnan(found["b"][0])
    assert list(Table.of_dicts([{"a": 1, "b": 2}], ("b",))) == ["b"]


def test_columns_have_one_length():
    with pytest.raises(ValueError, match="different lengths: a, b"):
        Table({"a": [1], "b": [1, 2]})
    assert not Table({}) and not Table({"a": []})


def test_what_says_nothing_is_not_written(tmp_path):
    tables = {"full": {"step": [0, 1], "x": [math.nan, 2.5]}, "empty": {"step": [0], "x": [math.nan]}, "none": {}}
    found = kept(tables)
    assert list(found) == ["full"] and isinstance(found["full"], Table)
    write(found, tmp_path / "tables")
    with open(tmp_path / "tables" / "full.csv", newline="") as file:
        assert list(csv.reader(file)) == [["step", "x"], ["0", ""], ["1", "2.5"]]
    assert [path.name for path in (tmp_path / "tables").iterdir()] == ["full.csv"]
