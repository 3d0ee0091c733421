"""The files of a run, read with tolerance: a run may have stopped anywhere, even in the middle of a line."""

import dataclasses
import json
import math
import pathlib

from welfare_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Run:
    """What was found in a workdir; a missing file leaves its field empty and a line in `notes`."""

    name: str
    config: dict
    metrics: list  # one dict per step, ascending, each step once
    summary: dict
    analysis: dict
    notes: tuple
    folder: pathlib.Path
    more: dict  # what other JSON files in the folder hold, {name: object}


def load(workdir) -> Run:
    """Reads what `workdir` holds of `metrics.jsonl` and of config, summary, analysis and other `.json` files.

    Raises InputError if `workdir` is not a folder.
    """
    folder = pathlib.Path(workdir)
    if not folder.is_dir():
        raise InputError(f"workdir {str(folder)!r} is not a folder: pass the --workdir of a run")
    notes = []
    names = ("config", "summary", "analysis")
    config, summary, analysis = (_read_object(folder / f"{name}.json", notes) for name in names)
    metrics = _read_metrics(folder / "metrics.jsonl", notes)
    more = {path.stem: _read_object(path, []) for path in sorted(folder.glob("*.json")) if path.stem not in names}
    name = folder.resolve().name
    return Run(name, config, metrics, summary, analysis, notes=tuple(notes), folder=folder, more=more)


def dig(tree, *keys):
    """`tree[k0][k1]...`, or None where a key is absent or its parent is not a dict."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def model(run: Run) -> str:
    """The model's name as the run has it; "not recorded" where it has none."""
    known = (run.summary.get("model"), dig(run.more, "evals", "model"), dig(run.config, "model", "path"))
    return next((name for name in known if isinstance(name, str) and name), "not recorded")


def number(value):
    """A number as it is; NaN for anything else (null, text, absent)."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def numbers(values) -> list:
    """A list of numbers, NaN where an entry is not one; [] for anything that is not a list."""
    return [number(v) for v in values] if isinstance(values, (list, tuple)) else []


def dicts(values) -> list:
    """The dicts of a list; [] for anything that is not a list."""
    return [v for v in values if isinstance(v, dict)] if isinstance(values, list) else []


def finite(values) -> list:
    return [v for v in values if math.isfinite(v)]


def mean(values) -> float:
    """Mean of the finite values; NaN if there is none."""
    kept = finite(values)
    return sum(kept) / len(kept) if kept else math.nan


def _read_object(path, notes) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        notes.append(f"{path.name} is not there")
        return {}
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"{path.name} could not be read ({error})")
        return {}
    if not isinstance(found, dict):
        notes.append(f"{path.name} does not hold a JSON object")
        return {}
    return found


def _read_metrics(path, notes) -> list:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        notes.append(f"{path.name} is not there")
        return []
    steps, bad = {}, 0
    for i, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            step = row.setdefault("step", i)
            steps[int(step)] = row  # a resumed run repeats steps: the later line is the one it went on from
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            bad += 1
    if bad:
        notes.append(f"{path.name}: {bad} unreadable line(s) skipped")
    return [steps[s] for s in sorted(steps)]
