"""Prompt sets in four layouts; every malformed row is named by file and line."""

import json

import pytest
from published import SHARED

from welfare_jax.errors import InputError
from welfare_jax.evals import prompts

TILES = ("\U0001f9fe", "\U0001f4d0", "\U0001f5c2")
PUBLISHED = {"sentiment_40": 40, "gsm8k_200": 200, "or_bench_600": 600, "simpleqa_verified_1000": 1000,
             "mmlu_high_school_3420": 3420}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files(name):
    path = SHARED / "data" / "evals" / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    rows, items = json.loads(path.read_text()), prompts.read(str(path), TILES)
    assert len(items) == len(rows) == PUBLISHED[name]
    assert len({item.id for item in items}) == len(items)
    for row, item in zip(rows, items):
        assert item.category == row["category"] and item.target == (row["target"].strip() if "target" in row else None)
        assert item.choices == tuple(row.get("choices", ()))
        assert item.prompt == row["prompt"] or "{" in row["prompt"]
    if name == "sentiment_40":
        said = " ".join(item.prompt for item in items)
        assert "{" not in said and all(tile in said for tile in TILES) and "triangular ruler" in said
        assert [sum(i.category == c for i in items) for c in ("welfare_self_reports", "lava_maze_associations")] == [
            15,
            25,
        ]


@pytest.mark.parametrize("path", sorted(prompts.SETS.glob("*.jsonl")), ids=lambda p: p.stem)
def test_own_sets_are_large_enough_to_conclude_from(path):
    """Forty prompts or more, none twice; but for openers and fillers, which are not scored, and what the small decoder
    can tell."""
    items = prompts.read(path.stem, TILES)
    assert len({item.prompt for item in items}) == len(items)
    assert len(items) >= {"openers": 3, "temporal": 64, "temporal_filler": 16, "tiny_stories": 7}.get(path.stem, 40)
    for item in items:
        assert not item.choices or all(f"{x}. {c}" in item.prompt for x, c in zip("ABCD", item.choices, strict=True))


def test_gsm8k_as_published(tmp_path):
    path = SHARED / "data" / "gsm8k" / "test.jsonl"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    items = prompts.read(str(path), TILES)
    assert len(items) == 1319 and items[0].target == "18" and items[0].prompt.startswith("Janet")


@pytest.mark.parametrize("name", [p.stem for p in sorted(prompts.SETS.glob("*.jsonl"))])
def test_own_sets(name):
    items = prompts.read(name, TILES)
    assert len(items) >= 3 and not any("{" in item.prompt + str(item.target) for item in items)
    if any(item.choices for item in items):
        assert all(item.target in "ABCD"[: len(item.choices)] for item in items if item.choices)


def test_the_same_rows_in_every_layout(tmp_path):
    rows = [{"prompt": "a, b?", "category": "x", "target": "1"}, {"prompt": "c\nd", "category": "y", "target": "2",
             "choices": ["p", "q"]}]  # fmt: skip
    (tmp_path / "s.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(r) + "\n\n" for r in rows))
    (tmp_path / "s.csv").write_text('prompt,category,target,choices\n"a, b?",x,1,\n"c\nd",y,2,p|q\n')
    found = [prompts.read(str(tmp_path / f"s.{kind}"), TILES) for kind in ("json", "jsonl", "csv")]
    assert found[0] == found[1] == found[2]
    assert found[0][1] == prompts.Item("s:1", "c\nd", "y", "2", ("p", "q"))


BAD = {
    "no_prompt.json": ('[\n{"prompt": "a"},\n{"category": "b"}\n]', "line 3", "'prompt'"),
    "comma.json": ('[\n{"prompt": "a"}\n{"prompt": "b"}\n]', "line 3", "comma"),
    "torn.json": ('[\n{"prompt": "a"},\n{"prompt": "b\n]', "line 3", "JSON"),
    "object.json": ('{"prompt": "a"}', "line 1", "array"),
    "number.jsonl": ('{"prompt": "a"}\n\n7\n', "line 3", "object"),
    "broken.jsonl": ('{"prompt": "a"}\n{"prompt": \n', "line 2", "JSON"),
    "empty_prompt.jsonl": ('{"prompt": "  "}\n', "line 1", "'prompt'"),
    "choices.jsonl": ('{"prompt": "a", "choices": "b"}\n', "line 1", "'choices'"),
    "target.jsonl": ('{"prompt": "a", "target": [1]}\n', "line 1", "'target'"),
    "fields.csv": ("prompt,target\na,1\nb,2,3\n", "line 3", "2 fields"),
    "nothing.jsonl": ("", "holds no prompt", ""),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_rows(name, tmp_path):
    text, *said = BAD[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as error:
        prompts.read(str(tmp_path / name), TILES)
    assert all(s in str(error.value) for s in (name, *said)) and "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["no/such/file.json", "missing.csv", "sentimental", "/nowhere/set", "owner/data"])
def test_sources_that_are_not_there(source):
    with pytest.raises(InputError, match=source.split("/")[0] or "nowhere"):
        prompts.locate(source)


def test_a_hub_dataset_is_found_in_the_cache(tmp_path, monkeypatch):
    import huggingface_hub

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.jsonl").write_text('{"prompt": "a"}\n')
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(tmp_path))
    assert prompts.read("owner/name", TILES)[0].prompt == "a"
    (tmp_path / "train.csv").write_text("prompt\nb\n")
    with pytest.raises(InputError, match="owner/name:FILE"):
        prompts.read("owner/name", TILES)
    assert prompts.read("owner/name:train.csv", TILES)[0].prompt == "b"


def test_a_quick_look_keeps_every_category():
    whole, part = (prompts.load(["sentiment", "facts"], TILES, share) for share in (1.0, 0.1))
    assert len(whole) == 80 and 5 <= len(part) <= 8 and {i.category for i in part} == {i.category for i in whole}
    assert [i for i in whole if i in part] == part == prompts.load(["sentiment", "facts"], TILES, 0.1)
    for share in (0.0, 1.5):
        with pytest.raises(InputError, match="evals.sample"):
            prompts.load(["facts"], TILES, share)


def test_wording_is_replaceable(tmp_path):
    assert "{answer}" in prompts.wording("judge_refusal")
    (tmp_path / "mine.txt").write_text("My own words\n")
    assert prompts.wording("judge_refusal", str(tmp_path / "mine.txt")) == "My own words"
    with pytest.raises(InputError, match="gone.txt"):
        prompts.wording("judge_refusal", str(tmp_path / "gone.txt"))
