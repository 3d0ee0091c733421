"""The device mesh (data, fsdp, tensor), the table that says how parameters lie on it, the devices of a `jax.pmap`."""

import math
import re
from typing import NamedTuple

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from welfare_jax.errors import InputError

AXES = ("data", "fsdp", "tensor")
# Episodes, trajectories, keys: anything with a leading batch axis. fsdp comes first: where rows that lie the other way
# round meet a weight on fsdp and tensor, XLA (jaxlib 0.10) may reorder them for the product and leave them so.
ROWS = P(("fsdp", "data"))

# Every parameter matches exactly the first rule that fits its path. Stacked blocks have a leading layer axis.
RULES = (
    (r"(embed|unembed)", P("tensor", "fsdp")),
    (r"blocks/(attn/[qkv]|mlp/(gate|up))/kernel", P(None, "fsdp", "tensor")),
    (r"blocks/(attn/o|mlp/down)/kernel", P(None, "tensor", "fsdp")),
    (r"blocks/mlp/router/kernel", P(None, "fsdp", None)),
    (r"blocks/mlp/experts/(gate|up)/kernel", P(None, None, "fsdp", "tensor")),  # experts are whole: any may be chosen
    (r"blocks/mlp/experts/down/kernel", P(None, None, "tensor", "fsdp")),
    (r"blocks/(attn|mlp)/\w+/lora_a", P(None, "fsdp", None)),
    (r"blocks/(attn|mlp)/\w+/lora_b", P(None, None, "tensor")),
    (r"blocks/mlp/experts/\w+/lora_a", P(None, None, "fsdp", None)),
    (r"blocks/mlp/experts/\w+/lora_b", P(None, None, None, "tensor")),
    (r"blocks/attn/(\w/bias|sinks)", P(None, "tensor")),
    (r"blocks/mlp/router/bias", P()),
    (r"blocks/mlp/experts/\w+/bias", P(None, None, "tensor")),
    (r".*norm/scale", P()),
    (r"value_head/.*", P()),
)


def axes(devices: int, data: int = 0, fsdp: int = 1, tensor: int = 1) -> tuple[int, int, int]:
    """The sizes of a mesh over so many devices; `data=0` takes what the other axes leave."""
    data = data or devices // max(fsdp * tensor, 1)
    if min(data, fsdp, tensor) < 1 or data * fsdp * tensor != devices:
        raise InputError(f"mesh {data} x {fsdp} x {tensor} does not fit {devices} devices; set config.mesh to match")
    return data, fsdp, tensor


def make(data: int = 0, fsdp: int = 1, tensor: int = 1):
    """A mesh over all devices, as `axes` cuts them."""
    return jax.make_mesh(axes(jax.device_count(), data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 3)


def imagined(devices: int, data: int = 0, fsdp: int = 1, tensor: int = 1):
    """The mesh that `make` would build over so many devices, for shapes only."""
    return jax.sharding.AbstractMesh(axes(devices, data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 3)


def spec_for(path: str) -> P:
    """The partition of a parameter; a path that no rule covers is an error, never a silent replication."""
    for pattern, spec in RULES:
        if re.fullmatch(pattern, path):
            return spec
    raise InputError(f"parameter {path}: no partition rule covers it (welfare_jax/mesh.py)")


def sharding(mesh, path: str, shape) -> NamedSharding:
    """As `spec_for`; an axis that the mesh does not divide stays whole."""
    spec = spec_for(path)
    return NamedSharding(mesh, P(*(a if a and shape[i] % mesh.shape[a] == 0 else None for i, a in enumerate(spec))))


def replicated(mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def rows(mesh, count: int = 0) -> NamedSharding:
    """Of leaves [rows, ...]; where a `count` of rows is given that the mesh does not divide, they stay whole."""
    return _dealt(mesh, count, ROWS)


def rows_of_parts(mesh, count: int = 0) -> NamedSharding:
    """Of leaves [parts, rows, ...], as `rows`."""
    return _dealt(mesh, count, P(None, *ROWS))


def _dealt(mesh, count, spec):
    return NamedSharding(mesh, spec if count % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0 else P())


def keys_values(mesh, heads: int) -> NamedSharding:
    """Of a cache [L, B, K, S, d]: rows as everywhere, heads beside the weights that make them."""
    return NamedSharding(mesh, P(None, *ROWS, "tensor" if heads % mesh.shape["tensor"] == 0 else None))


class Devices(NamedTuple):
    """What a program must know of the devices that share its batch under `jax.pmap`: the axis and their number.

    Without a name, as under `jax.jit`, one program sees the whole batch; then only `hold` does something.
    """

    name: str | None = None
    count: int = 1
    mesh: object = None  # under `jax.jit`, where there is more than one device
    axes: tuple[str, ...] = ROWS[0]  # of the mesh, that rows are dealt over

    @property
    def rows(self) -> int:
        """Among how many devices the rows of an array that this program sees are dealt."""
        return 1 if self.mesh is None else math.prod(self.mesh.shape[axis] for axis in self.axes)

    def hold(self, x):
        """The same [B, ...], its rows kept on their devices: else XLA may cut it as the weights that it meets."""
        if self.mesh is None:
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, P(self.axes)))

    @property
    def apart(self) -> int:
        """Under `jax.jit`: along the data axis, how many devices have rows of their own."""
        return 1 if self.mesh is None or "data" not in self.axes else self.mesh.shape["data"]

    def each(self, function):
        """`function(tree, Devices)` of rows as a function of all rows. Where devices are `apart`, its results have a
        leading axis: one for each of them, where it was worked out and where it lies."""
        if self.apart == 1:
            return lambda rows: function(rows, self)
        own, free = self._replace(axes=tuple(axis for axis in self.axes if axis != "data")), P.UNCONSTRAINED

        def lay(a, *axes):
            where = P(*axes, *[free] * (a.ndim - len(axes)))
            return jax.lax.with_sharding_constraint(a, NamedSharding(self.mesh, where))

        def deal(a):
            a = a.reshape(own.rows, self.apart, -1, *a.shape[1:]).swapaxes(0, 1)
            return lay(a.reshape(self.apart, -1, *a.shape[3:]), "data", own.axes)

        run = jax.vmap(lambda rows: function(rows, own), spmd_axis_name="data")
        return lambda rows: jax.tree.map(lambda a: lay(a, "data"), run(jax.tree.map(deal, rows)))

    def mine(self, tree):
        """This device's rows of leaves [B, ...] that every device has whole."""
        if self.name is None:
            return tree
        return jax.tree.map(lambda a: a.reshape(self.count, -1, *a.shape[1:])[jax.lax.axis_index(self.name)], tree)

    def whole(self, tree):
        """Leaves [B, ...] on every device, from each one's rows."""
        return tree if self.name is None else jax.lax.all_gather(tree, self.name, tiled=True)

    def sum(self, tree):
        return tree if self.name is None else jax.lax.psum(tree, self.name)

    def max(self, tree):
        return tree if self.name is None else jax.lax.pmax(tree, self.name)


ONE = Devices()
