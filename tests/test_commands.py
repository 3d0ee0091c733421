"""What the command line says beside a run, and how it finds configs."""

import pathlib
import re
import runpy
import subprocess
import sys

import pytest

import welfare_jax
from welfare_jax import commands, config
from welfare_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / "configs"


def call(*args, **options):
    command = [sys.executable, "-m", "welfare_jax.main", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)


def flat(tree, above=""):
    for name, part in tree.items():
        yield from flat(part, f"{above}{name}.") if isinstance(part, dict) and part else [(above + name, part)]


def variants(name):
    """(PATH[:variant], its config) of every variant of a shipped config."""
    found = runpy.run_path(str(FOLDER / f"{name}.py"))
    for variant in found.get("VARIANTS", [""]):
        at = f"{FOLDER / name}.py" + f":{variant}" * bool(variant)
        yield at, found["get_config"](*[variant] * bool(variant))


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
    done = call(f"--config={named}")
    assert done.returncode == 2 and done.stderr.startswith(f"error: --config={named}: {said}"), done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_is_short_and_its_examples_exist(word):
    text = commands.answer([word])
    assert len(text.splitlines()) < 20 and max(map(len, text.splitlines())) < 120
    for name in ("list", "show", "--config=", "--workdir=", "--config.plan=True", "--version"):
        assert name in text
    examples = re.findall(r"^  welfare-jax --config=([a-z_]\w+)(?::(\w+))?", text, re.M)
    assert len(examples) == 3
    for name, variant in examples:
        assert not variant or variant in runpy.run_path(str(FOLDER / f"{name}.py"))["VARIANTS"]
        assert name in commands.shipped()


def test_version():
    assert commands.answer(["--version"]) == f"welfare-jax {welfare_jax.__version__}"
    assert commands.answer(["--config=tiny_grpo"]) is None


def test_list_has_a_line_for_every_config_with_its_variants():
    lines = commands.answer(["list"]).splitlines()
    assert [line.split()[0] for line in lines] == [path.stem for path in sorted(FOLDER.glob("*.py"))]
    by_name = {line.split()[0]: line for line in lines}
    assert "under five minutes on two CPU cores, 2.2 GB" in by_name["tiny_grpo"]
    assert by_name["tiny_grpo"].endswith(" :one :seeds") and " :swapped " in by_name["paper"]
    assert ":" not in by_name["axes"].split("decoder:")[1]


@pytest.mark.parametrize("name", [path.stem for path in sorted(FOLDER.glob("*.py"))])
def test_show_has_every_setting_once_with_its_value(name):
    for at, found in variants(name):
        text = commands.show(at, found)
        shown = re.findall(r"^([a-z][\w.]*) = (.*?)(?: +# .*)?$", text, re.M)
        assert dict(shown) == {name: repr(value) for name, value in flat(found.to_dict())}
        assert len(shown) == len(dict(shown)) and text.splitlines()[0] in commands.listing()


def test_show_says_what_settings_mean():
    done = call("show", "tiny_grpo:seeds", "--config.train.lr=1e-3")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and lines[0].startswith("The main job on the small decoder"), done.stderr
    (line,) = (line for line in lines if line.startswith("train.lr = "))
    assert line.split() == "train.lr = 0.001 # learning rate".split()
    assert "organisms.seed = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4)" in lines
    section = next(i for i, line in enumerate(lines) if line.startswith("# organisms: N values make N adapters"))
    assert lines[section - 1] == "" and lines[section + 1].startswith("organisms.")


@pytest.mark.parametrize("job", ["rl", "reward_model", "imitation", "pretrain", "amplify", "words"])
def test_what_is_documented_is_a_setting(job):
    documented, found = config.documented(job), getattr(config, job)().to_dict()
    there = {name for name, _ in flat(found)}
    absent = {name for name, meaning in documented.items() if meaning and not any(n.startswith(name) for n in there)}
    assert absent == set()
    assert sum(map(bool, documented.values())) >= 10 and config.documented("no such job") == {}


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--config.lr=1", "did you mean train.lr or organisms.lr?"),
        ("--config.warmup=1", "did you mean train.warmup?"),
        ("--config.train.stpes=3", "did you mean train.steps or "),
        ("--config.trian.steps=3", "did you mean train.steps?"),
        ("--config.train.lora.rnk=3", "did you mean train.lora.rank?"),
        ("--config.train.xyzzy=3", "`welfare-jax show` lists them"),
    ],
)
def test_a_setting_that_is_not_there_is_named_with_what_was_meant(word, said):
    words = ["main", "--config.train.lr=1", "--config.steer.alphas[0]=1", word]
    line = commands.unknown(words, f"{FOLDER / 'tiny_grpo.py'}:seeds")
    assert line.startswith(f"{word}: there is no such setting; {said}")
    assert commands.unknown(words[:-1], f"{FOLDER / 'tiny_grpo.py'}") is None


def test_reading_the_first_line_only_is_no_error():
    program = f"{sys.executable} -m welfare_jax.main show tiny_grpo | true"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {program}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lsit"], "argument 'lsit' is not understood: there are list, show"),
        (["show"], "--config is missing"),
        (["show", "tiny", "paper"], "argument 'paper' is not understood"),
        (["show", "--config", "xyzzy"], "--config=xyzzy: there is no such file"),
    ],
)
def test_commands_that_are_not_understood(words, said):
    done = call(*words)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {said}") and len(done.stderr.splitlines()) == 1
