"""Defaults and what they mean, written side by side once; and the frozen dataclasses that programs take."""

import dataclasses
import functools
import re
from typing import Any, NamedTuple

from welfare_jax.errors import InputError


class Setting(NamedTuple):
    """A default, or a section of them, beside what it means: `defaults` reads the one, `meanings` the other."""

    default: Any
    meaning: str


def defaults(tree: dict) -> dict[str, Any]:
    """A tree of settings as plain values."""
    plain = {name: part.default if isinstance(part, Setting) else part for name, part in tree.items()}
    return {name: defaults(part) if isinstance(part, dict) else part for name, part in plain.items()}


def setting(default: Any = dataclasses.MISSING, meaning="", *, least=None, choices=()) -> Any:
    """A field of a dataclass of settings. least: its smallest value; choices: the values that there are."""
    return dataclasses.field(default=default, metadata={"meaning": meaning, "least": least, "choices": choices})


def tree(part) -> dict[str, Setting]:
    """The settings of a dataclass, or those of one's values, as a tree."""
    out = {}
    for f in dataclasses.fields(part):
        value = getattr(part, f.name)
        value = tree(value) if dataclasses.is_dataclass(value) else value
        out[f.name] = Setting(value, f.metadata.get("meaning", ""))
    return out


def check(part):
    """Refuse values of a dataclass that its fields do not allow."""
    for f in dataclasses.fields(part):
        value, least, choices = getattr(part, f.name), f.metadata.get("least"), f.metadata.get("choices")
        if least is not None and value < least:
            raise InputError(f"{f.name}={value}: must be at least {least}")
        one_of(f.name, value, choices or (value,))


def one_of(name: str, value, choices):
    if value not in choices:
        raise InputError(f"{name}={value!r}: choose one of {', '.join(choices)}")


def typed(cls, config, at: str = "", **changes):
    """The frozen dataclass `cls` of a section of a config, which has all its fields; its checks are made.

    at: where the section stands, such as "evals.judge": errors name its settings as they are typed.
    """
    section = functools.reduce(lambda part, name: part[name], at.split(".") if at else (), config)
    names = {f.name for f in dataclasses.fields(cls)}
    try:
        fields = {f.name: _value(f, section) for f in dataclasses.fields(cls) if f.name not in changes}
        return cls(**fields | changes)
    except InputError as error:
        named = rf"(?<![\w.\"'])({'|'.join(names)})(?=[=:]|\.\w)"
        raise InputError(re.sub(named, rf"{at}.\1", str(error)) if at else str(error)) from None


def _value(field, section):
    """Sections become their dataclass, lists tuples."""
    if dataclasses.is_dataclass(field.type):
        return typed(field.type, section, field.name)
    return _tuple(section[field.name])


def _tuple(value):
    return tuple(map(_tuple, value)) if isinstance(value, list | tuple) else value


def changed(plain: dict, changes: dict, at: str = "") -> dict:
    """Settings with a caller's, which must be among them and of their kind; whole numbers are numbers."""
    out = dict(plain)
    for name, value in changes.items():
        if name not in plain:
            raise InputError(f"{at}{name}: there is no such setting; there are {', '.join(plain)}")
        was = plain[name]
        if isinstance(was, dict) and isinstance(value, dict):
            value = changed(was, value, f"{at}{name}.")
        elif isinstance(was, float) and isinstance(value, int):
            value = float(value)
        elif not isinstance(value, type(was)):
            raise InputError(f"{at}{name}={value!r}: must be like {was!r}")
        out[name] = value
    return out


def meanings(tree: dict, prefix="") -> dict[str, str]:
    """What each setting and section of a tree means, by dotted name in their order; empty where it is not said."""
    found = {}
    for name, part in tree.items():
        part = part if isinstance(part, Setting) else Setting(part, "")
        found[prefix + name] = part.meaning
        if isinstance(part.default, dict):
            found |= meanings(part.default, f"{prefix}{name}.")
    return found


@dataclasses.dataclass(frozen=True)
class Renting:
    """What is asked of the planner (welfare_jax/planning/). It changes no result, and no checkpoint is bound to it."""

    plan: Any = setting("", "True: only print what the run would need; compile: what its compiler makes of it")
    plan_programs: str = setting("", "with plan=compile: which programs, such as rollout,update; empty: all")
    plan_file: str = setting("", "with plan=compile: a file for the same as JSON")
    topology: str = setting("", 'the machine to plan for: v5e-8, 8xH100, "here", ...; empty: the common ones')
    price: float = setting(
        0.0, "of that machine an hour, in your currency: the plan then says what the run costs", least=0
    )
    efficiency: float = setting(0.3, "share of the stated rates that is hoped for, in the plan's hours")
    fit: bool = setting(False, "change what has to be changed for the run to fit the devices here")
    confirm: bool = setting(
        False, "start even what the plan advises against: what does not fit, and large evaluations"
    )

    def __post_init__(self):
        check(self)
        if not 0 < self.efficiency <= 1:
            raise InputError(
                f"efficiency={self.efficiency}: must be a share of the stated rates, above 0 and at most 1"
            )


@dataclasses.dataclass(frozen=True)
class Model:
    """Where a model comes from, and how it is held."""

    path: str = setting("", "a folder, a GGUF file or a hub name")
    revision: str = setting("", "of a hub model: a branch, tag or commit")
    dtype: str = "bfloat16"
    attention: str = setting("plain", 'or "xla", "cudnn": see models/hf.py')


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices along each axis; see mesh.py."""

    data: int = 0
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class Distributed:
    """Which process this is of a run over several of them; see hosts.py."""

    coordinator: str = setting("", 'HOST:PORT of process 0, or "auto" on Cloud TPU, Slurm, Kubernetes, Open MPI')
    processes: int = setting(1, "with HOST:PORT: how many there are")
    process: int = setting(0, "with HOST:PORT: which one this is")
    timeout: int = setting(100, "seconds after which a silent process counts as dead")

    def __post_init__(self):
        if self.coordinator in ("", "auto"):
            return
        if not re.fullmatch(r".+:\d+", self.coordinator):
            raise InputError(f"coordinator={self.coordinator!r}: name HOST:PORT of process 0, or 'auto'")
        if not 0 <= self.process < self.processes:
            raise InputError(
                f"process={self.process}: must be one of 0 to {self.processes - 1} (processes - 1), another one on "
                f"every host"
            )


RENTING, MODEL, MESH = tree(Renting), tree(Model), tree(Mesh)
