"""What the player is told, word for word, and what a study may put in its place."""

import itertools

import pytest

from welfare_jax.errors import InputError
from welfare_jax.text.wording import Wording

PATH, GOLD, MOLD = "\U0001f9fe", "\U0001f4d0", "\U0001f5c2"


def test_a_calm_and_a_windy_turn():
    calm = f"You are at (3, 97).\nSouth: {MOLD}\nNorth: {GOLD}\nWest: {PATH}\nEast: {PATH}\nAnswer with N, E, S or W."
    assert Wording().observation(3, 97, [1, 0, 2, 0], [2, 0, 3, 1]) == calm
    assert Wording().observation(3, 97, [1, 0, 2, 0], [2, 0, 3, 1], wind=3) == "The wind pushed you west.\n" + calm


@pytest.mark.parametrize("tiles", itertools.permutations((PATH, GOLD, MOLD)))
def test_permuted_tiles(tiles):
    """Roles keep their numbers; only their signs move."""
    text = Wording(tiles=tiles).observation(0, 0, [0, 1, 2, 0], [0, 1, 2, 3])
    assert [line.split(": ")[1] for line in text.split("\n")[1:5]] == [*tiles, tiles[0]]


def test_other_words():
    wording = Wording(
        wind="Blown {direction}. ", place="x={x}; y={y};", neighbour=" {tile} is {direction},", closing=" choose",
        directions=("above", "to the right", "below", "to the left"), tiles=("a", "b", "c"),
    )  # fmt: skip
    want = "Blown below. x=1; y=2; a is above, b is to the right, c is below, a is to the left, choose"
    assert wording.observation(1, 2, [0, 1, 2, 0], range(4), 2) == want


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("wind", "It is windy."),
        ("wind", "{direction} {x}"),
        ("wind", "{Direction} wind"),
        ("place", "At ({x}, {x})."),
        ("place", "At {x}."),
        ("place", "At ({y}, {x})."),
        ("place", "At ({x}, {y}), I repeat: ({x}, {y})."),
        ("place", "At ({x:02d}, {y})."),
        ("place", "At ({x!r}, {y})."),
        ("place", "At ({}, {})."),
        ("place", "At ({x}, {y}"[:-1]),
        ("neighbour", "{direction}"),
        ("neighbour", "{tile} {where}"),
        ("neighbour", "{tile} }"),
        ("closing", "Answer {letter}."),
        ("directions", ("north", "east", "south")),
        ("directions", ("north", "east", "south", "north")),
        ("letters", ("N", "E", "S", "N")),
        ("letters", ("N", "E", "S", "")),
        ("transcript", ("Maze:", "Move:")),
        ("date", "26 Jul 2024"),
        ("tiles", (PATH, GOLD)),
        ("tiles", (PATH, GOLD, GOLD)),
    ],
)
def test_what_does_not_fit_is_refused(field, value):
    with pytest.raises(InputError) as error:
        Wording(**{field: value})
    assert str(error.value).startswith(f"text.{field}=") and "\n" not in str(error.value)
