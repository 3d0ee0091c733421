"""What the command line knows of config files: where they are and what they are called."""

import difflib
import pathlib

import welfare_jax
from welfare_jax.errors import InputError


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
