"""Runs that are ended from outside, in processes of their own: killed at any moment, asked to end, out of disk."""

import errno
import http.server
import os
import random
import signal
import subprocess
import threading
import time

import jax.numpy as jnp
import pytest
import runs

from welfare_jax import experiments
from welfare_jax.train import checkpoints, monitors

KILLS, STEPS = 20, 90
SETTINGS = {"train.steps": STEPS, "train.checkpoint_every": 2}
MOUNT = ["mount", "-t", "tmpfs", "-o", "size=2m", "none"]


def file(workdir):
    """Which metrics file it is, and how many steps it has: opening a run writes it anew."""
    path = workdir / "metrics.jsonl"
    return (path.stat().st_ino, path.read_bytes().count(b"\n")) if path.is_file() else (0, 0)


def untimed(workdir):
    rows = checkpoints.read_metrics(workdir / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in runs.TIMING} for row in rows]


def saved(workdir) -> list[int]:
    folder = workdir / "checkpoints"
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


def unfinished(workdir) -> bool:
    """Whether a checkpoint is being written, or was when the run was killed."""
    folder = workdir / "checkpoints"
    return folder.is_dir() and any("tmp" in p.name for p in folder.iterdir())


def wait_for(condition, process, seconds=500):  # however busy the machine is
    end = time.monotonic() + seconds
    while not condition():
        assert process.is_alive() and time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture(scope="module")
def whole(one_layer_dir, tmp_path_factory):
    """The folder of a run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    runs.finish(runs.start(one_layer_dir, folder, folder / "log", SETTINGS), folder / "log")
    assert len(untimed(folder)) == STEPS
    return folder


def grown(workdir, before, steps):
    """Whether the run in `workdir` has come so far since its metrics were in the file `before`."""

    def check():
        now, count = file(workdir)
        return now != before and count >= steps

    return check


@pytest.mark.slow
def test_twenty_kills_change_no_number(one_layer_dir, whole, tmp_path):
    """`kill -9` at random moments of one run: while it starts, trains, and (some on purpose) writes a checkpoint."""
    log, draw, writing = tmp_path / "log", random.Random(0), 0
    for number in range(KILLS):
        before, done = file(tmp_path)[0], max(saved(tmp_path), default=0)
        process = runs.start(one_layer_dir, tmp_path, log, SETTINGS)
        if number % 5:
            wait_for(grown(tmp_path, before, done + draw.randint(1, 3)), process)
        if number % 5 == 1:
            wait_for(lambda: unfinished(tmp_path), process)
        else:
            time.sleep(draw.random() * (0.1 if number % 5 else 2.0))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, log.read_text()[-2000:]
        writing += unfinished(tmp_path)
    assert writing and file(tmp_path)[1] < STEPS
    runs.finish(runs.start(one_layer_dir, tmp_path, log, SETTINGS), log)
    assert untimed(tmp_path) == untimed(whole)
    assert not unfinished(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_asked_to_end(number, status, one_layer_dir, whole, tmp_path):
    """A checkpoint of every finished step within the grace period, a status of its own, and the rerun goes on."""
    log, settings = tmp_path / "log", SETTINGS | {"train.checkpoint_every": 1000}
    process = runs.start(one_layer_dir, tmp_path, log, settings)
    wait_for(lambda: file(tmp_path)[1] >= 3, process)
    begin = time.monotonic()
    os.kill(process.pid, number)
    said = runs.finish(process, log, status)
    assert time.monotonic() - begin < 10
    (done,) = saved(tmp_path)
    assert done == file(tmp_path)[1] >= 3 and f"checkpoint {done} is saved" in said and "Traceback" not in said
    runs.finish(runs.start(one_layer_dir, tmp_path, log, settings), log)
    assert untimed(tmp_path) == untimed(whole)


BASE = {
    "shape.layers": 1, "shape.width": 32, "shape.heads": 2, "shape.kv_heads": 1, "shape.head_dim": 16, "shape.mlp": 48,
    "tokenizer.documents": 100, "train.micro_batch": 4, "train.checkpoint_every": 1000, "steps": 4, "rows": 4,
    "length": 48, "warmup": 1, "probe_every": 3,
}  # fmt: skip
LEAN = {
    "model.dtype": "float32", "train.steps": 4, "train.schedule_steps": 5, "train.lora.rank": 0,
    "train.micro_batch": 8, "train.remat": False, "train.checkpoint_every": 1000,
}  # fmt: skip
EXPERIMENTS = {  # config file, settings, the folders of the trainings that are asked to end, one after the other
    "pretrain": ("pretrain.py", BASE, ["."]),
    "amplify": ("amplification.py", {f"pretrain.{k}": v for k, v in BASE.items()} | LEAN | {
        "train.groups": 2, "train.group_size": 4, "problems": 16, "max_new_tokens": 8, "measure.every": 3,
        "measure.problems": 4, "measure.samples": 4, "measure.batch": 4, "measure.ks": (1, 4),
    }, ["bases/tiny-even-0", "."]),
    "reward_model": ("reward_model.py", LEAN | {
        "pairs.count": 24, "pairs.held_out": 10, "pairs.max_tokens": 64, "train.batch": 8, "neurons.batch": 8,
        "neurons.random": 1, "neurons.sweep": (20.0,),
    }, ["harmless"]),
    "imitation": ("imitation.py", LEAN | {
        "maze.size": 15, "maze.turns": 3, "sft.batch": 8, "sft.trajectories": 16, "sft.held_out": 8, "sft.size": 0,
        "sft.beams": 4, "imitation.tasks": ("maze",), "imitation.lambdas": (0.0, 0.2), "imitation.batch": 8,
        "imitation.temperatures": (1.0,), "imitation.prompts": 4, "imitation.samples": 2,
    }, ["maze_0.2"]),
    "words": ("words.py", {f"words.pretrain.{k}": v for k, v in BASE.items()} | LEAN | {
        "words.pretrain.length": 96, "words.pretrain.tokenizer.vocab_size": 640, "words.steps": 2, "words.warmup": 1,
        "words.arms": {"with": {"stories": 1.0}},
        "maze.size": 15, "maze.turns": 2, "train.lora.rank": 2, "train.groups": 2, "train.group_size": 4,
        "curve.every": 2, "curve.per_length": 4, "extract.per_length": 4, "extract.held_out": 0.5,
        "extract.batch": 8, "axes.limit": 8,
    }, ["bases/common-0", "cells/with-0"]),
}  # fmt: skip


def test_all_that_train_are_here():
    assert {*EXPERIMENTS, "rl", "axes", "evals"} == experiments.EXPERIMENTS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("job", ["pretrain", "reward_model", "imitation"])  # the others take too long to run thrice
def test_every_experiment_ends_when_asked_and_goes_on(job, one_layer_dir, tmp_path):
    """The step in which SIGTERM came is saved, and in the end the numbers are those of a run that nobody disturbed."""
    name, settings, folders = EXPERIMENTS[job]
    settings = settings | ({"model.path": one_layer_dir} if job in ("reward_model", "imitation") else {})
    config, log, whole, cut = f"configs/{name}", tmp_path / "log", tmp_path / "whole", tmp_path / "cut"
    runs.finish(runs.experiment(config, whole, log, settings), log)
    for folder in folders:
        log = tmp_path / f"log-{folder.replace('/', '-')}"
        process = runs.experiment(config, cut, log, settings, (cut / folder, signal.SIGTERM))
        said = runs.finish(process, log, 75)
        assert said.strip().splitlines()[-1].startswith("asked to end: checkpoint 2 is saved"), said
        assert saved(cut / folder) == [2] and len(untimed(cut / folder)) == 2 and "Traceback" not in said
    runs.finish(runs.experiment(config, cut, log, settings), log)
    logs = [path.parent.relative_to(whole) for path in whole.rglob("metrics.jsonl")]
    assert len(logs) >= len(folders)
    for folder in logs:
        assert untimed(cut / folder) == untimed(whole / folder), folder


def fill(path):
    """Takes all the room there is, whoever else writes meanwhile."""
    with open(path, "wb", buffering=0) as f:
        try:
            while True:
                f.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC


@pytest.mark.slow
def test_no_room_for_metrics(one_layer_dir, tmp_path):
    """A disk that fills up elsewhere than in a checkpoint: one line, and what was saved is intact."""
    log, disk = tmp_path / "log", tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(MOUNT + [str(disk)], capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    try:
        process = runs.start(
            one_layer_dir, disk / "run", log, SETTINGS | {"train.steps": 100_000, "train.checkpoint_every": 50}
        )
        wait_for(lambda: saved(disk / "run"), process)
        fill(disk / "other")
        said = runs.finish(process, log, 2)
        kept = max(saved(disk / "run"))
        assert "No space left on device" in said and "Traceback" not in said
        (disk / "other").unlink()
        runs.finish(runs.start(one_layer_dir, disk / "run", log, SETTINGS | {"train.steps": kept + 2}), log)
        assert len(untimed(disk / "run")) == kept + 2
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


class Slow:
    """A result that takes its time."""

    def block_until_ready(self):
        time.sleep(3)


@pytest.mark.parametrize("number", monitors.SIGNALS)
def test_a_notice_interrupts_the_wait_for_a_rollout(number):
    before = [signal.getsignal(s) for s in monitors.SIGNALS]
    with monitors.PreemptionNotice() as notice:
        assert notice.ready(jnp.ones(3)) and not notice.reached(0)
        threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
        begin = time.monotonic()
        assert not notice.ready(Slow()) and time.monotonic() - begin < 2
        assert notice.reached(1) and notice.by_hand == (number == signal.SIGINT)
    assert [signal.getsignal(s) for s in monitors.SIGNALS] == before


def test_a_second_ctrl_c_ends_at_once():
    with pytest.raises(KeyboardInterrupt), monitors.PreemptionNotice() as notice:
        os.kill(os.getpid(), signal.SIGINT)
        assert notice.asked
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_ignored_is_no_notice():
    """As Ctrl-C in a program that a script started in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with monitors.PreemptionNotice() as notice:
            os.kill(os.getpid(), signal.SIGINT)
            assert not notice.reached(0)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_platform_takes_the_machine_away():
    """The metadata server's answer is a notice as a signal is; its other answers are none."""
    answers, seen = [b"FALSE", b"TRUE"], []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.headers["Metadata-Flavor"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answers[min(len(seen), 2) - 1])

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("localhost", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with monitors.PreemptionNotice(f"http://localhost:{server.server_port}/") as notice:
            end = time.monotonic() + 10
            while not notice.reached(0) and time.monotonic() < end:
                time.sleep(0.01)
            assert notice.reached(0) and seen == ["Google", "Google"]
        server.shutdown()
