"""The examples run as they stand, and stay as short as they promise; the parity page names what is supported."""

import pathlib
import re
import subprocess
import sys

import pytest
from variants import CASES

from welfare_jax.errors import InputError
from welfare_jax.models import hf
from welfare_jax.models.families import FAMILIES

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


SUPPORTED = {kind for family in FAMILIES for kind in family.MODEL_TYPES} | {*hf.MULTIMODAL}
PARITY = (ROOT / "docs" / "parity.md").read_text()


def test_the_parity_page_has_every_family():
    """Of the figures only that README quotes the worst of them."""
    rows = re.findall(r"^\| `(\w+)` \| \w+ \| (\S+) \| yes \| yes \| yes \|$", PARITY, re.M)
    assert {kind for kind, _ in rows} == SUPPORTED and len(rows) == len(CASES)
    worst = re.search(r"largest difference is (\S+)\.\n", PARITY)[1]
    assert float(f"{float(worst):.0e}") == max(float(figure) for _, figure in rows)
    assert f"({worst} of the logits' spread" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("kind", re.findall(r"`(\w+)`", "".join(re.findall(r"^- `.*$", PARITY, re.M))))
def test_what_the_parity_page_calls_refused_is(kind, tmp_path):
    import transformers

    transformers.CONFIG_MAPPING[kind]().save_pretrained(tmp_path)
    with pytest.raises(InputError) as error:
        hf.read_config(tmp_path)
    line = str(error.value)
    assert "\n" not in line and f"model_type={kind!r} is not supported" in line
    assert all(name in line for name in SUPPORTED)
