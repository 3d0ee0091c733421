"""A small maze, its pieces and a small decoder with adapters: what training and extraction need together."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from helpers import tiny_model

from welfare_jax import config
from welfare_jax.envs import maze
from welfare_jax.models.layers import Lora
from welfare_jax.settings import typed
from welfare_jax.text import pieces as text
from welfare_jax.train import state, step
from welfare_jax.train.settings import MazeTraining

TURNS = 3


class World(NamedTuple):
    graphdef: object
    trainable: dict
    frozen: dict
    pieces: text.Pieces
    maze: maze.Params


def make(tokenizer, kind="qwen3", size=15, turns=TURNS, **changes) -> World:
    """Adapters are far from zero, so that merging them, or forgetting them, shows. Gemma's windows grow to 40."""
    if kind == "gemma3":
        changes = {"windows": (40, 0, 30)} | changes
    graphdef, params = tiny_model(kind, lora=Lora(2, 4.0), vocab=len(tokenizer), **changes)
    pieces = text.build(tokenizer, size=size)
    return World(graphdef, *state.split(params, r".*/lora_[ab]"), pieces, maze.Params(size=size, turns=turns))


def train_config(**changes):
    few = {"groups": 2, "group_size": 4, "micro_batch": 8, "remat": False, "lr": 1e-2, "schedule_steps": 5}
    return typed(MazeTraining, config.rl(), "train", **few | {"entropy_coef": 0.2} | changes)


def same(row, other, but=()):
    """Whether two rows of metrics agree to 1e-5; what one does not know, the other must not either."""

    def agree(a, b):
        return a == b if a is None or b is None else abs(a - b) <= 1e-5 * max(1, abs(b))

    return [k for k in row.keys() | other.keys() if k not in but and not agree(row.get(k), other.get(k))] == []


def collector(world, cfg, merged=False, mesh=None):
    return jax.jit(
        step.make_collect(
            world.graphdef,
            world.pieces,
            world.maze,
            groups=cfg.groups,
            group_size=cfg.group_size,
            merged=merged,
            mesh=mesh,
        )
    )


def updater(world, cfg, tx):
    return jax.jit(step.make_update(world.graphdef, world.pieces, tx, cfg, world.maze))


def fresh(world, tx):
    return state.State(jnp.int32(0), world.trainable, tx.init(world.trainable))
