"""The notebooks run from top to bottom, as they stand, on the small decoder, and hold what a run printed."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def code(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_there_are_two():
    assert [path.stem for path in NOTEBOOKS] == ["reward", "steer"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_cell_runs(path, tmp_path):
    cells = "\n\n".join("".join(cell["source"]) for cell in code(path))
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": str(FOLDER.parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", cells], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) > 5


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_outputs_are_kept(path):
    outputs = [output for cell in code(path) for output in cell["outputs"]]
    assert all(cell["execution_count"] == i + 1 for i, cell in enumerate(code(path)))
    assert {output["output_type"] for output in outputs} == {"stream", "display_data"}  # and no error
    assert sum(bool("print(" in "".join(cell["source"])) and not cell["outputs"] for cell in code(path)) == 0
