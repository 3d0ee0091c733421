"""What the command line says beside a run: help, the configs there are, their settings, and what was meant."""

import difflib
import pathlib
import runpy

from ml_collections import ConfigDict

import welfare_jax
from welfare_jax import config as config_lib
from welfare_jax.errors import InputError

HELP = """Train a language model by RL in a text maze, read directions out of its activations, steer with them.

  welfare-jax --config=NAME[:variant] --workdir=DIR [--config.field=value ...]   run it; again: go on
  welfare-jax list                        the experiments: one line each, with variants and what they take
  welfare-jax show NAME[:variant] [...]   what an experiment is, and its settings: values and meanings

--config=NAME          a name that `list` prints, or a Python file with get_config()
--config.field=value   change a setting, such as --config.train.lr=1e-5
--config.plan=True     load nothing, write nothing, say what the run needs and takes; with --config.topology=8xH100
                       on that machine, with --config.price=20 (an hour of it) at what cost
--config.smoke=True    of a main job: two steps and every stage once, beside what the plan says
--workdir=DIR          the folder of the run; report.html in it is the result
--version, --help      `python -m welfare_jax.main` is the same program

  welfare-jax --config=tiny_grpo --workdir=runs/tiny
  welfare-jax --config=paper:swapped --config.plan=True --config.topology=1xH100
  welfare-jax --config=evals --workdir=runs/tiny --config.evals.sample=0.05"""


def answer(words) -> str | None:
    """What is asked for by --help, --version or `list`; None for everything else."""
    if {"--help", "-h"} & set(words) or words[:1] == ["help"]:
        return HELP
    if "--version" in words:
        return f"welfare-jax {welfare_jax.__version__}"
    return listing() if words == ["list"] else None


def shipped() -> dict[str, pathlib.Path]:
    """The package's config files by name: of an installed package inside it, of a checkout beside it."""
    package = pathlib.Path(welfare_jax.__file__).parent
    inside = package / "configs"
    return _configs(inside if inside.is_dir() else package.parent / "configs")


def _configs(folder) -> dict[str, pathlib.Path]:
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def locate(named: str) -> str:
    """PATH[:variant] of what --config names: a file, or the name of one of the `shipped`."""
    name, colon, variant = named.partition(":")
    path, known = pathlib.Path(name), shipped()
    if path.is_file():
        return named
    if name in known:
        return f"{known[name]}{colon}{variant}"
    if path.is_dir():
        inside = ", ".join(path.name for path in _configs(path).values()) or "none"
        raise InputError(f"--config={named}: is a folder; choose one of the configs in it: {inside}")
    near = [path.stem] if path.stem in known else difflib.get_close_matches(path.stem, known, 3)
    advice = f"did you mean --config={' or '.join(near)}?" if near else f"by name there are {', '.join(known)}"
    raise InputError(f"--config={named}: there is no such file; {advice}")


def listing() -> str:
    """A line for each of the `shipped`: name, what its file says first, variants."""
    lines = []
    for name, path in shipped().items():
        found = runpy.run_path(str(path))
        variants = "".join(f" :{variant}" for variant in found.get("VARIANTS", ()))
        lines.append(f"{name:14} {found['__doc__'].splitlines()[0]}{variants}")
    return "\n".join(lines)


def show(located: str, config) -> str:
    """What the file PATH[:variant] says of itself, then every setting of `config` with its value and meaning."""
    meanings = config_lib.documented(config.get("job"))
    order = {name: i for i, name in enumerate(meanings)}

    def place(name):
        """That of the setting, or of the section that a config file has put it in."""
        while name and name not in order:
            name = name.rpartition(".")[0]
        return order.get(name, -1)

    lines, said = [(runpy.run_path(located.partition(":")[0])["__doc__"] or "").strip()], set()
    group = None
    for name, value in sorted(_flat(config), key=lambda field: place(field[0])):
        if group != (group := name.rpartition(".")[0].partition(".")[0]):
            lines.append("")
        for section in _above(name):
            if section not in said and meanings.get(section):
                lines.append(f"# {section}: {meanings[section]}")
            said.add(section)
        meaning = meanings.get(name)
        lines.append(f"{f'{name} = {value!r}':44}  # {meaning}" if meaning else f"{name} = {value!r}")
    return "\n".join(lines).strip()


def _flat(config, prefix=""):
    """(dotted name, value) of every setting."""
    for name, value in config.items():
        if isinstance(value, ConfigDict) and len(value):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value.to_dict() if isinstance(value, ConfigDict) else value


def _above(name):
    """The sections that a setting is in, from the outermost one."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def unknown(words, located: str) -> str | None:
    """A line on the first --config.field=value that names no setting of the config at PATH[:variant], if one does."""
    path, *variant = located.split(":", 1)
    try:
        names = [name for name, _ in _flat(runpy.run_path(path)["get_config"](*variant))]
    except Exception:  # the file is at fault, not a word
        return None
    known = {*names, *(section for name in names for section in _above(name))}
    for word in words:
        wanted = word.removeprefix("--config.").partition("=")[0]
        if word.startswith("--config.") and wanted.partition("[")[0] not in known:
            near = nearest(wanted, names)
            advice = f"did you mean {' or '.join(near)}?" if near else "`welfare-jax show` lists them"
            return f"{word}: there is no such setting; {advice}"
    return None


def nearest(wanted: str, names) -> list[str]:
    """Up to three settings that may have been meant: of the same name in another section, or else spelt like it."""
    last = lambda name: name.rpartition(".")[2]
    ends = {last(name) for name in names}
    like = {last(wanted)} & ends or difflib.get_close_matches(last(wanted), ends, 2)
    alike = lambda name: difflib.SequenceMatcher(None, wanted, name).ratio()
    return sorted((name for name in names if last(name) in like), key=alike, reverse=True)[:3]
