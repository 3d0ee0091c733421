"""Supervised runs on batches of anything: a loss, its update, checkpoints and metrics. Stopped anywhere, it goes on.

What a run at `folder` leaves: `config.json` (its settings), `metrics.jsonl`, `checkpoints/<step>/`.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from welfare_jax import mesh as mesh_lib
from welfare_jax.errors import InputError
from welfare_jax.interp import vectors
from welfare_jax.models import hf
from welfare_jax.rl import objectives
from welfare_jax.settings import Mesh, Model
from welfare_jax.train import checkpoints, state, step, training
from welfare_jax.train.settings import Optimisation, Supervised


def load(model: Model, axes: Mesh, cfg: Supervised, seed: int) -> state.Adapted:
    """The model on a mesh with these axes, with the adapters of the settings."""
    mesh = mesh_lib.make(axes.data, axes.fsdp, axes.tensor)
    rows, part = mesh.shape["data"] * mesh.shape["fsdp"], cfg.micro_batch
    if part % rows:
        raise InputError(f"train.micro_batch={part}: must be a multiple of the {rows} devices that share it")
    lm = hf.load(model.path, model.dtype, mesh, model.attention, model.revision)
    graphdef, trainable, frozen = state.adapted(lm, cfg.lora, cfg.trainable, seed)
    return state.Adapted(lm, graphdef, state.placed(trainable, mesh), state.placed(frozen, mesh), mesh)


def make_update(loss, tx, cfg: Optimisation):
    """`update(state, frozen, batch) -> (state, metrics)`, one optimiser step.

    `loss(trainable, frozen, part) -> (numerator, (denominator, metrics))`, sums over the examples of a part; parts of
    `cfg.micro_batch` examples are added up before anything is divided.
    """

    def update(now: state.State, frozen, batch):
        rate = cfg.lr * objectives.schedule(cfg.schedule, now.step, cfg.schedule_steps, cfg.warmup, cfg.schedule_rate)
        own = lambda trainable, part, _: loss(trainable, frozen, part)
        (numerator, (denominator, metrics)), grads = step.accumulate(own, now.trainable, batch, cfg.micro_batch)
        grads = jax.tree.map(lambda g: g / jnp.maximum(denominator, 1), grads)
        updates, opt_state = tx.update(grads, now.opt_state, now.trainable, lr=rate)
        metrics |= {"loss": (numerator, denominator), "grad_norm": (optax.tree.norm(grads), 1.0), "lr": (rate, 1.0)}
        return state.State(now.step + 1, optax.apply_updates(now.trainable, updates), opt_state), metrics

    return update


class BatchTrainer:
    """`trainer(folder, settings, batch)` trains from the base's parameters, or goes on, or only reads the end.

    Runs of one trainer share one compiled update.
    """

    def __init__(self, base: state.Adapted, loss, cfg: Supervised):
        self.base, self.cfg, self.weights = base, cfg, checkpoints.digest(base.lm.params)
        self.tx = optax.with_extra_args_support(state.optimizer(cfg))
        like = state.State(jnp.int32(0), base.initial, jax.eval_shape(self.tx.init, base.initial))
        self.places = state.shardings(base.mesh, like)
        out = (self.places, mesh_lib.replicated(base.mesh))
        self.update = jax.jit(make_update(loss, self.tx, cfg), donate_argnums=(0,), out_shardings=out)

    def __call__(self, folder, settings: dict, data, batch, label: str = "training") -> dict:
        """The trained parameters, flat. batch: step -> pytree of arrays [B, ...], the same whenever it is asked, made
        from `data`, a pytree of NumPy arrays.

        Raises `InputError`, before anything is written, where the folder holds a run under other settings.
        """
        settings = checkpoints.bound(settings, weights=self.weights, data=vectors.data_hash(*jax.tree.leaves(data)))
        trainable = jax.tree.map(jnp.copy, self.base.initial)  # the update gives its input's memory away
        now = jax.device_put(state.State(jnp.int32(0), trainable, self.tx.init(trainable)), self.places)

        def advance(i, now, _):
            now, metrics = self.update(now, self.base.frozen, jax.device_put(batch(i), mesh_lib.rows(self.base.mesh)))
            return now, step.values(metrics)

        return training.train(folder, now, settings, self.cfg, advance, label=label).trainable


def shuffled(count: int, seed: int, batch: int):
    """Row numbers of a step's batch: every epoch in a new order, by nothing but seed and step."""
    import grain

    if count < batch:
        raise InputError(f"train.batch={batch}: more than the {count} examples")
    return grain.MapDataset.range(count).seed(seed).shuffle().repeat().batch(batch, drop_remainder=True)


def parts(count: int, size: int, mesh):
    """(row numbers of a batch, how many of them count): the last batch is filled up, so that all have one shape."""
    share = mesh.shape["data"] * mesh.shape["fsdp"]
    size = -(-min(size, count) // share) * share
    for a in range(0, count, size):
        yield np.minimum(np.arange(a, a + size), count - 1), min(size, count - a)


def join_metrics(workdir, names) -> None:
    """The metrics of several runs under `workdir` as one file: `run` names a row's, `step` counts through them all."""
    rows = [(n, row) for n in names for row in checkpoints.read_metrics(pathlib.Path(workdir) / n / "metrics.jsonl")]
    joined = (row | {"step": i, "run": name, "run_step": row["step"]} for i, (name, row) in enumerate(rows))
    checkpoints.write_metrics(pathlib.Path(workdir) / "metrics.jsonl", joined)
