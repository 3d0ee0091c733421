"""Activations of token sequences, reduced on the device: class sums in one pass, held-out scores in a second.

N sequences in buckets of similar length, each cut into M batches of b rows of T tokens, read at P places a row. No
activation outlives its batch, so memory does not grow with N. L layers, D width, C classes, R replicates.
"""

import dataclasses
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from welfare_jax import hosts
from welfare_jax import mesh as mesh_lib
from welfare_jax.envs import maze
from welfare_jax.envs import walks as walks_lib
from welfare_jax.envs.walks import Walks
from welfare_jax.errors import InputError
from welfare_jax.interp import geometry, vectors
from welfare_jax.models import decoder
from welfare_jax.settings import check, setting
from welfare_jax.text import pieces as text

CLASSES = 3


class Samples(NamedTuple):
    """Host arrays: what is read, and where."""

    tokens: np.ndarray  # int32 [N, T]
    mask: np.ndarray  # bool [N, T], False on padding wherever it lies
    read: np.ndarray  # int32 [N, P] positions, or float [N, P, T] weights to average over tokens with
    label: np.ndarray  # int32 [N, P] class of each reading, -1 for none
    unit: np.ndarray  # int32 [N]; 2k and 2k + 1 are a matched pair, rows of one unit go together (see `signs`)
    # int32 [N]; rows of one stratum may exchange their labels where labels mean nothing (None: all rows may).
    stratum: np.ndarray | None = None

    def take(self, rows):
        return jax.tree.map(lambda a: a[rows], self)


class Bucket(NamedTuple):
    """Samples of similar length, ready for a scan over the leading axis; filling has label -1."""

    tokens: jax.Array  # int32 [M, b, T]
    mask: jax.Array  # bool [M, b, T]
    read: jax.Array  # int32 [M, b, P] or float [M, b, P, T]
    label: jax.Array  # int32 [M, b, P]
    unit: jax.Array  # int32 [M, b]
    stratum: jax.Array  # int32 [M, b]


class Split(NamedTuple):
    """What the means are taken over, and what is kept out of them."""

    fit: tuple[Bucket, ...]
    held: tuple[Bucket, ...]


class Moments(NamedTuple):
    """Sums over samples; `swings` are sums with random signs, the noise of the sums (see `uncertainty`).

    What is summed are activations less those of the first sample: what all samples share is often thousands of times
    what they differ by, and would take the sums' last digits. A class mean is `origin + sums / counts`; contrasts of
    means do without `origin`.
    """

    sums: jax.Array  # float32 [L, C, D]
    counts: jax.Array  # float32 [C]
    swings: jax.Array  # float32 [R, L, C, D]
    swing_counts: jax.Array  # float32 [R, C]
    origin: jax.Array  # float32 [L, D]
    permuted: jax.Array  # float32 [K, L, C, D], sums under permuted labels (see `relabelled`)


def encode(pieces: text.Pieces, walks: Walks, chunk: int = 256):
    """(tokens int32 [N, T], mask bool [N, T]) of whole walks, against the left edge, ending in the last letter."""
    turns = walks.actions.shape[1]
    width = pieces.slots(turns, calm=True) + 1

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


def of_walks(pieces: text.Pieces, walks: Walks, before: int = 0) -> Samples:
    """Walks read at the final direction letter, or `before` tokens ahead of it; nothing follows the letter.

    Pairs share the class and the letter and are of like length, so that what letters and lengths add to the
    activations is not mistaken for sampling noise; strata are the walks of one letter and length.
    """
    tokens, mask = encode(pieces, walks)
    letter = walks.actions[np.arange(len(tokens)), walks.length - 1]
    order = np.lexsort((walks.length, letter, walks.final))
    unit = np.empty(len(tokens), np.int32)
    for c in range(CLASSES):
        mine = order[walks.final[order] == c]
        unit[mine] = (c << 24) + np.arange(len(mine))
    stratum = (walks.length * 4 + letter).astype(np.int32)
    read = mask.sum(1, dtype=np.int32)[:, None] - 1 - before
    return Samples(tokens, mask, read, walks.final[:, None], unit, stratum)


def after(samples: Samples, ids: list[int]) -> Samples:
    """`samples` that are read at the last of the tokens `ids`, which follow each row's last token."""
    rows, length = np.arange(len(samples.tokens))[:, None], samples.mask.sum(1)[:, None]
    tokens, mask = (np.pad(a, ((0, 0), (0, len(ids)))) for a in (samples.tokens, samples.mask))
    at = length + np.arange(len(ids))
    tokens[rows, at], mask[rows, at] = ids, True
    return samples._replace(tokens=tokens, mask=mask, read=(length + len(ids) - 1).astype(np.int32))


def buckets(samples: Samples, batch: int, count: int | None = None, place=jnp.asarray) -> tuple[Bucket, ...]:
    """Sort samples by length into `count` buckets of their own width; `place` puts each array on the devices.

    Every bucket is compiled for itself, and saves padding: by default there are two, or five for many samples.
    """
    count = count or (2 if len(samples.tokens) < 2000 else 5)
    if samples.stratum is None:
        samples = samples._replace(stratum=np.zeros_like(samples.unit))
    ends = samples.mask.shape[1] - np.argmax(samples.mask[:, ::-1], 1)
    out = []
    for rows in np.array_split(np.argsort(ends, kind="stable"), min(count, len(ends)) or 1):
        if not len(rows):
            continue
        width, size = int(ends[rows].max()), min(batch, len(rows))
        part = samples.take(np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % size)]))
        part.label[len(rows) :] = -1
        read = part.read[..., :width] if part.read.ndim == 3 else part.read
        fields = part._replace(tokens=part.tokens[:, :width], mask=part.mask[:, :width], read=read)
        out.append(Bucket(*(place(f.reshape(-1, size, *f.shape[1:])) for f in fields)))
    return tuple(out)


def split(samples: Samples, held, batch: int, place=jnp.asarray) -> Split:
    """Two sets of buckets, by bool `held` [N]."""
    return Split(*(buckets(samples.take(np.flatnonzero(rows)), batch, place=place) for rows in (~held, held)))


def activations(model: decoder.Decoder, part: Bucket, hook="resid_post"):
    """float32 [L, b * P, D] of one batch at `hook` (a tuple of names gives a tuple), one forward for all of them.

    Where single positions are read, the last layer does only what they need.
    """
    everywhere = jnp.issubdtype(part.read.dtype, jnp.floating)
    _, seen, _ = decoder.backbone(model, part.tokens, part.mask, read=part.read, everywhere=everywhere, hook=hook)
    return jax.tree.map(lambda a: a.reshape(a.shape[0], -1, a.shape[-1]).astype(jnp.float32), seen)


def signs(key, unit, replicates: int):
    """+1 or -1 [R, n], drawn for every pair of units (2k, 2k + 1); the two members of a pair have opposite signs.

    One plus the sign weighs a half sample: in each replicate one of every two matched samples counts twice.
    """
    flip = jax.vmap(lambda pair: jax.random.rademacher(jax.random.fold_in(key, pair), (replicates,), jnp.float32))
    return (flip(unit >> 1) * (1.0 - 2.0 * (unit & 1))[:, None]).T


def relabelled(key, data: tuple[Bucket, ...], permutations: int):
    """int8 [K, N] labels of all readings in the order of the buckets, permuted within strata; filling stays -1.

    What is worked out from them is the null of "within a stratum, labels mean nothing": all that letters, lengths and
    the activations' own shape bring about is in it.
    """
    flat = lambda pick: jnp.concatenate([pick(b).reshape(-1) for b in data])
    label = flat(lambda b: b.label)
    stratum = flat(lambda b: jnp.broadcast_to(b.stratum[..., None], b.label.shape))
    stratum = jnp.where(label < 0, jnp.iinfo(jnp.int32).max, stratum)
    place = jnp.argsort(stratum)

    def one(key):
        order = jnp.lexsort((jax.random.bits(key, label.shape), stratum))
        return jnp.zeros_like(label, jnp.int8).at[place].set(label[order].astype(jnp.int8))

    return jax.lax.map(one, jax.random.split(key, permutations))


def nothing(layers: int, width: int, replicates: int, classes: int = CLASSES, permutations: int = 0) -> Moments:
    """`Moments` of no sample."""
    sums = (layers, classes, width)
    return Moments(
        jnp.zeros(sums), jnp.zeros(classes), jnp.zeros((replicates, *sums)), jnp.zeros((replicates, classes)),
        jnp.zeros((layers, width)), jnp.zeros((permutations, *sums)),
    )  # fmt: skip


def add(total: Moments, act, label, sign, permuted=None) -> Moments:
    """`total` with activations [L, n, D], label [n], sign [R, n] and permuted labels [K, n] added; the first
    activations set the origin."""
    classes = jnp.arange(total.counts.shape[0])
    origin = jnp.where(total.counts.sum() > 0, total.origin, act[:, 0])
    off = act - origin[:, None]
    sums, counts = geometry.class_sums(off, label, len(classes))
    signed = sign[:, :, None] * (label[:, None] == classes)
    weighted = lambda weight: jnp.einsum("lnd,rnc->rlcd", off, weight)
    more = 0.0 if permuted is None else weighted((permuted[..., None] == classes).astype(off.dtype))
    return Moments(
        total.sums + sums, total.counts + counts, total.swings + weighted(signed),
        total.swing_counts + signed.sum(1), origin, total.permuted + more,
    )  # fmt: skip


def moments(
    model, data: tuple[Bucket, ...], hook="resid_post", replicates: int = 0, key=None, classes: int = CLASSES,
    permutations: int = 0,
):  # fmt: skip
    """Pass one: `Moments` of all samples, at one hook point or (a tuple) at several.

    `replicates` half samples, drawn from `key` and each sample's unit alone: two models read with the same key are
    resampled alike, whatever the batches. `permutations` of the labels within strata are drawn from `key` too.
    """
    key = jax.random.key(0) if key is None else key
    relabel = relabelled(jax.random.fold_in(key, 2), data, permutations) if permutations else None  # [K, N]

    def one(totals, given):
        part, permuted = given
        sign = jnp.repeat(signs(key, part.unit, replicates), part.label.shape[-1], axis=1)
        label, seen = part.label.reshape(-1), activations(model, part, hook)
        return jax.tree.map(lambda t, a: add(t, a, label, sign, permuted), totals, seen, is_leaf=_is_moments), None

    seen = jax.eval_shape(lambda part: activations(model, part, hook), jax.tree.map(lambda a: a[0], data[0]))
    total = jax.tree.map(lambda a: nothing(a.shape[0], a.shape[-1], replicates, classes, permutations), seen)
    done = 0
    for bucket in data:
        here, rows = None, bucket.label.size
        if relabel is not None:
            here = relabel[:, done : done + rows].reshape(permutations, len(bucket.label), -1).swapaxes(0, 1)
        total, _ = jax.lax.scan(one, total, (bucket, here))
        done += rows
    return total


def _is_moments(x) -> bool:
    return isinstance(x, Moments)


def scores(model: decoder.Decoder, data: tuple[Bucket, ...], directions, hook="resid_post"):
    """Pass two: (projections, cosines) [L, K, N] of every reading on directions [K, L, D], and labels [N]."""

    def one(_, part):
        act = activations(model, part, hook)
        proj = jax.vmap(lambda v: geometry.project(act, v), out_axes=1)(directions)
        return None, (proj, proj / jnp.maximum(jnp.linalg.norm(act, axis=-1), 1e-12)[:, None])

    outs = [jax.lax.scan(one, None, bucket)[1] for bucket in data]
    flat = [[jnp.moveaxis(a, 0, -2).reshape(*a.shape[1:-1], -1) for a in out] for out in outs]
    return *(jnp.concatenate(parts, -1) for parts in zip(*flat)), jnp.concatenate([b.label.reshape(-1) for b in data])


def collect(model, data: tuple[Bucket, ...], hook="resid_post"):
    """(activations [L, N, D], labels [N]) of every reading, filling included: for sets small enough to keep whole."""
    parts = [jax.lax.scan(lambda _, part: (None, activations(model, part, hook)), None, bucket)[1] for bucket in data]
    act = jnp.concatenate([jnp.moveaxis(a, 0, 1).reshape(a.shape[1], -1, a.shape[-1]) for a in parts], 1)
    return act, jnp.concatenate([b.label.reshape(-1) for b in data])


def store(program, data: tuple[Bucket, ...], folder, hook="resid_post") -> int:
    """Write all activations as `<folder>/<number>.safetensors`, a file a batch; returns how many readings.

    program(part) gives `activations` of one `Bucket` batch without its leading axis. Each file holds "activations"
    float32 [n, L, D], "labels" and "units" int32 [n]; only one batch is in memory at a time.
    """
    folder, done, number = pathlib.Path(folder), 0, 0
    folder.mkdir(parents=True, exist_ok=True)
    for bucket in data:
        for i in range(len(bucket.tokens)):
            part = jax.tree.map(lambda a, i=i: a[i], bucket)
            label = np.asarray(part.label).reshape(-1)
            unit = np.repeat(np.asarray(part.unit), part.label.shape[-1])
            act = np.asarray(program(part)).swapaxes(0, 1)[label >= 0]
            arrays = {"activations": act, "labels": label[label >= 0], "units": unit[label >= 0]}
            arrays = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
            save_file(arrays, folder / f"{number:06d}.safetensors", {"hook": hook})
            done, number = done + len(act), number + 1
    return done


def live(model: decoder.Decoder, data: Split, axes=None) -> dict:
    """One point of the recruitment curve, all [L]: cosines of v_mold and v_gold under both baselines, norms, and on
    the held-out samples (where there are any) AUROC and Cohen's d of each class against the others.

    With axes [A, L, D] also the cosines of both vectors with them, [A, L].
    """
    found = moments(model, data.fit)
    out = {f"cos_{base}": c for base, c in geometry.gold_mold_cosines(found.sums, found.counts).items()}
    v = {c: geometry.difference_in_means(found.sums, found.counts, c) for c in (geometry.MOLD, geometry.GOLD)}
    held = scores(model, data.held, jnp.stack(list(v.values()))) if data.held else None
    for i, (c, vector) in enumerate(v.items()):
        name = geometry.NAMES[c]
        out[f"norm_{name}"] = jnp.linalg.norm(vector, axis=-1)
        if held:
            proj, _, labels = held
            out[f"auroc_{name}"] = geometry.auroc(proj[:, i], labels == c, labels >= 0)
            out[f"d_{name}"] = geometry.cohens_d(proj[:, i], labels == c, labels >= 0)
        if axes is not None:
            out[f"axes_{name}"] = geometry.cosine(vector, axes)
    return out


@dataclasses.dataclass(frozen=True)
class WalkSettings:
    """Which walks are read, and where: the settings `extract`."""

    per_length: int  # of each class and length
    held_out: float  # the share of them that stays out of the means
    batch: int
    question: str = ""  # asked after a walk and read where its answer would begin; "": read at the final letter (§2.3)

    def __post_init__(self):
        for name in ("per_length", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: must be at least 1")
        if not 0 <= self.held_out < 1:
            raise InputError(f"held_out={self.held_out}: must be a share, from 0 to less than 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extraction(WalkSettings):
    """What a job reads off its models: all of the settings `extract`."""

    replicates: int = setting(least=1)
    permutations: int = setting(least=1)
    store: bool

    def __post_init__(self):
        super().__post_init__()
        check(self)
        if not 0 < round(self.per_length * (1 - self.held_out)) < self.per_length:
            raise InputError(
                f"held_out={self.held_out}: of {self.per_length} walks a cell (extract.per_length) at least one must "
                f"be held out and one kept"
            )


def walk_data(pieces, params: maze.Params, mesh, which: WalkSettings, seed: int, put=hosts.put):
    """(Split, facts) of fresh walks. put(array, sharding) brings them to the devices."""
    walks = walks_lib.generate(params, which.per_length, seed)
    samples = of_walks(pieces, walks)
    if which.question:
        samples = after(samples, text.follow_up(pieces, which.question))
    kept = round(which.per_length * (1 - which.held_out))
    if which.held_out and which.per_length > 1:  # of two walks, a fifth would be none
        kept = min(kept, which.per_length - 1)
    held = np.arange(len(walks.length)) % which.per_length >= kept
    place = lambda a: put(a, mesh_lib.rows_of_parts(mesh, a.shape[1]))
    data = split(samples, held, which.batch, place)
    counts = np.bincount(walks.final[~held], minlength=3)
    facts = {
        "counts": {name: int(counts[c]) for c, name in geometry.NAMES.items()},
        "directions": walks_lib.last_moves(walks),
        "data": vectors.data_hash(samples.tokens, samples.mask),
        "position": f"where the answer to {which.question!r} begins" if which.question else "the final letter",
    }
    return data, facts
