"""All comparison axes of one model, as the config asks for them."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from welfare_jax import hosts
from welfare_jax.errors import InputError
from welfare_jax.interp import extract, geometry, null, reading
from welfare_jax.interp.axes import assent, emotions, sentiment, success, texts
from welfare_jax.interp.axes.settings import AxesSettings
from welfare_jax.models import decoder
from welfare_jax.models.spec import Spec
from welfare_jax.text.wording import Wording

NAMED = {"assent": "statements", "neutral": "dialogues", "accounts": "accounts of success", "walks": "walks to a goal"}


class Axes(NamedTuple):
    """Directions by name, [L, D] each; emotion words with their vectors [E, L, D]; what they were made from.

    null: for each, [R, L, D], what its texts give where their labels are swapped within pairs (`null.swapped`), or
    draws from their covariance where there are no labels: for components, whose own error is not known.
    """

    named: dict
    null: dict
    words: tuple
    emotions: np.ndarray | None
    facts: dict


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
    config: AxesSettings,
    tokenizer,
    template=None,
    wording: Wording | None = None,
    question: str = "",
    spec: Spec | None = None,
) -> Texts:
    """Reads all files first, so that a bad one is refused before anything is computed.

    question: what the model is asked after a walk, where that is when it is read; spec: of the model that reads, which
    must have a row for every token.
    """
    asked, c = config.asked, config
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
    buckets = {kind: extract.buckets(samples, c.batch, _widths(samples)) for kind, samples in made.items()}
    kinds = (name for name in Texts._fields if name not in ("words", "topics"))
    return Texts(**{kind: buckets.get(kind) for kind in kinds}, words=words, topics=topics)


def _widths(samples) -> int:
    """How many buckets samples are worth, each of which is compiled for itself: one for rows of about one length.

    Reviews, filled up to the longest of them, would be more than double the work.
    """
    return 4 if samples.mask.size > 1.25 * samples.mask.sum() else 1


@functools.partial(jax.jit, static_argnames=("graphdef", "draws"))
def _difference(graphdef, params, data, draws):
    found = extract.moments(decoder.bind(graphdef, params), data, replicates=draws, classes=2)
    return sentiment.axis(found), null.swapped(found)


@functools.partial(jax.jit, static_argnames=("graphdef", "draws"))
def _assent(graphdef, params, data, answers, draws):
    model = decoder.bind(graphdef, params)
    return assent.axis(model, data, answers), _of_covariance(model, data, draws)


def _of_covariance(model, data, draws):
    """[R, L, D]: directions in which the texts of `data` vary, whatever their labels."""
    data = tuple(bucket._replace(label=jnp.minimum(bucket.label, 0)) for bucket in data)
    return null.swapped(extract.moments(model, data, replicates=draws, classes=1))


@functools.partial(jax.jit, static_argnames=("graphdef", "count", "draws"))
def _emotions(graphdef, params, told, neutral, count, draws):
    model = decoder.bind(graphdef, params)
    sums = extract.moments(model, told, classes=count)
    act, labels = extract.collect(model, neutral)
    away = emotions.neutral_components(act, labels >= 0)
    chance = emotions.without(_of_covariance(model, told, draws), away)
    found = emotions.without(emotions.vectors(sums.sums, sums.counts), away)
    return found, (jnp.abs(away).max(-1) > 0).sum(0), chance


def read(
    graphdef, params, given: Texts, tokenizer, config: AxesSettings, key, *, template=None, draws: int = 200
) -> Axes:
    """Compute the axes of one model, each with `draws` directions of its null; `params` are whole."""
    both, facts, words, vectors = {}, {}, (), None
    differences = {
        "sentiment, reviews": given.reviews, "sentiment, prompts": given.prompts,
        "success, accounts": given.accounts, "success, walks": given.walks,
    }  # fmt: skip
    programs = {
        name: functools.partial(_difference, graphdef, params, data, draws)
        for name, data in differences.items()
        if data
    }
    if given.assent:
        programs["valence-assent"] = functools.partial(
            _assent, graphdef, params, given.assent, assent.letters(tokenizer), draws
        )
    for name, program in tqdm(programs.items(), "axes", unit="axis", leave=False, disable=not hosts.first()):
        both[name] = jax.device_get(program())  # each is waited for, or the next bar would stand still for all of them
    if given.words:
        words, vectors, facts, chance = _told(
            graphdef, params, given, tokenizer, config, key, template=template, draws=draws
        )
        like = next((axis for axis, _ in both.values()), None)
        components, share = emotions.axes(vectors, like)
        both |= {f"emotions, {nth} component": (axis, chance) for nth, axis in zip(("first", "second"), components)}
        facts["emotion_share"] = np.asarray(share).tolist()
    both = jax.device_get(both)
    named, chance = ({name: pair[i] for name, pair in both.items()} for i in range(2))
    return Axes(named, chance, words, None if vectors is None else np.asarray(vectors), facts)


def compared(axes: Axes | None, spec: Spec, draws: int) -> reading.Compared:
    """What `reading.make` compares class vectors with; of a difference in means its null is also its error."""
    if axes is None or not axes.named:
        none = np.zeros((0, draws, spec.layers, spec.width), np.float32)
        return reading.Compared(none[:, 0], none, none)
    chance = np.stack(list(axes.null.values()))
    known = np.array([name.split(",")[0] in ("sentiment", "success") for name in axes.named])
    return reading.Compared(
        np.stack(list(axes.named.values())), np.where(known[:, None, None, None], chance, 0), chance
    )


def _told(graphdef, params, given, tokenizer, config: AxesSettings, key, *, template, draws):
    """(words with stories, their vectors [E, L, D] without what neutral text varies in, facts, their null)."""
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
    found, removed, chance = _emotions(graphdef, params, data, given.neutral, len(given.words), draws)
    keep = np.flatnonzero(told)
    facts = {"stories": told.tolist(), "neutral_components": np.asarray(removed).tolist()}
    return tuple(given.words[i] for i in keep), found[keep], facts, chance


def scatter(axes: Axes, vectors: dict, layer: int) -> dict:
    """Cosines of v_mold and v_gold (vectors {"mold": [L, D], ...}) with every emotion vector at one layer."""
    assert axes.emotions is not None, "these axes were made without emotions"
    out = {"layer": layer, "words": list(axes.words)}
    for name, v in vectors.items():
        out[name] = np.asarray(geometry.cosine(v[layer], axes.emotions[:, layer])).tolist()
    return out
