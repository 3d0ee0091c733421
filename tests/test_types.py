"""What a type checker makes of code that uses the facade."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
RIGHT = """
import welfare_jax as wj

lm = wj.load("tiny", dtype="float32")
tokens, mask = wj.encode(lm.tokenizer, ["How is it going?"])
out = wj.forward(lm.graphdef, lm.params, tokens, mask=mask, interventions=wj.add([0.0], layer=2, scale=2.0))
print(out.logits, lm.spec.layers, wj.__version__, wj.InputError)
"""
WRONG = {
    'wj.laod("tiny")': "laod",
    'wj.load("tiny", dtpye="float32")': "dtpye",
    "wj.add([0.0], layer=2, scle=2.0)": "scle",
    "lm.sepc": "sepc",
    "out.logit": "logit",
}


@pytest.mark.slow
def test_misspelt_names_and_keywords_are_errors(tmp_path):
    pytest.importorskip("pyrefly")
    file = tmp_path / "uses.py"
    file.write_text(RIGHT + "\n".join(WRONG) + "\n")
    options = ["--preset=default", "--output-format=min-text", f"--search-path={ROOT}"]
    done = subprocess.run(
        [sys.executable, "-m", "pyrefly", "check", *options, f"--python-interpreter-path={sys.executable}", file],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    errors = [line for line in done.stdout.splitlines() if line.startswith("ERROR")]
    begin = RIGHT.count("\n") + 1
    lines = [int(line.split(f"{file.name}:")[1].split(":")[0]) for line in errors]
    assert lines == list(range(begin, begin + len(WRONG))), done.stdout + done.stderr  # and what is right is no error
    assert all(f"`{name}`" in line for name, line in zip(WRONG.values(), errors, strict=True))
