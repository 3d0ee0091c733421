"""How a maze comes about (arXiv:2605.30232 §K): a random walk opens cells, others open until few enough are mold.

Cells are numbered outward from the centre, in the order of a breadth-first search, and decided in that order by
selection sampling without replacement (Knuth, TAOCP 3.4.2, algorithm S): whatever was decided so far, the rest has the
distribution it has in the whole maze. So drawing may stop where the player cannot get, and what the player can meet is
exactly a part of the whole maze of the same key. B mazes lie along the last axis, where processors are fast.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

PATH, GOLD, MOLD, BEYOND = 0, 1, 2, 3  # BEYOND: out of the player's reach and therefore never drawn
BLOCK = 16  # cells between two stops of the sequential part
SPARE = 8  # the start lies nearer to the centre than this, or the first 145 cells in a row are not path


def generate(key, gold_ratio, size: int, reach: int | None = None):
    """(grid int8 [size, size], x, y) of a maze and its start: the path cell nearest the centre.

    Cells more than `reach` steps from the start are BEYOND, all of them are drawn where it is None. This assumes a
    start within 8 steps of the centre: with the paper's share of gold that fails less than once in 10^31 mazes, with
    half as much gold as mold less than once in 10^17. Same key, same maze, whatever the reach.
    """
    return _one(size, reach)(key, gold_ratio)


@functools.cache
def _one(size, reach):
    """`generate` for one maze, which under `vmap` makes all of them at once."""

    @custom_vmap
    def one(key, gold_ratio):
        return jax.tree.map(lambda a: a[0], _many(key[None], gold_ratio, size, reach))

    @one.def_vmap
    def many(count, batched, key, gold_ratio):
        keys = key if batched[0] else jnp.broadcast_to(key, (count,))
        return _many(keys, gold_ratio, size, reach), (True, True, True)

    return one


@functools.cache
def spiral(size: int):
    """(x, y) [cells, 2] of the interior in the order in which a breadth-first search from the centre meets them."""
    queue = [(size // 2, size // 2)]
    seen = set(queue)
    for x, y in queue:
        for u, v in ((x, y - 1), (x + 1, y), (x, y + 1), (x - 1, y)):
            if 1 <= u < size - 1 and 1 <= v < size - 1 and (u, v) not in seen:
                seen.add((u, v))
                queue.append((u, v))
    return np.array(queue)


def _walk(key, side: int):
    """Cells y * side + x, int32 [15 * side + 1, B], of walks on side x side that stay where a step would leave it."""
    k_start, k_steps = jnp.moveaxis(jax.vmap(jax.random.split)(key), 1, 0)
    length = 15 * side + 1
    x, y = jax.vmap(lambda k: jax.random.randint(k, (2,), 0, side), out_axes=1)(k_start)
    words = jax.vmap(lambda k: jax.random.bits(k, (-(-length // 16),)), out_axes=1)(k_steps)  # 16 directions a word

    def step(at, t):
        x, y = at
        d = (jax.lax.dynamic_index_in_dim(words, t // 16, 0, False) >> (2 * (t % 16)).astype(jnp.uint32)) & 3
        dx, dy = (d == 1).astype(jnp.int32) - (d == 3), (d == 2).astype(jnp.int32) - (d == 0)
        return (jnp.clip(x + dx, 0, side - 1), jnp.clip(y + dy, 0, side - 1)), y * side + x

    return jax.lax.scan(step, (x, y), jnp.arange(length))[1]


def _uniforms(seeds, count: int):
    """float32 [count, B] in [0, 1) from seeds uint32 [2, B]; a row does not depend on `count`.

    A counter through two rounds of an integer mixer: `jax.random` draws the seeds, but at 10 ns a number it would
    take as long over the cells as everything else together.
    """

    def mix(h):
        h = (h ^ (h >> 16)) * jnp.uint32(0x7FEB352D)
        h = (h ^ (h >> 15)) * jnp.uint32(0x846CA68B)
        return h ^ (h >> 16)

    def block(first):
        counter = (first + jnp.arange(BLOCK, dtype=jnp.uint32))[:, None] * jnp.uint32(0x9E3779B9)
        return (mix(mix(counter + seeds[0]) ^ seeds[1]) >> 8).astype(jnp.float32) * 2.0**-24

    # A loop, because what a loop returns lies in memory: else every use would draw the numbers again.
    return jax.lax.map(block, jnp.arange(0, count, BLOCK, dtype=jnp.uint32)).reshape(-1, seeds.shape[-1])[:count]


def _choose(uniform, eligible, left, need):
    """A mask [cells, B]: `need` of the `left` eligible cells, any set of them as likely as any other.

    uniform, eligible [cells, B] may be a first part of the cells; left, need [B] count all. One cell after the other
    is taken with probability need / left, both as they are by then. Stops every BLOCK cells make the sequential part
    short; the cells between two stops are then decided for all blocks at once.
    """
    uniform, eligible = (a.reshape(-1, BLOCK, a.shape[-1]) for a in (uniform, eligible))
    counts = eligible.sum(1, dtype=jnp.int32)
    left = (left - (jnp.cumsum(counts, 0) - counts)).astype(jnp.float32)  # [blocks, B], at the beginning of each

    def block(need, xs):
        uniform, eligible, left = xs
        after = need
        for j in range(BLOCK):
            after, left = after - (eligible[j] & (uniform[j] * left < after)), left - eligible[j]
        return after, need

    need = jax.lax.scan(block, need.astype(jnp.float32), (uniform, eligible, left))[1]

    def cell(carry, j):
        left, need = carry
        is_open, u = (jax.lax.dynamic_index_in_dim(a, j, 1, keepdims=False) for a in (eligible, uniform))
        taken = is_open & (u * left < need)
        return (left - is_open, need - taken), taken

    taken = jax.lax.scan(cell, (left, need), jnp.arange(BLOCK))[1]
    return jnp.swapaxes(taken, 0, 1).reshape(-1, left.shape[-1])


def _many(keys, gold_ratio, size: int, reach: int | None):
    """Grids int8 [B, size, size] and starts x, y [B] from keys [B]; gold_ratio [] or [B]."""
    side, lanes, xy = size - 2, keys.shape[0], spiral(size)
    cells = len(xy)
    n = cells if reach is None else int((np.abs(xy - size // 2).sum(1) <= reach + SPARE).sum())
    k_walk, k_length, k_target, k_cells = jnp.moveaxis(jax.vmap(lambda k: jax.random.split(k, 4))(keys), 1, 0)
    length = jax.vmap(lambda k: jax.random.randint(k, (), 5 * side, 15 * side + 1))(k_length)
    target = jax.vmap(lambda k: jax.random.randint(k, (), cells // 10 + 1, cells // 2))(k_target)

    rank = np.zeros(cells, np.int32)
    rank[(xy[:, 1] - 1) * side + xy[:, 0] - 1] = np.arange(cells)
    walk = _walk(k_walk, side)
    at = jnp.where(jnp.arange(len(walk))[:, None] <= length, jnp.asarray(rank)[walk], cells)
    rows = max(cells + 1, -(-n // BLOCK) * BLOCK)
    walked = jnp.zeros(rows * lanes, bool).at[(at * lanes + jnp.arange(lanes)).reshape(-1)].set(True)
    walked = walked.reshape(rows, lanes)
    closed = cells - walked[:cells].sum(0, dtype=jnp.int32)
    count = jnp.where(closed > cells // 2, target, closed)
    golds = jnp.maximum(1, jnp.floor(gold_ratio * count + 1e-4).astype(jnp.int32))

    shape = (-(-n // BLOCK) * BLOCK, lanes)
    seeds = jax.vmap(lambda k: jax.random.bits(k, (2, 2)), out_axes=-1)(k_cells)
    real = jnp.broadcast_to(jnp.arange(shape[0])[:, None] < cells, shape)
    mold = _choose(_uniforms(seeds[0], shape[0]), real & ~walked[: shape[0]], closed, count)
    gold = _choose(_uniforms(seeds[1], shape[0]), real & ~mold, cells - count, golds)
    roles = jnp.where(mold, MOLD, jnp.where(gold, GOLD, PATH))[:n].astype(jnp.int8)
    near = roles[: 2 * SPARE * (SPARE + 1) + 1] == PATH
    start = jnp.asarray(xy)[jnp.argmax(near, 0)]
    return _lay(roles, xy, size), start[:, 0], start[:, 1]


def _lay(roles, xy, size: int):
    """Grids [B, size, size] from the roles [n, B] of the spiral's first n cells; the ring is mold."""
    n, lanes = roles.shape
    place = np.full((size, size), n)  # the ring
    place[xy[:, 1], xy[:, 0]] = np.where(np.arange(len(xy)) < n, np.arange(len(xy)), n + 1)
    place = np.resize(place.reshape(-1), -(-size * size // 4) * 4)
    roles = jnp.concatenate([roles, jnp.full((1, lanes), MOLD, jnp.int8), jnp.full((1, lanes), BEYOND, jnp.int8)])
    # Four tiles travel as one word: turning bytes round one by one would be a third of all the work.
    four = roles[place].reshape(-1, 4, lanes).astype(jnp.uint32) << jnp.arange(0, 32, 8, dtype=jnp.uint32)[:, None]
    flat = jax.lax.bitcast_convert_type(four.sum(1, dtype=jnp.uint32).T, jnp.int8).reshape(lanes, -1)
    return flat[:, : size * size].reshape(lanes, size, size)
