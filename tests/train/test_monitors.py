"""The guard, the best parameters, TensorBoard: what looks on while a run trains."""

import dataclasses
import math
import shutil
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
import worlds

from welfare_jax.errors import InputError
from welfare_jax.train import monitors, state, training


def row(step, loss=0.0, norm=1.0):
    return {"step": step, "loss": loss, "grad_norm": norm}


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (0.0, math.nan)])
def test_the_guard_stops_at_what_is_no_number(loss, norm):
    with pytest.raises(InputError, match="step 7.*checkpoint 5 is intact"):
        monitors.SpikeGuard(0.0, []).check(row(7, loss, norm), 5)


def test_the_guard_stops_at_a_leap_and_not_at_noise():
    rng = np.random.default_rng(0)
    losses = rng.normal(size=200).tolist()
    guard = monitors.SpikeGuard(20.0, [row(i, x) for i, x in enumerate(losses[:5])])
    for i, x in enumerate(losses[5:]):
        guard.check(row(i, x), None)
    with pytest.raises(InputError, match="train.spike=20.0") as error:
        guard.check(row(300, 60.0), 200)
    assert "\n" not in str(error.value) and "checkpoint 200" in str(error.value)
    monitors.SpikeGuard(0.0, [row(i, 0.1) for i in range(50)]).check(row(51, 1e6), None)
    early = monitors.SpikeGuard(5.0, [row(i, 0.1) for i in range(monitors.WINDOW - 1)])
    early.check(row(19, 50.0), None)  # too little to compare with


def test_best_keeps_the_best_and_only_that(tmp_path):
    best = monitors.BestParameters(tmp_path, [])
    for step, reward in ((2, 1.0), (4, 3.0), (6, 2.0)):
        best.offer(step, reward, {"a": jnp.full(3, float(step))}, {})
    best.close()
    assert [p.name for p in (tmp_path / "best").iterdir()] == ["4"]
    again = monitors.BestParameters(
        tmp_path, [{"eval_reward": 1.0}, {}]
    )  # killed and gone on with from before the best
    again.offer(4, 3.0, {"a": jnp.full(3, 4.0)}, {})
    assert again.reward == 3.0
    step, found, _ = again.saved.restore({"a": jnp.zeros(3)}, {})
    again.close()
    assert step == 4 and (found["a"] == 4).all()


def test_scalars_of_a_row():
    got = dict(
        monitors.scalars({"step": 3, "reward": 1.5, "gold": None, "cos": [0.0, 1.0], "organisms": [{"reward": 2.0}]})
    )
    assert got == {
        "step": 3, "reward": 1.5, "cos/mean": 0.5, "cos/layer_00": 0.0, "cos/layer_01": 1.0, "organism_0/reward": 2.0,
    }  # fmt: skip


class FakeWandb(types.ModuleType):
    """The two functions of the package that are used."""

    def __init__(self):
        super().__init__("wandb")
        self.asked, self.rows, self.ended = [], [], 0

    def init(self, **asked):
        self.asked.append(asked)
        return self

    def log(self, row, step):
        self.rows.append((step, row))

    def finish(self):
        self.ended += 1


def test_weights_and_biases_gets_the_same_numbers(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monitors.WeightsAndBiases(tmp_path, {}).write({"step": 1})
    assert not fake.asked  # it is not asked for
    monkeypatch.setenv("WANDB_MODE", "offline")
    cfg = worlds.train_config(steps=3, checkpoint_every=1, keep=1, spike=0.0)
    settings = {"train": {"lr": 0.1}, "content": {"weights": "x"}}
    advance = lambda i, now, _: (now, {"loss": float(i), "grad_norm": 1.0, "cos": [0.0, 1.0]})
    for upto in (2, 3):  # stopped after two steps, and gone on
        now = state.State(jnp.int32(0), {"a": jnp.zeros(2)}, ())
        training.train(tmp_path / "run", now, settings, dataclasses.replace(cfg, steps=upto), advance)
    assert fake.ended == 2 and [step for step, _ in fake.rows] == [0, 1, 2]
    assert fake.rows[1][1]["loss"] == 1.0 and fake.rows[1][1]["cos/mean"] == 0.5
    first, again = fake.asked
    assert first == again and first["resume"] == "allow" and first["config"] == {"train": {"lr": 0.1}}
    assert first["dir"] == str(tmp_path / "run") and first["name"] == "run"
    shutil.copytree(tmp_path / "run", tmp_path / "elsewhere" / "run")
    monitors.WeightsAndBiases(tmp_path / "elsewhere" / "run", {}).close()
    assert fake.asked[-1]["id"] == first["id"]  # on another machine it goes on
    other = monitors.WeightsAndBiases(tmp_path / "other" / "run", {})  # a folder of the same name is another run
    assert fake.asked[-1]["id"] != first["id"] and fake.asked[-1]["name"] == "run"
    other.close()


def test_weights_and_biases_may_be_absent(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setitem(sys.modules, "wandb", None)
    absent = monitors.WeightsAndBiases(tmp_path, {})
    absent.write({"step": 1})
    absent.close()
    assert "pip install wandb" in capsys.readouterr().err


def test_board_writes_what_tensorboard_reads(tmp_path):
    board = monitors.TensorBoard(tmp_path, 0)
    board.write({"step": 2, "reward": 1.5})
    board.close()
    files = list(tmp_path.glob("events.out.tfevents.*"))
    assert len(files) == 1 and b"reward" in files[0].read_bytes()
