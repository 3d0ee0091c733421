"""Prompt sets: the published JSON layout, JSONL, CSV, a hub dataset, or one of the package's own; one reader for all.

Row of a set: {"prompt", "category"?, "target"?, "choices"?}; other fields are ignored. GSM8K's own layout (question,
answer ending in "#### 42") is read as well.
"""

import csv
import io
import json
import pathlib
import re
import unicodedata
from typing import NamedTuple

import numpy as np

from welfare_jax.errors import InputError

HERE = pathlib.Path(__file__).parent
SETS, WORDING = HERE / "sets", HERE / "wording"
KINDS = (".json", ".jsonl", ".csv", ".parquet")


class Item(NamedTuple):
    id: str  # file stem and number of the row: how journals and tables name it
    prompt: str
    category: str
    target: str | None
    choices: tuple[str, ...]


def wording(name: str, path: str = "") -> str:
    """A text of the package (`wording/<name>.txt`), or what replaces it: a file, or another name in `wording/`."""
    file = WORDING / f"{path or name}.txt"
    file = file if file.is_file() else pathlib.Path(path).expanduser()
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not a readable text file ({error}); it holds the wording of {name}") from None


def tile_words(tiles) -> dict[str, str]:
    """What placeholders in prompts stand for: {"{MOLD}": emoji, "{MOLD_ENGLISH}": its Unicode name, ...}.

    tiles: emoji of path, gold and mold. The published files call Mold LAVA and Gold GOAL.
    """
    path, gold, mold = tiles
    named = {"PATH": path, "GOLD": gold, "GOAL": gold, "MOLD": mold, "LAVA": mold}
    english = {k: " ".join(unicodedata.name(c, c) for c in v if c != "\ufe0f").lower() for k, v in named.items()}
    return {f"{{{k}}}": v for k, v in named.items()} | {f"{{{k}_ENGLISH}}": v for k, v in english.items()}


def read(source: str, tiles) -> list[Item]:
    """All rows of a set. `source`: a file, a hub dataset `owner/name[:file]`, or the name of a set in `sets/`.

    Raises `InputError` that names file and line of the first malformed row.
    """
    path = locate(source)
    words, items = tile_words(tiles), []
    for number, (line, row) in enumerate(_rows(path)):
        where = f"{path}, line {line}"
        if not isinstance(row, dict):
            raise InputError(f"{where}: need an object with a prompt, found {type(row).__name__}")
        row = {k: v for k, v in row.items() if v not in (None, "")}
        prompt = row.get("prompt", row.get("question"))
        if not isinstance(prompt, str) or not prompt.strip():
            raise InputError(
                f"{where}: needs a text under 'prompt' (or 'question'); it has {', '.join(map(str, row))}"
            )
        target = row.get("target", row.get("answer"))
        if not isinstance(target, str | int | float | None):
            raise InputError(f"{where}: 'target' must be text or a number, found {type(target).__name__}")
        target = None if target is None else str(target).split("####")[-1].strip()
        choices = row.get("choices", ())
        if not isinstance(choices, list | tuple) or not all(isinstance(c, str) for c in choices):
            raise InputError(f"{where}: 'choices' must be a list of texts")
        prompt, target, *choices = (_fill(text, words) for text in (prompt, target, *choices))
        category = str(row.get("category", path.stem))
        items.append(Item(f"{path.stem}:{number}", prompt, category, target, tuple(choices)))
    if not items:
        raise InputError(f"{path}: holds no prompt")
    return items


def _fill(text, words):
    for placeholder, word in words.items():
        text = text and text.replace(placeholder, word)
    return text


def load(sources, tiles, sample: float = 1.0, seed: int = 0) -> list[Item]:
    """The rows of several sets; `sample` keeps that share of every category, at least one row of each."""
    if not 0 < sample <= 1:
        raise InputError(f"evals.sample={sample}: need a share above 0 and at most 1")
    items = [item for source in sources for item in read(source, tiles)]
    if len({item.id for item in items}) < len(items):
        raise InputError(f"prompts={list(sources)}: two files of one name; rename one")
    rng, kept = np.random.default_rng(seed), set()
    for category in dict.fromkeys((item.id.split(":")[0], item.category) for item in items):
        rows = [i for i, item in enumerate(items) if (item.id.split(":")[0], item.category) == category]
        kept |= set(rng.permutation(rows)[: max(1, round(sample * len(rows)))].tolist())
    return [item for i, item in enumerate(items) if i in kept]


def locate(source: str) -> pathlib.Path:
    path = pathlib.Path(source).expanduser()
    if path.suffix in KINDS:
        if path.is_file():
            return path
        if path.is_absolute() or ":" not in source:
            raise InputError(f"prompts {source}: there is no such file")
    own = SETS / f"{source}.jsonl"
    if own.is_file():
        return own
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        known = ", ".join(sorted(p.stem for p in SETS.glob("*.jsonl")))
        raise InputError(f"prompts {source!r}: neither a {', '.join(KINDS)} file, nor owner/name, nor one of {known}")
    return _from_hub(*source.partition(":")[::2])


def _from_hub(repo: str, name: str) -> pathlib.Path:
    from huggingface_hub import snapshot_download

    patterns = [name] if name else [f"*{kind}" for kind in KINDS]
    for offline in (False, True):
        try:
            folder = snapshot_download(repo, repo_type="dataset", allow_patterns=patterns, local_files_only=offline)
            break
        except Exception as error:  # the hub raises a dozen kinds: no network, gated, unknown name
            cause = type(error).__name__
    else:
        raise InputError(
            f"prompts {repo}: not in the local hub cache and not downloadable ({cause}); give a file instead"
        )
    folder = pathlib.Path(folder)
    found = [folder / name] if name else [p for p in sorted(folder.rglob("*")) if p.suffix in KINDS]
    found = [p for p in found if p.is_file() and p.name != "dataset_infos.json"]
    if len(found) != 1:
        names = ", ".join(str(p.relative_to(folder)) for p in found[:6]) or "none"
        raise InputError(f"prompts {repo}: need one data file, found {names}; name it as {repo}:FILE")
    return found[0]


def _rows(path: pathlib.Path):
    """(line number, row) of every row."""
    if path.suffix == ".parquet":
        yield from enumerate(_parquet(path), 1)
        return
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable UTF-8 file ({error})") from None
    if path.suffix == ".json":
        yield from _json_rows(path, text)
    elif path.suffix == ".jsonl":
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError as error:
                    raise InputError(f"{path}, line {number}: not JSON ({error})") from None
    else:
        reader = csv.DictReader(io.StringIO(text, newline=""), restkey="too many")
        for row in reader:
            if "too many" in row or None in row.values():
                raise InputError(f"{path}, line {reader.line_num}: needs {len(reader.fieldnames)} fields")
            if row.get("choices"):
                row["choices"] = [c.strip() for c in row["choices"].split("|")]
            yield reader.line_num, row


def _json_rows(path, text):
    """The elements of a JSON array one by one, each with the line where it begins."""
    decoder, at = json.JSONDecoder(), re.compile(r"\s*")
    line = lambda position: text.count("\n", 0, position) + 1
    position = at.match(text).end()
    if text[position : position + 1] != "[":
        raise InputError(f"{path}, line {line(position)}: need a JSON array of objects with a prompt")
    position = at.match(text, position + 1).end()
    while text[position : position + 1] != "]":
        begin = position
        try:
            row, position = decoder.raw_decode(text, position)
        except ValueError as error:
            raise InputError(f"{path}, line {getattr(error, 'lineno', line(begin))}: not JSON ({error})") from None
        yield line(begin), row
        position = at.match(text, position).end()
        if text[position : position + 1] == ",":
            position = at.match(text, position + 1).end()
        elif text[position : position + 1] != "]":
            raise InputError(f"{path}, line {line(position)}: need a comma or the end of the array")


def _parquet(path):
    try:
        from pyarrow import parquet
    except ImportError:
        raise InputError(f"{path}: reading parquet needs `pip install pyarrow`; or give a JSON file") from None
    return parquet.read_table(path).to_pylist()
