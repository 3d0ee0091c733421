"""Episodes of a rollout as plain data, for replays: everything that was shown, done and earned, turn by turn."""

import jax
import numpy as np

from welfare_jax.envs import levels, maze
from welfare_jax.text.wording import Wording


def episode(
    played, grid, wording: Wording, *, row: int = 0, temperature: float = 1.0, title="episode", melt=True, margin=32
):
    """Row `row` of a `rollout.Trajectory` as the dict that `report.replay` draws and JSON can hold.

    grid [H, W]: the maze at the start, as in `maze.State`; melt as in `maze.Params`. The window reaches `margin` tiles
    around the start.
    """
    e = jax.tree.map(lambda a: np.asarray(a[row]), played)
    grid = np.asarray(grid)
    height, width = grid.shape
    x0, y0 = (max(0, int(v) - margin) for v in (e.x[0], e.y[0]))
    scaled = e.logits / max(temperature, 1e-6)
    probs = np.exp(scaled - scaled.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    turns = []
    for t in range(len(e.actions)):
        pushed = int(e.wind[t])
        end = e.landed[t] + (maze.MOVES[pushed] if pushed >= 0 else 0)
        before = int(e.wind[t - 1]) if t else -1
        turns.append({
            "x": int(e.x[t]), "y": int(e.y[t]), "action": int(e.actions[t]), "wind": pushed,
            "message": wording.observation(e.x[t], e.y[t], e.neighbours[t], e.order[t], before),
            "probs": [round(float(p), 4) for p in probs[t]], "landed": e.landed[t].tolist(),
            "end": np.clip(end, 0, (width - 1, height - 1)).tolist(), "reward": round(float(e.rewards[t]), 3),
        })  # fmt: skip
    rows = grid[y0 : y0 + 2 * margin + 1, x0 : x0 + 2 * margin + 1]
    return {
        "title": title, "size": [width, height], "tiles": dict(zip(("path", "gold", "mold"), wording.tiles)),
        "letters": list(wording.letters), "melt": bool(melt), "start": [int(e.x[0]), int(e.y[0])], "turns": turns,
        "window": {"x0": x0, "y0": y0, "rows": ["".join(levels.SIGNS[t] for t in line) for line in rows]},
        "reward": round(float(e.rewards.sum()), 3),
    }  # fmt: skip
