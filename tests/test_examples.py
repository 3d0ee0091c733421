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


@pytest.mark.parametrize(("page", "least"), [("README.md", 1), ("docs/guide/library.md", 4)])
def test_what_a_page_shows_runs_as_it_stands(page, least):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
    assert len(blocks) >= least
    for block in blocks:
        done = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and done.stdout.strip(), done.stderr[-2000:]


@pytest.mark.parametrize(
    ("page", "least"), [("vectors", 4), ("reward", 2), ("own_environment", 1), ("prompts", 1), ("models", 1)]
)
def test_a_guide_runs_from_top_to_bottom(page, least):
    """Its blocks build on one another."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guide" / f"{page}.md").read_text(), re.S)
    assert len(blocks) >= least
    done = subprocess.run([sys.executable, "-c", "\n".join(blocks)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr[-2000:]


def example(name, lines, folder):
    """What an example printed as {name: (before, after)}; it stays as short as it promises."""
    file = ROOT / "examples" / f"{name}.py"
    code = [line for line in file.read_text().split('"""', 2)[2].splitlines() if line.strip()]
    assert len(code) <= lines
    done = subprocess.run([sys.executable, file, "tiny", folder / "run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.findall(r"(?m)^(\w+) (-?[\d.]+) -> (-?[\d.]+)", done.stdout)
    return {key: (float(before), float(after)) for key, before, after in found}


def test_a_reward_of_ones_own_rises(tmp_path):
    before, after = example("reward", 30, tmp_path)["reward"]
    assert after > before + 0.05


def test_an_environment_of_ones_own_runs(tmp_path):
    found = example("environment", 60, tmp_path)
    assert found.keys() == {"reward", "logs"} and all(0 < logs < 6 for logs in found["logs"])


PAGES = [p for p in ROOT.rglob("*.md") if not {".venv", "node_modules", "runs"} & {*p.relative_to(ROOT).parts}]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    heads = lambda text: {
        re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in re.findall(r"(?m)^#+ (.*)$", text)
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = page.parent / name if name else page
        assert there.exists(), target
        assert not anchor or anchor in heads(there.read_text()), target


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 250


SUPPORTED = {kind for family in FAMILIES for kind in family.MODEL_TYPES} | {*hf.MULTIMODAL}
PARITY = (ROOT / "docs" / "parity.md").read_text()


def test_the_parity_page_has_every_family():
    """Of the figures, README and the page on models quote the worst."""
    rows = re.findall(r"^\| `(\w+)` \| \w+ \| (\S+) \| yes \| yes \| yes \|$", PARITY, re.M)
    assert {kind for kind, _ in rows} == SUPPORTED and len(rows) == len(CASES)
    worst = re.search(r"largest difference is (\S+)\.\n", PARITY)[1]
    assert float(f"{float(worst):.0e}") == max(float(figure) for _, figure in rows)
    rows_of = re.findall(r"^\| [^|`]+ \| (`[^|]+`) \| (\d\S+) \|$", (ROOT / "README.md").read_text(), re.M)
    assert {kind for kinds, _ in rows_of for kind in re.findall(r"\w+", kinds)} == SUPPORTED
    for kinds, figure in rows_of:  # a row has the worst of its types and their variants
        assert float(figure) == max(float(f) for kind, f in rows if f"`{kind}`" in kinds)
    for page in ("README.md", "docs/guide/models.md"):
        assert f"({worst} of the logits' spread" in " ".join((ROOT / page).read_text().split())


@pytest.mark.parametrize("kind", re.findall(r"`(\w+)`", "".join(re.findall(r"^- `.*$", PARITY, re.M))))
def test_what_the_parity_page_calls_refused_is(kind, tmp_path):
    import transformers

    transformers.CONFIG_MAPPING[kind]().save_pretrained(tmp_path)
    with pytest.raises(InputError) as error:
        hf.read_config(tmp_path)
    line = str(error.value)
    assert "\n" not in line and f"model_type={kind!r} is not supported" in line
    assert all(name in line for name in SUPPORTED)
