"""Defaults and what they mean, written side by side once."""

import dataclasses
from typing import Any, NamedTuple


class Setting(NamedTuple):
    """A default, or a section of them, beside what it means: `defaults` reads the one, `meanings` the other."""

    default: Any
    meaning: str


# What is asked of the planner (welfare_jax/planning/). It changes no result, and no checkpoint is bound to it.
RENTING = {
    "plan": Setting("", "True: only print what the run would need; compile: what its compiler makes of it"),
    "plan_programs": Setting("", "with plan=compile: which programs, such as rollout,update; empty: all"),
    "plan_file": Setting("", "with plan=compile: a file for the same as JSON"),
    "topology": Setting("", 'the machine to plan for: v5e-8, 8xH100, "here", ...; empty: the common ones'),
    "price": Setting(0.0, "of that machine an hour, in your currency: the plan then says what the run costs"),
    "efficiency": Setting(0.3, "share of the stated rates that is hoped for, in the plan's hours"),
    "fit": Setting(False, "change what has to be changed for the run to fit the devices here"),
    "confirm": Setting(False, "start even what the plan advises against: what does not fit, and large evaluations"),
}


def defaults(tree: dict) -> dict[str, Any]:
    """A tree of settings as plain values."""
    plain = {name: part.default if isinstance(part, Setting) else part for name, part in tree.items()}
    return {name: defaults(part) if isinstance(part, dict) else part for name, part in plain.items()}


def typed(cls, section, **changes):
    """The frozen dataclass `cls` of a section of the settings, which has all its fields; its checks are made."""
    return cls(**{f.name: section[f.name] for f in dataclasses.fields(cls)} | changes)


def meanings(tree: dict, prefix="") -> dict[str, str]:
    """What each setting and section of a tree means, by dotted name in their order; empty where it is not said."""
    found = {}
    for name, part in tree.items():
        part = part if isinstance(part, Setting) else Setting(part, "")
        found[prefix + name] = part.meaning
        if isinstance(part.default, dict):
            found |= meanings(part.default, f"{prefix}{name}.")
    return found
