"""What survives a crash: checkpoints, and a metrics file that agrees with them."""

import itertools
import json
import os
import resource
import shutil
import signal
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType

from welfare_jax import config
from welfare_jax import mesh as mesh_lib
from welfare_jax.errors import InputError
from welfare_jax.train import checkpoints, state
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


def test_exchanged_weights_and_texts_are_refused(tmp_path, capfd):
    bound = lambda **digests: checkpoints.bound(CONFIG, **{"weights": "a", "text": "b"} | digests)
    saved_at(tmp_path, [2], config=bound())
    assert restored(tmp_path, bound())[0] == 2 and not capfd.readouterr().err
    for name in ("weights", "text"):
        with pytest.raises(InputError, match=rf"content\.{name}='.' \(now 'other'\)"):
            restored(tmp_path, bound(**{name: "other"}))
    assert restored(tmp_path, bound(more="c"))[0] == 2 and "does not name its more" in capfd.readouterr().err


def test_a_checkpoint_without_digests_goes_on_and_says_so(tmp_path, capfd):
    saved_at(tmp_path, [2])
    assert restored(tmp_path, checkpoints.bound(CONFIG, weights="a"))[0] == 2
    assert "checkpoint 2 does not name its weights by content" in capfd.readouterr().err


def test_a_digest_of_an_earlier_version_is_not_compared(tmp_path, capfd):
    now = checkpoints.digest({"a": jnp.arange(3)})
    saved_at(tmp_path, [2], config=checkpoints.bound(CONFIG, weights="0123456789abcdef", text="b"))
    assert restored(tmp_path, checkpoints.bound(CONFIG, weights=now, text="b"))[0] == 2
    assert "checkpoint 2 does not name its weights by content" in capfd.readouterr().err
    with pytest.raises(InputError, match="content.text"):
        restored(tmp_path, checkpoints.bound(CONFIG, weights=now, text="c"))


def test_any_bytes_in_what_a_checkpoint_says_of_itself(tmp_path):
    saved_at(tmp_path / "good", [2])
    files = sorted(p.relative_to(tmp_path / "good") for p in (tmp_path / "good").rglob("*/metadata"))
    assert {p.parts[-2] for p in files} >= {"config", "sums"}
    count = itertools.count()

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.sampled_from(files), st.one_of(st.binary(max_size=40), st.integers(0, 200)))
    def run(file, change):
        folder = tmp_path / f"{next(count)}"
        shutil.copytree(tmp_path / "good", folder)
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes(change if isinstance(change, bytes) else whole[:change])
        try:
            step, got = restored(folder)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert step == 2 and all((a == b).all() for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(tree(2))))

    run()


def test_differences_of_the_real_config():
    base = config.rl().to_dict()
    free = config.rl()
    free.train.steps, free.train.micro_batch, free.mesh.fsdp, free.curve.every = 7, 3, 2, 0
    free.steer.prompts, free.extract.per_length, free.model.path = ["x"], 1, "elsewhere"
    assert checkpoints.differences(base, free.to_dict()) == []
    bound = config.rl()
    bound.train.lr, bound.train.lora.rank, bound.maze.wind, bound.model.dtype, bound.seed = 1.0, 4, 0.0, "float32", 9
    bound.model.revision = "step1000"
    assert checkpoints.differences(json.loads(json.dumps(base)), bound.to_dict()) == [
        ("maze.wind", 0.1, 0.0), ("model.dtype", "bfloat16", "float32"), ("model.revision", "", "step1000"),
        ("seed", 0, 9), ("train.lora.rank", 32, 4), ("train.lr", 3e-6, 1.0),
    ]  # fmt: skip
    added = base | {"more": {"a": 1}}
    assert checkpoints.differences(base, added) == [("more.a", None, 1)]
    before = base | {"model": {k: v for k, v in base["model"].items() if k != "revision"}}
    assert checkpoints.differences(before, base) == []  # of a run from before there were revisions
    assert checkpoints.differences(base | {"plan": False}, base) == []  # `plan` used to be a bool
    assert checkpoints.differences(before, bound.to_dict())[2] == ("model.revision", None, "step1000")


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


def test_metrics_of_cells_side_by_side(tmp_path):
    """A row for each step that every cell has done."""
    for name, count in (("a", 3), ("b", 2)):
        (tmp_path / "cells" / name).mkdir(parents=True)
        rows = [{"step": i, "loss": f"{name}{i}"} for i in range(count)]
        checkpoints.write_metrics(tmp_path / "cells" / name / "metrics.jsonl", rows)
    checkpoints.metrics_side_by_side(tmp_path, ["a", "b"])
    want = [{"step": i, "cells": {n: {"step": i, "loss": f"{n}{i}"} for n in "ab"}} for i in range(2)]
    assert checkpoints.read_metrics(tmp_path / "metrics.jsonl") == want


def test_the_later_of_two_rows_of_one_step_counts(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1}\n{"step": 0, "a": 0}\nnonsense\n{"step": 1, "a": 2}\n')
    assert checkpoints.read_metrics(path) == [{"step": 0, "a": 0}, {"step": 1, "a": 2}]


def run_of(folder, steps=(2, 4, 6)):
    """The checkpoints of a run, whole."""
    saved_at(folder, steps)
    return folder / "checkpoints"


def newest_files(folder):
    """The files of the newest checkpoint that hold numbers, largest first."""
    found = [p for p in (folder / "6" / "state").rglob("*") if p.is_file() and p.stat().st_size]
    return sorted(found, key=lambda p: -p.stat().st_size)


def cut(folder):
    path = newest_files(folder)[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(folder):
    for path in newest_files(folder):
        path.write_bytes(b"")


def flip(folder):
    """One bit in the middle of the numbers, which no library below notices everywhere."""
    path = newest_files(folder)[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def without_state(folder):
    shutil.rmtree(folder / "6" / "state")


def without_config(folder):
    shutil.rmtree(folder / "6" / "config")


def other_numbers(folder):
    """A state that reads well and is another one's."""
    shutil.rmtree(folder / "6" / "state")
    shutil.copytree(folder / "4" / "state", folder / "6" / "state")


DAMAGE = (cut, empty, flip, without_state, without_config, other_numbers)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(damage, tmp_path, capsys):
    """It says so, gives the older one exactly, keeps what is left of the newest, and the run can go on."""
    folder = run_of(tmp_path)
    damage(folder)
    saver = checkpoints.Checkpoints(tmp_path, 3)
    step, got, _ = saver.restore(tree(99), CONFIG)
    assert step == 4 and all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(tree(4))))
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and str(folder / "6") in said[0] and "cannot be read" in said[0]
    assert {p.name for p in folder.iterdir()} >= {"2", "4"} and not (folder / "6").exists()
    assert [p.name for p in (tmp_path / "unreadable").iterdir()] == ["checkpoints-6"]
    saver.save(6, tree(6), CONFIG)
    saver.close()
    assert restored(tmp_path)[0] == 6


def test_several_damaged_checkpoints(tmp_path, capsys):
    folder = run_of(tmp_path)
    cut(folder)
    shutil.rmtree(folder / "4" / "state")
    assert restored(tmp_path)[0] == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_no_checkpoint_that_can_be_read(tmp_path):
    """The run does not start again from the beginning over what may still be mended."""
    folder = run_of(tmp_path, (4, 6))
    for step in ("4", "6"):
        shutil.rmtree(folder / step / "state")
    with pytest.raises(InputError) as error:
        restored(tmp_path)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    assert {p.name for p in folder.iterdir()} >= {"4", "6"}


@pytest.mark.skipif(jax.device_count() != 8, reason="needs 8 (virtual) devices")
def test_other_devices_read_what_some_have_written(tmp_path):
    """From 2 x 2 x 2 to 8 x 1 x 1, to one device and back: the numbers are the same and lie where they should."""
    place = lambda tree, mesh: jax.device_put(tree, state.shardings(mesh, tree))
    one = jax.make_mesh((1, 1, 1), mesh_lib.AXES, devices=jax.devices()[:1], axis_types=(AxisType.Auto,) * 3)
    two = jax.make_mesh((1, 2, 1), mesh_lib.AXES, devices=jax.devices()[:2], axis_types=(AxisType.Auto,) * 3)
    shapes = {"blocks/attn/q/lora_a": (3, 24, 2), "blocks/attn/q/lora_b": (3, 2, 32)}
    rng, tx = np.random.default_rng(0), optax.adam(1e-3)
    params = {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}
    want = state.State(jnp.int32(1), params, tx.init(params))
    for i, mesh in enumerate((mesh_lib.make(2, 2, 2), mesh_lib.make(8, 1, 1), one, two, mesh_lib.make(1, 4, 2))):
        saver = checkpoints.Checkpoints(tmp_path, 2)
        like = place(jax.tree.map(jnp.zeros_like, want), mesh)
        step, got, _ = saver.restore(like, CONFIG)
        assert step == i
        if i:
            assert jax.tree.all(jax.tree.map(jnp.array_equal, jax.device_get(got), jax.device_get(want)))
            assert all(a.sharding == b.sharding for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(like)))
        saver.save(i + 1, place(want, mesh), CONFIG)
        saver.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with room for one large checkpoint; skips where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    if os.geteuid() or subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def large(seed):
    """A megabyte and a half that does not compress."""
    return {"blocks/a": jax.random.normal(jax.random.key(seed), (400_000,))}


def too_large(folder, keep=3):
    """Saves checkpoint 1 and then 2, for which there is no room; gives the complaint about 2."""
    saver = checkpoints.Checkpoints(folder, keep)
    saver.save(1, large(1), CONFIG)
    saver.wait()
    with pytest.raises(InputError) as error:
        saver.save(2, large(2), CONFIG)
        saver.wait()
    saver.close()
    return str(error.value)


def check_that_one_is_left(folder, said):
    assert "\n" not in said and str(folder / "checkpoints") in said and "checkpoint 1 is intact" in said
    saver = checkpoints.Checkpoints(folder, 3)
    step, got, _ = saver.restore({"blocks/a": jnp.zeros(400_000)}, CONFIG)
    saver.close()
    assert step == 1 and (got["blocks/a"] == large(1)["blocks/a"]).all()


@pytest.mark.parametrize("keep", [1, 3])
def test_a_full_disk(keep, small_disk):
    said = too_large(small_disk, keep)
    assert "No space left on device" in said
    check_that_one_is_left(small_disk, said)


def test_a_limit_on_files_is_like_a_full_disk(tmp_path):
    """The same where nothing may be mounted: the kernel refuses to write beyond a size."""
    saver = checkpoints.Checkpoints(tmp_path, 3)
    saver.save(1, {"blocks/a": large(1)["blocks/a"]}, CONFIG)
    saver.close()
    before, quiet = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
    try:
        saver = checkpoints.Checkpoints(tmp_path, 3)
        with pytest.raises(InputError) as error:
            saver.save(2, large(2), CONFIG)
            saver.wait()
        saver.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, quiet)
    assert "File too large" in str(error.value)
    check_that_one_is_left(tmp_path, str(error.value))


def test_what_differs_is_said(tmp_path, capsys):
    """All of it where the run refuses; and where it does not, once, on the way."""
    saved_at(tmp_path, [2])
    changed = CONFIG | {"seed": 3, "train": {"lr": 1e-2, "steps": 9}}
    with pytest.raises(InputError, match=r"seed=0 \(now 3\), train.lr=0.001 \(now 0.01\)"):
        restored(tmp_path, changed)
    capsys.readouterr()
    assert restored(tmp_path, CONFIG | {"train": {"lr": 1e-3, "steps": 9}})[0] == 2
    assert "train.steps=4 (now 9)" in capsys.readouterr().err
