"""Supervised runs: one step by hand, the same numbers after a stop, other settings refused, metrics joined."""

import dataclasses
import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from welfare_jax import config, mesh
from welfare_jax.errors import InputError
from welfare_jax.settings import typed
from welfare_jax.train import batch_trainer, checkpoints, state
from welfare_jax.train.settings import Supervised

X = np.random.default_rng(0).normal(size=(48, 3)).astype("f4")
Y = X @ np.array([1.0, -2.0, 0.5], "f4") + 0.3


def settings(**changes):
    train = {"steps": 6, "schedule_steps": 8, "batch": 16, "micro_batch": 8, "lr": 0.1, "value_lr": 0.1, "spike": 0.0,
             "optimizer": "sgd", "weight_decay": 0.0, "grad_clip": 0.0, "checkpoint_every": 2}  # fmt: skip
    return typed(Supervised, config.fitting(**train | changes), "train")


def base():
    start = {"value_head/kernel": jnp.zeros(3), "value_head/bias": jnp.zeros(())}
    return state.Adapted(SimpleNamespace(params=start), None, start, {}, mesh.make())


def loss(trainable, frozen, part):
    x, y = part
    off = x @ trainable["value_head/kernel"] + trainable["value_head/bias"] - y
    return jnp.sum(off**2), (len(y), {"off": (off.sum(), len(y))})


def batches(order):
    return lambda i: (X[order[i]], Y[order[i]])


def test_steps_by_hand(tmp_path):
    cfg, order = settings(), batch_trainer.shuffled(48, 0, 16)
    found = batch_trainer.BatchTrainer(base(), loss, cfg)(tmp_path, {"a": 1}, (X, Y), batches(order))
    w, b = np.zeros(3), 0.0
    for i, row in enumerate(checkpoints.read_metrics(tmp_path / "metrics.jsonl")):
        x, y = X[order[i]].astype(float), Y[order[i]].astype(float)
        off, rate = x @ w + b - y, 0.1 * 0.5 * (1 + np.cos(np.pi * i / 7))
        assert row["loss"] == pytest.approx((off**2).mean(), rel=1e-4) and row["lr"] == pytest.approx(rate, rel=1e-5)
        w, b = w - rate * 2 * (off @ x) / 16, b - rate * 2 * off.mean()
    np.testing.assert_allclose(found["value_head/kernel"], w, rtol=1e-4)
    np.testing.assert_allclose(found["value_head/bias"], b, rtol=1e-4)


def test_every_epoch_sees_every_example_once():
    order = batch_trainer.shuffled(48, 3, 16)
    epochs = [np.sort(np.concatenate([order[3 * e + i] for i in range(3)])) for e in range(3)]
    assert all((e == np.arange(48)).all() for e in epochs)
    assert (order[0] != order[3]).any() and (order[0] == batch_trainer.shuffled(48, 3, 16)[0]).all()
    with pytest.raises(InputError, match="train.batch=8: more than the 5"):
        batch_trainer.shuffled(5, 0, 8)


def test_a_stopped_run_goes_on_with_the_same_numbers(tmp_path):
    def untimed(folder):
        return [
            {k: v for k, v in r.items() if k != "seconds"} for r in checkpoints.read_metrics(folder / "metrics.jsonl")
        ]

    cfg, order = settings(optimizer="adamw"), batch_trainer.shuffled(48, 0, 16)
    trainer = batch_trainer.BatchTrainer(base(), loss, cfg)
    whole = trainer(tmp_path / "whole", {"a": 1}, (X, Y), batches(order))

    def stops(i):
        if i == 5:
            raise KeyboardInterrupt
        return batches(order)(i)

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "cut", {"a": 1}, (X, Y), stops)
    again = trainer(tmp_path / "cut", {"a": 1}, (X, Y), batches(order))
    assert untimed(tmp_path / "whole") == untimed(tmp_path / "cut") and len(untimed(tmp_path / "cut")) == 6
    assert all((whole[k] == again[k]).all() for k in whole)
    assert trainer.update._cache_size() == 1
    before = {p: p.read_bytes() for p in (tmp_path / "cut").rglob("*") if p.is_file()}
    with pytest.raises(InputError, match=r"a=1 \(now 2\)"):
        trainer(tmp_path / "cut", {"a": 2}, (X, Y), batches(order))
    with pytest.raises(InputError, match=r"content\.data="):
        trainer(tmp_path / "cut", {"a": 1}, (X, Y + 1), batches(order))
    other = dataclasses.replace(base(), lm=SimpleNamespace(params={"w": jnp.ones(3)}))
    with pytest.raises(InputError, match=r"content\.weights="):
        batch_trainer.BatchTrainer(other, loss, cfg)(tmp_path / "cut", {"a": 1}, (X, Y), batches(order))
    assert before == {p: p.read_bytes() for p in (tmp_path / "cut").rglob("*") if p.is_file()}
    end = trainer(tmp_path / "cut", {"a": 1}, (X, Y), None)  # finished: nothing is asked for
    assert all((whole[k] == end[k]).all() for k in whole)
    batch_trainer.join_metrics(tmp_path, ["whole", "cut"])
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == list(range(12)) and [r["run_step"] for r in rows] == [*range(6)] * 2
    assert rows[7]["run"] == "cut" and rows[7]["loss"] == rows[1]["loss"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"micro_batch": 3}, "train.micro_batch=3: must divide train.batch=16"),
        ({"steps": 0}, "train.steps=0"),
        ({"optimizer": "adan"}, "train.optimizer='adan'"),
        ({"lr": 0.0}, "train.lr=0.0"),
    ],
)
def test_settings_that_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        settings(**changes)
