"""Amplification: prompts as pretraining had them, cells of a sweep, a whole small run with its report and restart."""

import json
import math
import shutil

import numpy as np
import pytest
import scipy.stats
from helpers import hf_model, save

from welfare_jax import config as settings
from welfare_jax import experiments
from welfare_jax.errors import InputError
from welfare_jax.experiments.amplification import run as amplify
from welfare_jax.sft import corpus
from welfare_jax.text import arithmetic

SHAPE = dict(layers=1, width=32, heads=2, kv_heads=1, head_dim=16, mlp=48)


def config(**changes):
    cfg = settings.amplify()
    cfg.shapes.tiny = SHAPE
    cfg.mixtures.more_words = {"words": 2.0, "function": 1.0, "script": 1.0}
    cfg.pretrain.update(steps=2, rows=4, length=64, warmup=1, probe_every=2)
    cfg.pretrain.tokenizer.documents = 100
    cfg.pretrain.train.micro_batch = 4
    cfg.train.update(steps=3, groups=2, group_size=4, micro_batch=8, checkpoint_every=2, kl_coef=0.01)
    cfg.measure.update(every=2, problems=4, samples=4, batch=4, ks=(1, 4))
    cfg.update(problems=16, max_new_tokens=8)
    cfg.update_from_flattened_dict(changes)
    return cfg


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    cfg = settings.pretrain()
    cfg.tokenizer.documents = 300
    return corpus.make_tokenizer(corpus.Mixture.of(cfg), tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_a_prompt_and_any_solution_are_the_document(kind, tokenizer, tmp_path):
    """Whatever the tokenizer: the prompt's tokens begin every document of the problem, and end at the blank line."""
    if kind == "bpe":
        cfg = settings.pretrain()
        cfg.tokenizer.update(kind="bpe", vocab_size=400, documents=60)
        tokenizer = corpus.make_tokenizer(corpus.Mixture.of(cfg), tmp_path)
    problems = arithmetic.problems(0, 5)
    found = amplify.pool(tokenizer, problems)
    assert found.tokens.shape[1] % 8 == 0 and (found.mask[:, -1]).all()
    for p, tokens, mask in zip(problems, found.tokens, found.mask):
        assert tokenizer.decode(tokens[mask]).removeprefix("<|bos|>").rstrip("\n") == p.question
        for style in arithmetic.FORMATS:
            document = corpus.tiny_world.Document("", (), arithmetic.document(p, arithmetic.solution(p, style)))
            ids = corpus.encode(tokenizer, document)["tokens"].tolist()
            assert ids[: mask.sum()] == tokens[mask].tolist()
            rest = tokenizer.decode(ids[mask.sum() :], skip_special_tokens=True)
            assert arithmetic.classify(rest) == style and arithmetic.correct(p, rest)
    with pytest.raises(InputError, match="tokens"):
        amplify.pool(tokenizer, problems, width=8)


def test_written_answers_are_read():
    p = arithmetic.problem(0, 0)
    text = f"The answer is {p.answer}."
    assert amplify.Written.read(text, p) == (text, "words", p.answer, True)
    assert amplify.Written.read("def f():\n  return -1", p) == ("def f():\n  return -1", "function", -1, False)
    assert amplify.Written.read("none", p) == ("none", "other", None, False)


def test_cells_of_a_sweep():
    cfg = config(**{"sweep.mixture": ("tiny",)})
    with pytest.raises(InputError, match="mixture='tiny'"):
        amplify.check(cfg)
    cfg = config(**{"sweep.mixture": ("even", "more_words"), "sweep.kl_coef": (0.0, 0.01), "sweep.seed": (0, 3)})
    amplify.check(cfg)
    found = amplify.cells(cfg)
    assert len(found) == 8
    own = found["mixture_more_words-kl_0.01-seed_3"]
    assert (own.train.kl_coef, own.seed, own.pretrain.seed, own.pretrain.sources.words.weight) == (0.01, 3, 3, 2.0)
    assert own.pretrain.shape.width == 32 and not any(len(v) for v in own.sweep.values())
    assert cfg.pretrain.sources.words.weight == 1.0 and list(amplify.cells(config())) == [""]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train.algorithm": "reinforce"}, "'reinforce'"),
        ({"train.kl": "exact"}, "k3"),
        ({"train.micro_batch": 3}, "train.micro_batch=3"),
        ({"measure.batch": 3}, "measure.batch=3"),
        ({"measure.ks": (1, 9)}, "9 is not in 1..measure.samples=4"),
        ({"shape": "huge"}, "shape='huge'"),
        ({"problems": 0}, "problems=0"),
    ],
)
def test_bad_settings_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        amplify.check(config(**changes))


def test_means_over_seeds():
    """Intervals by Student's t, of each seed's own winner."""
    base = {k: 0.5 for k in ("accuracy", "greedy")} | {f"{a}_{b}": 0.1 for a in ("share", "accuracy") for b in "wfs"}
    values = [("w", 0.2, 0.9), ("f", 0.3, 0.7), ("w", 0.4, 0.95)]
    cells = [
        dict(shape="tiny", mixture="even", kl_coef=0.0, seed=i, winner=w, before=base | {f"share_{w}": a},
             after=base | {f"share_{w}": b, "accuracy_s": None})
        for i, (w, a, b) in enumerate(values)
    ]  # fmt: skip
    (row,) = amplify.over_seeds(cells)
    assert row["seeds"] == 3 and row["winners"] == ["w", "f", "w"] and row["accuracy_s_after"]["n"] == 0
    for when, own in (("before", [0.2, 0.3, 0.4]), ("after", [0.9, 0.7, 0.95])):
        low, high = scipy.stats.t.interval(0.95, 2, np.mean(own), scipy.stats.sem(own))
        want = {"mean": np.mean(own), "low": low, "high": high, "n": 3}
        assert row[f"winner_share_{when}"] == pytest.approx(want)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A sweep of two seeds, and one of its cells again, stopped after its checkpoint."""
    whole = tmp_path_factory.mktemp("sweep")
    amplify.run(config(**{"sweep.seed": (0, 1)}), whole)
    stopped, compiled = tmp_path_factory.mktemp("stopped"), {}
    base = str(whole / "bases" / "tiny-even-0" / "model")
    (own,) = amplify.cells(config(**{"model.path": base})).values()
    measure, calls = amplify.Cell.measure, []

    def killed(cell, trainable):
        calls.append(trainable)
        if len(calls) == 3:  # behind the last step
            raise KeyboardInterrupt
        return measure(cell, trainable)

    amplify.Cell.measure = killed
    try:
        with pytest.raises(KeyboardInterrupt):
            amplify.Cell(own, base, compiled).run(stopped)
    finally:
        amplify.Cell.measure = measure
    summary = amplify.Cell(own, base, compiled).run(stopped)
    assert len(compiled) == 1
    return whole, stopped, summary


def rows(path):
    timed = ("seconds", "sample_seconds", "measure_seconds")
    return [{k: v for k, v in json.loads(x).items() if k not in timed} for x in path.read_text().splitlines()]


@pytest.mark.slow
def test_a_run_and_its_restart(done):
    whole, stopped, summary = done
    own = rows(stopped / "metrics.jsonl")
    assert own == rows(whole / "cells" / "seed_0" / "metrics.jsonl")
    assert [r["step"] for r in own] == [0, 1, 2, 3] and ["eval_kl" in r for r in own] == [True, False, True, True]
    for row in own[:3]:
        assert sum(row[f"share_{s}"] for s in amplify.STYLES) == pytest.approx(1)
        assert row["accuracy"] == pytest.approx(row["reward"])
        assert row["ratio_error_max"] < 1e-3
    assert own[0]["eval_kl"] == pytest.approx(0, abs=1e-5) and 0 < own[0]["eval_entropy"] < math.log(700)
    assert summary["before"]["entropy"] == own[0]["eval_entropy"] and summary["winner"] in arithmetic.FORMATS


@pytest.mark.slow
def test_the_reports(done):
    whole, stopped, _ = done
    for folder, cells in ((whole, ["seed_0", "seed_1"]), (stopped, [""])):
        page = experiments.report(folder).read_text()
        assert page.count("<svg") == 3 and "Left out" not in page and "not complete" not in page
        table = (folder / "tables" / "amplification_training.csv").read_text().splitlines()
        assert len(table) == 1 + 3 * len(cells) and {line.split(",")[0] for line in table[1:]} == set(cells)
    assert "95 % t interval" in experiments.report(whole).read_text()
    page = experiments.report(whole / "bases" / "tiny-even-0").read_text()
    assert page.count("<svg") == 2 and "Left out" not in page


@pytest.mark.slow
def test_another_tokenizer_in_the_same_place_is_another_run(done, tmp_path):
    """Other ids for the same words, or other ends of an answer: what was trained on is no longer what is read."""
    whole, _, _ = done
    base = tmp_path / "model"
    shutil.copytree(whole / "bases" / "tiny-even-0" / "model", base)
    (own,) = amplify.cells(config(**{"model.path": str(base), "train.steps": 1, "train.checkpoint_every": 1})).values()
    compiled = {}
    amplify.Cell(own, str(base), compiled).run(tmp_path / "run")
    file = base / "tokenizer.json"
    before, said = file.read_text(), json.loads(file.read_text())
    words = said["model"]["vocab"]
    a, b = [w for w in words if w.isalpha()][:2]
    words[a], words[b] = words[b], words[a]
    (own,) = amplify.cells(config(**{"model.path": str(base), "train.steps": 2, "train.checkpoint_every": 1})).values()
    for text, ends in ((json.dumps(said), None), (before, '{"eos_token_id": [3, 5]}')):
        file.write_text(text)
        if ends:
            (base / "generation_config.json").write_text(ends)
        with pytest.raises(InputError, match="content.text"):
            amplify.Cell(own, str(base), compiled).run(tmp_path / "run")


def test_problems_that_the_model_has_no_rows_for(tiny_tokenizer_dir, tmp_path):
    folder = save(hf_model("qwen3", vocab_size=261, num_hidden_layers=1), tmp_path, tiny_tokenizer_dir)
    (own,) = amplify.cells(config(**{"model.path": str(folder)})).values()
    with pytest.raises(InputError, match="problems: id .* has no row in the model"):
        amplify.Cell(own, str(folder), {})
