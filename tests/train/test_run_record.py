"""A run's record: what lies in the folder after each step, and going on from it."""

import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from welfare_jax.errors import InputError
from welfare_jax.train import checkpoints, record

CFG = ConfigDict({"steps": 5, "checkpoint_every": 2, "keep": 0, "spike": 0.0})


def play(folder, until, settings=None, grad_norm=1.0, data=None):
    """Adds the step's number to the state, up to step `until`; returns (the first step, the state)."""
    with record.Record(folder, {"x": jnp.zeros(())}, settings or {"a": 1}, CFG) as run:
        now = run.now
        if data is not None and run.data:
            data.update(run.data)
        for i in run:
            if i == until:
                raise KeyboardInterrupt
            now = {"x": now["x"] + i}
            row = {"step": i, "loss": float(i), "grad_norm": grad_norm}
            run.check(row)
            if data is not None:
                data["seen"] = i + 1
            run.write(row, now, (lambda: dict(data)) if data is not None else None, loss="x")
        return run.start, float(now["x"])


def steps(folder):
    return [row["step"] for row in checkpoints.read_metrics(folder / "metrics.jsonl")]


def test_goes_on_from_the_newest_checkpoint(tmp_path):
    data = {}
    with pytest.raises(KeyboardInterrupt):
        play(tmp_path, 3, data=data)
    assert steps(tmp_path) == [0, 1, 2] and sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2"]
    assert data["seen"] == 3
    assert play(tmp_path, None, data=data) == (2, 0 + 1 + 2 + 3 + 4)
    assert steps(tmp_path) == [0, 1, 2, 3, 4] and data["seen"] == 5
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2", "4", "5"]
    assert play(tmp_path, None) == (5, 10)  # nothing is left to do
    assert list((tmp_path / "tensorboard").iterdir())


def test_the_pipeline_stands_where_it_stood(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        play(tmp_path, 3, data={})
    again = {}
    with record.Record(tmp_path, {"x": jnp.zeros(())}, {"a": 1}, CFG) as run:
        again.update(run.data)
    assert again == {"seen": 2}


def test_other_settings_are_refused_before_anything_is_written(tmp_path):
    play(tmp_path, None)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match=r"a=1 \(now 2\)"):
        play(tmp_path, None, {"a": 2})
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_step_that_is_no_number_is_not_written(tmp_path):
    with pytest.raises(InputError, match="step 0: loss 0.0, gradient norm nan"):
        play(tmp_path, None, grad_norm=float("nan"))
    assert steps(tmp_path) == []
