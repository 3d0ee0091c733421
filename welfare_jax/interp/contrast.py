"""A direction from two lists of texts, with how well it tells texts apart that it was not made from."""

import dataclasses
import functools
import hashlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax.errors import InputError
from welfare_jax.interp import extract, geometry, vectors
from welfare_jax.interp.axes import texts as tokens_of
from welfare_jax.models import chat, decoder, inputs, interventions

METHODS = ("means", "pca")
POSITIONS = ("last", "mean")
ENTRY = "positive/negative"  # a direction's name in its file


@dataclasses.dataclass(frozen=True)
class Direction:
    """What `read_direction` found. L layers, D width."""

    vectors: np.ndarray  # float32 [L, D], from negative to positive
    auroc: np.ndarray  # [L], of texts in folds that the direction tested had not seen; 0.5 is chance
    layer: int  # that of the highest AUROC and, among equals, of the largest difference in standard deviations
    hook: str  # where it was read, and acts
    model: str = ""  # what it was read from
    data: str = ""  # a hash of the texts that it was made from
    operation: str = "difference in means"

    def save(self, path, model: str = "") -> pathlib.Path:
        """Write a vector file, safetensors whose metadata says what it is; model: its name, in place of its path."""
        auroc = json.dumps(np.asarray(self.auroc).tolist())
        return vectors.save(
            path, {ENTRY: self.vectors}, model=model or self.model, hook=self.hook, data=self.data,
            layers={"positive": self.layer}, operation=self.operation, more={"auroc": auroc},
        )  # fmt: skip

    @classmethod
    def load(cls, path) -> "Direction":
        """What `save` wrote. Raises `InputError` on any other file."""
        arrays, said = vectors.load(path)
        layer = vectors.chosen(path, said).get("positive")
        if ENTRY not in arrays or layer is None or "auroc" not in said:
            raise InputError(
                f"{path}: not a direction's file; welfare_jax.interp.vectors.load reads other vector files"
            )
        auroc = np.array(json.loads(said["auroc"]))
        return cls(
            arrays[ENTRY], auroc, layer, **{name: said[name] for name in ("hook", "model", "data", "operation")}
        )

    def steer(self, scale=1.0, layer: int | None = None, where=None) -> interventions.Interventions:
        """Adds `scale` times the layer's vector at that layer; `where` bool [B, T] as in `wj.add`."""
        layer = self.layer if layer is None else layer
        return interventions.add(self.vectors[layer], layer, scale, where, at=self.hook)

    def __repr__(self):
        best = f"layer {self.layer} of {len(self.vectors)}, held-out AUROC {self.auroc[self.layer]:.2f}"
        return f"Direction at {self.hook}: {best}, norm {np.linalg.norm(self.vectors[self.layer]):.3g}"


def read_direction(
    lm, positive, negative, *, method="means", position="last", hook="resid_post", folds=4, batch=32, template=None,
    plain=False,
) -> Direction:  # fmt: skip
    """The direction in which a model's activations differ between two lists of texts, at every layer.

    positive, negative: strings (one user message each) or lists of {"role", "content"}, or data sets of them as in
    `wj.encode`; plain: strings are read as they are, without the chat template. method: "means", the difference in
    means; or "pca", the first principal component of the differences within pairs (positive[i], negative[i]), as long
    as the difference in means.
    position: "last", the token after which the model speaks, or "mean" over all tokens. hook: a hook point.
    The AUROC is of held-out texts: the lists are cut in `folds`, each projected on the direction from the others.
    Raises `InputError` where a list is shorter than `folds`, which is two or more, where "pca" is given lists of
    different lengths, and where a text has no token.
    """
    if method not in METHODS:
        raise InputError(f"method={method!r}: use one of {', '.join(METHODS)}")
    known_position(position)
    if any(isinstance(texts, str) for texts in (positive, negative)):
        raise InputError("positive and negative: need a list of texts each, not a single text")
    positive, negative = chat.rows(positive), chat.rows(negative)
    if method == "pca" and len(positive) != len(negative):
        raise InputError(f"method='pca': needs pairs, there are {len(positive)} positive and {len(negative)} negative")
    if not 2 <= folds <= min(len(positive), len(negative)):
        raise InputError(f"folds={folds}: need two or more, and at least so many texts on each side")
    inputs.hooks(hook)
    where = {"position": position, "hook": hook, "batch": batch, "template": template, "plain": plain}
    act = activations(lm, [*positive, *negative], **where)
    up, down = act[:, : len(positive)], act[:, len(positive) :]
    scores = [np.empty(x.shape[:2], np.float32) for x in (up, down)]
    for fold in range(folds):
        held = [np.arange(x.shape[1]) % folds == fold for x in (up, down)]
        a, b = (x[:, ~h] for x, h in zip((up, down), held))
        vector, middle = _direction(a, b, method), (a.mean(1) + b.mean(1)) / 2
        for x, h, into in zip((up, down), held, scores):
            into[:, h] = np.asarray(geometry.project(x[:, h] - middle[:, None], vector))
    scores = jnp.concatenate([jnp.asarray(s) for s in scores], 1)
    is_positive = jnp.arange(act.shape[1]) < len(positive)
    area, d = (np.asarray(f(scores, is_positive)) for f in (geometry.auroc, geometry.cohens_d))
    layer = int(np.lexsort((d, area))[-1])
    found = np.asarray(_direction(up, down, method))
    said = hashlib.sha256(repr((positive, negative)).encode()).hexdigest()[:16]
    how = {"means": "difference in means", "pca": "first principal component of paired differences"}[method]
    return Direction(
        found, auroc=area, layer=layer, hook=hook, model=getattr(lm, "path", ""), data=said, operation=how
    )


def known_position(position):
    if position not in POSITIONS:
        raise InputError(f"position={position!r}: use one of {', '.join(POSITIONS)}")


def activations(lm, texts, *, position="last", hook="resid_post", batch=32, template=None, plain=False) -> np.ndarray:
    """float32 [L, N, width of the hook point] of N texts or conversations, at their last token or averaged."""
    texts = chat.rows(texts)
    rows = (
        tokens_of.plain(lm.tokenizer, [chat.content(text) for text in texts], None)
        if plain
        else tokens_of.chats(lm.tokenizer, texts, template)
    )
    if not all(rows):
        raise InputError(f"text {next(i for i, row in enumerate(rows) if not row)}: has no token to be read at")
    number = range(len(rows))  # in place of a class: readings come in the order of their lengths
    samples = tokens_of.at_the_end(rows, number) if position == "last" else tokens_of.averaged(rows, number, 1)
    decoder.check_ids(lm.spec, samples.tokens, "texts")
    found, number = _collect(lm.graphdef, lm.params, extract.buckets(samples, batch, 1), hook)
    order = np.argsort(np.asarray(number), kind="stable")[-len(rows) :]  # what fills the last batch up is number -1
    return np.asarray(found, np.float32)[:, order]


@functools.partial(jax.jit, static_argnames=("graphdef", "hook"))
def _collect(graphdef, params, data, hook):
    return extract.collect(decoder.bind(graphdef, params), data, hook)


def _direction(up, down, method):
    """[L, D] of activations [L, N, D] and [L, M, D]."""
    means = jnp.asarray(up.mean(1) - down.mean(1))
    if method == "means":
        return means
    axis = geometry.pca_axis(jnp.asarray(up - down), centre=False)[0][:, 0]
    axis = jnp.where(jnp.sum(axis * means, -1, keepdims=True) < 0, -axis, axis)
    return geometry.match_norm(axis, means)
