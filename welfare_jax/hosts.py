"""Several processes, usually one a host, that run the same program as one run: JAX's own distributed runtime.

Every process executes the same lines. What the first one prints and writes is the run's; the others write into a
scratch folder, checkpoints excepted, which all of them write together.
"""

import os
import pathlib
import shutil
import sys
import tempfile
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

from welfare_jax.errors import InputError
from welfare_jax.settings import Distributed

_kept: list[tempfile.TemporaryDirectory] = []  # this process's scratch, until it ends


def join(config: Distributed):
    """Make this process one of the run's, before anything asks for a device.

    config: `coordinator`, empty for a run of one process, "auto" where JAX knows the cluster (Cloud TPU, Slurm,
    Kubernetes, Open MPI), or HOST:PORT of process 0, which needs `processes` and `process` too; `timeout`, the
    seconds after which a silent process counts as dead. Processes wait three times as long for one another to start.
    """
    if not config.coordinator:
        return
    known = {}
    if config.coordinator != "auto":
        known = dict(coordinator_address=config.coordinator, num_processes=config.processes, process_id=config.process)
    patience = 3 * config.timeout
    try:
        jax.distributed.initialize(
            **known, initialization_timeout=patience, shutdown_timeout_seconds=patience,
            heartbeat_timeout_seconds=config.timeout,
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"distributed.coordinator={config.coordinator!r}: cannot join the run ({why})") from None
    if not first():
        sys.stdout = open(os.devnull, "w")


def first() -> bool:
    """Whether this process speaks for the run."""
    return jax.process_index() == 0


def folder(workdir: pathlib.Path) -> pathlib.Path:
    """Where this process writes: the run's folder or, beside the first process, scratch of the same form.

    Scratch starts with the run's metrics and leads to its checkpoints. Refuses a `workdir` that not all processes see.
    """
    token = workdir / ".shared"
    if first():
        token.touch()
    barrier("folder")
    seen = everywhere(token.is_file())
    if first():
        token.unlink(missing_ok=True)
    if not seen:
        raise InputError(f"--workdir={workdir}: not the same folder for every process; name one on shared storage")
    if first():
        return workdir
    _kept.append(tempfile.TemporaryDirectory(prefix="welfare_jax-", ignore_cleanup_errors=True))
    scratch = pathlib.Path(_kept[-1].name)
    for name in ("checkpoints", "best"):
        (scratch / name).symlink_to(workdir.resolve() / name)
    if (workdir / "metrics.jsonl").is_file():
        shutil.copy(workdir / "metrics.jsonl", scratch)
    return scratch


def put(tree, sharding):
    """Leaves that every process has whole, laid out over all devices; `sharding`: one, or a tree of them."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def one(leaf, where):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, where)
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, where, lambda index: host[index])

    whole = sharding if not isinstance(sharding, jax.sharding.Sharding) else jax.tree.map(lambda _: sharding, tree)
    return jax.tree.map(one, tree, whole)


def get(tree):
    """`jax.device_get` that also reads what lies on other processes' devices; all processes must call it."""
    if jax.process_count() == 1:
        return jax.device_get(tree)

    def one(leaf):
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return jax.device_get(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(one, tree)


GONE = ("Gloo", "NCCL", "heartbeat", "UNAVAILABLE", "DEADLINE_EXCEEDED", "coordination", "Connection", "barrier")


def lost(error) -> str | None:
    """A line that says which process lost another one, where `error` comes from that."""
    why = " ".join(str(error).split())
    if not any(word in why for word in GONE):
        return None
    return f"process {jax.process_index()} of {jax.process_count()} lost another one ({why[:120]})"


def everywhere(flag: bool) -> bool:
    """Whether `flag` is true on every process."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(flag)).all())


def barrier(name: str):
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def leave(status: int):
    """End this process at once, whatever the others do.

    JAX's own end would have process 0 close its service as soon as all have said goodbye, and a process that has not
    yet heard the answer aborts. So the first one waits a little, and nobody says goodbye.
    """
    if first():
        time.sleep(2)
    for folder in _kept:
        folder.cleanup()
    os._exit(status)
