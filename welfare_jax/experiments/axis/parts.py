"""What the analysis has read, on disk as it comes: a repeated command reads only what is not there yet.

A part is a file named after it that is bound by content to everything it depends on. It holds arrays, by their paths
in what was read. Where a part is bound to something else than is asked for, it is read again and replaced.
"""

import hashlib
import json
import os
import pathlib

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from welfare_jax import hosts
from welfare_jax.interp import vectors
from welfare_jax.interp.axes.comparison import Axes
from welfare_jax.train import checkpoints


def content(tree) -> str:
    """A digest of a tree of arrays, texts and numbers, with where they stand in it."""
    leaves = jax.tree.leaves_with_path(tree)
    arrays = [(jax.tree_util.keystr(p), a.shape, str(a.dtype)) for p, a in leaves if hasattr(a, "dtype")]
    plain = [(jax.tree_util.keystr(p), a) for p, a in leaves if not hasattr(a, "dtype")]
    read = vectors.data_hash(*(np.asarray(hosts.get(a)) for _, a in leaves if hasattr(a, "dtype")))
    return hashlib.sha256(json.dumps([arrays, plain, read], default=str).encode()).hexdigest()[:24]


class Parts:
    """The parts of one folder. Of several processes the first one writes."""

    def __init__(self, folder, frozen, **bound):
        """frozen: parameters that all models share; bound: what every part depends on beside them."""
        self.folder = pathlib.Path(folder)
        self.bound = {"frozen": checkpoints.digest(frozen)} | {k: content(v) for k, v in bound.items()}

    def arrays(self, name: str, key: dict) -> dict | None:
        """{path: array} of a part that is bound to `key`; None where there is none, on any of the processes."""
        path, found = self.folder / f"{name}.safetensors", None
        try:
            with safe_open(path, "np") as file:
                if file.metadata() == self._metadata(key):
                    found = {k: file.get_tensor(k) for k in file.keys()}
        except (OSError, SafetensorError):
            pass
        return found if hosts.everywhere(found is not None) else None

    def save(self, name: str, key: dict, arrays: dict):
        """Whole or not at all."""
        if hosts.first():
            self.folder.mkdir(parents=True, exist_ok=True)
            fresh = self.folder / f"{name}.{os.getpid()}.tmp"
            whole = {k: np.asarray(a, order="C") for k, a in arrays.items()}
            save_file(whole, fresh, self._metadata(key))
            fresh.replace(self.folder / f"{name}.safetensors")

    def _metadata(self, key: dict) -> dict[str, str]:
        return self.bound | {k: str(v) for k, v in key.items()}

    def tree(self, name: str, key: dict, program, *args):
        """`program(*args)` on the host, a tree of arrays: read from its part, or computed and kept."""
        found = self.arrays(name, key)
        if found is not None:
            like = jax.eval_shape(program, *args)
            wanted = {jax.tree_util.keystr(p): a for p, a in jax.tree.leaves_with_path(like)}
            if {k: a.shape for k, a in wanted.items()} == {k: a.shape for k, a in found.items()}:
                return jax.tree.unflatten(jax.tree.structure(like), [found[k] for k in wanted])
        made = hosts.get(program(*args))
        self.save(name, key, {jax.tree_util.keystr(p): np.asarray(a) for p, a in jax.tree.leaves_with_path(made)})
        return made

    def axes(self, name: str, key: dict, make) -> Axes:
        """The comparison axes that `make()` computes, likewise."""
        found = self.arrays(name, key)
        if found is None:
            axes = make()
            told = json.dumps({"words": axes.words, "facts": axes.facts, "names": list(axes.named)})
            found = {"told": np.frombuffer(told.encode(), np.uint8)}
            found |= {f"named/{n}": a for n, a in axes.named.items()} | {f"null/{n}": a for n, a in axes.null.items()}
            found |= {} if axes.emotions is None else {"emotions": axes.emotions}
            self.save(name, key, found)
            return axes
        told = json.loads(found["told"].tobytes())
        named, null = ({n: found[f"{kind}/{n}"] for n in told["names"]} for kind in ("named", "null"))
        return Axes(named, null, tuple(told["words"]), found.get("emotions"), told["facts"])
