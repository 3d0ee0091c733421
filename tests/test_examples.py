"""The examples run as they stand, and stay as short as they promise."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def test_steering_in_ones_own_jitted_function():
    file = ROOT / "examples" / "steer.py"
    code = [line for line in file.read_text().split('"""', 2)[2].splitlines() if line.strip()]
    assert len(code) < 20
    done = subprocess.run([sys.executable, file], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    said = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert [float(scale) for scale, _ in said] == [-8.0, 0.0, 8.0] and len({word for _, word in said}) > 1


def test_the_readme_runs_as_it_stands():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(blocks) >= 2
    for block in blocks:
        done = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and done.stdout.strip(), done.stderr[-2000:]
