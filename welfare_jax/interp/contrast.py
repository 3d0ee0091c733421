"""A direction from two lists of texts, with how well it tells texts apart that it was not made from."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from welfare_jax.errors import InputError
from welfare_jax.interp import geometry
from welfare_jax.models import chat, decoder, interventions

METHODS = ("means", "pca")
POSITIONS = ("last", "mean")


@dataclasses.dataclass(frozen=True)
class Direction:
    """What `read_direction` found. L layers, D width."""

    vectors: np.ndarray  # float32 [L, D], from negative to positive
    auroc: np.ndarray  # [L], of texts in folds that the direction tested had not seen; 0.5 is chance
    layer: int  # that of the highest AUROC and, among equals, of the largest difference in standard deviations
    hook: str  # where it was read, and acts

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

    positive, negative: strings (one user message each) or lists of {"role", "content"}; plain: strings are read as
    they are, without the chat template. method: "means", the difference in means; or "pca", the first principal
    component of the differences within pairs (positive[i], negative[i]), as long as the difference in means.
    position: "last", the token after which the model speaks, or "mean" over all tokens. hook: a hook point.
    The AUROC is of held-out texts: the lists are cut in `folds`, each projected on the direction from the others.
    Raises `InputError` where a list is shorter than `folds`, or "pca" is given lists of different lengths.
    """
    for name, value, known in (("method", method, METHODS), ("position", position, POSITIONS)):
        if value not in known:
            raise InputError(f"{name}={value!r}: use one of {', '.join(known)}")
    if any(isinstance(texts, str) for texts in (positive, negative)):
        raise InputError("positive and negative: need a list of texts each, not a single text")
    if method == "pca" and len(positive) != len(negative):
        raise InputError(f"method='pca': needs pairs, there are {len(positive)} positive and {len(negative)} negative")
    if min(len(positive), len(negative)) < max(folds, 2):
        raise InputError(f"folds={folds}: need at least so many texts on each side, and two; give more texts")
    act = activations(lm, [*positive, *negative], position, hook, batch, template, plain)
    up, down = act[:, : len(positive)], act[:, len(positive) :]
    scores = [np.empty(x.shape[:2], np.float32) for x in (up, down)]
    for fold in range(max(folds, 2)):
        held = [np.arange(x.shape[1]) % max(folds, 2) == fold for x in (up, down)]
        a, b = (x[:, ~h] for x, h in zip((up, down), held))
        vector, middle = _direction(a, b, method), (a.mean(1) + b.mean(1)) / 2
        for x, h, into in zip((up, down), held, scores):
            into[:, h] = np.asarray(geometry.project(x[:, h] - middle[:, None], vector))
    scores = jnp.concatenate([jnp.asarray(s) for s in scores], 1)
    is_positive = jnp.arange(act.shape[1]) < len(positive)
    area, d = (np.asarray(f(scores, is_positive)) for f in (geometry.auroc, geometry.cohens_d))
    layer = int(np.lexsort((d, area))[-1])
    return Direction(np.asarray(_direction(up, down, method)), area, layer, hook)


def activations(lm, texts, position="last", hook="resid_post", batch=32, template=None, plain=False) -> np.ndarray:
    """float32 [L, N, width of the hook point] of N texts or conversations, at their last token or averaged."""
    if plain:
        tokens, mask = chat.pad([lm.tokenizer.encode(text) for text in texts], 8)
    else:
        tokens, mask = chat.encode(lm.tokenizer, texts, template, multiple=8)
    weights = mask / mask.sum(1, keepdims=True) if position == "mean" else np.zeros(mask.shape)
    if position == "last":
        weights[:, -1] = 1.0  # rows are padded on the left
    out = []
    for i in range(0, len(tokens), batch):
        rows = np.arange(i, i + batch) % len(tokens)  # the last batch is filled up, so that one program reads all
        read = weights[rows][:, None].astype(np.float32)
        _, found, _ = decoder.forward(lm.graphdef, lm.params, tokens[rows], mask=mask[rows], read=read, hook=hook)
        out.append(np.asarray(found, np.float32)[:, : len(tokens) - i, 0])
    return np.concatenate(out, 1)


def _direction(up, down, method):
    """[L, D] of activations [L, N, D] and [L, M, D]."""
    means = jnp.asarray(up.mean(1) - down.mean(1))
    if method == "means":
        return means
    axis = geometry.pca_axis(jnp.asarray(up - down), centre=False)[0][:, 0]
    axis = jnp.where(jnp.sum(axis * means, -1, keepdims=True) < 0, -axis, axis)
    return geometry.match_norm(axis, means)
