"""What survives a crash: checkpoints, and a metrics file that agrees with them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from welfare_jax import config
from welfare_jax.errors import InputError
from welfare_jax.train import checkpoints
from welfare_jax.train.state import State

CONFIG = {"seed": 0, "model": {"path": "a"}, "train": {"lr": 1e-3, "steps": 4}, "text": {"tiles": ("x", "y", "z")}}


def tree(seed):
    rng = np.random.default_rng(seed)
    params = {
        "blocks/a": jnp.asarray(rng.normal(size=(3, 4)), jnp.bfloat16),
        "b": jnp.asarray(rng.normal(size=5), jnp.float32),
    }
    return State(jnp.int32(seed), params, optax.adamw(1e-3).init(params))


def saved_at(folder, steps, keep=3, config=CONFIG):
    saver = checkpoints.Checkpoints(folder, keep)
    for step in steps:
        saver.save(step, tree(step), config)
    saver.close()


def restored(folder, config=CONFIG):
    saver = checkpoints.Checkpoints(folder, 3)
    try:
        return saver.restore(tree(99), config)[:2]
    finally:
        saver.close()


def test_round_trip_is_exact(tmp_path):
    saved_at(tmp_path, [7])
    step, got = restored(tmp_path)
    want = tree(7)
    assert step == 7 and jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype and a.sharding == b.sharding
        np.testing.assert_array_equal(a, b)


def test_nothing_to_restore(tmp_path):
    like = tree(0)
    saver = checkpoints.Checkpoints(tmp_path, 3)
    step, got, data = saver.restore(like, CONFIG)
    saver.close()
    assert step == 0 and got is like and data is None


@pytest.mark.parametrize(("keep", "left"), [(2, {"3", "4"}), (0, {"1", "2", "3", "4"})])
def test_only_the_newest_are_kept(keep, left, tmp_path):
    saved_at(tmp_path, [1, 2, 3, 4], keep)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir() if p.is_dir()} == left
    assert restored(tmp_path)[0] == 4


def test_an_unfinished_checkpoint_is_passed_over(tmp_path):
    """What a kill in the middle of saving leaves behind."""
    saved_at(tmp_path, [2])
    whole = tmp_path / "checkpoints" / "2"
    torn = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp"
    torn.mkdir()
    (torn / "state").write_bytes(b"half")
    assert restored(tmp_path)[0] == 2 and whole.is_dir()


@pytest.mark.parametrize(
    ("field", "value"), [("seed", 1), ("train.lr", 3e-3), ("text.tiles", ("x", "z", "y")), ("train.extra", 1)]
)
def test_other_settings_are_refused(field, value, tmp_path):
    saved_at(tmp_path, [2])
    changed = json.loads(json.dumps(CONFIG))
    *path, last = field.split(".")
    node = changed
    for part in path:
        node = node[part]
    node[last] = value
    with pytest.raises(InputError) as error:
        restored(tmp_path, changed)
    text = str(error.value)
    assert "\n" not in text and field in text and str(tmp_path) in text and "checkpoint 2" in text
    assert restored(tmp_path)[0] == 2  # still there for the settings that made it


def test_differences_of_the_real_config():
    base = config.rl().to_dict()
    free = config.rl()
    free.train.steps, free.train.micro_batch, free.mesh.fsdp, free.curve.every = 7, 3, 2, 0
    free.steer.prompts, free.extract.per_length, free.model.path = ["x"], 1, "elsewhere"
    assert checkpoints.differences(base, free.to_dict()) == []
    bound = config.rl()
    bound.train.lr, bound.train.lora.rank, bound.maze.wind, bound.model.dtype, bound.seed = 1.0, 4, 0.0, "float32", 9
    assert checkpoints.differences(json.loads(json.dumps(base)), bound.to_dict()) == [
        ("maze.wind", 0.1, 0.0), ("model.dtype", "bfloat16", "float32"), ("seed", 0, 9), ("train.lora.rank", 32, 4),
        ("train.lr", 3e-6, 1.0),
    ]  # fmt: skip
    added = base | {"more": {"a": 1}}
    assert checkpoints.differences(base, added) == [("more.a", None, 1)]


def test_every_free_setting_exists():
    known = checkpoints.flatten(config.rl().to_dict())
    assert all(any(k == f or k.startswith(f + ".") for k in known) for f in checkpoints.FREE)


def test_metrics_log_drops_what_a_killed_run_wrote(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": i, "reward": float(i)} for i in range(5)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"step": 5, "rew')
    assert checkpoints.read_metrics(path) == rows  # the torn line is no row
    log = checkpoints.MetricsLog(path, 3)
    assert path.read_text() == "".join(json.dumps(r) + "\n" for r in rows[:3])
    log.write({"step": 3, "reward": 9.0})
    assert checkpoints.read_metrics(path) == [*rows[:3], {"step": 3, "reward": 9.0}]  # on disk before it is closed
    log.close()


def test_metrics_of_a_fresh_run_and_of_none(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert checkpoints.read_metrics(path) == []
    checkpoints.MetricsLog(path, 0).close()
    assert path.read_text() == ""


def test_the_later_of_two_rows_of_one_step_counts(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1}\n{"step": 0, "a": 0}\nnonsense\n{"step": 1, "a": 2}\n')
    assert checkpoints.read_metrics(path) == [{"step": 0, "a": 0}, {"step": 1, "a": 2}]
