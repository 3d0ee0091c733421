"""Activations of walks, reduced on the device: class sums in one pass, held-out scores in a second.

N walks in buckets of similar length, each cut into M batches of b rows. No activation outlives its batch, so memory
does not grow with the number of walks. L layers, D width, C classes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax.envs.walks import Walks
from welfare_jax.interp import geometry
from welfare_jax.models import decoder
from welfare_jax.text import pieces as text


class Bucket(NamedTuple):
    """Walks of similar length, ready for a scan over the leading axis."""

    tokens: jax.Array  # int32 [M, b, T]
    mask: jax.Array  # bool [M, b, T]
    read: jax.Array  # int32 [M, b, 1], the final direction letter, with no end-of-turn token after it
    label: jax.Array  # int32 [M, b], final role, -1 for filling
    held: jax.Array  # bool [M, b], kept out of the means


def encode(pieces: text.Pieces, walks: Walks, chunk: int = 256):
    """(tokens int32 [N, T], mask bool [N, T]) of whole walks, against the left edge, ending in the last letter."""
    turns = walks.actions.shape[1]
    width = turns * pieces.calm_width + 1

    @jax.jit
    def lay(obs, actions, length):
        t = jnp.arange(turns)
        before = jnp.roll(actions, 1, axis=1)
        numbers = text.observation_pieces(obs, before, jnp.broadcast_to(t == 0, before.shape), pieces.size)
        numbers = jnp.where((t < length[:, None])[..., None], numbers, text.EMPTY)
        last = text.LETTER + jnp.take_along_axis(actions, length[:, None] - 1, 1)
        numbers = jnp.concatenate([numbers.reshape(len(actions), -1), last], 1)
        return text.pack(pieces.table, numbers, width, align="left")

    n, parts = len(walks.length), []
    for a in range(0, n, chunk):
        index = np.minimum(np.arange(a, a + chunk), n - 1)  # the last chunk is filled up: one shape, one compilation
        rows = jax.tree.map(lambda x, index=index: x[index], (walks.observations, walks.actions, walks.length))
        parts.append(jax.device_get(lay(*rows)))
    tokens, mask = (np.concatenate(p)[:n] for p in zip(*parts))
    return tokens, mask


def buckets(tokens, mask, labels, held, batch: int, count: int = 3, place=jnp.asarray) -> tuple[Bucket, ...]:
    """Sort walks by length into `count` buckets of their own width; `place` puts each array on the devices."""
    order = np.argsort(mask.sum(1), kind="stable")
    out = []
    for rows in np.array_split(order, count):
        width = int(mask[rows].sum(1).max())
        size = min(batch, len(rows))
        fill = -len(rows) % size
        index = np.concatenate([rows, np.repeat(rows[-1:], fill)])
        label = np.where(np.arange(len(index)) < len(rows), labels[index], -1)
        fields = (tokens[index, :width], mask[index, :width], mask[index].sum(1)[:, None] - 1, label, held[index])
        out.append(Bucket(*(place(f.reshape(-1, size, *f.shape[1:])) for f in fields)))
    return tuple(out)


def activations(model: decoder.Decoder, bucket: Bucket):
    """resid_post [L, b, D] at the last token of one batch; the last layer does only what that token needs."""
    _, residual, _ = decoder.backbone(model, bucket.tokens, bucket.mask, read=bucket.read, everywhere=False)
    return residual[:, :, 0].astype(jnp.float32)


def means(model: decoder.Decoder, data: tuple[Bucket, ...]):
    """Pass one: (sums [L, C, D], counts [C]) over the walks that are not held out."""

    def one(total, part):
        label = jnp.where(part.held, -1, part.label)
        return jax.tree.map(jnp.add, total, geometry.class_sums(activations(model, part), label)), None

    spec = model.spec
    total = (jnp.zeros((spec.layers, 3, spec.width)), jnp.zeros(3))
    for bucket in data:
        total, _ = jax.lax.scan(one, total, bucket)
    return total


def scores(model: decoder.Decoder, data: tuple[Bucket, ...], directions):
    """Pass two: (projections, cosines) [L, K, N] of all walks on directions [K, L, D], and labels, held [N]."""

    def one(_, part):
        act = activations(model, part)
        proj = jax.vmap(lambda v: geometry.project(act, v), out_axes=1)(directions)
        return None, (proj, proj / jnp.maximum(jnp.linalg.norm(act, axis=-1), 1e-12)[:, None])

    outs = [jax.lax.scan(one, None, bucket)[1] for bucket in data]
    flat = [[jnp.moveaxis(a, 0, -2).reshape(*a.shape[1:-1], -1) for a in out] for out in outs]
    labels = jnp.concatenate([b.label.reshape(-1) for b in data])
    held = jnp.concatenate([b.held.reshape(-1) for b in data])
    return *(jnp.concatenate(parts, -1) for parts in zip(*flat)), labels, held


def live(model: decoder.Decoder, data: tuple[Bucket, ...]) -> dict:
    """The recruitment curve's point: cos(v_mold, v_gold) [L] under both baselines."""
    return {f"cos_{base}": c for base, c in geometry.gold_mold_cosines(*means(model, data)).items()}
