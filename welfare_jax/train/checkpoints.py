"""Checkpoints with Orbax, and a metrics file that agrees with them after a crash."""

import concurrent.futures
import contextlib
import gc
import hashlib
import json
import os
import pathlib
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from welfare_jax import hosts, runtime, textfiles
from welfare_jax.errors import InputError, Unfinished
from welfare_jax.settings import RENTING

# Settings that may differ between the run that wrote a checkpoint and the one that resumes from it.
FREE = (
    "train.steps",
    "train.checkpoint_every",
    "train.keep",
    "train.micro_batch",
    "train.rollout_batch",
    "train.remat",
    "train.remat_keeps",
    "train.eval_every",
    "train.spike",
    "mesh",
    "parallel",
    "distributed",
    "curve",
    "extract",
    "axes",
    "steer",
    "evals",
    "outcome.shams",
    "model.path",
    "text.date",  # where it is written it is in the piece tables, whose digest is bound
)
CONTENT = "content"  # digests of what a run depends on and its settings name by a path only; see `bound`


class Checkpoints:
    """Saves and restores a pytree under `workdir/checkpoints/<step>/`; several processes do so together."""

    def __init__(self, workdir, keep: int, name: str = "checkpoints"):
        self.folder = (pathlib.Path(workdir) / name).resolve()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep or None, enable_async_checkpointing=True)
        self.manager = ocp.CheckpointManager(self.folder, options=options)
        self.failed = False

    def save(self, step: int, tree, config: dict, data: dict | None = None):
        """Begin to write step `step` beside the ones that exist; data: where a data pipeline stands, if there is one.

        Returns once the tree is copied, so that it may be donated. Raises `InputError` where there is no room.
        """
        items = {"state": ocp.args.StandardSave(tree), "config": ocp.args.JsonSave(config)}
        items["sums"] = ocp.args.JsonSave(sums(tree) | said(config=config, data=data) | {MIXED: 1})
        items |= {"data": ocp.args.JsonSave(data)} if data else {}
        with self._room():
            self.manager.save(step, args=ocp.args.Composite(**items))

    def wait(self):
        """Until everything begun is on disk."""
        with self._room():
            self.manager.wait_until_finished()

    @contextlib.contextmanager
    def _room(self):
        try:
            yield
        except Exception as error:  # the file system's complaint comes wrapped by several libraries
            why = runtime.no_room(error)
            if why is None:
                raise
            self.failed = True
            left = max((int(p.name) for p in self.folder.iterdir() if p.name.isdigit()), default=None)
            raise InputError(
                f"{self.folder}: a checkpoint cannot be written ({why}); "
                + (f"checkpoint {left} is intact; " if left else "")
                + "make room and give the same command again"
            ) from None

    def restore(self, like, config: dict):
        """(step, tree, data) of the newest checkpoint that can be read, or (0, like, None) where there is none.

        The tree lies where `like` does, whatever the devices that wrote it. Unreadable newer ones are moved to
        `unreadable/`, out of the way of the steps to come. Raises `InputError` for other settings and where no
        checkpoint can be read.
        """
        bad = []
        for step in sorted(self.manager.all_steps(), reverse=True):
            found, why = self.attempt(self._read, step, like, config)
            if hosts.everywhere(found is not None):
                for other in bad:
                    self._set_aside(other)
                return step, *found
            bad.append(step)
            why = why or "another process cannot read it"
            say(f"{self.folder / str(step)}: cannot be read ({why}); trying the checkpoint before it")
        if bad:
            raise InputError(
                f"{self.folder}: none of its checkpoints can be read; put one back or use another --workdir"
            )
        return 0, like, None

    def attempt(self, read, *args):
        """(what `read` gives, ""), or (None, why it failed). What is an `InputError` already is raised."""
        with _quiet_leftovers():
            try:
                return read(*args), ""
            except InputError:
                raise
            except Exception as error:  # Orbax, tensorstore and json raise their own kinds
                return None, " ".join(str(error).split(". See full")[0].split())[:200] or type(error).__name__

    def _read(self, step: int, like, config: dict):
        """(tree, data) of a checkpoint that was made with these settings."""
        written = self.settings(step)
        was, now = written.get(CONTENT, {}), config.get(CONTENT, {})
        if unknown := sorted(k for k in now if k not in was or outdated(was[k], now[k])):
            written, config = (
                made | {CONTENT: {k: v for k, v in made.get(CONTENT, {}).items() if k not in unknown}}
                for made in (written, config)
            )
            say(f"checkpoint {step} does not name its {', '.join(unknown)} by content: taken to be what is there now")
        different, free = differences(written, config), differences(written, config, bound=False)
        if different:
            raise InputError(f"{self.folder}: its checkpoint {step} was made with {_list(different)}; "
                "use another --workdir, or the same settings, weights and texts")  # fmt: skip
        abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), like)
        items = {"data": ocp.args.JsonRestore()} if (self.folder / str(step) / "data").exists() else {}
        found = self._items(step, state=ocp.args.StandardRestore(abstract), **items)
        if free:
            say(f"continuing from checkpoint {step}, which was made with {_list(free)}")
        return found["state"], found.get("data")

    def settings(self, step: int) -> dict:
        """What a checkpoint says it was made with."""
        return self._items(step, config=ocp.args.JsonRestore())["config"]

    def part(self, step: int, like: dict) -> dict:
        """The leaves of a checkpoint that `like` names, nested as they were, a `jax.ShapeDtypeStruct` each."""
        args = ocp.args.PyTreeRestore(like, ocp.checkpoint_utils.construct_restore_args(like), partial_restore=True)
        return self._items(step, state=args)["state"]

    def _items(self, step: int, **items):
        """Items of a checkpoint, each proven to be what was saved."""
        items["sums"] = ocp.args.JsonRestore()
        found = self.manager.restore(step, args=ocp.args.Composite(**items))
        own = said(config=found.get("config"), data=found.get("data"))
        own = {k: v for k, v in own.items() if k in found["sums"]}  # earlier versions had sums of numbers alone
        own |= sums(found["state"]) if "state" in items and MIXED in found["sums"] else {}
        wrong = [k for k, total in own.items() if found["sums"].get(k) != total]
        if wrong:
            raise ValueError(f"{wrong[0]} is not what was saved")
        return found

    def _set_aside(self, step: int):
        """Keep what is left of an unreadable checkpoint, in case it can be mended."""
        if hosts.first():
            place = self.folder.parent / "unreadable" / f"{self.folder.name}-{step}"
            place.parent.mkdir(exist_ok=True)
            while place.exists():
                place = place.with_name(place.name + "-again")
            (self.folder / str(step)).rename(place)
        hosts.barrier(f"set aside {step}")
        self.manager.reload()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        """After an error of its own kind a run of several processes does not wait for those that may be gone."""
        if error is None or jax.process_count() == 1 or isinstance(error, InputError | Unfinished):
            self.close()

    def close(self):
        if not self.failed:
            self.wait()
        self.manager.close()


@contextlib.contextmanager
def _quiet_leftovers():
    """Coroutines that a failed read leaves behind say so at length when they are collected: here, unheard."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        gc.collect()
        sys.unraisablehook = hook


def say(line: str):
    """Tell the user, from one process."""
    if hosts.first():
        print(line, file=sys.stderr)


def _list(different, most: int = 5) -> str:
    """Settings that differ, as field=old (now new)."""
    said = ", ".join(f"{name}={was!r} (now {now!r})" for name, was, now in different[:most])
    return said + (f" and {len(different) - most} more" if len(different) > most else "")


def sums(tree) -> dict[str, int]:
    """A number for each leaf that depends on every bit and its place, and not on the devices that hold it."""
    leaves = {jax.tree_util.keystr(p, simple=True, separator="/"): a for p, a in jax.tree.leaves_with_path(tree)}
    if jax.default_backend() == "cpu" and all(getattr(a, "is_fully_addressable", True) for a in leaves.values()):
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            return dict(zip(leaves, pool.map(_sum, leaves.values())))
    return {k: int(v) for k, v in hosts.get(_sums(leaves)).items()}


def _sum(leaf) -> int:
    """`_sums` of one leaf in memory, some rows at a time: XLA takes a CPU three times as long, and one core."""
    whole = np.atleast_1d(np.asarray(leaf))
    rows = np.ascontiguousarray(whole).view(f"u{whole.itemsize}").reshape(-1, whole.shape[-1] or 1)
    iota = lambda n, prime: np.arange(n, dtype=np.uint32) * np.uint32(prime)
    place, step, total = np.zeros(1, np.uint32), max(1, (1 << 16) // rows.shape[1]), 0
    for n, prime in zip(whole.shape[:-1], PRIMES):
        place = np.add.outer(place, iota(n, prime)).ravel()
    last = 2 * iota(rows.shape[1], PRIMES[whole.ndim - 1]) + 1
    for at in range(0, len(rows), step):
        mixed = 2 * place[at : at + step, None] + last
        mixed *= rows[at : at + step]
        mixed ^= mixed >> 16
        mixed *= np.uint32(MIX)
        mixed ^= mixed >> 15
        total += int(np.sum(mixed, dtype=np.uint32))
    return total % 2**32


def said(**items) -> dict[str, int]:
    """A number for each item of a checkpoint that is JSON and not None, which depends on every value in it."""
    told = {k: json.dumps(json.loads(json.dumps(v)), sort_keys=True) for k, v in items.items() if v is not None}
    return {f"said/{k}": zlib.crc32(text.encode()) for k, text in told.items()}


@jax.jit
def _sums(leaves):
    def one(leaf):
        width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
        bits = jax.lax.bitcast_convert_type(leaf, width).astype(jnp.uint32)
        # Odd weights: a change in one place is a change of the sum. Distinct primes: places do not share weights.
        place = [jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, d) * p for d, p in zip(range(leaf.ndim), PRIMES)]
        mixed = bits * (2 * sum(place, jnp.uint32(0)) + 1)
        # Without this, the highest bits (the signs) of two numbers that both flip would cancel in the sum.
        mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(MIX)
        return jnp.sum(mixed ^ (mixed >> 15), dtype=jnp.uint32)

    return {name: one(leaf) for name, leaf in leaves.items()}


PRIMES = (1_000_003, 998_244_353, 104_729, 7_919, 31, 1)
MIX = 0x7FEB352D
MIXED = "mixed"  # earlier versions had sums that missed flipped signs: what they wrote is not compared


def digest(tree) -> str:
    """Names parameters by their content: the same wherever they lie, on however many devices, from whatever file.

    Every bit counts: `sums` reads all of it once, where it lies, at about the speed of memory.
    """
    return f"{MIXED}-{hashlib.sha256(json.dumps(sums(tree), sort_keys=True).encode()).hexdigest()[:16]}"


def outdated(was, now) -> bool:
    """Whether an earlier version wrote `was`, so that it says nothing about the digest `now`."""
    return str(now).startswith(MIXED) and not str(was).startswith(MIXED)


def bound(settings: dict, **digests) -> dict:
    """Settings with the digests of what they name only by a path: weights, tokenizer and template, data.

    They are saved and compared as settings are, so a run does not go on where a folder or file was exchanged.
    Checkpoints of earlier versions have none; they are taken to belong to what is there, and the user is told.
    """
    return settings | {CONTENT: digests}


def file_digest(path) -> str:
    """Names a file by its bytes."""
    with pathlib.Path(path).expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def flatten(config, prefix="") -> dict:
    out = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        out.update(flatten(value, name + ".") if isinstance(value, dict) else {name: value})
    return out


def differences(old: dict, new: dict, bound: bool = True) -> list[tuple]:
    """(field, old value, new value) of the settings that a resumed run must share, or of those it need not."""
    a, b = (flatten(json.loads(json.dumps(settings))) for settings in (old, new))
    a, b = ({k: v for k, v in flat.items() if k not in RENTING} for flat in (a, b))
    free = lambda k: any(k == f or k.startswith(f + ".") for f in FREE)
    fields = sorted(k for k in set(a) | set(b) if free(k) != bound)
    # A setting that came later and is left empty, or off, changes nothing; before `outcome` runs were held to none.
    later = lambda k: k not in a and (k.startswith("outcome.") or b[k] is False)
    return [(k, a.get(k), b.get(k)) for k in fields if a.get(k, "") != b.get(k, "") and not later(k)]


class MetricsLog:
    """`metrics.jsonl`: one object a step. Opening it at a step drops what a killed run wrote from there on."""

    def __init__(self, path, step: int):
        self.path = pathlib.Path(path)
        self.before = [row for row in read_metrics(path) if row["step"] < step]
        write_metrics(self.path, self.before)
        self.file = self.path.open("a")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def write(self, row: dict):
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()

    def close(self):
        self.file.close()


def write_metrics(path, rows) -> None:
    runtime.write_whole(pathlib.Path(path), "".join(json.dumps(row) + "\n" for row in rows))


def metrics_side_by_side(workdir, names) -> None:
    """The metrics of the runs in `workdir/cells/NAME` side by side, a row for each step that all have."""
    rows = [read_metrics(pathlib.Path(workdir) / "cells" / name / "metrics.jsonl") for name in names]
    joined = ({"step": i, "cells": dict(zip(names, own))} for i, own in enumerate(zip(*rows)))
    write_metrics(pathlib.Path(workdir) / "metrics.jsonl", joined)


def read_metrics(path) -> list[dict]:
    """The rows of a metrics file; a torn line is dropped, the later of two rows of one step wins."""
    rows, path = {}, pathlib.Path(path)
    for line in textfiles.data(path).split(b"\n") if path.is_file() else ():
        try:
            row = textfiles.loads(line, str(path))
            rows[row["step"]] = row
        except (InputError, TypeError, KeyError):
            continue
    return [rows[k] for k in sorted(rows)]
