"""Defaults and what they mean, written side by side once."""

from typing import NamedTuple


class Setting(NamedTuple):
    """A default, or a section of them, beside what it means: `defaults` reads the one, `meanings` the other."""

    default: object
    meaning: str


def defaults(tree):
    """A tree of settings as plain values."""
    tree = tree.default if isinstance(tree, Setting) else tree
    return {name: defaults(part) for name, part in tree.items()} if isinstance(tree, dict) else tree


def meanings(tree, prefix="") -> dict[str, str]:
    """What each setting and section of a tree means, by dotted name in their order; empty where it is not said."""
    found = {}
    for name, part in tree.items():
        part = part if isinstance(part, Setting) else Setting(part, "")
        found[prefix + name] = part.meaning
        if isinstance(part.default, dict):
            found |= meanings(part.default, f"{prefix}{name}.")
    return found
