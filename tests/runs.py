"""Runs in processes of their own, forked from a server that has imported everything and started nothing."""

import multiprocessing
import os
import pathlib
import re
import socket
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
# Steps of milliseconds: two episodes of two turns.
FEW = {
    "maze.size": 11, "maze.turns": 2, "train.schedule_steps": 200, "train.groups": 2, "train.group_size": 2,
    "train.micro_batch": 4, "train.lora.rank": 2, "train.lr": 1e-2, "train.z": 1.0, "train.spike": 0.0,
    "curve.every": 0,
}  # fmt: skip
SPEED = {"seconds", "rollout_seconds", "curve_seconds", "episodes_per_s", "tokens_per_s"}  # of the main job
TIMING = SPEED | {"sample_seconds", "measure_seconds"}
PRELOAD = (
    "welfare_jax.main", "welfare_jax.experiments.axis.run", "welfare_jax.experiments.axis.report", "transformers",
    "tensorboardX", "orbax.checkpoint",
)  # fmt: skip
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(list(PRELOAD))
_cache = tempfile.TemporaryDirectory(prefix="compiled-")


def _train_only():
    """The main job is its training from here on."""
    from welfare_jax import experiments
    from welfare_jax.experiments.axis import run
    from welfare_jax.train import loop
    from welfare_jax.train.job import Job

    def train(config, workdir):
        job = Job.of(config)
        setup = loop.build(job)
        loop.train(setup, job, workdir, loop.collector(setup, job))

    run.run, experiments.report = train, str


def _end_at(folder, number):
    """Sends this process a signal when the training in `folder` has written its second step."""
    from welfare_jax.train import checkpoints

    write = checkpoints.MetricsLog.write

    def wrapped(log, row):
        write(log, row)
        if log.path.parent == folder and row["step"] == 1:
            os.kill(os.getpid(), number)

    checkpoints.MetricsLog.write = wrapped


def environment(devices=1) -> dict:
    """Of a process that a test starts: one device, as on a laptop, and compiled programs shared with its like."""
    return os.environ | {
        "XLA_FLAGS": re.sub(r"(device_count)=\d+", rf"\1={devices}", os.environ["XLA_FLAGS"]),
        "JAX_COMPILATION_CACHE_DIR": _cache.name, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }  # fmt: skip


def _run(args, log, devices, compiled, train_only, end=None):
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1), os.dup2(out, 2)
    os.chdir(ROOT)
    os.environ["XLA_FLAGS"] = environment(devices)["XLA_FLAGS"]
    import jax

    from welfare_jax import main

    jax.config.update("jax_compilation_cache_dir", compiled)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_default_matmul_precision", "highest")
    if train_only:
        _train_only()
    if end:
        _end_at(*end)
    sys.argv = ["main", *args]  # where ml_collections looks for settings
    main.leave(main.main(sys.argv))


def _start(config, workdir, settings, *rest):
    flags = [f"--config.{k}={v}" for k, v in settings.items()]
    args = [f"--config={config}", f"--workdir={workdir}", *flags]
    process = _server.Process(target=_run, args=(args, *rest))
    process.start()
    return process


def start(model, workdir, log, settings=(), *, devices=1):
    """A process that trains in `workdir`, with its output in the file `log`."""
    settings = FEW | {"model.path": model} | dict(settings)
    return _start("configs/tiny_grpo.py", workdir, settings, str(log), devices, _cache.name, True)


def experiment(config, workdir, log, settings, end=None):
    """A process with a whole experiment. end: (folder, signal), which comes in the second step of that training."""
    return _start(config, workdir, settings, str(log), 1, _cache.name, False, end)


def finish(process, log, status=0):
    """Waits for the end of a run; returns what it said."""
    process.join(1800)  # however busy the machine is
    said = pathlib.Path(log).read_text()
    assert process.exitcode == status, f"{process.exitcode}: {said[-3000:]}"
    return said


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def joined(count, k, port, timeout=10) -> dict:
    """The settings of process `k` of `count`."""
    return {
        "distributed.coordinator": f"localhost:{port}", "distributed.processes": count, "distributed.process": k,
        "distributed.timeout": timeout,
    }  # fmt: skip
