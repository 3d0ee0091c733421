"""The temporal evaluation on a small random model: the files it leaves, the same command again, the page."""

import json

import numpy as np
import pytest
from helpers import hf_model, save

from welfare_jax import config, experiments
from welfare_jax.errors import InputError
from welfare_jax.evals import exposure
from welfare_jax.experiments.evals import run as stage
from welfare_jax.interp import vectors


def halves(tokenizer):
    """Two lists of words that share the vocabulary, so that a random model's answers are on one side or the other."""
    groups = {}
    for i in range(len(tokenizer)):
        word = tokenizer.decode([i])
        if word.strip().isalpha() and tokenizer.encode(word, add_special_tokens=False) == [i]:
            groups.setdefault(word.strip().lower(), word)
    return tuple(list(groups.values())[::2]), tuple(list(groups.values())[1::2])


@pytest.fixture(scope="module")
def settings(tiny_tokenizer, tiny_tokenizer_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("temporal")
    model = hf_model("qwen3", vocab_size=len(tiny_tokenizer), num_hidden_layers=2)
    rng = np.random.default_rng(0)
    found = {f"{c}/rest": rng.normal(size=(2, 40)) for c in ("mold", "gold")}
    vectors.save(
        folder / "own.safetensors", found, model="", hook="resid_post", data="", layers={"mold": 1, "gold": 0}
    )
    rows = [{"prompt": f"Go {way}.", "well": "It is a goal.", "badly": "It is a wall.", "reply": "I went on."}
            for way in ("north", "east", "south", "west", "on", "back")]  # fmt: skip
    (folder / "families.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "filler.jsonl").write_text(json.dumps({"prompt": "Who?", "answer": "me"}) + "\n")
    cfg = config.rl()
    cfg.job, cfg.model.path, cfg.model.dtype = (
        "evals",
        str(save(model, folder / "model", tiny_tokenizer_dir)),
        "float32",
    )
    cfg.evals.update(names=("temporal",), vectors=(str(folder / "own.safetensors"),), batch=16, buckets=1)
    cfg.evals.update(alphas=(-1.0, 0.0, 1.0), layers="all")
    good, bad = halves(tiny_tokenizer)
    cfg.evals.temporal.update(
        prompts=(str(folder / "families.jsonl"),), filler=(str(folder / "filler.jsonl"),), good=good, bad=bad,
        discern=-99.0, ask_words="And?", ask_codes="{good} or {bad}?", ask_number="9?", suppose=("It is on.", "Oh."),
        begin=("", "It", ""), variants=2, lengths=(1, 2), random=2, orthogonal=2, control_families=3, map_families=1,
        draws=100, match_rounds=1,
    )  # fmt: skip
    return cfg


def test_a_run_and_the_same_command_again(settings, tmp_path, monkeypatch):
    stage.ready(settings)
    summary = stage.measure(settings, tmp_path)
    first = (tmp_path / "evals.json").read_text()
    (record,) = json.loads(first)["temporal"]
    assert record["sentiment"].startswith("prompts that differ") and record["layers"] == [0, 1]
    assert record["counts"][0]["mastered"] == 12 and record["counts"][0]["families"] == 6
    assert {v["claim"]: v["verdict"] for v in record["verdicts"]}.keys() == record["rules"].keys()
    assert len(summary["temporal"]) == 2 + 3  # two layers, and specificity at one
    assert {(r["exposure"], r["matching"]) for r in record["matching"]} == {
        (e, m) for e in ("early", "readout") for m in ("norm", "divergence")
    }
    for row in record["matching"]:  # of a direction that hardly acts no strength may be near enough
        assert row["matching"] == "norm" or 0.3 < row["median"] / row["own"] < 3
    assert [r["position"] for r in record["map"]] == list(range(len(record["map"])))
    assert [r["part"] for r in record["map"]][-1] == "read-out"
    lines = (tmp_path / "evals" / "readouts.jsonl").read_text()
    for name in ("through", "at_last", "unsteered"):
        monkeypatch.setattr(exposure, name, lambda *_: pytest.fail("read again"))
    stage.measure(settings, tmp_path)
    assert (tmp_path / "evals.json").read_text() == first
    assert (tmp_path / "evals" / "readouts.jsonl").read_text() == lines
    (tmp_path / "config.json").write_text(json.dumps({"job": "evals"}))
    page = experiments.report(tmp_path).read_text()
    assert "Left out:" not in page and "State or read-out?" in page and page.count("<svg") == 4


def test_malformed_families_are_refused_before_training(settings, tmp_path):
    cfg = settings.copy_and_resolve_references()
    file = tmp_path / "families.jsonl"
    file.write_text('{"prompt": "Go.", "well": "On."}\n')
    cfg.evals.temporal.prompts = (str(file),)
    with pytest.raises(InputError, match="families.jsonl, line 1: needs a text under 'badly'"):
        stage.ready(cfg)
