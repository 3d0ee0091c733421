"""Low-rank adapters as leaves named lora_a and lora_b beside the kernels they adapt."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from welfare_jax.errors import InputError
from welfare_jax.models import decoder
from welfare_jax.models.layers import Lora

PATTERN = r".*/lora_[ab]"  # the parameter paths that LoRA trains


def flat(params: dict) -> dict[str, Any]:
    """The leaves of nested parameters by their paths, as blocks/attn/q/kernel."""
    return traverse_util.flatten_dict(params, sep="/")


def linear(params) -> list[str]:
    """The paths of a decoder's linear layers, which `Lora.targets` is matched against."""
    paths = (jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(params))
    return [p.removeprefix("blocks/").removesuffix("/kernel") for p in paths if p.endswith("/kernel")]


def attach(graphdef, params, lora: Lora, key):
    """(graphdef, params) with fresh adapters: A uniform in +-1/sqrt(fan in) as in PEFT, B zero, both float32."""
    spec, _ = decoder.static(graphdef)
    graphdef, shapes = decoder.structure(spec, lora, params["embed"].dtype.name)
    if not any("lora" in path[-1].key for path, _ in jax.tree.leaves_with_path(shapes)):
        raise InputError(
            f"lora.targets={lora.targets!r}: matches no linear layer (they are {', '.join(linear(shapes))})"
        )

    def fill(path, leaf):
        node = params
        for p in path[:-1]:
            node = node[p.key]
        name = path[-1].key
        if name in node:
            return node[name]
        if name == "lora_b":
            return jnp.zeros(leaf.shape, leaf.dtype)
        bound = leaf.shape[-2] ** -0.5
        digest = sum(ord(c) << (i % 24) for i, c in enumerate(jax.tree_util.keystr(path)))
        return jax.random.uniform(jax.random.fold_in(key, digest % 2**31), leaf.shape, leaf.dtype, -bound, bound)

    return graphdef, jax.tree_util.tree_map_with_path(fill, shapes)


def merge(graphdef, params):
    """(graphdef, params) of the plain decoder that computes the same: each kernel gains alpha / r * A B."""
    spec, lora = decoder.static(graphdef)
    if lora is None:
        return graphdef, params

    def walk(node):
        if not isinstance(node, dict):
            return node
        if "lora_a" not in node:
            return {k: walk(v) for k, v in node.items()}
        update = (lora.alpha / lora.rank) * jnp.einsum("...ir,...ro->...io", node["lora_a"], node["lora_b"])
        kernel = (node["kernel"].astype(jnp.float32) + update).astype(node["kernel"].dtype)
        return {k: v for k, v in node.items() if k not in ("lora_a", "lora_b")} | {"kernel": kernel}

    return decoder.structure(spec, None, params["embed"].dtype.name)[0], walk(params)
