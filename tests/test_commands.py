"""What the command line says beside a run, and how it finds configs."""

import pathlib
import subprocess
import sys

import pytest

from welfare_jax import commands
from welfare_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / "configs"


@pytest.mark.parametrize("variant", ["", ":seeds"])
@pytest.mark.parametrize("named", ["tiny_grpo", str(FOLDER / "tiny_grpo.py")])
def test_configs_are_found_by_name_and_by_path(named, variant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert commands.locate(named + variant) == f"{FOLDER / 'tiny_grpo.py'}{variant}"


def test_a_file_here_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").write_text("def get_config(): pass\n")
    (tmp_path / "evals").mkdir()  # a folder is no config, whatever it is called
    assert commands.locate("tiny:grpo") == "tiny:grpo"
    assert commands.locate("evals") == str(FOLDER / "evals.py")


UNKNOWN = {
    "tiny_gropo:seeds": "did you mean --config=tiny_grpo?",
    "elsewhere/paper.py": "did you mean --config=paper?",
    "xyzzy": "by name there are amplification, axes, evals, ",
    str(FOLDER): "is a folder; choose one of the configs in it: amplification.py, axes.py, ",
    f"{ROOT / 'docs' / 'tiny_base'}/": "the configs in it: none",
}


@pytest.mark.parametrize("named", UNKNOWN)
def test_what_is_no_config_is_named_with_what_there_is(named):
    with pytest.raises(InputError) as error:
        commands.locate(named)
    assert str(error.value).startswith(f"--config={named}: ") and UNKNOWN[named] in str(error.value)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("paper:mian", "there is no variant 'mian'; did you mean main? There are main, swapped, base, "),
        ("tiny_grpo:xyzzy", "there is no variant 'xyzzy'; choose another one. There are one, seeds"),
        ("gemma_grpo:xyzzy", "this config has no variants; leave :xyzzy out"),
    ],
)
def test_unknown_variants_are_refused_with_the_known_ones(named, said):
    done = subprocess.run(
        [sys.executable, "-m", "welfare_jax.main", f"--config={named}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith(f"error: --config={named}: {said}"), done.stderr
    assert len(done.stderr.splitlines()) == 1
