"""Checkpoints with Orbax, and a metrics file that agrees with them after a crash."""

import json
import pathlib

import jax
import orbax.checkpoint as ocp

from welfare_jax.errors import InputError

# Settings that may differ between the run that wrote a checkpoint and the one that resumes from it.
FREE = (
    "train.steps",
    "train.checkpoint_every",
    "train.keep",
    "train.micro_batch",
    "train.remat",
    "train.eval_every",
    "train.spike",
    "mesh",
    "distributed",
    "curve",
    "extract",
    "axes",
    "steer",
    "evals",
    "model.path",
)


class Checkpoints:
    """Saves and restores a pytree under `workdir/checkpoints/<step>/`."""

    def __init__(self, workdir, keep: int, name: str = "checkpoints"):
        self.workdir = pathlib.Path(workdir).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep or None, enable_async_checkpointing=True)
        self.manager = ocp.CheckpointManager(self.workdir / name, options=options)

    def save(self, step: int, tree, config: dict, data: dict | None = None):
        """data: where a data pipeline stands, if there is one."""
        items = {"state": ocp.args.StandardSave(tree), "config": ocp.args.JsonSave(config)}
        items |= {"data": ocp.args.JsonSave(data)} if data else {}
        self.manager.save(step, args=ocp.args.Composite(**items))

    def restore(self, like, config: dict):
        """(step, tree, data) of the newest checkpoint, or (0, like, None). Refuses one made under other settings."""
        step = self.manager.latest_step()
        if step is None:
            return 0, like, None
        abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), like)
        written = self.manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))["config"]
        different = differences(written, config)
        if different:
            name, was, now = different[0]
            raise InputError(
                f"{self.workdir}: its checkpoint {step} was made with {name}={was!r}, now {now!r}; "
                f"use another --workdir or the same setting"
            )
        items = {"state": ocp.args.StandardRestore(abstract)}
        if (self.manager.directory / str(step) / "data").exists():
            items["data"] = ocp.args.JsonRestore()
        found = self.manager.restore(step, args=ocp.args.Composite(**items))
        return step, found["state"], found.get("data")

    def close(self):
        self.manager.wait_until_finished()
        self.manager.close()


def flatten(config, prefix="") -> dict:
    out = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        out.update(flatten(value, name + ".") if isinstance(value, dict) else {name: value})
    return out


def differences(old: dict, new: dict) -> list[tuple]:
    """(field, old value, new value) of the settings that a resumed run must share."""
    a, b = flatten(old), flatten(json.loads(json.dumps(new)))
    fields = sorted(k for k in set(a) | set(b) if not any(k == f or k.startswith(f + ".") for f in FREE))
    return [(k, a.get(k), b.get(k)) for k in fields if a.get(k) != b.get(k)]


class MetricsLog:
    """`metrics.jsonl`: one object a step. Opening it at a step drops what a killed run wrote from there on."""

    def __init__(self, path, step: int):
        self.path = pathlib.Path(path)
        kept = [row for row in read_metrics(path) if row["step"] < step]
        fresh = self.path.with_suffix(".tmp")
        fresh.write_text("".join(json.dumps(row) + "\n" for row in kept))
        fresh.replace(self.path)
        self.file = self.path.open("a")

    def write(self, row: dict):
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()

    def close(self):
        self.file.close()


def read_metrics(path) -> list[dict]:
    """The rows of a metrics file; a torn last line is dropped, the later of two rows of one step wins."""
    rows, path = {}, pathlib.Path(path)
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows[row["step"]] = row
    return [rows[k] for k in sorted(rows)]
