"""Shams: parameters as far from the untrained ones as training went, module by module, in random directions.

Any change of the weights moves what is read off a model. Only where trained runs move it beyond shams has training
done something that its size alone does not do.
"""

import jax
import jax.numpy as jnp

from welfare_jax import hosts
from welfare_jax.errors import InputError


def draw(initial: dict, trained: dict, key) -> dict:
    """A sham of one trained run: flat parameters like `trained`, drawn from the random key `key`.

    Each change of a weight has the norm of the trained one's, layer by layer: of the product A B where there are
    adapters, of the parameter itself elsewhere. Raises `InputError` for adapters whose product was not zero at first.
    """
    out = {}
    for i, name in enumerate(sorted(trained)):
        if name.endswith("/lora_b"):
            continue
        mine = jax.random.fold_in(key, i)
        if name.endswith("/lora_a"):
            other = name.removesuffix("a") + "b"
            if hosts.get(jnp.any(initial[other])):
                raise InputError(f"outcome.shams: {other} is not zero before training; set outcome.shams=0")
            out[name], out[other] = _adapter(initial[name], trained[name], trained[other], mine)
        else:
            out[name] = initial[name] + _like(trained[name] - initial[name], mine, stacked=name.startswith("blocks/"))
    return out


def _adapter(start, a, b, key):
    """(A, B): A as it might have been at first, B a random one that makes the product as large as that of a and b."""
    first, second = jax.random.split(key)
    fresh = jax.random.uniform(first, a.shape, a.dtype, -1.0, 1.0) * jnp.abs(start).max()
    noise = jax.random.normal(second, b.shape, b.dtype)
    return fresh, noise * (_size(a, b) / jnp.maximum(_size(fresh, noise), 1e-30))[..., None, None]


def _size(a, b):
    """Frobenius norm [...] of the products of a [..., i, r] and b [..., r, o], which need not be formed."""
    left, right = jnp.einsum("...ir,...is->...rs", a, a), jnp.einsum("...ro,...so->...rs", b, b)
    return jnp.sqrt(jnp.maximum(jnp.sum(left * right, (-2, -1)), 0.0))


def _like(change, key, stacked: bool):
    """Noise with the norm of `change`, of each layer where layers are stacked along the first axis."""
    noise = jax.random.normal(key, change.shape, change.dtype)
    axes = tuple(range(int(stacked), change.ndim))
    norm = lambda x: jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True))
    return noise * norm(change) / jnp.maximum(norm(noise), 1e-30)
