"""What training changes, apart from what it leaves alone: parameters as flat dicts from path to array."""

import re
from typing import NamedTuple

import jax
import optax
from flax import traverse_util

from welfare_jax import mesh as mesh_lib
from welfare_jax.errors import InputError
from welfare_jax.rl.objectives import cosine


class State(NamedTuple):
    step: jax.Array  # int32 [], updates done
    trainable: dict[str, jax.Array]
    opt_state: optax.OptState


def split(params: dict, pattern: str) -> tuple[dict, dict]:
    """(trainable, frozen), flat; `pattern` must match whole paths such as blocks/attn/q/lora_a."""
    flat = traverse_util.flatten_dict(params, sep="/")
    trainable = {k: v for k, v in flat.items() if re.fullmatch(pattern, k)}
    if not trainable:
        raise InputError(f"train.trainable={pattern!r} matches no parameter; one of them is {sorted(flat)[0]}")
    return trainable, {k: v for k, v in flat.items() if k not in trainable}


def join(trainable: dict, frozen: dict) -> dict:
    return traverse_util.unflatten_dict(trainable | frozen, sep="/")


def shardings(mesh, state: State):
    """Where each leaf of a state lies: moments beside their parameters, counters everywhere.

    Giving them to the update keeps its output where its input was, so the second step compiles nothing anew.
    """

    def place(path, leaf):
        name = next((p.key for p in path if getattr(p, "key", None) in state.trainable), None)
        fits = name is not None and leaf.shape == state.trainable[name].shape
        return mesh_lib.sharding(mesh, name, leaf.shape) if fits else mesh_lib.replicated(mesh)

    return jax.tree_util.tree_map_with_path(place, state)


def optimizer(config) -> optax.GradientTransformation:
    """AdamW on a cosine to zero at `schedule_steps`, gradients clipped by global norm (arXiv:2605.30232 §J.3)."""
    return optax.chain(
        optax.clip_by_global_norm(config.grad_clip),
        optax.adamw(
            lambda count: config.lr * cosine(count, config.schedule_steps),
            b1=config.adam_b1, b2=config.adam_b2, weight_decay=config.weight_decay,
        ),
    )  # fmt: skip
