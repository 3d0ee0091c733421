"""The wheel: everything that the program reads is in it, and it runs where there is nothing else."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import yaml

import welfare_jax

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of this checkout, built from a copy, since building leaves folders behind."""
    pytest.importorskip("pip")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("welfare_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", out, source], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = out.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_everything_that_the_program_reads(wheel):
    package = ROOT / "welfare_jax"
    want = {path.relative_to(ROOT).as_posix() for path in package.rglob("*") if path.is_file()}
    want = {name for name in want if "__pycache__" not in name}
    want |= {f"welfare_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    with zipfile.ZipFile(wheel) as archive:
        got = {name for name in archive.namelist() if ".dist-info/" not in name}
        (entry,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "welfare-jax = welfare_jax.main:command" in archive.read(entry).decode()
    assert got == want
    assert {"welfare_jax/py.typed", "welfare_jax/tiny_base/model.safetensors"} <= got
    assert wheel.name.split("-")[1] == welfare_jax.__version__


@pytest.mark.slow
def test_the_wheel_alone_runs_configs_by_name(wheel, tmp_path):
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)

    def call(*args):
        code = f"import welfare_jax; assert welfare_jax.__file__.startswith({str(installed)!r})\n"
        code += "from welfare_jax import main; main.command()"
        environment = os.environ | {"PYTHONPATH": str(installed)}
        return subprocess.run(
            [sys.executable, "-c", code, *args], cwd=empty, env=environment, capture_output=True, text=True
        )

    done = call("--config=tiny_grpo", "--config.plan=True", "--config.topology=1xH100")
    assert done.returncode == 0 and "128 episodes of 371 slots a step" in done.stdout, done.stderr
    done = call("--config=tiny_grpo:seeds")
    assert done.returncode == 2 and "--workdir is missing" in done.stderr
    done = call("--config=configs/tiny_grpo.py", "--config.plan=True")  # as from a checkout, which is not here
    assert done.returncode == 2 and "did you mean --config=tiny_grpo?" in done.stderr
    assert not list(empty.iterdir())


def test_changes_and_citation_are_of_this_package():
    assert re.search(rf"^## {re.escape(welfare_jax.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.M)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited.keys() >= {"cff-version", "message", "title", "authors"} and cited["license"] == "Apache-2.0"
    assert "version" not in cited  # one place holds the number
