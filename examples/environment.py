"""A text environment of your own: python examples/environment.py [folder or hub name] [workdir]

A frog crosses a river. Each turn it is told what floats to its left, ahead and to its right. Logs carry it (1 point),
in the water it loses a point, and lilies wet its feet: whatever the next turn brings is then worth half.
"""

import json
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp

import welfare_jax as wj

TURNS, TILES, SIDES = 6, ("log", "lily", "water"), ("Left", "Ahead", "Right")


class River(NamedTuple):
    tiles: jax.Array  # int32 [turns, 3]
    turn: jax.Array
    wet: jax.Array  # 0 or 1


def reset(key):
    return River(jax.random.randint(key, (TURNS, 3), 0, 3), jnp.int32(0), jnp.int32(0))


def tell(river):
    """The number of the text in each slot of `texts` below."""
    return jnp.append(river.wet, river.tiles[river.turn])


def step(key, river, action):
    tile = river.tiles[river.turn, action]
    reward = jnp.array([1.0, 0.0, -1.0])[tile] * jnp.where(river.wet, 0.5, 1.0)
    return River(river.tiles, river.turn + 1, jnp.int32(tile == 1)), reward, {"logs": tile == 0}


river = wj.Environment(
    reset, tell, step,
    texts=(("", "Your feet are wet.\n"), *(tuple(f"{side}: {tile}\n" for tile in TILES) for side in SIDES)),
    answers=("L", "A", "R"), closing="Answer with L, A or R.", turns=TURNS,
)  # fmt: skip

lm = wj.load(sys.argv[1] if len(sys.argv) > 1 else "tiny")
workdir = sys.argv[2] if len(sys.argv) > 2 else "runs/river"
trained = wj.train_in_environment(lm, river, workdir, steps=20, groups=8, group_size=8, micro_batch=32, lr=2e-3)
print(wj.chat(trained, river.observation([0, 2, 0, 1]), max_new_tokens=1))  # water, log, lily
rows = [json.loads(line) for line in open(f"{workdir}/metrics.jsonl")]
for name in ("reward", "logs"):  # an episode, means of three steps
    first, last = (sum(row[name] for row in part) / 3 for part in (rows[:3], rows[-3:]))
    print(f"{name} {first:.2f} -> {last:.2f}")
