"""Rows steered at chosen tokens of one conversation, which several questions then end: the programs and their batches.

B rows, U prompts, T tokens of a head, S questions with W tokens of their own, K sides of a question, M tokens that
count for a side, L layers, D width, V vocabulary. The head is what the questions of a prompt have in common; its keys
and values serve all of them. Vectors, layers, strengths, masks and sides are data: one program a shape serves every
direction, layer, strength and exposure. What comes before the first steered token is read once a prompt: all but the
last token, or all before the first answer.
"""

import functools
import itertools
import os.path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax.errors import InputError
from welfare_jax.evals.directions import COHORTS
from welfare_jax.models import decoder, interventions

STEP = 32  # heads are padded to multiples of this, so that calls over a few of the prompts compile nothing new


class Row(NamedTuple):
    key: str
    cell: tuple  # `cells.Cell`, whose `where` is an exposure, see `steered`
    talks: tuple  # of each question, the conversation as ((role, content), ...)


class Laid(NamedTuple):
    """A prompt as token ids: what its questions share, what each has of its own, and the span of the first answer."""

    head: list
    ends: list
    span: tuple


class Segment(NamedTuple):
    tokens: jax.Array  # int32 [B, T]
    mask: jax.Array  # bool [B, T]
    where: jax.Array  # bool [B, T], the tokens to steer


class Push(NamedTuple):
    vectors: jax.Array  # float32 [B, D], what is added
    layers: jax.Array  # int32 [B]
    scales: jax.Array  # float32 [B]
    units: jax.Array  # float32 [B, L, D], what the stream is projected on


def steered(exposure: str, count: int, span) -> np.ndarray:
    """bool [count], the tokens of a prompt that an exposure steers; span: (start, stop) of the first answer.

    early: that answer, and nothing after it. readout: the last token, after which the answer to the question is read.
    throughout: from the first of those tokens to the last. none: no token. A number: that token alone, counted from 0.
    """
    at = np.arange(count)
    if exposure.isdigit():
        return at == int(exposure)
    start, stop = span
    return {
        "none": at < 0, "early": (at >= start) & (at < stop), "readout": at == count - 1, "throughout": at >= start,
    }[exposure]  # fmt: skip


def _logp(model, hidden):
    return jax.nn.log_softmax(decoder.unembed(model, hidden))


def _divergence(new, old):
    """KL [B] in nats of next-token distributions, steered against unsteered, of log-probabilities [B, V]."""
    return (jnp.exp(new) * (new - old)).sum(-1)


def _along(stream, units):
    return jnp.einsum("lbpd,bld->bpl", stream.astype(jnp.float32), units)


def _answers(logp, sides):
    """log P [B, K] of each side from log-probabilities [B, V]; sides int32 [K, M], -1 where a side has no more."""
    return jax.nn.logsumexp(jnp.where(sides >= 0, logp[:, jnp.maximum(sides, 0)], -jnp.inf), -1)


def _end(model, cache, end: Segment, push: Push, hook):
    """(log-probabilities [B, V] after the last token, its stream [L, B, 1, D]) of a question that follows `cache`.

    The question stands against the right edge, so that its last token is the last slot of every row.
    """
    read = jnp.full((len(end.tokens), 1), end.tokens.shape[1] - 1)
    iv = interventions.add(push.vectors, push.layers, push.scales, end.where, at=hook)
    hidden, stream, _ = decoder.backbone(
        model, end.tokens, end.mask, cache=cache, iv=iv, read=read, everywhere=False, hook=hook, fresh=True
    )
    return _logp(model, hidden[:, 0]), stream


@functools.partial(jax.jit, static_argnames="graphdef")
def unsteered(graphdef, params, tokens, mask, sites):
    """(log-probabilities [U, V] after token `sites` [U], cache of all but the last slot) of prompts [U, T]."""
    model = decoder.bind(graphdef, params)
    hidden, _, cache = decoder.backbone(
        model, tokens, mask, read=sites[:, None], everywhere=False, residual=False, fresh=True
    )
    shorter = decoder.Cache(
        cache.k[..., :-1, :], cache.v[..., :-1, :], cache.pos[:, :-1], cache.count - 1, cache.used - 1
    )
    return _logp(model, hidden[:, 0]), shorter


def _of(cache, index) -> decoder.Cache:
    """The cache of prompts index[b], a row each."""
    return decoder.Cache(cache.k[:, index], cache.v[:, index], cache.pos[index], cache.count[index], cache.used)


@functools.partial(jax.jit, static_argnames=("graphdef", "hook"))
def through(graphdef, params, cache, head: Segment, ends: Segment, sites, push: Push, before, index, sides, hook):
    """Rows read through, all questions of each: what is steered anywhere, or where there is a cache, after it.

    cache: of what comes before `head` in prompts, row b follows prompt index[b]; None: nothing does. ends: [B, S, W];
    sites int32 [B, 2], the slots in `head` of the last token of the first answer and of the one after it; before
    [U, V]: what is said after that token without steering; sides int32 [S, K, M]. Returns log P
    [B, S, K], the most likely token [B, S], the divergence [B] at the site, and projections [B, 3, L] of the stream at
    both sites and at the last token of the first question.
    """
    model = decoder.bind(graphdef, params)
    older = () if cache is None else (_of(cache, index),)
    iv = interventions.add(push.vectors, push.layers, push.scales, head.where, at=hook)
    hidden, stream, new = decoder.backbone(
        model, head.tokens, head.mask, cache=older or None, iv=iv, read=sites, everywhere=False, hook=hook, fresh=True
    )
    divergence = _divergence(_logp(model, hidden[:, 0]), before[index])

    def one(part):
        end, sides = part
        logp, last = _end(model, (*older, new), end, push, hook)
        return _answers(logp, sides), logp.argmax(-1), _along(last, push.units)

    apart = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), ends)
    logp, top, last = jax.lax.map(one, (apart, sides))
    along = jnp.concatenate([_along(stream, push.units), last[0]], 1)
    return jnp.swapaxes(logp, 0, 1), top.T, divergence, along


@functools.partial(jax.jit, static_argnames=("graphdef", "hook"))
def at_last(graphdef, params, cache, before, index, end: Segment, push: Push, sides, hook):
    """As `through`, of rows that are steered at their last token alone: row b follows prompt index[b] of `cache`.

    before [U, V]: what is said after that token without steering; sides int32 [K, M] of the one question. The
    divergence is at that token too, and the projections are [B, 1, L].
    """
    model = decoder.bind(graphdef, params)
    logp, stream = _end(model, _of(cache, index), end, push, hook)
    found = _answers(logp, sides), logp.argmax(-1), _divergence(logp, before[index]), _along(stream, push.units)
    return found[0][:, None], found[1][:, None], *found[2:]


def lay(encoded) -> Laid:
    """The prompt of questions that are `cells.Encoded`: the head is what all have in common, without a last token."""
    ids = [e.ids for e in encoded]
    shared = min(len(os.path.commonprefix(ids)), min(map(len, ids)) - 1)
    said = np.flatnonzero(encoded[0].said)
    if not len(said):
        raise InputError("evals.temporal: a conversation without an answer by the assistant, which could be steered")
    gaps = np.flatnonzero(np.diff(said) > 1)
    start, stop = int(said[0]), int(said[gaps[0]] if len(gaps) else said[-1]) + 1
    if stop >= shared:
        raise InputError(
            "evals.temporal: the first answer runs into the questions; its conversations need a message after it"
        )
    return Laid(ids[0][:shared], [row[shared:] for row in ids], (start, stop))


def layout(device, model: str, talks):
    """(texts of the tokens of the first question's prompt, the span of the first answer, tokens of the head)."""
    part = lay([device.encoded_talk(model, talk) for talk in talks])
    decode = device.models[model].tokenizer.decode
    return [decode([i]) for i in part.head + part.ends[0]], part.span, len(part.head)


def batches(device, rows, done, bank, sides):
    """Yields [(row, {"logp", "top", "kl", "along"}), ...] a batch, for the rows whose key is not in `done`.

    device: a `cells.Device`; sides: of each question, the token ids of every side. The shapes do not depend on what is
    done.
    """
    laid = {}
    for row in rows:
        if row.talks not in laid:
            laid[row.talks] = lay([device.encoded_talk(row.cell.model, talk) for talk in row.talks])
    table, own = pack(sides), max(len(e) for part in laid.values() for e in part.ends)
    first = -(-max((part.span[0] for part in laid.values()), default=0) // STEP) * STEP
    of_head = lambda row: len(laid[row.talks].head)
    kinds = {
        "last token": (_late, lambda row: of_head(row) + max(map(len, laid[row.talks].ends))),
        "from the answer on": (functools.partial(_whole, first), lambda row: of_head(row) - laid[row.talks].span[0]),
        "anywhere": (functools.partial(_whole, 0), of_head),
    }
    for name, (kind, (run, size)) in itertools.product(device.models, kinds.items()):
        mine = [row for row in rows if row.cell.model == name and begins(row.cell.where, laid[row.talks].span) == kind]
        cuts = device.widths({row.talks: size(row) for row in mine}.values(), STEP)
        for low, width in zip([0, *cuts], cuts):
            some = [row for row in mine if low < size(row) <= width and row.key not in done]
            prompts = list(dict.fromkeys(row.talks for row in some))
            for a in range(0, len(prompts), device.batch):
                number = {talks: i for i, talks in enumerate(prompts[a : a + device.batch])}
                part = [row for row in some if row.talks in number]
                yield from run(device, device.models[name], bank, part, laid, number, table, width, own)


def begins(exposure: str, span) -> str:
    """Where steering begins: at the "last token", "from the answer on" or "anywhere"; span: of the first answer."""
    if exposure == "readout":
        return "last token"
    return "from the answer on" if span[0] and (not exposure.isdigit() or int(exposure) >= span[0]) else "anywhere"


def pack(sides) -> np.ndarray:
    """int32 [S, K, M], the token ids of every side of every question; -1 where there are fewer."""
    shape = len(sides), max(map(len, sides)), max(len(ids) for side in sides for ids in side)
    out = np.full(shape, -1, np.int32)
    for s, question in enumerate(sides):
        for k, ids in enumerate(question):
            out[s, k, : len(ids)] = ids
    return out


def _right(rows, width, dtype=np.int32):
    """Lists against the right edge of an array [rows, width], and which places they take."""
    out, mask = np.zeros((len(rows), width), dtype), np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        out[i, width - len(row) :], mask[i, width - len(row) :] = row, True
    return out, mask


def _filled(rows, batch):
    """`batch` rows: the missing ones repeat the first, so that each has a token."""
    return rows + rows[:1] * (batch - len(rows))


def _push(device, bank, rows) -> Push:
    found = [bank.directions[row.cell.vector].values for row in rows]
    units = np.stack([v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-12) for v in found])
    layers = np.array([row.cell.layer for row in rows], np.int32)
    vectors = np.stack([v[layer] for v, layer in zip(found, layers)])
    return Push(*map(device.place, (vectors, layers, np.array([r.cell.alpha for r in rows], np.float32), units)))


def _before(device, model, prompts, width, sites):
    """`unsteered` of at most a batch of prompts, lists of ids."""
    full = _filled(prompts, device.batch)
    tokens, mask = _right(full, width)
    at = np.array(_filled(sites, device.batch), np.int32) + width - np.array([len(ids) for ids in full], np.int32)
    return unsteered(model.graphdef, model.params, *map(device.place, (tokens, mask, at)))


def _parts(device, rows, number):
    """(rows, the same filled up to a batch, the numbers of their prompts)."""
    for a in range(0, len(rows), device.batch):
        part = rows[a : a + device.batch]
        full = _filled(part, device.batch)
        yield part, full, device.place(np.array([number[row.talks] for row in full], np.int32))


def _whole(first, device, model, bank, rows, laid, number, table, width, own):
    """first: slots for what comes before the first answer, which is read once a prompt; 0: it is read in every row."""
    heads = [laid[talks] for talks in number]
    cut = lambda p: p.span[0] if first else 0
    before, _ = _before(device, model, [p.head for p in heads], first + width, [p.span[1] - 1 for p in heads])
    cache = None
    if first:  # with one token more, the last slot, which is left out
        starts = [p.head[: cut(p) + 1] for p in heads]
        _, cache = _before(device, model, starts, first + 1, [0] * len(starts))
    for part, full, index in _parts(device, rows, number):
        prompts = [laid[row.talks] for row in full]
        on = [
            [steered(row.cell.where, len(p.head) + len(end), p.span) for end in p.ends]
            for row, p in zip(full, prompts)
        ]
        head = (*_right([p.head[cut(p) :] for p in prompts], width),
                _right([w[0][cut(p) : len(p.head)] for w, p in zip(on, prompts)], width, bool)[0])  # fmt: skip
        ends = []
        for s in range(len(table)):
            ids = _right([p.ends[s] for p in prompts], own)
            ends.append((*ids, _right([w[s][len(p.head) :] for w, p in zip(on, prompts)], own, bool)[0]))
        sites = np.array([[width - len(p.head) + p.span[1] - 1 + i for i in (0, 1)] for p in prompts], np.int32)
        found = through(
            model.graphdef, model.params, cache, Segment(*map(device.place, head)),
            Segment(*(device.place(np.stack(x, 1)) for x in zip(*ends))), device.place(sites),
            _push(device, bank, full), before, index, table, bank.hook,
        )  # fmt: skip
        yield _told(bank, part, table, *jax.device_get(found))


def _late(device, model, bank, rows, laid, number, table, width, own):
    heads = [laid[talks] for talks in number]
    whole = [[p.head + p.ends[s] for p in heads] for s in range(len(table))]
    known = [_before(device, model, ids, width, [len(row) - 1 for row in ids]) for ids in whole]
    for part, full, index in _parts(device, rows, number):
        push, found = _push(device, bank, full), []
        for s, (before, cache) in enumerate(known):
            last = np.array([laid[row.talks].ends[s][-1:] for row in full], np.int32)
            end = Segment(*map(device.place, (last, last >= 0, last >= 0)))
            found.append(at_last(model.graphdef, model.params, cache, before, index, end, push, table[s], bank.hook))
        logp, top, divergence, along = zip(*jax.device_get(found))
        yield _told(bank, part, table, np.concatenate(logp, 1), np.concatenate(top, 1), divergence[0], along[0])


def _told(bank, rows, table, logp, top, divergence, along):
    """What is kept of each row; of cohorts, which are many, no projections."""
    out, counts = [], (table[..., 0] >= 0).sum(-1)  # sides of each question
    for i, row in enumerate(rows):
        kept = bank.directions[row.cell.vector].kind not in COHORTS
        out.append((row, {
            "logp": [[round(float(x), 6) for x in side[:count]] for side, count in zip(logp[i], counts)],
            "top": top[i].tolist(), "kl": round(float(divergence[i]), 8),
            "along": np.asarray(along[i], float).round(4).tolist() if kept else None,
        }))  # fmt: skip
    return out
