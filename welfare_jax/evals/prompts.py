"""Prompt sets: the published JSON layout, JSONL, CSV, TXT, a hub dataset, or one of the package's own, read alike.

Row of a set: {"prompt", "category"?, "target"?, "choices"?}; other fields are ignored. GSM8K's own layout (question,
answer ending in "#### 42") is read as well. In a .txt file a line is a prompt.
"""

import pathlib
import unicodedata
from typing import NamedTuple

import numpy as np

from welfare_jax import textfiles
from welfare_jax.errors import InputError
from welfare_jax.models import hub

HERE = pathlib.Path(__file__).parent
SETS, WORDING = HERE / "sets", HERE / "wording"
KINDS = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet")


class Item(NamedTuple):
    id: str  # file stem and number of the row: how journals and tables name it
    prompt: str
    category: str
    target: str | None
    choices: tuple[str, ...]
    more: tuple[str, ...] = ()  # further texts that the reader asked for, see `read`


def wording(name: str, path: str = "") -> str:
    """A text of the package (`wording/<name>.txt`), or what replaces it: a file, or another name in `wording/`."""
    file = WORDING / f"{path or name}.txt"
    try:
        return textfiles.text(file if file.is_file() else path).strip()
    except InputError as error:
        raise InputError(f"{error}; it holds the wording of {name}") from None


def tile_words(tiles) -> dict[str, str]:
    """What placeholders in prompts stand for: {"{MOLD}": emoji, "{MOLD_ENGLISH}": its Unicode name, ...}.

    tiles: emoji of path, gold and mold. The published files call Mold LAVA and Gold GOAL.
    """
    path, gold, mold = tiles
    named = {"PATH": path, "GOLD": gold, "GOAL": gold, "MOLD": mold, "LAVA": mold}
    english = {k: " ".join(unicodedata.name(c, c) for c in v if c != "\ufe0f").lower() for k, v in named.items()}
    return {f"{{{k}}}": v for k, v in named.items()} | {f"{{{k}_ENGLISH}}": v for k, v in english.items()}


def read(source: str, tiles, fields=()) -> list[Item]:
    """All rows of a set. `source`: a file, a hub dataset `owner/name[:file]`, or the name of a set in `sets/`.

    fields: names of further texts that every row must have; they become `Item.more`, in this order. Raises
    `InputError` that names file and line of the first malformed row.
    """
    path = locate(source)
    words, items, stem = tile_words(tiles), [], textfiles.stem(path)
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
        for field in fields:
            if not isinstance(row.get(field), str) or not row[field].strip():
                raise InputError(f"{where}: needs a text under {field!r}; it has {', '.join(map(str, row))}")
        more = tuple(_fill(row[field], words) for field in fields)
        prompt, target, *choices = (_fill(text, words) for text in (prompt, target, *choices))
        category = str(row.get("category", stem))
        items.append(Item(f"{stem}:{number}", prompt, category, target, tuple(choices), more))
    if not items:
        raise InputError(f"{path}: holds no prompt")
    return items


def _fill(text, words):
    for placeholder, word in words.items():
        text = text and text.replace(placeholder, word)
    return text


def load(sources, tiles, sample: float = 1.0, seed: int = 0, fields=()) -> list[Item]:
    """The rows of several sets; `sample` keeps that share of every category, at least one row of each.

    fields: as of `read`.
    """
    if not 0 < sample <= 1:
        raise InputError(f"evals.sample={sample}: need a share above 0 and at most 1")
    items = [item for source in sources for item in read(source, tiles, fields)]
    if len({item.id for item in items}) < len(items):
        raise InputError(f"prompts={list(sources)}: two files of one name; rename one")
    rng, kept = np.random.default_rng(seed), set()
    for category in dict.fromkeys((item.id.split(":")[0], item.category) for item in items):
        rows = [i for i, item in enumerate(items) if (item.id.split(":")[0], item.category) == category]
        kept |= set(rng.permutation(rows)[: max(1, round(sample * len(rows)))].tolist())
    return [item for i, item in enumerate(items) if i in kept]


def locate(source: str) -> pathlib.Path:
    path = pathlib.Path(source).expanduser()
    if textfiles.kind(path) in KINDS:
        if path.is_file():
            return path
        if path.is_absolute() or ":" not in source:
            raise InputError(f"prompts {source}: there is no such file")
    own = SETS / f"{source}.jsonl"
    if own.is_file():
        return own
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        known = ", ".join(sorted(p.stem for p in SETS.glob("*.jsonl")))
        kinds = ", ".join(KINDS)
        raise InputError(f"prompts {source!r}: neither a {kinds} file, nor owner/name, nor one of {known}")
    return _from_hub(*source.partition(":")[::2])


def _from_hub(repo: str, name: str) -> pathlib.Path:
    patterns = [name] if name else [f"*{kind}{packed}" for kind in KINDS for packed in ("", ".gz")]
    folder, cause = hub.snapshot(repo, repo_type="dataset", allow_patterns=patterns)
    if folder is None:
        raise InputError(
            f"prompts {repo}: not in the local hub cache and not downloadable ({cause}); give a file instead"
        )
    found = [folder / name] if name else [p for p in sorted(folder.rglob("*")) if textfiles.kind(p) in KINDS]
    found = [p for p in found if p.is_file() and p.name != "dataset_infos.json"]
    if len(found) != 1:
        names = ", ".join(str(p.relative_to(folder)) for p in found[:6]) or "none"
        raise InputError(f"prompts {repo}: need one data file, found {names}; name it as {repo}:FILE")
    return found[0]


def _rows(path: pathlib.Path):
    """(line number, row) of every row."""
    if path.suffix == ".parquet":
        return enumerate(_parquet(path), 1)
    found = textfiles.records(path, "prompt")
    if textfiles.kind(path) in (".csv", ".tsv"):  # a field of a table is one text
        found = [(i, row | {"choices": _parts(row.get("choices"))}) for i, row in found]
    return found


def _parts(field):
    return [part.strip() for part in field.split("|")] if field else None


def _parquet(path):
    try:
        from pyarrow import parquet
    except ImportError:
        raise InputError(f"{path}: reading parquet needs `pip install pyarrow`; or give a JSON file") from None
    try:
        return parquet.read_table(path).to_pylist()
    except Exception as error:  # pyarrow raises its own kinds
        raise InputError(f"{path}: not a readable parquet file ({' '.join(str(error).split())[:150]})") from None
