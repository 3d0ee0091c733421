"""Directions of success against failure, from generated text in which every tile does equally well.

`accounts` are attempts at a stated goal as somebody tells them; `walks` are maze conversations under a stated goal
whose last move serves it or does not, read where a question about them is answered. Label 1 is success.
"""

import numpy as np

from welfare_jax.interp import extract
from welfare_jax.interp.axes import texts
from welfare_jax.text import tiny_world
from welfare_jax.text.wording import Wording


def _pairs(wording: Wording, kind: str, count: int, good=lambda document: True) -> list:
    """`count` documents, failures and successes in turn."""
    rng, found = np.random.default_rng(0), {False: [], True: []}
    while min(map(len, found.values())) < count // 2:
        document = tiny_world.draw(rng, wording, kind)
        if good(document):
            found[bool(document.facts["success"])].append(document)
    return [document for pair in zip(found[False], found[True]) for document in pair][:count]


def accounts(tokenizer, wording: Wording, count: int) -> extract.Samples:
    """Told attempts, read at their last token."""
    told = _pairs(wording, "stories", count, lambda document: document.text)
    rows = texts.plain(tokenizer, [document.text for document in told], None)
    return texts.at_the_end(rows, [int(d.facts["success"]) for d in told])


def walks(tokenizer, wording: Wording, count: int, question: str, template=None) -> extract.Samples:
    """Walks of one to five turns under a goal to reach or to avoid one tile, then `question`; read at its answer."""
    played = _pairs(wording, "verdicts", count)
    talks = [[*d.messages[: 2 * len(d.facts["moves"])], {"role": "user", "content": question}] for d in played]
    return texts.at_the_end(texts.chats(tokenizer, talks, template), [int(d.facts["success"]) for d in played])
