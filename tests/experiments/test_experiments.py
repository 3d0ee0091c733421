"""What an experiment is: every line has its parts, and the one that CONTRIBUTING.md adds runs to a report."""

import csv
import pathlib
import re
import subprocess
import sys
import textwrap

import pytest
from ml_collections import ConfigDict

from welfare_jax import experiments
from welfare_jax.errors import InputError
from welfare_jax.report import data, markup
from welfare_jax.settings import defaults

ROOT = pathlib.Path(__file__).parents[2]
BLOCK = re.compile(
    r"^\d+\. .*?`((?:welfare_jax/experiments|configs)/\w+(?:/\w+)?\.py)`.*?```python\n(.*?)```", re.M | re.S
)


@pytest.mark.parametrize("job", experiments.EXPERIMENTS)
def test_every_experiment_has_its_parts(job, tmp_path):
    one = experiments.find(job)
    assert defaults(one.tree())["job"] in (job, "rl") and callable(getattr(one.part("run"), one.function))
    assert not one.plan or callable(getattr(one.part("plan"), one.plan))
    report = one.part("report")
    assert isinstance(report.tables(data.load(tmp_path)), dict) and one.part("settings").__doc__
    with pytest.raises(markup.Missing):  # there is no answer without a run
        report.answer(data.load(tmp_path), {})
    for name, heading, draw in report.SECTIONS:
        assert name.isidentifier() and heading and callable(draw)


def test_what_cannot_be_done_is_refused():
    with pytest.raises(InputError, match="config.job='rll': choose one of rl, pretrain, "):
        experiments.find("rll")
    with pytest.raises(InputError, match="config.plan: job 'dice' cannot be planned, only 'rl', 'pretrain', "):
        experiments.Experiment("dice").planned(ConfigDict({"job": "dice"}), ".")


@pytest.mark.parametrize(
    ("asked", "found"), [("", ""), ("False", ""), ("True", "estimate"), ("true", "estimate"), ("compile", "compile")]
)
def test_what_is_asked_for_instead_of_a_run(asked, found):
    assert experiments.planning(ConfigDict({"plan": asked})) == found
    assert experiments.planning(ConfigDict({})) == ""


@pytest.fixture(scope="module")
def added(tmp_path_factory):
    """`call(*args)` of the program with the experiment of CONTRIBUTING.md: its files, and its line."""
    folder, recipe = tmp_path_factory.mktemp("added"), (ROOT / "CONTRIBUTING.md").read_text()
    recipe = recipe[recipe.index("## Add an experiment") :]
    blocks = {name: textwrap.dedent(code) for name, code in BLOCK.findall(recipe)}
    (line,) = blocks.pop("welfare_jax/experiments/__init__.py").splitlines()
    assert len(blocks) == 5
    for name, code in blocks.items():
        path = folder / name.removeprefix("welfare_jax/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    begin = "import sys\nfrom welfare_jax import experiments, main\nfrom welfare_jax.experiments import Experiment\n"
    begin += f"experiments.__path__.append({str(folder / 'experiments')!r})\n"
    begin += f"experiments.EXPERIMENTS |= {{{line}}}\nmain.command()\n"

    def call(*args):
        return subprocess.run([sys.executable, "-c", begin, *args], cwd=ROOT, capture_output=True, text=True)

    return call, f"{folder / 'configs' / 'dice.py'}"


def test_an_added_experiment_runs_to_a_report(added, tmp_path):
    call, config = added
    done = call(f"--config={config}", f"--workdir={tmp_path}", "--config.throws=30")
    assert done.returncode == 0, done.stderr
    said, page = done.stdout.splitlines()
    assert said.startswith("mean 3.") and page == f"report: {tmp_path / 'report.html'}"
    html = (tmp_path / "report.html").read_text()
    assert re.findall(r'<section id="(\w+)">', html) == ["dice", "config"] and html.count("<svg") == 2
    assert "Left out" not in html and '<p class="said">The mean of 30 throws is 3.' in html
    assert (tmp_path / "answer.png").read_bytes().startswith(b"\x89PNG")
    with open(tmp_path / "tables" / "dice.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 30


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--config.throws=0", "throws=0: must be at least 1"),
        ("--config.trhows=3", "--config.trhows=3: there is no such setting; did you mean throws?"),
        ("--config.job=dies", "config.job='dies': choose one of rl, "),
    ],
)
def test_an_added_experiment_refuses_in_one_line(flag, said, added, tmp_path):
    call, config = added
    done = call(f"--config={config}", f"--workdir={tmp_path}", flag)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {said}") and len(done.stderr.splitlines()) == 1


def test_the_settings_of_an_added_experiment_are_shown(added):
    call, config = added
    lines = call("show", config).stdout.splitlines()
    assert lines[0] == "How fair a die is. Seconds." and any(re.match(r"throws = 100 +# of one die", x) for x in lines)
