"""Mazes from and to ASCII: `.` path, `g` gold, `#` mold, `?` never drawn, `@` the player (on path)."""

import jax.numpy as jnp
import numpy as np

from welfare_jax.envs import maze
from welfare_jax.errors import InputError

SIGNS = ".g#?"


def parse(text: str, params: maze.Params = maze.Params()) -> maze.State:  # noqa: B008 (frozen)
    """A state for `params.turns` turns from rows of signs; the grid must be square and hold one `@`.

    Directions are listed N, E, S, W.
    """
    rows = [row.strip() for row in text.strip().splitlines()]
    if len({len(row) for row in rows} | {len(rows)}) != 1:
        raise InputError(
            f"level: need a square grid, got rows of {sorted({len(r) for r in rows})} in {len(rows)} rows"
        )
    odd = set("".join(rows)) - set(SIGNS + "@")
    if odd or "".join(rows).count("@") != 1:
        raise InputError(f"level: use {SIGNS!r} and exactly one '@'" + (f", not {sorted(odd)[0]!r}" if odd else ""))
    cells = np.array([list(row) for row in rows])
    y, x = np.argwhere(cells == "@")[0]
    grid = np.select(
        [cells == "g", cells == "#", cells == "?"], [maze.GOLD, maze.MOLD, maze.BEYOND], maze.PATH
    ).astype(np.int8)
    return maze.start(grid, x, y, jnp.arange(4, dtype=jnp.int32), params)


def render(state: maze.State, player: bool = True, params: maze.Params = maze.Params()) -> str:  # noqa: B008
    """The tiles as they are now, as rows of signs."""
    cells = np.array(list(SIGNS))[np.asarray(maze.tiles(state, params))]
    if player:
        cells[int(state.y), int(state.x)] = "@"
    return "\n".join("".join(row) for row in cells)
