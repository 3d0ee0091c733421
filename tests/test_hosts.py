"""Several real processes on this machine are one run: the same numbers, one voice, and one end."""

import time

import jax
import numpy as np
import pytest
import runs
import worlds

from welfare_jax import hosts
from welfare_jax.errors import InputError
from welfare_jax.settings import Distributed, typed
from welfare_jax.train import checkpoints

STEPS = 5
SETTINGS = {"train.steps": STEPS, "train.checkpoint_every": 2, "train.group_size": 4}
# Plain gradient descent: Adam makes whole steps of what rounding leaves of a gradient that is zero. A high
# temperature: where a policy is sure, its gradient is what rounding leaves of one minus a probability.
SETTINGS |= {"train.optimizer": "sgd", "train.lr": 0.03, "train.temperature": 10.0}


def rows(workdir):
    return checkpoints.read_metrics(workdir / "metrics.jsonl")


def together(model, folder, count, devices=1, settings=SETTINGS, **kw):
    """The processes of a run over `count` of them, each with its log."""
    port = runs.free_port()
    logs = [folder / f"log{k}-{port}" for k in range(count)]
    joined = [settings | runs.joined(count, k, port) for k in range(count)]
    return [runs.start(model, folder / "run", log, own, devices=devices, **kw) for log, own in zip(logs, joined)], logs


@pytest.fixture(scope="module")
def alone(one_layer_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    runs.finish(runs.start(one_layer_dir, folder, folder / "log", SETTINGS), folder / "log")
    return rows(folder)


def check_same(got, want):
    assert len(got) == len(want)
    for a, b in zip(got, want):
        assert worlds.same(a, b, runs.TIMING), {k: (a.get(k), b[k]) for k in b if a.get(k) != b[k]}


@pytest.mark.slow
@pytest.mark.parametrize(("count", "devices", "mesh"), [(2, 1, {}), (4, 1, {"mesh.fsdp": 2, "mesh.tensor": 2})])
def test_several_processes_equal_one(count, devices, mesh, one_layer_dir, alone, tmp_path):
    processes, logs = together(one_layer_dir, tmp_path, count, devices, SETTINGS | mesh)
    said = [runs.finish(p, log) for p, log in zip(processes, logs)]
    check_same(rows(tmp_path / "run"), alone)
    assert "training" in said[0] and not any("training" in other for other in said[1:])
    assert {p.name for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit()} == {"2", "4", "5"}


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_and_the_rerun_goes_on(victim, one_layer_dir, tmp_path):
    """Within the time-out, with a line that says why; then one process continues what two have begun."""
    endless = SETTINGS | {"train.steps": 100_000}
    processes, logs = together(one_layer_dir, tmp_path, 2, settings=endless)
    end = time.monotonic() + 100
    while len(rows(tmp_path / "run")) < 5:
        assert time.monotonic() < end and all(p.is_alive() for p in processes), [log.read_text() for log in logs]
        time.sleep(0.01)
    processes[victim].kill()
    begin = time.monotonic()
    other = processes[1 - victim]
    other.join(60)
    assert other.exitcode not in (0, None) and time.monotonic() - begin < 25
    said = logs[1 - victim].read_text()
    assert "lost another one" in said or "another task died" in said, said[-2000:]
    done = max(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit())
    settings = SETTINGS | {"train.steps": done + 2}
    runs.finish(runs.start(one_layer_dir, tmp_path / "run", tmp_path / "log", settings), tmp_path / "log")
    assert len(rows(tmp_path / "run")) == done + 2


@pytest.mark.slow
def test_asking_one_process_to_end_saves_all(one_layer_dir, tmp_path):
    """SIGTERM to the second of two: both save the same step and say so by their status."""
    processes, logs = together(
        one_layer_dir, tmp_path, 2, settings=SETTINGS | {"train.steps": 100_000, "train.checkpoint_every": 1000}
    )
    end = time.monotonic() + 100
    while len(rows(tmp_path / "run")) < 3:
        assert time.monotonic() < end and all(p.is_alive() for p in processes), [log.read_text() for log in logs]
        time.sleep(0.01)
    processes[1].terminate()
    said = [runs.finish(p, log, 75) for p, log in zip(processes, logs)]
    (done,) = [int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit()]
    assert done == len(rows(tmp_path / "run")) and all(f"checkpoint {done} is saved" in text for text in said)


@pytest.mark.slow
def test_a_folder_that_not_all_see_is_refused(one_layer_dir, tmp_path):
    port = runs.free_port()
    logs = [tmp_path / f"log{k}" for k in range(2)]
    processes = [
        runs.start(one_layer_dir, tmp_path / f"run{k}", log, SETTINGS | runs.joined(2, k, port))
        for k, log in enumerate(logs)
    ]
    for process, log in zip(processes, logs):
        said = runs.finish(process, log, 2)
        assert "not the same folder for every process" in said and "Traceback" not in said


GOOD = {"coordinator": "localhost:1", "processes": 2, "process": 0, "timeout": 1}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"coordinator": "localhost"}, "HOST:PORT"),
        ({"process": 2}, "0 to 1"),
        ({"process": -1}, "distributed.process=-1"),
        ({"coordinator": "auto"}, "cannot join"),
    ],
)
def test_bad_settings_end_in_one_line(changes, said):
    with pytest.raises(InputError) as error:
        hosts.join(typed(Distributed, {"distributed": GOOD | changes}, "distributed"))
    assert "\n" not in str(error.value) and said in str(error.value)


def test_one_process_needs_nothing(tmp_path):
    hosts.join(Distributed())
    assert hosts.first() and hosts.everywhere(True) and not hosts.everywhere(False)
    tree = {"a": np.arange(6.0)}
    assert (hosts.get(hosts.put(tree, jax.devices()[1]))["a"] == tree["a"]).all()
