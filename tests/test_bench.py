"""The measurements run, and print the keys that others read."""

import json
import subprocess
import sys

import pytest

from welfare_jax import bench, runtime

TINY = (
    "--layers 2 --width 16 --heads 2 --kv-heads 1 --head-dim 8 --mlp 24 --groups 1 --group-size 8 --repeats 2 --envs 8"
)
ALWAYS = {"name", "seconds", "compile_seconds", "peak_mb", "device"}
KEYS = {
    "rollout": {
        "episodes_per_s",
        "tokens_per_s",
        "fraction_of_matmul_peak",
        "share_model",
        "share_text",
        "share_maze",
    },
    "update": {"episodes_per_s", "tokens_per_s", "fraction_of_matmul_peak"},
    "steer": {"tokens_per_s", "fraction_of_matmul_peak"},
    "extract": {"trajectories_per_s"},
    "load": {"mb", "gb_per_s"},
    "env": {"mazes_per_s", "steps_per_s", "steps_per_s_without_generation"},
}


@pytest.fixture
def run(monkeypatch, capsys):
    """`run(name, *flags) -> (exit status, stdout)`, in this process and with its heap left alone."""
    monkeypatch.setattr(runtime, "keep_heap", lambda: None)

    def call(name, *flags):
        status = bench.main([name, *TINY.split(), *flags])
        return status, capsys.readouterr().out

    return call


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in ("env", "load") else pytest.mark.slow) for n in KEYS]
)
def test_one_line_of_json(name, run, tiny_tokenizer_dir):
    tokenizer = [] if name == "load" else ["--tokenizer", str(tiny_tokenizer_dir)]
    more = ["--permutations", "5"] if name == "extract" else []
    status, said = run(name, "--json", *tokenizer, *more)
    assert status == 0 and said.count("\n") == 1
    found = json.loads(said)
    assert found["name"] == name and found.keys() >= ALWAYS | KEYS[name]
    numbers = {
        k: v for k, v in found.items() if isinstance(v, (int, float)) and k != "compile_seconds" and "share" not in k
    }
    assert all(v > 0 for v in numbers.values()) and found["compile_seconds"] >= 0, found
    if name == "rollout":
        shares = [found[f"share_{part}"] for part in ("model", "text", "maze")]
        assert sum(shares) == pytest.approx(1, abs=0.5) and min(shares[1:]) >= 0  # noisy where all take a millisecond
    if name in ("rollout", "update"):
        assert found["tokens_per_s"] / found["episodes_per_s"] == pytest.approx(found["tokens"] / 8, rel=1e-3)


def test_a_part_that_does_not_divide_the_episodes(capsys, monkeypatch):
    monkeypatch.setattr(runtime, "keep_heap", lambda: None)
    assert bench.main(["update", *TINY.split(), "--micro-batch", "3"]) == 2
    said = capsys.readouterr().err
    assert said == "error: --micro-batch 3: must divide the 8 episodes\n"


def test_every_name_is_measured():
    assert set(bench.NAMES) == set(KEYS)


def test_for_people(run):
    status, said = run("env")
    assert status == 0 and "steps_per_s" in said and said.count("\n") > 4


def test_flops_of_a_token_by_hand():
    from welfare_jax.models import spec

    s = spec.small(100, layers=2, width=16, heads=4, kv_heads=2, head_dim=8, mlp=24)
    weights = 16 * 32 + 2 * 16 * 16 + 32 * 16 + 3 * 16 * 24
    assert s.flops_per_token(10) == 2 * (2 * weights + 2 * 2 * 10 * 32)
    assert s.flops_per_token(10, head=True) - s.flops_per_token(10) == 2 * 16 * 100


@pytest.mark.parametrize("argv", [["nothing"], ["env", "--layers", "x"], [], ["env", "--tokenizer", "/nowhere"]])
def test_bad_arguments_end_without_a_traceback(argv):
    done = subprocess.run([sys.executable, "-m", "welfare_jax.bench", *argv], capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "error:" in done.stderr
