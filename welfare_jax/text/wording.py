"""The words of the maze: everything a player is told, in one replaceable place (arXiv:2605.30232 §2.1, §J).

The wording is this project's own. A study with other words passes its own `Wording`; from a config, the
fields of `config.text` do the same.
"""

import dataclasses
import datetime
import string
from typing import Any

from welfare_jax.errors import InputError

LETTERS = ("N", "E", "S", "W")  # the usual names of actions 0..3
STEPS = ((0, -1), (1, 0), (0, 1), (-1, 0))  # (dx, dy) of each
ROLES = ("path", "gold", "mold")  # tile roles 0..2, see envs.maze


@dataclasses.dataclass(frozen=True)
class Wording:
    """Templates of one observation; every turn is wind (if any) + place + four neighbours + closing.

    `wind` takes {direction}; `place` takes {x} and {y}, x first; `neighbour` takes {Direction} (capitalised)
    or {direction}, and {tile}. `directions` are the words for actions 0..3 and `tiles` the emoji of path,
    gold and mold; any permutation of the tiles is one config value away. `letters` are the answers for actions
    0..3; words may take their place if no two begin with the same token, and `closing` should name them.

    `transcript` is empty where the tokenizer's chat template sets the turns. For base models it holds three role
    lines: before a message, before an answer, after an answer, for example ("Maze:\n", "\nMove:", "\n\n").

    `date` is what chat templates that write today's date are told, so that a run is the same on every day. The default
    is the one that Llama's templates write where they have no clock.
    """

    wind: str = "The wind pushed you {direction}.\n"
    place: str = "You are at ({x}, {y}).\n"
    neighbour: str = "{Direction}: {tile}\n"
    closing: str = "Answer with N, E, S or W."
    directions: tuple[str, ...] = ("north", "east", "south", "west")
    letters: tuple[str, ...] = LETTERS
    transcript: tuple[str, ...] = ()
    tiles: tuple[str, ...] = ("\U0001f9fe", "\U0001f4d0", "\U0001f5c2")  # receipt, triangular ruler, card index
    date: str = "2024-07-26"

    def __post_init__(self):
        wants = {"wind": {"direction"}, "place": {"x", "y"}, "neighbour": {"tile"}, "closing": set()}
        for name, needed in wants.items():
            try:
                parsed = string.Formatter().parse(getattr(self, name))
                fields = [(field, *rest) for _, field, *rest in parsed if field is not None]
            except ValueError as error:
                raise InputError(f"text.{name}={getattr(self, name)!r}: {error}") from None
            if any(spec or conversion for _, spec, conversion in fields):
                raise InputError(f"text.{name}={getattr(self, name)!r}: write fields plainly, as {{x}}")
            found = {f for f, _, _ in fields}
            allowed = needed | ({"direction", "Direction"} if name == "neighbour" else set())
            if not needed <= found <= allowed:
                raise InputError(
                    f"text.{name}={getattr(self, name)!r}: needs exactly the fields {sorted(needed)}, "
                    f"has {sorted(found)}"
                )
        if self.place.count("{") != 2 or self.place.index("{x}") > self.place.index("{y}"):
            raise InputError(f"text.place={self.place!r}: needs {{x}} once and after it {{y}} once")
        for name in ("directions", "letters"):
            words = getattr(self, name)
            if len(words) != 4 or len(set(words)) != 4 or not all(words):
                raise InputError(f"text.{name}={words!r}: needs four different words")
        if len(self.transcript) not in (0, 3):
            raise InputError(
                f"text.transcript={self.transcript!r}: needs three lines (before a message, before an answer, after "
                f"an answer), or none for the chat template"
            )
        try:
            datetime.date.fromisoformat(self.date)
        except ValueError:
            raise InputError(f"text.date={self.date!r}: needs a day as in 2024-07-26") from None
        if len(self.tiles) != 3 or len(set(self.tiles)) != 3:
            raise InputError(f"text.tiles={self.tiles!r}: needs three different tiles (path, gold, mold)")

    def wind_sentence(self, direction: int) -> str:
        return self.wind.format(direction=self.directions[direction])

    def neighbour_line(self, direction: int, role: int) -> str:
        word = self.directions[direction]
        return self.neighbour.format(direction=word, Direction=word[:1].upper() + word[1:], tile=self.tiles[role])

    def observation(self, x: int, y: int, neighbours, order, wind: int = -1) -> str:
        """The user message of one turn: tile roles `neighbours` [4] of N, E, S, W, listed in `order`."""
        lines = [self.wind_sentence(wind)] if wind >= 0 else []
        lines.append(self.place.format(x=x, y=y))
        lines += [self.neighbour_line(d, int(neighbours[d])) for d in order]
        return "".join(lines) + self.closing


def of(section) -> tuple[Wording, dict]:
    """The wording that a config's `text` asks for, and its keyword arguments of the chat template."""
    plain = section if isinstance(section, dict) else section.to_dict()
    words: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
    template = words.pop("template")
    return Wording(**words), template
