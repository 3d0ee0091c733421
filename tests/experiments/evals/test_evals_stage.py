"""The job on a small model: what it leaves, the same numbers after a kill, and bad input in one line."""

import copy
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
import runs
import torch
from helpers import hf_model

from welfare_jax import config
from welfare_jax.errors import InputError
from welfare_jax.evals import cells, directions, models
from welfare_jax.experiments.evals import run as stage
from welfare_jax.interp import vectors
from welfare_jax.models import hf
from welfare_jax.text import pieces, wording

ROOT = pathlib.Path(__file__).parents[3]
FEW = {
    "names": "('sentiment', 'confidence', 'goal_tracking')", "sample": 0.3, "random": 1, "orthogonal": 1, "batch": 16,
    "alphas": "(-2.0, 0.0, 2.0)", "sentiment.samples": 3, "sentiment.max_new_tokens": 6,
    "confidence.max_new_tokens": 3, "goal_tracking.max_new_tokens": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def vector_file(tmp_path_factory):
    rng = np.random.default_rng(0)
    found = {f"{c}/{b}": 3 * rng.normal(size=(2, 40)) for c in ("mold", "gold") for b in ("rest", "path")}
    path = tmp_path_factory.mktemp("vectors") / "own.safetensors"
    return vectors.save(path, found, model="x", hook="resid_post", data="", layers={"mold": 1, "gold": 0})


def command(two_layer_dir, vector_file, workdir):
    settings = {"model.path": two_layer_dir, **{f"evals.{k}": v for k, v in FEW.items()}}
    settings["evals.vectors"] = f"('{vector_file}',)"
    flags = [f"--config.{k}={v}" for k, v in settings.items()]
    return [sys.executable, "-m", "welfare_jax.main", "--config=configs/evals.py", f"--workdir={workdir}", *flags]


def lines(path):
    return path.read_text().splitlines() if path.is_file() else []


@pytest.mark.slow
def test_killed_in_the_middle(two_layer_dir, vector_file, tmp_path):
    """kill -9 among the answers, and a torn line; the same command then gives the numbers of a run never killed."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = subprocess.run(
        command(two_layer_dir, vector_file, whole), cwd=ROOT, env=runs.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = killed / "evals" / "answers.jsonl"
    running = subprocess.Popen(
        command(two_layer_dir, vector_file, killed), cwd=ROOT, env=runs.environment(), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while running.poll() is None and len(lines(answers)) < 20:
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert 20 <= len(lines(answers)) < len(lines(whole / "evals" / "answers.jsonl"))
    with answers.open("a") as file:
        file.write('{"key": "0123", "ans')
    done = subprocess.run(
        command(two_layer_dir, vector_file, killed), cwd=ROOT, env=runs.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("answers", "readouts", "judgements", "scores"):
        a, b = (lines(folder / "evals" / f"{name}.jsonl") for folder in (whole, killed))
        assert sorted(a) == sorted(b) and (name == "scores" or len({json.loads(x)["key"] for x in b}) == len(b)), name
    found = json.loads((killed / "evals.json").read_text())
    assert found == json.loads((whole / "evals.json").read_text())
    check(found, whole)


def check(found, folder):
    evaluations = {"sentiment", "confidence"}
    assert {c["evaluation"] for c in found["cells"]} == evaluations and found["hook"] == "resid_post"
    assert {c["kind"] for c in found["cells"]} == {"none", "vector", "random", "orthogonal"}
    assert {(t["vector"], t["layer"]) for t in found["tracking"] if t["kind"] == "vector"} == {
        ("mold", 1),
        ("gold", 0),
    }
    for name, v in found["vectors"].items():
        beside = found["vectors"][v["beside"]]
        assert v["norm"] == pytest.approx(beside["norm"], rel=1e-3) and v["layer"] == beside["layer"], name
    scored = Counter(json.loads(line)["evaluation"] for line in lines(folder / "evals" / "scores.jsonl"))
    assert found["judge"]["scored"] == {"sentiment": scored["sentiment"]} and scored["confidence"]  # which none judges
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["evals"]["judge"]["name"] == "words"
    assert "sk-" not in (folder / "evals" / "config.json").read_text()
    assert 'id="evals"' in (folder / "report.html").read_text()


def settings(two_layer_dir, **changes):
    cfg = config.rl()
    cfg.model.path, cfg.model.dtype, cfg.job = str(two_layer_dir), "float32", "evals"
    cfg.evals.names = ("confidence",)
    cfg.evals.judge.kind = "words"
    for name, value in changes.items():
        cfg.evals[name] = value
    return cfg


def test_no_judge_where_none_is_needed(two_layer_dir, vector_file, tmp_path):
    """A judge that could not be made stops only the runs that need it; what one compiled program reads is kept."""
    cfg = settings(
        two_layer_dir, names=("sentiment_logodds", "refusal_logodds", "samples"), vectors=(str(vector_file),),
        batch=16, sample=0.2, alphas=(0.0, 2.0), buckets=1,
    )  # fmt: skip
    cfg.evals.judge.kind, cfg.evals.judge.path = "recorded", "/nowhere.jsonl"
    cfg.evals.sentiment_logodds.update(begin="it is", good=("north", "east"), bad=("south", "west"))
    cfg.evals.refusal_logodds.update(refusal=("no",), answer=("north",))
    cfg.evals.samples.max_new_tokens = 3
    found = stage.measure(cfg, tmp_path)
    assert found["judge"] == {"name": "none", "unparseable": {}, "scored": {}, "second": "", "agreement": []}
    assert {name.split(",")[0] for name in found["slopes"]} == {"sentiment_logodds", "refusal_logodds"}
    written = json.loads((tmp_path / "evals.json").read_text())
    assert list(written["evaluations"]) == ["sentiment_logodds", "refusal_logodds"] and written["samples"]
    cfg.evals.names = ("refusal",)
    with pytest.raises(InputError, match="nowhere.jsonl"):
        stage.measure(cfg, tmp_path)


def test_another_judge_in_the_same_folder_is_asked_again(two_layer_dir, vector_file, tmp_path):
    cfg = settings(
        two_layer_dir, names=("refusal",), vectors=(str(vector_file),), batch=16, sample=0.1, alphas=(0.0, 2.0),
        random=0, orthogonal=0, buckets=1,
    )  # fmt: skip
    shutil.copytree(two_layer_dir, tmp_path / "judge")
    cfg.evals.refusal.update(samples=1, max_new_tokens=3)
    cfg.evals.judge.update(kind="model", path=str(tmp_path / "judge"), thinking=False, max_new_tokens=3)

    def judged():
        found = stage.measure(cfg, tmp_path / "run")
        keys = [json.loads(line)["key"] for line in lines(tmp_path / "run" / "evals" / "judgements.jsonl")]
        assert len(set(keys)) == len(keys) and found["judge"]["name"] == f"model {tmp_path}/judge"
        return set(keys)

    first = judged()
    assert first and judged() == first
    model = hf_model("qwen3", vocab_size=hf.read_config(two_layer_dir)[0].vocab, num_hidden_layers=2)
    with torch.no_grad():
        model.model.norm.weight[3] += 1
    model.save_pretrained(tmp_path / "judge")
    again = judged()
    assert first < again and len(again) == 2 * len(first)


def without_template(folder, to):
    """The same model as a base model's folder: its tokenizer has no chat template."""
    shutil.copytree(folder, to)
    (to / "chat_template.jinja").unlink(missing_ok=True)
    facts = json.loads((to / "tokenizer_config.json").read_text())
    facts.pop("chat_template", None)
    (to / "tokenizer_config.json").write_text(json.dumps(facts))
    return to


def test_a_base_model_speaks_in_a_transcript(two_layer_dir, vector_file, tmp_path):
    folder = without_template(two_layer_dir, tmp_path / "base")
    cfg = settings(
        folder, names=("samples", "confidence", "sentiment_logodds"), vectors=(str(vector_file),), batch=16,
        sample=0.1, alphas=(0.0, 2.0), buckets=1,
    )  # fmt: skip
    cfg.evals.sentiment_logodds.update(begin="it is", good=("north", "east"), bad=("south", "west"))
    cfg.evals.samples.max_new_tokens = cfg.evals.confidence.max_new_tokens = 8
    with pytest.raises(InputError, match="has no chat template.*text.transcript"):
        stage.ready(cfg)
    cfg.text.transcript = ("Q: ", "\nA:", "\n")
    found = stage.measure(cfg, tmp_path / "run")
    assert set(found["slopes"])
    said = [json.loads(line)["answer"] for line in lines(tmp_path / "run" / "evals" / "answers.jsonl")]
    assert said and not any("\n" in answer for answer in said)  # an answer ends with its line


def test_a_transcript_row_by_row(two_layer_dir):
    """Token for token what the tokenizer makes of the text, with the blank in the answer's tokens."""
    tokenizer = hf.load_tokenizer(two_layer_dir)
    template = pieces.arguments(tokenizer, wording.Wording(transcript=("Q: ", "\nA:", "\n")))
    ids = lambda text: tokenizer.encode(text, add_special_tokens=False)
    bos = tokenizer.bos_token or ""
    talk = [{"role": r, "content": c} for r, c in (("user", "Who?"), ("assistant", "Me"), ("user", "Why?"))]
    row = cells.encode(tokenizer, talk, template)
    assert row.ids == ids(f"{bos}Q: Who?\nA: Me\nQ: Why?\nA:")
    assert tokenizer.decode(np.array(row.ids)[row.said]).strip() == "Me" and row.opening[-1]
    assert tokenizer.decode(np.array(row.ids)[row.opening]).strip() == "A:"
    begun = cells.encode(tokenizer, [*talk, {"role": "assistant", "content": "It is"}], template)
    assert begun.ids == row.ids + ids(" It is") and begun.start == len(row.ids) - 1


def test_what_cannot_be_evaluated_is_refused_before_training(two_layer_dir, vector_file, tmp_path):
    base = without_template(two_layer_dir, tmp_path / "base")
    (tmp_path / "empty.jsonl").write_text("")
    cfg = settings(two_layer_dir, names=("sentiment",), vectors=(str(vector_file),))
    cfg.evals.judge.kind, cfg.evals.judge.path = "model", str(base)
    with pytest.raises(InputError, match="base has no chat template"):
        stage.ready(cfg)  # it could answer, and nobody could judge it
    cfg.evals.judge.path = str(two_layer_dir)
    stage.ready(cfg)
    cfg.evals.sentiment.prompts = (str(tmp_path / "empty.jsonl"),)
    with pytest.raises(InputError, match="empty.jsonl: holds no prompt"):
        stage.ready(cfg)


def test_the_tokenizer_that_is_checked_is_that_of_the_revision(two_layer_dir, monkeypatch):
    asked = []
    monkeypatch.setattr(stage.hf, "resolve", lambda path, revision="": asked.append((path, revision)) or two_layer_dir)
    cfg = settings("OWNER/NAME")
    cfg.model.revision = "step1000"
    stage.ready(cfg)
    assert asked == [("OWNER/NAME", "step1000")]


def test_cached_answers_belong_to_tokenizer_and_template(tiny_tokenizer):
    other = copy.deepcopy(tiny_tokenizer)
    other.add_tokens(["quux"])
    names = [
        models.spoken(tokenizer, pieces.arguments(tokenizer, wording.Wording(**changes), template))
        for tokenizer, changes, template in (
            (tiny_tokenizer, {}, {}), (other, {}, {}), (tiny_tokenizer, {"transcript": ("a", "b", "c")}, {}),
            (tiny_tokenizer, {}, {"style": 1}),
        )
    ]  # fmt: skip
    assert len(set(names)) == 4
    assert names[0] == models.spoken(copy.deepcopy(tiny_tokenizer), pieces.arguments(tiny_tokenizer))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"names": ("happiness",)}, "happiness"),
        ({"names": ()}, "evals.names"),
        ({"batch": 0}, "evals.batch=0"),
        ({"vectors": ("/nowhere.safetensors",)}, "/nowhere.safetensors"),
        ({"layers": "7"}, "evals.layers"),
        ({"trained": "/nowhere"}, "/nowhere"),
        ({"sample": 2.0}, "evals.sample"),
    ],
)
def test_bad_settings(changes, said, two_layer_dir, vector_file, tmp_path):
    with pytest.raises(InputError, match=said):
        stage.measure(settings(two_layer_dir, **{"vectors": (str(vector_file),)} | changes), tmp_path)


def test_a_vector_without_a_hook_point_is_refused(two_layer_dir, tmp_path):
    from safetensors.numpy import save_file

    save_file({"v": np.ones((2, 40), "f4")}, tmp_path / "v.safetensors", {"layers": "{}"})
    with pytest.raises(InputError, match="hook point"):
        stage.measure(settings(two_layer_dir, vectors=(str(tmp_path / "v.safetensors"),)), tmp_path)
    vectors.save(tmp_path / "w.safetensors", {"v": np.ones((3, 40))}, model="", hook="resid_pre", data="", layers={})
    with pytest.raises(InputError, match="v is .3, 40."):
        stage.measure(settings(two_layer_dir, vectors=(str(tmp_path / "w.safetensors"),)), tmp_path)


def test_controls_have_the_norm_of_what_they_stand_beside():
    rng = np.random.default_rng(0)
    make = lambda kind, beside, size: directions.Direction(size * rng.normal(size=(3, 40)), 1, kind, beside)
    found = {"v_mold": make("vector", "v_mold", 1), "v_gold": make("vector", "v_gold", 5),
             "u_mold": make("untrained", "v_mold", 9),
             "u_gold": make("untrained", "v_gold", 9)._replace(layer=2)}  # fmt: skip
    bank = directions.with_controls(found, 3, 2, seed=0)
    assert len(bank) == 4 + 2 * (3 + 2) and list(bank)[:4] == ["v_mold", "v_gold", "u_mold", "u_gold"]
    norm = lambda d: np.linalg.norm(d.values, axis=-1)
    for d in bank.values():
        np.testing.assert_allclose(norm(d), norm(bank[d.beside]), rtol=1e-5)
        assert d.layer == 1
    for name, d in bank.items():
        cosines = [(d.values * bank[n].values).sum(-1) / norm(d) / norm(bank[n]) for n in found]
        if d.kind == "orthogonal":
            assert np.abs(cosines).max() < 1e-5, name
        if d.kind == "random":
            assert np.abs(cosines).max() > 1e-3
    again = directions.with_controls(found, 3, 2, seed=0)
    assert all((again[n].values == bank[n].values).all() for n in bank)
    assert (
        directions.with_controls(found, 3, 2, seed=1)["random_0/v_mold"].values != bank["random_0/v_mold"].values
    ).any()
    alone = directions.with_controls({"u_mold": found["u_mold"]}, 1, 0, 0)  # an untrained model alone
    assert list(alone) == ["u_mold", "random_0/u_mold"]
    assert cells.grid(["a"], directions.Bank(bank, "resid_post"), "chosen", (0, 1), ["assistant"])
