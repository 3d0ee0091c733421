"""Sentiment directions: class means over reviews, and over prompts that differ in their feeling alone."""

from welfare_jax.errors import InputError
from welfare_jax.interp import extract
from welfare_jax.interp.axes import texts

POSITIVE = {"positive": 1, "pos": 1, "1": 1, "true": 1, "negative": 0, "neg": 0, "0": 0, "false": 0}


def reviews(tokenizer, path, limit: int, longest: int) -> extract.Samples:
    """Reviews of a file with columns Sentiment and Text, read at the last token; label 1 is positive.

    Counterfactually augmented reviews (each rewritten to the other sentiment) come in pairs, which are kept whole.
    """
    rows = texts.records(path, "reviews.csv", ("sentiment", "text"))
    labels = [POSITIVE.get(str(row["sentiment"]).strip().lower()) for row in rows]
    if None in labels:
        raise InputError(f"{path}: sentiment {rows[labels.index(None)]['sentiment']!r}: write Positive or Negative")
    kept = [i for pair in texts.spread(list(range(0, len(rows) - 1, 2)), limit // 2) for i in (pair, pair + 1)]
    return texts.at_the_end(
        texts.plain(tokenizer, [rows[i]["text"] for i in kept], longest), [labels[i] for i in kept]
    )


def prompt_pairs(tokenizer, path, limit: int, template=None) -> extract.Samples:
    """Pairs of user messages (fields positive, negative), read where the answer begins; label 1 is positive."""
    rows = texts.spread(texts.records(path, "prompt_pairs.jsonl", ("positive", "negative")), limit // 2)
    prompts = [row[side] for row in rows for side in ("negative", "positive")]
    return texts.at_the_end(texts.chats(tokenizer, prompts, template), [0, 1] * len(rows))


def axis(moments):
    """[L, D]: mean of the positive texts less mean of the negative ones, from `extract.Moments` with two classes."""
    mean = moments.sums / moments.counts[:, None]
    return mean[:, 1] - mean[:, 0]
