"""A step on several devices: `jax.jit` over the mesh, or `jax.pmap` with whole parameters and own episodes on each."""

import jax
import numpy as np

from welfare_jax import mesh as mesh_lib
from welfare_jax.errors import InputError

AXIS = "data"


def devices(way: str, mesh) -> mesh_lib.Devices:
    """Over which devices `jax.pmap` runs a step; none by name where way is "jit", which spreads it over the mesh."""
    if way == "jit":
        return mesh_lib.ONE if mesh is None or mesh.size == 1 else mesh_lib.Devices(mesh=mesh)
    if mesh.shape["data"] != mesh.size:
        raise InputError("parallel='pmap': devices have whole parameters; set mesh.fsdp and mesh.tensor to 1")
    if jax.process_count() > 1:
        raise InputError("parallel='pmap': runs in one process; several take parallel='jit'")
    return mesh_lib.Devices(AXIS, mesh.size)


def _pmap(program, where, mesh, in_axes, out_axes, donate=()):
    return jax.pmap(
        program, AXIS, in_axes=in_axes, out_axes=out_axes, donate_argnums=donate, axis_size=where.count,
        devices=mesh.devices.ravel().tolist(),
    )  # fmt: skip


def collect(program, where, mesh):
    """`program(trainable, frozen, key, step, temperature, iv, tiles) -> (episodes, start states)`, compiled."""
    if where.name is None:
        return jax.jit(program)
    # `jax.pmap` wants something with the mapped axis among its arguments.
    mapped = _pmap(lambda _, *args: program(*args), where, mesh, (0, *(None,) * 7), (0, None))
    join = jax.jit(lambda played: jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), played))

    def run(*args):
        played, starts = mapped(np.arange(where.count), *args)
        return join(played), starts

    return run


def update(program, where, mesh, places):
    """`program(state, frozen, initial, rows, played, knobs, iv) -> (state, metrics)`, compiled; donates the state."""
    if where.name is None:
        out = (places, mesh_lib.replicated(mesh))
        return jax.jit(program, donate_argnums=(0,), out_shardings=out)
    mapped = _pmap(program, where, mesh, (None, None, None, None, 0, None, None), None, (0,))
    split = jax.jit(lambda played: jax.tree.map(lambda a: a.reshape(where.count, -1, *a.shape[1:]), played))

    def run(state, frozen, initial, rows, played, knobs, iv):
        return mapped(state, frozen, initial, rows, split(played), knobs, iv)

    return run
