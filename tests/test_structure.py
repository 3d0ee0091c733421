"""The shape of the house: who may import whom, how long a file may be, and what stays outside."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

import welfare_jax

ROOT = pathlib.Path(welfare_jax.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# Imports only go down. Rooms of one line do not know one another.
ROOMS = (
    ("main",),
    ("commands",),
    ("bench",),
    ("config",),
    ("experiments",),
    ("planning", "report"),
    ("evals",),
    ("train",),
    ("interp",),
    ("rl", "sft"),
    ("models", "envs", "text"),
    ("mesh",),
    ("hosts",),
    ("settings", "templates", "textfiles"),
    ("runtime",),
    ("errors",),
)
RANK = {room: i for i, line in enumerate(ROOMS) for room in line}
BANNED = {"torch", "pickle", "cPickle", "dill", "cloudpickle", "joblib", "clu"}


def imports(tree):
    """Dotted names that a file imports, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def facade(tree):
    """(what type checkers see, what runs) of a file with `if TYPE_CHECKING: ... else: ...`."""
    (choice,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen, run = ast.Module(choice.body, []), ast.Module([*tree.body, *choice.orelse], [])
    run.body.remove(choice)
    return seen, run


def room(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


def violations(path, tree):
    """Lines about what this file should not import."""
    here = room(path)
    for name in imports(tree):
        top, *rest = name.split(".")
        if top in BANNED:
            yield f"{here} imports {name}"
        if top != "welfare_jax" or not rest or rest[0] == here:
            continue
        if rest[0] not in RANK:
            yield f"{here} imports {name}: give {rest[0]} a place in ROOMS"
        elif RANK[rest[0]] <= RANK[here]:
            yield f"{here} imports {name}, which is not below it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    assert "trust_remote_code=True" not in text and "allow_pickle=True" not in text
    if path == ROOT / "__init__.py":
        seen, run = facade(ast.parse(text))
        assert set(imports(run)) == {"importlib", "typing.TYPE_CHECKING"}  # the facade finds names when used
        homes = {name.rpartition(".")[::2] for name in imports(seen)}  # (module, name)
        assert homes == {(f"welfare_jax.{home}", name) for name, home in welfare_jax._HOME.items()}
        return
    assert room(path) in RANK
    assert not list(violations(path, ast.parse(text)))


@pytest.mark.parametrize(
    ("here", "line"),
    [
        ("models/x.py", "from welfare_jax.text import pieces"),
        ("models/x.py", "from welfare_jax import envs"),
        ("envs/x.py", "def f():\n    import welfare_jax.rl.rollout"),
        ("rl/x.py", "from welfare_jax.sft.corpus import pack"),
        ("text/x.py", "import torch"),
        ("train/x.py", "from torch.nn import Linear"),
        ("report/x.py", "from welfare_jax import main"),
        ("evals/x.py", "from welfare_jax.experiments.axis import analysis"),
        ("report/x.py", "from welfare_jax import experiments"),
        ("interp/x.py", "import welfare_jax.attic"),
    ],
)
def test_the_walk_sees(here, line):
    assert len(list(violations(ROOT / here, ast.parse(line)))) == 1


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_configs_end_where_experiments_read_them(path):
    """What is below takes frozen dataclasses: a step cannot be handed settings that nobody has checked."""
    reads = any(name.startswith("ml_collections") for name in imports(ast.parse(path.read_text())))
    assert not reads or room(path) in ("main", "commands", "experiments")


def test_the_walk_lets_through():
    text = "import jax\nfrom welfare_jax import mesh\nfrom welfare_jax.text.wording import LETTERS"
    assert not list(violations(ROOT / "sft/x.py", ast.parse(text)))


def test_the_reference_has_every_public_name():
    page = (ROOT.parent / "docs" / "api.md").read_text()
    shown = [line.removeprefix("::: welfare_jax.") for line in page.splitlines() if line.startswith(":::")]
    assert sorted(shown) == sorted(f"{home}.{name}" for name, home in welfare_jax._HOME.items())


def loaded_after(code):
    out = subprocess.run(
        [sys.executable, "-c", code + "\nimport sys\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(out.stdout.split())


def test_import_is_light():
    assert not {"jax", "numpy", "torch", "transformers"} & loaded_after("import welfare_jax")


def test_settings_are_light():
    """Of all experiments, evaluations included: help, lists and mistakes are answered before JAX could be imported."""
    code = "import welfare_jax.main\nfrom welfare_jax import config, experiments\n"
    code += "[config.documented(job) for job in experiments.EXPERIMENTS]"
    assert not {"jax", "scipy", "torch", "transformers", "matplotlib"} & loaded_after(code)


def test_importing_starts_no_device():
    """Or no process could join others afterwards, and nobody choose the devices."""
    code = "import welfare_jax.main, welfare_jax.experiments.axis.run, welfare_jax.experiments.evals.run\n"
    code += "import jax; jax.config.update('jax_num_cpu_devices', 3); assert jax.device_count() == 3"
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_the_core_needs_no_torch():
    """Loading, running, steering, playing: all without torch, transformers and matplotlib."""
    code = "import welfare_jax as wj\n[getattr(wj, name) for name in wj.__all__]\n"
    code += "import welfare_jax.rl.rollout, welfare_jax.envs.levels, welfare_jax.mesh, welfare_jax.models.lora"
    modules = loaded_after(code)
    assert "jax" in modules and not {"torch", "transformers", "matplotlib", "peft", "gguf"} & modules


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="frobnicate"):
        _ = welfare_jax.frobnicate
