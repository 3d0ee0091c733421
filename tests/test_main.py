"""The command: one line for every mistake, what a run leaves behind, and the same numbers after a kill."""

import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import runs
from helpers import hf_model, save
from safetensors.numpy import load_file

from welfare_jax import config, main, runtime
from welfare_jax.interp import vectors

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = "--config=configs/tiny_grpo.py"
STEPS = 12
FEW = {
    "maze.size": 21, "maze.turns": 3, "train.steps": STEPS, "train.schedule_steps": 20, "train.groups": 2,
    "train.group_size": 2, "train.micro_batch": 4, "train.lora.rank": 2, "train.checkpoint_every": 2, "curve.every": 3,
    "curve.per_length": 1, "extract.per_length": 4, "extract.held_out": 0.5, "extract.store": True,
    "steer.max_new_tokens": 4, "axes.kinds": "prompts",
}  # fmt: skip


def command(*args):
    return [sys.executable, "-m", "welfare_jax.main", *map(str, args)]


def call(*args):
    return subprocess.run(command(*args), capture_output=True, text=True, cwd=ROOT, env=runs.environment())


def one_line(status, said, *names):
    lines = said.strip().splitlines()
    assert status == 2 and len(lines) == 1 and lines[0].startswith("error: ") and len(lines[0]) < 500, said
    assert "Traceback" not in said
    for name in names:
        assert name in said, said


@pytest.fixture
def broken_config(tmp_path):
    def write(text):
        (tmp_path / "broken.py").write_text(text)
        return f"--config={tmp_path / 'broken.py'}"

    return write


BAD_COMMANDS = {
    "nothing": ([], ["--config is missing"]),
    "no_file": (["--config=configs/nothing.py", "--workdir=/tmp/x"], ["configs/nothing.py"]),
    "misspelt": ([CONFIG, "--workdir=/tmp/x", "--config.train.stpes=3"], ["--config.train.stpes=3", "train.steps"]),
    "misspelt_room": ([CONFIG, "--workdir=/tmp/x", "--config.trian.steps=3"], ["trian.steps=3", "mean train.steps"]),
    "no_such_setting": ([CONFIG, "--workdir=/tmp/x", "--config.train.xyzzy=3"], ["--config.train.xyzzy=3"]),
    "text_for_a_number": ([CONFIG, "--workdir=/tmp/x", "--config.train.steps=many"], ["steps", "many"]),
    "part_of_a_step": ([CONFIG, "--workdir=/tmp/x", "--config.train.steps=1.5"], ["steps", "1.5"]),
    "unknown_flag": ([CONFIG, "--workdri=/tmp/x"], ["workdri"]),
    "stray_argument": ([CONFIG, "--workdir=/tmp/x", "train.steps=3"], ["'train.steps=3'"]),
    "bucket": ([CONFIG, "--workdir=gs://bucket/run"], ["--workdir=gs://bucket/run: runs are written to", "gcsfuse"]),
    "file_address": ([CONFIG, "--workdir", "file:///tmp/x"], ["--workdir=file:///tmp/x", "without file://"]),
    "planned_bucket": ([CONFIG, "--workdir=S3://bucket", "--config.plan=True"], ["--workdir=S3://bucket"]),
    "no_workdir": ([CONFIG], ["--workdir is missing"]),
    "no_such_variant": ([CONFIG + ":huge", "--workdir=/tmp/x"], ["configs/tiny_grpo.py:huge"]),
    "no_such_job": ([CONFIG, "--workdir=/tmp/x", "--config.job=rll"], ["config.job='rll'", "rl, pretrain"]),
    "workdir_is_a_file": ([CONFIG, f"--workdir={ROOT / 'LICENSE'}"], ["LICENSE"]),
}


@pytest.mark.parametrize("case", BAD_COMMANDS)
def test_bad_commands(case):
    args, names = BAD_COMMANDS[case]
    before = set(ROOT.iterdir())
    done = call(*args)
    one_line(done.returncode, done.stderr, *names)
    assert {path.name for path in set(ROOT.iterdir()) - before} <= {".pytest_cache", "runs"}  # no folder `gs:`


@pytest.mark.parametrize(
    "text",
    [
        "def get_config(:\n",
        "x = 1\n",
        "import nothing_here\n",
        "def get_config():\n    raise OSError\n",
        "def get_config():\n    return {}['x']\n",
    ],
)
def test_bad_config_files(text, broken_config):
    flag = broken_config(text)
    done = call(flag, "--workdir=/tmp/x")
    one_line(done.returncode, done.stderr, "broken.py")


def without_folder(folder):
    return folder / "elsewhere", ["elsewhere", "does not exist"]


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:9000])
    return folder, ["model.safetensors", "truncated"]


def letters_that_begin_alike(folder):
    from tokenizers import Tokenizer, normalizers

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Replace("S", "NS")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder, ["all must differ"]


def without_template(folder):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "chat_template"}))
    return folder, ["chat template"]


@pytest.mark.parametrize("breaks", [without_folder, truncated, letters_that_begin_alike, without_template])
def test_bad_models(breaks, two_layer_dir, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in two_layer_dir.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    path, names = breaks(folder)
    cfg = config.rl()
    cfg.model.path = str(path)
    monkeypatch.setattr(main, "parse", lambda argv: (cfg, tmp_path / "run"))
    monkeypatch.setattr(runtime, "keep_heap", lambda: None)
    status = main.main(["main"])
    one_line(status, capsys.readouterr().err, *names)
    assert not list((tmp_path / "run").iterdir())  # nothing is written before all input is known to be good


def few(model, workdir, **changes):
    settings = FEW | {"model.path": model} | changes
    return [CONFIG, f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in settings.items())]


def rows(workdir):
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def untimed(workdir):
    return [{k: v for k, v in row.items() if k not in runs.TIMING} for row in rows(workdir)]


def summary(workdir):
    return json.loads((workdir / "summary.json").read_text())


@pytest.fixture(scope="module")
def finished(two_layer_dir, tmp_path_factory):
    """The folder of a run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("run")
    done = call(*few(two_layer_dir, folder))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "parameters" in done.stdout and "report:" in done.stdout
    return folder


def check_files(folder, layers, steps):
    found = summary(folder)
    names = {f"{a}_{b}" for a in ("reward", "gold_taken", "mold_avoided") for b in ("first", "last")}
    assert found.keys() >= names | {"layer_mold", "layer_gold", "seconds"}
    for name in ("cos_trained", "cos_untrained", "cos_trained_path", "cos_untrained_path"):
        assert len(found[name]) == layers and np.abs(found[name]).max() <= 1 + 1e-5, name
    assert 0 <= found["layer_mold"] < layers and 0 <= found["layer_gold"] < layers
    assert [row["step"] for row in rows(folder)] == list(range(steps))
    resolved = json.loads((folder / "config.json").read_text())
    assert resolved["train"]["steps"] == steps and resolved["train"]["clip"] == 0.2
    assert "<svg" in (folder / "report.html").read_text() or "<img" in (folder / "report.html").read_text()
    for name in ("trained", "untrained"):
        arrays, metadata = vectors.load(folder / "vectors" / f"{name}.safetensors")
        assert arrays.keys() >= {f"{c}/{b}" for c in ("mold", "gold") for b in ("rest", "path")}
        assert all(len(a) == layers for a in arrays.values()) and metadata["hook"] == "resid_post"
        assert metadata["position"] == "the final letter"
        got = [
            (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)
            for a, b in zip(arrays["mold/rest"], arrays["gold/rest"])
        ]
        np.testing.assert_allclose(got, found[f"cos_{name}"], atol=1e-4)
        stored = (folder / "activations" / name).glob("*/*.safetensors")
        assert sum(len(load_file(path)["labels"]) for path in stored) == 3 * 3 * 4  # classes, lengths, walks of each
    assert json.loads(metadata["layers"]).keys() == {"mold", "gold"}
    return found


@pytest.mark.slow
def test_what_a_run_leaves(finished):
    found = check_files(finished, 2, STEPS)
    assert found["reward_first"] == pytest.approx(np.mean([r["reward"] for r in rows(finished)[:5]]))
    assert found["reward_last"] == pytest.approx(np.mean([r["reward"] for r in rows(finished)[-5:]]))
    assert {p.name for p in (finished / "checkpoints").iterdir() if p.name.isdigit()} == {"8", "10", "12"}
    for i, row in enumerate(rows(finished)):
        assert row["ratio_error_max"] < 1e-4 and row.keys() >= runs.SPEED
        assert ("cos_rest" in row) == ("cos_path" in row) == (i % 3 == 0)
    assert found["cos_trained"] != found["cos_untrained"]


@pytest.mark.slow
def test_seeds_are_held_against_shams(two_layer_dir, tmp_path):
    """Every organism has a report on its checkpoint; the page above them speaks of training."""
    done = call(*few(
        two_layer_dir, tmp_path, **{"organisms.seed": (0, 1), "outcome.shams": 3, "outcome.layers": "all",
        "train.steps": 2, "curve.every": 0, "axes.kinds": "", "extract.store": False},
    ))  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    training = json.loads((tmp_path / "analysis.json").read_text())["training"]
    assert (training["runs"], training["layers"], training["shams"]) == (2, "all", 3)
    if "change" in training:
        assert len(training["changes"]) == 2 and len(training["sham_changes"]) == 3
    assert re.search("Training made|[Ww]hether (training|any change)", (tmp_path / "report.html").read_text())
    untrained = []
    for i in range(2):
        own = json.loads((tmp_path / "organisms" / str(i) / "analysis.json").read_text())
        untrained.append(own["untrained"])
        assert own["outcome"]["used"] == [0, 1] and own["training"]["runs"] == 1
        assert "Primary outcome, fixed before the run" in (tmp_path / "organisms" / str(i) / "report.html").read_text()
    assert untrained[0] == untrained[1]
    again = call(*few(two_layer_dir, tmp_path, **{"outcome.layers": "signal", "organisms.seed": (0, 1)}))
    assert again.returncode == 2 and "outcome.layers='all' (now 'signal')" in again.stderr


@pytest.mark.slow
def test_again_does_not_train_again(finished, two_layer_dir):
    metrics, before = (finished / "metrics.jsonl").read_text(), summary(finished)
    done = call(*few(two_layer_dir, finished))
    assert done.returncode == 0, done.stderr[-2000:]
    assert (finished / "metrics.jsonl").read_text() == metrics  # timings too
    assert {k: v for k, v in summary(finished).items() if k != "seconds"} == {
        k: v for k, v in before.items() if k != "seconds"
    }


@pytest.mark.slow
def test_other_settings_in_the_same_folder_are_refused(finished, two_layer_dir):
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    done = call(*few(two_layer_dir, finished, **{"train.lr": 0.5}))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "train.lr" in done.stderr.strip().splitlines()[-1] and "--workdir" in done.stderr
    assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()} == before  # nothing is lost or changed


@pytest.mark.slow
def test_killed_in_the_middle(finished, two_layer_dir, tmp_path):
    """Killed twice, once between checkpoints; then the same command gives the numbers of the run never killed."""
    for wanted in (3, 8):
        running = subprocess.Popen(
            command(*few(two_layer_dir, tmp_path)), cwd=ROOT, env=runs.environment(), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while (
            running.poll() is None
            and len(
                (tmp_path / "metrics.jsonl").read_bytes().splitlines()
                if (tmp_path / "metrics.jsonl").is_file()
                else []
            )
            < wanted
        ):
            time.sleep(0.002)
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        assert wanted - 1 <= len((tmp_path / "metrics.jsonl").read_bytes().splitlines()) < STEPS
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"step": 11, "rewa')  # and the last line was torn
    done = call(*few(two_layer_dir, tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    assert untimed(tmp_path) == untimed(finished)
    a, b = (summary(f) for f in (tmp_path, finished))
    assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}


@pytest.mark.slow
def test_ended_in_the_analysis(finished, two_layer_dir, tmp_path):
    """After SIGTERM a repeated command reads only the models that have not been read, with the same results."""
    running = subprocess.Popen(
        command(*few(two_layer_dir, tmp_path)), cwd=ROOT, env=runs.environment(), stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    part = tmp_path / "parts" / "untrained.safetensors"
    while running.poll() is None and not part.is_file():
        time.sleep(0.01)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate()
    assert running.returncode == main.AGAIN and "asked to end" in said and "Traceback" not in said
    assert not (tmp_path / "summary.json").exists()
    written = part.stat().st_mtime_ns
    done = call(*few(two_layer_dir, tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    assert part.stat().st_mtime_ns == written and (part.parent / "trained.safetensors").is_file()
    a, b = (summary(f) for f in (tmp_path, finished))
    assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "vocab", "dtype"),
    [("qwen3", "qwen3", 151_936, "float32"), ("gemma3", "gemma3", 262_208, "bfloat16")],
)
def test_real_tokenizers(name, kind, vocab, dtype, shared_tokenizer, tmp_path):
    """Folders written by transformers, with real vocabularies and chat templates."""
    from published import SHARED

    shared_tokenizer(name)  # skips where it is absent
    model = hf_model(kind, vocab_size=vocab, hidden_size=16, intermediate_size=24, num_hidden_layers=2)
    folder = save(model, tmp_path / "model", SHARED / "tokenizers" / name)
    done = call(*few(folder, tmp_path / "run", **{"train.steps": 2, "model.dtype": dtype}))
    assert done.returncode == 0, done.stderr[-2000:]
    check_files(tmp_path / "run", 2, 2)
    limit = 1e-4 if dtype == "float32" else 0.1
    assert all(row["ratio_error_max"] < limit for row in rows(tmp_path / "run"))


def test_importing_the_package_starts_nothing():
    code = "import sys, welfare_jax; assert 'jax' not in sys.modules; assert 'load' in dir(welfare_jax)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
