"""The grid of steering cells, and the programs that run rows of any of them together.

B rows, T tokens, D width, P pairs of vector and layer. Every row of a batch has its own vector, layer, strength and
mask, all of them data: one compiled program a shape serves the whole grid, and a second model of the same structure.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax import mesh as mesh_lib
from welfare_jax import templates
from welfare_jax.errors import InputError
from welfare_jax.evals import exposure
from welfare_jax.evals.directions import COHORTS, Bank
from welfare_jax.models import chat, decoder, generate, interventions, stops
from welfare_jax.text import pieces

# Which tokens are steered. `assistant`: all that the assistant says, the last token of the prompt (where its answer
# begins) and every new token, as in the paper. `generation`: only what it says. `readout`: only the last token before
# what is read or sampled. `prompt`: only what stands before that token.
WHERE = ("assistant", "generation", "readout", "prompt")


class Model(NamedTuple):
    graphdef: object
    params: dict
    tokenizer: object
    identity: str  # digest of the weights, which names them in journals


class Cell(NamedTuple):
    model: str
    vector: str  # "" at strength zero, which all vectors share
    layer: int
    alpha: float
    where: str


class Row(NamedTuple):
    key: str
    cell: Cell
    talk: str | list  # a user's message, or a conversation; where the assistant spoke last, its answer goes on


def zero(model: str) -> Cell:
    return Cell(model, "", 0, 0.0, "assistant")


def grid(models, bank: Bank, layers: str, alphas, wheres) -> list[Cell]:
    """All cells: a shared one at strength zero, then model x vector x layer x strength x where.

    layers: "chosen" (each vector's own), "all", or numbers such as "12,17,-1". Cohorts steer at the first of `wheres`
    only, and random and orthogonal ones at the layer of the vector that they stand beside: they are many. Permuted
    ones steer at all layers that it does, so that the steepest can be held against theirs.
    """
    depth = len(next(iter(bank.directions.values())).values)
    if bad := [w for w in wheres if w not in WHERE]:
        raise InputError(f"evals.where={bad[0]!r}: choose from {', '.join(WHERE)}")
    if layers in ("chosen", "all"):
        listed = list(range(depth))
    else:
        try:
            listed = [int(x) for x in layers.split(",")]
        except ValueError:
            listed = [depth]
        if not all(-depth <= x < depth for x in listed):
            raise InputError(f"evals.layers={layers!r}: give 'chosen', 'all', or some of 0 to {depth - 1}, as in 3,5")
    out = []
    for model in models:
        out.append(zero(model))
        for name, d in bank.directions.items():
            cohort = d.kind in COHORTS
            here = layers == "chosen" or d.kind in ("random", "orthogonal")
            at = [d.layer] if here else [x % depth for x in listed]
            for layer, alpha, w in itertools.product(at, alphas, wheres[:1] if cohort else wheres):
                if alpha:
                    out.append(Cell(model, name, layer, float(alpha), w))
    return out


class Encoded(NamedTuple):
    """One conversation, ready to be padded: token ids and, token by token, where each mode steers."""

    ids: list
    said: np.ndarray  # bool, words of the assistant
    opening: np.ndarray  # bool, the tokens that open the next answer
    start: int  # the last token of the prompt, after which the answer begins

    def where(self, mode: str) -> np.ndarray:
        at = np.arange(len(self.ids))
        last = at == len(self.ids) - 1
        everything = self.said | (at == self.start) | last
        return {"assistant": everything, "generation": self.said, "readout": last, "prompt": ~last}[mode]


def encode(tokenizer, talk, template: dict) -> Encoded:
    """One row of tokens. An answer that the assistant has begun is split into tokens apart from the prompt, as it
    would be had the model said it."""
    lead, _ = pieces.around_answers(template)
    talk = chat.messages(talk)
    talk, begun = (talk[:-1], talk[-1]["content"]) if talk[-1]["role"] == "assistant" else (talk, "")
    tokens, _ = chat.encode(tokenizer, [talk], template)
    said = chat.assistant_tokens(tokenizer, [talk], template, opening=False)[0]
    whole = chat.render(tokenizer, talk, template)
    bare = templates.render(tokenizer, talk, template, opening=False)
    offsets = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    begin = len(bare) if whole.startswith(bare) else len(whole)
    opening = np.array([start >= begin for start, _ in offsets])
    opening[-1] = True
    more = tokenizer.encode(lead + begun, add_special_tokens=False) if begun else []
    said, opening = (np.append(a, np.full(len(more), new)) for a, new in ((said, True), (opening, False)))
    return Encoded(tokens[0].tolist() + more, said.astype(bool), opening.astype(bool), tokens.shape[1] - 1)


def pack(sides):
    """Sides of token sequences as arrays for `read_out`: of each, (int32 [N] single tokens, int32 [K, M] the longer
    sequences, -1 behind their ends)."""
    longest = max(len(ids) for side in sides for ids in side)
    out = []
    for side in sides:
        several = [ids for ids in side if len(ids) > 1]
        table = np.full((len(several), longest), -1, np.int32)
        for row, ids in zip(table, several):
            row[: len(ids)] = ids
        out.append((np.array([ids[0] for ids in side if len(ids) == 1], np.int32), table))
    return tuple(out)


@functools.partial(jax.jit, static_argnames="graphdef")
def read_out(graphdef, params, tokens, mask, iv, after, sides):
    """log P [B] of every side of `pack`: that what follows begins with one of its sequences; rows padded at the left.

    A token has its log-probability after the prompt; a longer sequence the sum over its tokens, each after those
    before it, which `after` steers as new tokens. The prompt is computed once: its keys and values are kept where a
    sequence needs them. No sequence may begin another of its side, so that probabilities add up.
    """
    model = decoder.bind(graphdef, params)
    rows, width = tokens.shape
    more = max(several.shape[1] for _, several in sides) - 1
    cache = decoder.empty_cache(model.spec, rows, width + more, model.embed[...].dtype) if more else None
    last = jnp.full((rows, 1), width - 1)
    hidden, _, cache = decoder.backbone(
        model, tokens, mask, cache=cache, iv=iv, read=last, everywhere=False, residual=False
    )
    first = jax.nn.log_softmax(decoder.unembed(model, hidden[:, 0]))

    def sequence(ids):  # int32 [M] -> [B]
        given = jnp.broadcast_to(ids[:-1], (rows, more))
        hidden, _, _ = decoder.backbone(
            model, jnp.maximum(given, 0), given >= 0, cache=cache, iv=after, residual=False
        )
        logp = jax.nn.log_softmax(decoder.unembed(model, hidden))
        rest = jnp.take_along_axis(logp, jnp.maximum(ids[1:], 0)[None, :, None], -1)[..., 0]
        return first[:, ids[0]] + jnp.where(ids[1:] >= 0, rest, 0.0).sum(-1)

    def side(single, several):
        parts = [first[:, single].T] + ([jax.lax.map(sequence, several)] if len(several) else [])
        return jax.nn.logsumexp(jnp.concatenate(parts), 0)

    return tuple(side(*s) for s in sides)


@functools.partial(jax.jit, static_argnames=("graphdef", "hook"))
def project(graphdef, params, tokens, mask, weights, units, layers, hook):
    """Projections [P, B] of the residual stream, averaged with `weights` [B, T], on units [P, D] at layers [P]."""
    model = decoder.bind(graphdef, params)
    _, stream, _ = decoder.backbone(model, tokens, mask, read=weights[:, None], hook=hook)
    return jnp.einsum("pbd,pd->pb", stream[layers, :, 0].astype(jnp.float32), units)


class Device:
    """Runs rows on the loaded models. Evaluations see only its public methods, so a script can stand in for it."""

    def __init__(self, models: dict[str, Model], bank: Bank | None, mesh, batch: int, buckets: int, template, seed=0):
        self.models, self.bank, self.batch, self.buckets = models, bank, batch, buckets
        self.template, self.seed, self.encoded = template, seed, {}
        self.lead, self.end = pieces.around_answers(template)  # lead: what an answer's own tokens begin with
        self.place = functools.partial(jax.device_put, device=mesh_lib.rows(mesh))
        if batch % (mesh.shape["data"] * mesh.shape["fsdp"]):
            raise InputError(f"evals.batch={batch}: must be a multiple of the devices that share a batch")

    def tokens(self, text: str) -> tuple[int, ...]:
        """The token ids of a text by itself."""
        return tuple(next(iter(self.models.values())).tokenizer.encode(text, add_special_tokens=False))

    def _check(self, ids, name: str):
        """Refuse tokens that one of the models has no row for."""
        for model in self.models.values():
            decoder.check_ids(decoder.static(model.graphdef)[0], ids, name)

    def speak(self, rows, done, max_new_tokens: int, temperature: float):
        """Yields [(row, text), ...] a batch, for the rows whose key is not in `done`."""
        ends = stops.stop_strings(next(iter(self.models.values())).tokenizer, self.end) if self.end else None
        for model, part, tokens, mask, steer in self._batches(rows, done):
            stop = stops.stop_ids(model.tokenizer, self.template)
            keys = [jax.random.fold_in(jax.random.key(self.seed), int(row.key[:8], 16) >> 1) for row in part]
            new, kept = jax.device_get(generate.generate(
                model.graphdef, model.params, tokens, mask, jnp.stack(keys + keys[:1] * (len(tokens) - len(keys))),
                max_new_tokens=max_new_tokens, temperature=temperature, stop=stop, stop_strings=ends,
                interventions=steer(True), new_interventions=steer(False),
            ))  # fmt: skip
            told = (stops.without_end(ids[on], stop) for ids, on in zip(new, kept))
            said = (model.tokenizer.decode(ids, skip_special_tokens=True) for ids in told)
            yield [(row, text.split(self.end)[0] if self.end else text) for row, text in zip(part, said)]

    def read(self, rows, done, sides):
        """Yields [(row, [log P(side), ...]), ...] a batch; a side: token sequences, none of which begins another."""
        decode = next(iter(self.models.values())).tokenizer.decode
        for ids in itertools.chain(*sides):
            self._check(ids, f"read-out of {decode(ids)!r}")
        sides = pack(sides)
        for model, part, tokens, mask, steer in self._batches(rows, done):
            found = read_out(model.graphdef, model.params, tokens, mask, steer(True), steer(False), sides)
            yield list(zip(part, np.stack(jax.device_get(found), 1).tolist()))

    def project(self, rows, done, pairs):
        """Yields [(row, projections), ...] a batch: of the mean over the opening tokens on each (vector, layer)."""
        units = np.stack([self.bank.directions[name].values[layer] for name, layer in pairs])
        units = units / np.maximum(np.linalg.norm(units, axis=-1, keepdims=True), 1e-12)
        layers = jnp.asarray([layer for _, layer in pairs])
        for model, part, tokens, mask, _ in self._batches(rows, done):
            weights = self._lay(part, tokens, lambda row, e: e.opening / e.opening.sum(), np.float32)
            found = project(model.graphdef, model.params, tokens, mask, weights, units, layers, self.bank.hook)
            yield list(zip(part, np.asarray(found).T.round(5).tolist()))

    def expose(self, rows, done, bank, sides):
        """Yields [(row, read-outs), ...] a batch of `exposure.Row`s, steered with `bank`; see `exposure.batches`."""
        for ids in itertools.chain(*sides):
            self._check(ids, "read-out of a question's side")
        yield from exposure.batches(self, rows, done, bank, sides)

    def layout(self, model: str, talks):
        """Where the tokens of a prompt stand; see `exposure.layout`."""
        return exposure.layout(self, model, talks)

    def encoded_talk(self, model: str, talk) -> Encoded:
        """A conversation ((role, content), ...), or a user's message, as tokens, which are kept."""
        if talk not in self.encoded:
            said = talk if isinstance(talk, str) else [{"role": role, "content": content} for role, content in talk]
            found = encode(self.models[model].tokenizer, said, self.template)
            self._check(found.ids, f"prompt {str(said)[:60]!r}")
            self.encoded[talk] = found
        return self.encoded[talk]

    def _encode(self, row) -> Encoded:
        talk = row.talk if isinstance(row.talk, str) else tuple((m["role"], m["content"]) for m in row.talk)
        return self.encoded_talk(row.cell.model, talk)

    def widths(self, lengths, multiple: int = 16) -> list[int]:
        """At most `buckets` widths, each a multiple, that prompts of these lengths are padded to."""
        lengths = sorted(lengths)
        parts = np.array_split(lengths, min(self.buckets, len(lengths))) if lengths else []
        return sorted({-(-int(part[-1]) // multiple) * multiple for part in parts if len(part)})

    def _lay(self, part, tokens, of, dtype):
        out = np.zeros(tokens.shape, dtype)
        for i, row in enumerate(part):
            e = self._encode(row)
            out[i, tokens.shape[1] - len(e.ids) :] = of(row, e)
        return self.place(out)

    def _batches(self, rows, done):
        """Batches of rows of one model and of like length; the shapes do not depend on what is done."""
        lengths = {
            row.talk if isinstance(row.talk, str) else str(row.talk): len(self._encode(row).ids) for row in rows
        }
        cuts = self.widths(lengths.values())
        for name, width in itertools.product(self.models, cuts):
            mine = [
                row
                for row in rows
                if row.cell.model == name and width == next(c for c in cuts if len(self._encode(row).ids) <= c)
            ]
            mine = [row for row in mine if row.key not in done]
            for a in range(0, len(mine), self.batch):
                part, shape = mine[a : a + self.batch], np.empty((self.batch, width), bool)
                tokens = self._lay(part, shape, lambda row, e: e.ids, np.int32)
                mask = self._lay(part, shape, lambda row, e: True, bool)
                yield self.models[name], part, tokens, mask, functools.partial(self._steer, part, tokens)

    def _steer(self, part, tokens, prompt: bool):
        """The interventions of a batch: on the prompt, or on the new tokens, where prompt-only rows have scale 0."""
        if self.bank is None:
            return None
        cells = [row.cell for row in part] + [zero(part[0].cell.model)] * (len(tokens) - len(part))
        width = next(iter(self.bank.directions.values())).values.shape[1]
        vectors = [
            self.bank.directions[c.vector].values[c.layer] if c.vector else np.zeros(width, np.float32) for c in cells
        ]
        on = [c.alpha if prompt or c.where in ("assistant", "generation") else 0.0 for c in cells]
        where = self._lay(part, tokens, lambda row, e: e.where(row.cell.where), bool) if prompt else None
        layers = np.array([c.layer for c in cells], np.int32)
        return interventions.add(np.stack(vectors), layers, np.array(on, np.float32), where, at=self.bank.hook)
