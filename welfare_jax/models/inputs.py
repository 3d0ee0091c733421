"""What callers pass to a model: made arrays of, and checked where the values are known."""

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax.errors import InputError
from welfare_jax.models import interventions


def tokens(given):
    """Token ids as an array; lists of equally long lists too."""
    if isinstance(given, jax.Array):
        return given
    try:
        found = np.asarray(given)
    except ValueError:  # rows of several lengths
        found = np.asarray(None)
    if found.dtype.kind in "OUS":
        raise InputError(
            f"tokens {str(given)[:60]!r}: need ids [batch, tokens]; make them with wj.encode(lm.tokenizer, prompts)"
        )
    return found


def mask(given):
    return given if given is None or isinstance(given, jax.Array) else np.asarray(given, bool)


def key(given):
    """A PRNG key of a seed, of a key of the older kind, or as it is."""
    if isinstance(given, int | np.integer):
        return jax.random.key(given)
    return given if jnp.issubdtype(given.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(given)


def positions(read, shape):
    """Positions [B, P] to read, of ids [B] or [B, P]; weights float [B, P, T] as they are."""
    if read is None:
        return None
    read = read if isinstance(read, jax.Array) else np.asarray(read)
    read = read[:, None] if read.ndim == 1 else read
    weights = jnp.issubdtype(read.dtype, jnp.floating)
    if read.ndim != (3 if weights else 2) or len(read) != shape[0] or (weights and read.shape[2] != shape[1]):
        raise InputError(
            f"read: has shape {read.shape}, need positions [{shape[0]}] or [{shape[0]}, P], or weights "
            f"[{shape[0]}, P, {shape[1]}]"
        )
    if not weights and known(read):
        where = np.asarray(read)
        if (beyond := (where < -shape[1]) | (where >= shape[1])).any():
            raise InputError(f"read: position {where[beyond][0]} is outside of rows of {shape[1]} tokens")
    return jnp.asarray(read)


def room(cache, spec, shape):
    """Refuse a cache of another shape than model and tokens need, or with too few empty slots, where that is known."""
    if cache is None:
        return
    B, T = shape
    slots = cache.k.shape[3]
    if cache.k.shape != (need := (spec.layers, B, spec.kv_heads, slots, spec.head_dim)):
        raise InputError(f"cache: keys have shape {cache.k.shape}, this model and {B} rows need {need}")
    used = int(cache.used) if known(cache.used) else 0
    if used + T > slots:
        raise InputError(
            f"cache: {used} of its {slots} slots are used, {T} more tokens do not fit; make it larger by "
            f"wj.empty_cache(spec, batch, slots, dtype)"
        )


READ = (*interventions.HOOKS, "pattern")  # attention weights can be read, and not acted on


def hooks(at, known=interventions.HOOKS):
    """A hook point's name, or a tuple of them, each one of `known`."""
    at = at if isinstance(at, str) else tuple(at)
    for name in (at,) if isinstance(at, str) else at:
        if name not in known:
            raise InputError(f"hook point {name!r} is unknown: use one of {', '.join(known)}")
    return at


def known(array) -> bool:
    """Whether the values can be looked at: neither traced nor on other processes' devices."""
    return not isinstance(array, jax.core.Tracer) and getattr(array, "is_fully_addressable", True)
