"""What training changes, apart from what it leaves alone: parameters as flat dicts from path to array."""

import dataclasses
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from welfare_jax import hosts
from welfare_jax import mesh as mesh_lib
from welfare_jax.errors import InputError
from welfare_jax.models import hf, lora
from welfare_jax.models.layers import Lora
from welfare_jax.train import settings


class State(NamedTuple):
    step: jax.Array  # int32 [], updates done
    trainable: dict[str, jax.Array]
    opt_state: optax.OptState


@dataclasses.dataclass
class Adapted:
    """A model with what of it is trained and what is frozen."""

    lm: hf.LM  # as loaded: the untrained model
    graphdef: object  # with adapters
    initial: dict  # trainable parameters before training, flat
    frozen: dict
    mesh: object

    def join(self, trainable, frozen) -> dict:
        """The decoder's parameters, in the type in which the model was loaded."""
        return join(trainable, frozen, self.dtype)

    @property
    def dtype(self):
        return self.lm.params["embed"].dtype


VALUE_HEAD = "value_head/"  # PPO's, beside the decoder's own parameters


def split(params: dict, pattern: str) -> tuple[dict, dict]:
    """(trainable, frozen), flat; `pattern` must match whole paths such as blocks/attn/q/lora_a.

    What is trained is kept in float32: a step of 1e-6 would be rounded away in bfloat16.
    """
    flat = lora.flat(params)
    trainable = {k: v.astype(jnp.float32) for k, v in flat.items() if re.fullmatch(pattern, k)}
    if not trainable:
        raise InputError(f"train.trainable={pattern!r} matches no parameter; one of them is {sorted(flat)[0]}")
    return trainable, {k: v for k, v in flat.items() if k not in trainable}


def adapted(lm, adapters: settings.Lora, trainable: str, seed: int):
    """(graphdef, trainable, frozen) of a loaded model with adapters, fresh from the seed; trainable: as in `split`."""
    graphdef, full = lm.graphdef, lm.params
    if adapters.rank:
        graphdef, full = lora.attach(graphdef, full, Lora(**vars(adapters)), jax.random.key(seed))
    return graphdef, *split(full, trainable)


def placed(flat: dict, mesh) -> dict:
    """The same parameters, spread over the mesh."""
    return {k: hosts.put(v, mesh_lib.sharding(mesh, k, v.shape)) for k, v in flat.items()}


def spread(rows, mesh):
    """A batch over the devices, where they divide it: leaves [B, ...]."""
    return hosts.put(rows, mesh_lib.rows(mesh, len(jax.tree.leaves(rows)[0])))


def join(trainable: dict, frozen: dict, dtype=None) -> dict:
    """The decoder's parameters, nested; those that were trained become `dtype` again, adapters excepted."""

    def cast(path, leaf):
        return leaf if dtype is None or path.endswith(("lora_a", "lora_b")) else leaf.astype(dtype)

    own = {k: cast(k, v) for k, v in trainable.items() if not k.startswith(VALUE_HEAD)}
    return traverse_util.unflatten_dict(own | frozen, sep="/")


def value_head(width: int) -> dict:
    """A linear map of the final hidden state, saying zero at first."""
    return {VALUE_HEAD + "kernel": jnp.zeros(width), VALUE_HEAD + "bias": jnp.zeros(())}


def shardings(mesh, state: State, stacked: bool = False):
    """Where each leaf of a state lies: moments beside their parameters, counters everywhere.

    Giving them to the update keeps its output where its input was, so the second step compiles nothing anew.
    `stacked`: every leaf has a leading axis of organisms, which stays whole.
    """

    def place(path, leaf):
        name = next((p.key for p in path if getattr(p, "key", None) in state.trainable), None)
        if name is None or leaf.shape != state.trainable[name].shape:
            return mesh_lib.replicated(mesh)
        if not stacked:
            return mesh_lib.sharding(mesh, name, leaf.shape)
        own = mesh_lib.sharding(mesh, name, leaf.shape[1:])
        return NamedSharding(mesh, P(None, *own.spec))

    return jax.tree_util.tree_map_with_path(place, state)


OPTIMIZERS = {
    "adamw": lambda c: optax.scale_by_adam(c.adam_b1, c.adam_b2),
    "lion": lambda c: optax.scale_by_lion(c.adam_b1, c.adam_b2),
    "sgd": lambda c: optax.identity(),
}


def optimizer(config: settings.Optimisation) -> optax.GradientTransformation:
    """Gradients clipped by global norm, then the named rule with decoupled weight decay (arXiv:2605.30232 §J.3).

    The learning rate is an argument of every update, `lr`, so that it can differ between organisms.
    """
    clip = optax.clip_by_global_norm(config.grad_clip) if config.grad_clip else optax.identity()
    decay = optax.add_decayed_weights(config.weight_decay)
    return optax.chain(clip, OPTIMIZERS[config.optimizer](config), decay, _by_rate(config.value_lr / config.lr))


def _by_rate(head: float) -> optax.GradientTransformationExtraArgs:
    """Times -lr; the value head's rate is `head` times the others'."""

    def update(updates, state, params=None, *, lr, **_):
        return {k: -lr * (head if k.startswith(VALUE_HEAD) else 1.0) * u for k, u in updates.items()}, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
