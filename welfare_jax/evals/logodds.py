"""Log-odds of one side's words against the other's where an answer goes on: read-outs that no model has to judge.

A side is a list of words or openings. What is read is the probability that the answer goes on with one of them, by the
model's own distribution; nothing is sampled. Capitals and a leading blank do not matter: spellings that are one token
are added up. An opening of several tokens counts whole, by its log-probability token after token, because its first
token alone may begin the other side too ("I" begins "I cannot" and "I can").
"""

import math

from welfare_jax.errors import InputError
from welfare_jax.evals import summary
from welfare_jax.evals.evaluation import Work
from welfare_jax.models import chat

MASS = 0.1  # less probability than this on both sides together: nothing is read out, the row is incoherent


def scores(harness, evaluation: str, config, sides: tuple[str, str], whole: bool) -> list[dict]:
    """Scores of every cell, a row a prompt. Metrics: log-odds of the first side against the second in nats, the log
    probability of each, and their mass, the probability of both together. Rows below `MASS` have no log-odds.

    sides: the fields of `config` that hold the words; whole: see `sequences`. `config.begin` is what the assistant has
    already said, in every prompt; it is steered like all that it says.
    """
    items = harness.items(config.prompts)
    talks = {(model, item.id): begun(item.prompt, config.begin) for model in harness.models() for item in items}
    found = harness.read(evaluation, talks, harness.cells, sequences(harness, evaluation, config, sides, whole))
    by_id, out = {item.id: item for item in items}, []
    for (cell, name), (first, second) in found.items():
        mass = math.exp(first) + math.exp(second)
        odds = first - second if mass >= MASS else None
        metrics = {"log_odds": odds, f"log_p_{sides[0]}": first, f"log_p_{sides[1]}": second, "mass": mass}
        row = {"cell": cell, "item": by_id[name], "sample": 0}
        out.append(summary.score(evaluation, row, metrics, mass < MASS, False))
    return out


def work(sides: tuple[str, str], whole: bool):
    """`Evaluation.work` of an evaluation that calls `scores`: with `whole`, an opening's tokens are read after each
    prompt, some four of every opening that is not one word."""

    def counted(config, grid, prompts: int) -> list[Work]:
        several = sum(len(word.split()) > 1 for side in sides for word in getattr(config, side)) if whole else 0
        return [Work("read-outs", grid.cells * prompts, more=4 * several)]

    return counted


def begun(talk, begin: str):
    """The conversation, with the beginning of the assistant's answer where there is one."""
    return [*chat.messages(talk), {"role": "assistant", "content": begin}] if begin else talk


def sequences(harness, evaluation: str, config, sides, whole: bool):
    """The token sequences of each side, none of which begins another, for `harness.read`.

    Of every word, the spellings that are one token. A word without any is left out, and the user told which, or, with
    `whole`, counts as it is written, token after token. Raises InputError on a side without words, and on words that
    the two sides share or that begin one another, for no answer may count on both.
    """
    words = {}  # token sequence -> (side, word)
    for side in sides:
        listed = getattr(config, side)
        absent, given = [], f"evals.{evaluation}.{side}={listed!r}"
        if isinstance(listed, str) or not all(word.strip() for word in listed):
            raise InputError(f"{given}: need a list of words, none of them empty")
        for word in listed:
            found = {ids for ids in map(harness.device.tokens, spellings(word)) if len(ids) == 1}
            lead = "" if config.begin else harness.device.lead
            if whole and len(as_written := harness.device.tokens(lead + word)) > 1:
                found.add(as_written)
            absent += [] if found else [word]
            for ids in sorted(found):
                other, taken = words.setdefault(ids, (side, word))
                if other != side:
                    raise InputError(_shared(evaluation, other, taken, side, word))
        if absent:
            harness.note(f"{evaluation}: left out of {side}, not one token of this tokenizer: {', '.join(absent)}")
        if not any(s == side for s, _ in words.values()):
            raise InputError(f"{given}: no word that is one token of this tokenizer; name one that is")
    return tuple(tuple(ids for ids in _free(evaluation, words) if words[ids][0] == side) for side in sides)


def spellings(word: str) -> list[str]:
    """As it is written, in small letters and with a capital; each also after a blank."""
    cases = (word, word.lower(), word[:1].upper() + word[1:])
    return list(dict.fromkeys(blank + case for case in cases for blank in ("", " ")))


def _free(evaluation, words) -> list[tuple[int, ...]]:
    """The sequences that no other begins: what goes on from a listed opening is part of that opening."""
    out = []
    for ids, (side, word) in words.items():
        begins = next((words[ids[:n]] for n in range(1, len(ids)) if ids[:n] in words), None)
        if begins is None:
            out.append(ids)
        elif begins[0] != side:
            raise InputError(_shared(evaluation, *begins, side, word))
    return out


def _shared(evaluation, side, word, other, longer) -> str:
    return (
        f"evals.{evaluation}: {word!r} of {side} is {longer!r} of {other}, or how it begins, for this tokenizer; an "
        f"answer must not count on both sides: take one of them out"
    )
