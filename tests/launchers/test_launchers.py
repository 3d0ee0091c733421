"""The shell scripts, run in a copy of the checkout against stand-ins for Python and pip: nothing is installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [*sorted((ROOT / "launchers").glob("*.sh")), ROOT / ".ci" / "run"]

# Writes its arguments to $CALLS. "-m venv" makes an environment of itself; pip fails while $PIP_FAILS is set; `-m
# <module>` only prints; everything else is the real interpreter's business.
STAND_IN = """#!/bin/bash
printf '%s\\n' "$*" >>"$CALLS"
if [ "$1" = -P ]; then shift; fi
case "$1 $2" in
  "-m venv") rm -rf -- "$4" && mkdir -p "$4/bin" && cp -- "$0" "$4/bin/python" ;;
  "-m pip") if [ "$3" = install ] && [ -n "$PIP_FAILS" ]; then echo "no such package" >&2; exit 1; fi ;;
  "-m "*) shift 2; for argument in "$@"; do printf '%s\\n' "$argument"; done ;;
  *) exec "$REAL_PYTHON" "$@" ;;
esac
"""


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


class Checkout:
    """A copy of what the launchers read, under a path with a space, and a PATH whose python3 is the stand-in."""

    def __init__(self, folder):
        self.root = folder / "a checkout"
        shutil.copytree(ROOT / "launchers", self.root / "launchers")
        for name in ("setup.cfg", "pyproject.toml"):
            shutil.copy(ROOT / name, self.root)
        (self.root / "configs").mkdir()
        (self.root / "configs" / "tiny.py").touch()
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()
        self.bin = folder / "bin"
        executable(self.bin / "python3", STAND_IN)
        self.calls = folder / "calls"
        drop = ("VIRTUAL_ENV", "PYTHON", "WELFARE_EXTRAS", "PIP_FAILS")
        self.env = {k: v for k, v in os.environ.items() if k not in drop and not k.startswith("CONDA")}
        self.env |= {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "CALLS": str(self.calls),
            "REAL_PYTHON": sys.executable,
            "WELFARE_EXTRAS": "",
        }

    def run(self, script, *arguments, **env):
        return subprocess.run(
            ["bash", str(self.root / "launchers" / script), *arguments],
            cwd=self.elsewhere,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def installs(self):
        """What pip was asked to install so far, as the last word of each command."""
        calls = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [c.split()[-1] for c in calls if c.startswith("-m pip install")]


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_script_parses(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck on this machine")
def test_shellcheck():
    found = subprocess.run(
        ["shellcheck", "--external-sources", *map(str, SCRIPTS)], cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout


def test_second_launch_installs_nothing(checkout):
    for _ in range(2):
        done = checkout.run("local.sh", "--workdir", "a b")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == ["--workdir", "a b"]
    assert checkout.installs() == ["."]
    assert done.stderr == ""
    assert len([c for c in checkout.calls.read_text().splitlines() if c.startswith("-m venv")]) == 1


def test_extras_add_up_and_core_needs_no_second_install(checkout):
    assert checkout.run("test.sh").returncode == 0
    assert checkout.run("local.sh").returncode == 0
    assert checkout.run("local.sh", WELFARE_EXTRAS="tpu").returncode == 0
    assert checkout.run("test.sh").returncode == 0
    assert checkout.installs() == [".[test]", ".[tpu]"]


@pytest.mark.parametrize("name", ["setup.cfg", "pyproject.toml"])
def test_changed_requirements_are_installed(checkout, name):
    checkout.run("local.sh")
    with (checkout.root / name).open("a") as f:
        f.write("\n# changed\n")
    checkout.run("local.sh")
    assert checkout.installs() == [".", "."]


def test_moved_checkout_is_installed_anew(checkout):
    checkout.run("local.sh")
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    checkout.run("local.sh")
    assert checkout.installs() == [".", "."]


def test_failed_install_is_not_recorded(checkout):
    failed = checkout.run("local.sh", PIP_FAILS="1")
    assert failed.returncode != 0 and failed.stdout == ""
    assert "no such package" in failed.stderr and "run the same command again" in failed.stderr.splitlines()[-1]
    assert checkout.run("local.sh").returncode == 0
    assert checkout.installs() == [".", "."]


def test_misspelt_extra_is_refused(checkout):
    done = checkout.run("local.sh", WELFARE_EXTRAS="tpu,cuad")
    assert done.returncode != 0 and checkout.installs() == []
    last = done.stderr.splitlines()[-1]
    assert "cuad" in last and "cuda, cuda12, tpu, rehearse, docs, test" in last


def test_broken_venv_is_made_anew(checkout):
    checkout.run("local.sh")
    python = checkout.root / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(checkout.root / "gone")
    done = checkout.run("local.sh")
    assert done.returncode == 0, done.stderr
    assert python.exists() and checkout.installs() == [".", "."]


def test_active_environment_is_used(checkout, tmp_path):
    active = tmp_path / "active"
    executable(active / "bin" / "python", STAND_IN)
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        done = checkout.run("local.sh", **{variable: str(active)})
        assert done.returncode == 0, done.stderr
    assert checkout.installs() == ["."]
    assert not (checkout.root / ".venv").exists()


def test_active_environment_without_python_is_refused_in_one_line(checkout, tmp_path):
    done = checkout.run("local.sh", VIRTUAL_ENV=str(tmp_path / "nothing"))
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert "no working bin/python" in line


@pytest.mark.parametrize("script", ["local.sh", "test.sh"])
@pytest.mark.parametrize("version", ["2.7.18", "3.9.18", "3.10.13"])
def test_old_python_is_refused_in_one_line(checkout, script, version):
    executable(checkout.bin / "python3", f"#!/bin/sh\necho {version}\n")
    done = checkout.run(script)
    assert done.returncode != 0 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "3.11 or later" in line and version in line and "PYTHON=" in line
    assert not (checkout.root / ".venv").exists()


def test_missing_python_is_refused_in_one_line(checkout):
    done = checkout.run("local.sh", PYTHON="no-such-python")
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert "no-such-python" in line


def test_config_is_found_here_then_in_the_checkout(checkout):
    there = f"{checkout.root}/configs/tiny.py"
    assert checkout.run("local.sh", "--config=configs/tiny.py:big").stdout == f"--config={there}:big\n"
    assert checkout.run("local.sh", "--config", "configs/tiny.py").stdout == f"--config\n{there}\n"
    assert checkout.run("local.sh", "--config=configs/none.py").stdout == "--config=configs/none.py\n"
    (checkout.elsewhere / "configs").mkdir()
    (checkout.elsewhere / "configs" / "tiny.py").touch()
    assert checkout.run("local.sh", "--config=configs/tiny.py").stdout == "--config=configs/tiny.py\n"


@pytest.mark.parametrize("driver, extra", [("570.12.1", ".[cuda12]"), ("580.65.06", ".[cuda]"), ("", ".[cuda]")])
def test_detected_gpu_gets_the_cuda_of_its_driver(checkout, driver, extra):
    executable(checkout.bin / "nvidia-smi", f"#!/bin/sh\necho {driver}\n")
    del checkout.env["WELFARE_EXTRAS"]
    for _ in range(2):
        assert checkout.run("local.sh").returncode == 0
    assert checkout.installs() == [extra]


def test_pytest_gets_its_arguments_and_workers(checkout):
    done = checkout.run("test.sh", "-k", "maze and walk", OMP_NUM_THREADS="1")
    words = done.stdout.splitlines()
    workers = int(words[words.index("-n") + 1])
    assert words[-2:] == ["-k", "maze and walk"]
    assert 1 <= workers <= 4 and (workers > 1 or len(os.sched_getaffinity(0)) == 1)


@pytest.mark.parametrize("where", ["first", "last"])
def test_dry_run_of_a_new_checkout_installs_nothing(checkout, where):
    arguments = ["--config=configs/tiny.py:big", "--workdir=a b"]
    arguments.insert(0 if where == "first" else 2, "--dry-run")
    done = checkout.run("local.sh", *arguments, WELFARE_EXTRAS="tpu")
    assert done.returncode == 0 and done.stderr == ""
    python = f"'{checkout.root}/.venv/bin/python'"
    assert done.stdout.splitlines() == [
        f"python3 -m venv '{checkout.root}/.venv'",
        f"{python} -m pip install --editable '{checkout.root}[tpu]'",
        f"{python} -P -m welfare_jax.main '--config={checkout.root}/configs/tiny.py:big' '--workdir=a b'",
    ]
    assert not checkout.calls.exists() and not (checkout.root / ".venv").exists()


def test_dry_run_of_an_installed_checkout_is_the_command_alone(checkout):
    checkout.run("local.sh")
    calls = checkout.calls.read_text()
    done = checkout.run("local.sh", "--dry-run", "--workdir=x")
    assert done.stdout == f"'{checkout.root}/.venv/bin/python' -P -m welfare_jax.main --workdir=x\n"
    assert "-m" not in checkout.calls.read_text().removeprefix(calls)  # only asked for its version


def test_dry_run_of_the_tests(checkout):
    done = checkout.run("test.sh", "--dry-run", "-k", "a b", JAX_PLATFORMS="cpu")
    *_, install, command = done.stdout.splitlines()
    assert done.returncode == 0 and install.endswith("[test]'") and command.endswith("-k 'a b'")
    assert command.startswith("env HF_HUB_OFFLINE=1 JAX_PLATFORMS=cpu OMP_NUM_THREADS=1 ") and " -m pytest " in command
    assert not checkout.calls.exists()


@pytest.mark.parametrize("workdir", [["--workdir=gs://bucket/run"], ["--workdir", "file:///run"]])
def test_a_workdir_that_is_no_folder_is_refused_before_anything_is_installed(checkout, workdir):
    done = checkout.run("local.sh", "--config=configs/tiny.py", *workdir)
    (line,) = done.stderr.splitlines()
    assert done.returncode != 0 and f"--workdir={workdir[-1].removeprefix('--workdir=')}: " in line and "mount" in line
    assert not checkout.calls.exists()
