"""A run's record: what lies in the folder after each step, and going on from it."""

import os
import signal
from typing import NamedTuple

import jax.numpy as jnp
import pytest

from welfare_jax import runtime
from welfare_jax.errors import InputError, Unfinished
from welfare_jax.train import checkpoints, training
from welfare_jax.train.settings import Steps

CFG = Steps(steps=5, checkpoint_every=2, keep=0, spike=0.0)


class Pipeline:
    """Counts the steps that were fed; what it says of itself is kept in `data`. ask: see `play`."""

    def __init__(self, data: dict, ask=None):
        self.data, self.ask = data, ask

    def get_state(self):
        if self.ask and self.ask[0] == CFG.steps == self.data["seen"]:
            os.kill(os.getpid(), self.ask[1])
        return dict(self.data)

    def set_state(self, state):
        self.data.update(state)


def play(folder, until, settings=None, grad_norm=1.0, data=None, ask=None):
    """Adds the step's number to the state, up to step `until`; returns (the first step, the state).

    ask: (step, signal), a signal that comes in that step; after all steps, where it is their number.
    """
    begun = []

    def advance(i, now, wait):
        begun.append(i)
        if i == until:
            raise KeyboardInterrupt
        return {"x": now["x"] + i}, {"loss": float(i), "grad_norm": grad_norm}

    def measure(i, now, row):
        if ask and ask[0] == i:
            os.kill(os.getpid(), ask[1])
        if data is not None:
            data["seen"] = i + 1
        return {}

    pipeline, begin = None if data is None else Pipeline(data, ask), {"x": jnp.zeros(())}
    now = training.train(folder, begin, settings or {"a": 1}, CFG, advance, measure=measure, data=pipeline)
    return (begun or [CFG.steps])[0], float(now["x"])


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


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGTERM, Unfinished), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.parametrize("step", range(6))
def test_asked_to_end_in_a_step(step, number, kind, tmp_path):
    """The step is finished and saved, once, with where the data stand; the same again goes on, and ends as ever."""
    data, done = {}, min(step + 1, 5)
    with pytest.raises(kind, match=f"asked to end: checkpoint {done} is saved"):
        play(tmp_path, None, data=data, ask=(step, number))
    assert steps(tmp_path) == list(range(done))
    saved = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert saved == sorted({s for s in (2, 4) if s <= done} | {done})
    again = {}
    assert play(tmp_path, None, data=again) == (done, 10) and steps(tmp_path) == [0, 1, 2, 3, 4]
    assert again["seen"] == 5


def test_asked_to_end_before_anything_is_done(tmp_path, monkeypatch):
    """The signal comes while the run is set up."""
    write = runtime.write_json
    monkeypatch.setattr(runtime, "write_json", lambda *a: (write(*a), os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(Unfinished, match="nothing was trained yet"):
        play(tmp_path, 0)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_the_pipeline_stands_where_it_stood(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        play(tmp_path, 3, data={})
    again = {}
    with pytest.raises(KeyboardInterrupt):
        play(tmp_path, 2, data=again)  # before the step that comes next is done
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


class Now(NamedTuple):
    trainable: dict


def loop(folder, until=None):
    """Adds the number of the pipeline's batch in every step; interrupted in step `until`. Returns (start, end)."""
    begin, pipeline = Now({"x": jnp.zeros(2)}), Pipeline({"at": 0})

    def advance(i, now, wait):
        if i == until:
            raise KeyboardInterrupt
        wait(now)
        pipeline.data["at"] += 1
        return Now({"x": now.trainable["x"] + pipeline.data["at"]}), {"loss": float(i), "grad_norm": 1.0}

    end = training.train(
        folder, begin, {"a": 1}, CFG, advance, data=pipeline, best=True, shown={"half": ("half", 1)},
        measure=lambda i, now, row: {"eval_reward": -abs(i - 2.0), "half": row["loss"] / 2},
        finish=lambda now: {"x": now.trainable["x"].tolist()},
    )  # fmt: skip
    return begin, end


def test_the_loop_stopped_and_whole(tmp_path):
    """What is measured joins its row, one more comes last, the best parameters are kept; and it goes on alike."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    _, end = loop(whole)
    assert end.trainable["x"].tolist() == [1 + 2 + 3 + 4 + 5.0] * 2
    with pytest.raises(KeyboardInterrupt):
        loop(cut, 3)
    begin, again = loop(cut)
    assert begin.trainable["x"].is_deleted() and again.trainable["x"].tolist() == end.trainable["x"].tolist()
    for folder in (whole, cut):
        rows = checkpoints.read_metrics(folder / "metrics.jsonl")
        assert [row.pop("seconds", 0.0) >= 0.0 for row in rows] == [True] * 6
        want = [{"step": i, "loss": i, "grad_norm": 1, "eval_reward": -abs(i - 2), "half": i / 2} for i in range(5)]
        assert rows == [*want, {"step": 5, "x": [15.0, 15.0]}]
        assert [p.name for p in (folder / "best").iterdir()] == ["3"]
