"""Emotion vectors (Sofroniew et al., 2026): what the stories that a model tells of each emotion have to themselves.

E emotions, L layers, D width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from welfare_jax import hosts
from welfare_jax.interp import extract, geometry
from welfare_jax.interp.axes import texts
from welfare_jax.models import chat, generate, stops
from welfare_jax.text import pieces

REQUEST = (
    "Tell a short story. Topic: {topic}. Somebody in it feels {emotion}. Show the feeling by what is said and done, "
    "and do not use the word itself."
)


def stories(
    graphdef, params, tokenizer, words, topics, key, *, per_topic=1, max_new_tokens=200, batch=32, template=None,
    request=REQUEST,
):  # fmt: skip
    """(token ids of the stories, emotion number of each), written by the model under test at temperature 1."""
    cells = [(e, topic) for e in range(len(words)) for topic in topics for _ in range(per_topic)]
    prompts = [request.format(topic=topic, emotion=words[e]) for e, topic in cells]
    tokens, mask = chat.encode(tokenizer, prompts, template)
    stop, (_, end) = stops.stop_ids(tokenizer, template), pieces.around_answers(template or {})
    ends, rows = stops.stop_strings(tokenizer, end) if end else None, []
    starts = range(0, len(cells), batch)
    for i, start in enumerate(tqdm(starts, "stories", unit="batch", leave=False, disable=not hosts.first())):
        index = np.minimum(np.arange(start, start + batch), len(cells) - 1)  # one shape, one compilation
        new, kept = jax.device_get(generate.generate(
            graphdef, params, tokens[index], mask[index], jax.random.fold_in(key, i), max_new_tokens=max_new_tokens,
            temperature=1.0, stop=stop, stop_strings=ends,
        ))  # fmt: skip
        told = [ids[keep].tolist() for ids, keep in zip(new, kept)]
        rows += [(ids if ends is None else stops.cut(ends, ids)) or [0] for ids in told]
    return rows[: len(cells)], [e for e, _ in cells]


def vectors(sums, counts):
    """[E, L, D]: mean of each emotion's stories less the mean of all the others', from sums [L, E, D], counts [E]."""
    total, n = sums.sum(1, keepdims=True), counts.sum()
    found = sums / jnp.maximum(counts, 1)[:, None] - (total - sums) / jnp.maximum(n - counts, 1)[:, None]
    return jnp.where((counts > 0)[:, None, None], jnp.swapaxes(found, 0, 1), 0.0)


def neutral_components(act, use=None, share: float = 0.5):
    """Principal axes [K, L, D] of neutral activations [L, N, D] that together carry `share` of their variance.

    The number differs by layer: those beyond it are zero, which `geometry.residualise` leaves out.
    """
    use = jnp.ones(act.shape[1], bool) if use is None else use
    mean = jnp.where(use[:, None], act, 0.0).sum(1, keepdims=True) / use.sum()
    x = jnp.where(use[:, None], act - mean, 0.0)
    axes, part = geometry.pca_axis(x, min(act.shape[1:]), centre=False)
    before = jnp.cumsum(part, -1) - part
    return jnp.swapaxes(jnp.where((before < share)[..., None], axes, 0.0), 0, 1)


def without(found, components):
    """Vectors [E, L, D] with the components [K, L, D] (orthonormal or zero) projected out."""
    along = jnp.einsum("eld,kld->elk", found, components)
    return found - jnp.einsum("elk,kld->eld", along, components)


def axes(found, like=None):
    """First two principal components [2, L, D] of emotion vectors [E, L, D] and their shares [L, 2].

    like [L, D] (a sentiment direction, say) settles the sign of the first.
    """
    both, share = geometry.pca_axis(jnp.swapaxes(found, 0, 1), 2)
    both = jnp.swapaxes(both, 0, 1)
    if like is not None:
        flip = jnp.where(jnp.sum(both[0] * like, -1, keepdims=True) < 0, -1.0, 1.0)
        both = both.at[0].multiply(flip)
    return both, share


def neutral(tokenizer, path, limit: int, longest: int, first: int) -> extract.Samples:
    """Neutral dialogues (records with `text`), averaged as the stories are."""
    rows = texts.spread(texts.records(path, "dialogues.jsonl", ("text",)), limit)
    before = texts.lead(tokenizer)
    told = [ids[len(before) :] for ids in texts.plain(tokenizer, [r["text"] for r in rows], longest)]
    return texts.averaged(told, [0] * len(rows), first, before=before)
