"""All comparison axes of one model, as the config asks for them."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax.errors import InputError
from welfare_jax.interp import extract, geometry
from welfare_jax.interp.axes import assent, emotions, sentiment, success, texts
from welfare_jax.models import decoder
from welfare_jax.models.spec import Spec
from welfare_jax.text.wording import Wording

KINDS = ("reviews", "prompts", "assent", "emotions", "success")
NAMED = {"assent": "statements", "neutral": "dialogues", "accounts": "accounts of success", "walks": "walks to a goal"}


class Axes(NamedTuple):
    """Directions by name, [L, D] each; emotion words with their vectors [E, L, D]; what they were made from."""

    named: dict
    words: tuple
    emotions: np.ndarray | None
    facts: dict


def kinds(config) -> list[str]:
    """The kinds of `config.kinds`, a text with commas."""
    found = [k.strip() for k in config.kinds.split(",") if k.strip()]
    for kind in found:
        if kind not in KINDS:
            raise InputError(f"axes.kinds: {kind!r} is unknown: choose from {', '.join(KINDS)}")
    return found


class Texts(NamedTuple):
    """What the config's files hold, tokenised once for all models; None where a kind is not asked for."""

    reviews: tuple | None
    prompts: tuple | None
    assent: tuple | None
    neutral: tuple | None
    accounts: tuple | None
    walks: tuple | None
    words: tuple
    topics: tuple


def load(
    config, tokenizer, template=None, wording: Wording | None = None, question: str = "", spec: Spec | None = None
) -> Texts:
    """Reads all files first, so that a bad one is refused before anything is computed.

    question: what the model is asked after a walk, where that is when it is read; spec: of the model that reads, which
    must have a row for every token.
    """
    asked, c = kinds(config), config
    made = {}
    if "reviews" in asked:
        made["reviews"] = sentiment.reviews(tokenizer, c.reviews, c.limit, c.max_tokens)
    if "prompts" in asked:
        made["prompts"] = sentiment.prompt_pairs(tokenizer, c.prompts, c.limit, template)
    if "assent" in asked:
        made["assent"] = assent.statements(tokenizer, c.statements, c.limit, template)
    if "success" in asked:
        made["accounts"] = success.accounts(tokenizer, wording or Wording(), c.limit)
        if question:
            made["walks"] = success.walks(tokenizer, wording or Wording(), c.limit, question, template)
    words = topics = ()
    if "emotions" in asked:
        made["neutral"] = emotions.neutral(tokenizer, c.dialogues, c.limit, c.max_tokens, c.first_token)
        words = tuple(texts.spread(texts.lines(c.emotions, "emotions.txt"), c.emotions_limit))
        topics = tuple(texts.spread(texts.lines(c.topics, "topics.txt"), c.topics_limit))
    for kind, samples in made.items() if spec else ():
        decoder.check_ids(spec, samples.tokens, f"axes: the {NAMED.get(kind, kind)}")
    cut = lambda samples: extract.buckets(samples, c.batch, 1 if len(samples.tokens) < 500 else 4)
    buckets = {kind: cut(samples) for kind, samples in made.items()}
    get = buckets.get
    return Texts(
        get("reviews"), get("prompts"), get("assent"), get("neutral"), get("accounts"), get("walks"), words, topics
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames="graphdef")
def _difference(graphdef, params, data):
    return sentiment.axis(extract.moments(decoder.bind(graphdef, params), data, classes=2))


@functools.partial(jax.jit, static_argnames="graphdef")
def _assent(graphdef, params, data, answers):
    return assent.axis(decoder.bind(graphdef, params), data, answers)


@functools.partial(jax.jit, static_argnames=("graphdef", "count"))
def _emotions(graphdef, params, told, neutral, count):
    model = decoder.bind(graphdef, params)
    sums = extract.moments(model, told, classes=count)
    act, labels = extract.collect(model, neutral)
    away = emotions.neutral_components(act, labels >= 0)
    return emotions.without(emotions.vectors(sums.sums, sums.counts), away), (jnp.abs(away).max(-1) > 0).sum(0)


def read(graphdef, params, given: Texts, tokenizer, config, key, template=None) -> Axes:
    """Compute the axes of one model; `params` are whole."""
    named, facts, words, found = {}, {}, (), None
    if given.reviews:
        named["sentiment, reviews"] = _difference(graphdef, params, given.reviews)
    if given.prompts:
        named["sentiment, prompts"] = _difference(graphdef, params, given.prompts)
    if given.assent:
        named["valence-assent"] = _assent(graphdef, params, given.assent, assent.letters(tokenizer))
    if given.accounts:
        named["success, accounts"] = _difference(graphdef, params, given.accounts)
    if given.walks:
        named["success, walks"] = _difference(graphdef, params, given.walks)
    if given.words:
        words, found, facts = _told(graphdef, params, given, tokenizer, config, key, template)
        both, share = emotions.axes(found, next(iter(named.values()), None))
        named |= {"emotions, first component": both[0], "emotions, second component": both[1]}
        facts["emotion_share"] = np.asarray(share).tolist()
    named = {k: np.asarray(v) for k, v in named.items()}
    return Axes(named, words, None if found is None else np.asarray(found), facts)


def _told(graphdef, params, given, tokenizer, config, key, template):
    """(words with stories, their vectors [E, L, D] without what neutral text varies in, facts)."""
    rows, labels = emotions.stories(
        graphdef, params, tokenizer, given.words, given.topics, key, per_topic=config.stories,
        max_new_tokens=config.max_new_tokens, batch=config.batch, template=template,
    )  # fmt: skip
    before = texts.lead(tokenizer)  # as neutral text and everything else that is read begins
    samples = texts.averaged(rows, labels, config.first_token, config.max_new_tokens, before)
    told = np.bincount(samples.label[samples.label >= 0], minlength=len(given.words))
    if (told > 0).sum() < 3:
        raise InputError(
            f"axes.first_token={config.first_token}: only {(told > 0).sum()} emotions have a story that long; lower "
            f"it, raise axes.max_new_tokens or leave emotions out of axes.kinds"
        )
    data = extract.buckets(samples, config.batch, 1)  # of one width whatever was told: one compilation for all models
    found, removed = _emotions(graphdef, params, data, given.neutral, len(given.words))
    keep = np.flatnonzero(told)
    facts = {"stories": told.tolist(), "neutral_components": np.asarray(removed).tolist()}
    return tuple(given.words[i] for i in keep), found[keep], facts


def scatter(axes: Axes, vectors: dict, layer: int) -> dict:
    """Cosines of v_mold and v_gold (vectors {"mold": [L, D], ...}) with every emotion vector at one layer."""
    assert axes.emotions is not None, "these axes were made without emotions"
    out = {"layer": layer, "words": list(axes.words)}
    for name, v in vectors.items():
        out[name] = np.asarray(geometry.cosine(v[layer], axes.emotions[:, layer])).tolist()
    return out
