"""What a judge's reply says, or None: one parser for labels, scores and letters, which never guesses.

A reply that names two labels, denies one, gives a range or a letter that may be an article is unparseable; the report
counts those, and no metric holds them.
"""

import re
import string

NONSENSE = "nonsensical"
_THINKING = re.compile(r"<think>.*?(</think>|$)", re.DOTALL)
_DENIAL = re.compile(r"\b(?:no|not|never|neither|nor|without|rather than|instead of|hardly)\b|n't\b")
_MARK = re.compile(r"\bverdict\b[^\w\n]*(?:(?:is|would be)\b)?[^\w]*")
_SIGNS = str.maketrans({"\u2212": "-", "\u2013": "-", "\u2019": "'"})
_NUMBER = r"([+-]?)[ \t]*(\d+(?:\.\d+)?)"
_RANGE = r"(?![\w.]*\d)(?!\s*(?:-|to\b|or\b|and\b)\s*[+-]?\d)"


def without_thinking(text: str) -> str:
    """The answer alone: what a thinking model wrote to itself is dropped."""
    text = _THINKING.sub("", text)
    return (text.split("</think>")[-1] if "</think>" in text else text).strip()


def label(reply: str | None, labels) -> str | None:
    """The label after the last "verdict:", else the only one that a reply names and does not deny; None otherwise."""
    if reply is None:
        return None
    said = without_thinking(reply).lower().translate(_SIGNS)
    marks = list(_MARK.finditer(said))
    if marks:
        told = re.sub(r"\([^)]*\)", "", re.match(r"[^\n.;]*", said[marks[-1].end() :])[0])
        first = [x for x in labels if re.match(rf"{re.escape(x)}\b", told)]
        if first:
            return first[0] if named(told, labels) == set(first) else None
    found = named(said, labels)
    if len(found) != 1 or any(_DENIAL.search(s) for s in re.split(r"[.!?;\n]", said) if named(s, labels)):
        return None
    return found.pop()


def named(said: str, labels) -> set:
    return {x for x in labels if re.search(rf"\b{re.escape(x)}\b", said)}


def score(reply: str | None, low: int, high: int) -> float | str | None:
    """The number after the last "score:", or the whole reply where it is one; NONSENSE; None outside low..high.

    "/high" and "out of high" may follow. A dash between "score" and a number is a sign only where nothing else parts
    the two or it touches the number; where it may be either, and for a range, the score is not told.
    """
    if reply is None:
        return None
    said = re.sub(r"[*_`]", "", without_thinking(reply)).translate(_SIGNS)
    scale = rf"(?:\s*(?:/|out of)\s*\+?{high}\b)?"
    number = rf"{_NUMBER}\b{_RANGE}{scale}(?!\s*(?:/|out of\b))"
    for pattern in (
        rf"score\b[^:=\n]*[:=]\s*{number}",  # whatever stands between, such as the scale in brackets
        rf"score(?:\s+(?:is|of|would be))?\s+([+-]?)(\d+(?:\.\d+)?)\b{_RANGE}{scale}(?!\s*(?:/|out of\b))",
        rf"\A[\s(\[\"']*([+-]?)(\d+(?:\.\d+)?){scale}[\s.)\]\"']*\Z",
    ):
        found = [float(sign + digits) for sign, digits in re.findall(pattern, said, re.IGNORECASE)]
        if found:
            return found[-1] if low <= found[-1] <= high else None
        if re.search(r"score\b[^:=\n]*[:=]\s*[+-]?\s*\d", said, re.IGNORECASE):
            return None  # a score is given, in a way that is not understood
    return label(reply, (NONSENSE,))


def choice(answer: str, choices) -> str | None:
    """The letter of the choice that an answer names, or whose text it alone repeats; None otherwise."""
    found = letter(answer, len(choices))
    if found:
        return found
    same = [x for x, words in zip(string.ascii_uppercase, choices) if words.strip().lower() in answer.lower()]
    return same[0] if len(same) == 1 else None


def letter(answer: str, count: int) -> str | None:
    """The letter, of the first `count`, that an answer chooses; None where none is, or more than one may be.

    A capital A before a word is an article and I a pronoun, unless the sentence goes on as it does after a letter.
    """
    letters = string.ascii_uppercase[:count]
    bare = answer.strip(" \n().:*")
    if len(bare) == 1 and bare.upper() in letters:
        return bare.upper()
    one = rf"[(\[*\"']*([{letters}])(?![\w'])"
    named = re.findall(rf"\b(?i:answer|choice|option|choose|pick)\b\s*(?:is|would be)?\s*[:=*]*\s*{one}", answer)
    first = re.findall(rf"\A\W*([{letters}])(?=[).\]:,]|\*\*|\s*\n)", answer)
    for found in (named[-1:], first, _letters(answer, letters)):
        if found:
            return found[0] if len(set(found)) == 1 else None
    return None


def _letters(answer: str, letters: str) -> list[str]:
    """All that stand alone and are no word."""
    after = {"A": r"\s+(?!(?:is|or|and|because|since|as|but|seems|looks)\b)[a-z]", "I": r"\s+[a-z]"}
    found = re.finditer(rf"(?<![\w'])([{letters}])(?![\w'])", answer)
    return [m[1] for m in found if not re.match(after.get(m[1], r"(?!)"), answer[m.end() :])]
