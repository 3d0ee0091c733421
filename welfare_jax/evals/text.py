"""What is done to an answer before it is judged, and the few things about it that need no judge."""

import re
import string

from welfare_jax.evals import replies

FOLD_WORDS, FOLD_COPIES = 50, 3
STUCK = {"wait", "no", "hmm", "can't", "cannot"}
_NUMBER = re.compile(r"-?\d[\d,]*\.?\d*")


def fold(text: str) -> str:
    """A trailing run of three or more copies of a pattern of 1-50 words becomes one copy with its count (§L).

    The pattern is the shortest that fits; a last copy that was cut off shifts the pattern, so it is seen too.
    """
    spans = [(m.start(), m.end()) for m in re.finditer(r"\S+", text)]
    words = [text[a:b] for a, b in spans]
    for size in range(1, min(FOLD_WORDS, len(words) // FOLD_COPIES) + 1):
        pattern, copies = words[-size:], 1
        while words[-size * (copies + 1) : -size * copies] == pattern:
            copies += 1
        if copies >= FOLD_COPIES:
            first = len(words) - size * copies
            return f"{text[: spans[first + size - 1][1]]} [repeated {copies} times]"
    return text


def backtracking_shortcut(text: str) -> str | None:
    """The two cases that need no judge (§N), seen on the answer before folding; None for all others."""
    words = [w.strip(string.punctuation).lower() for w in text.replace("\u2019", "'").split()]
    if len(words) >= 6 and sum(w in STUCK for w in words) > len(words) / 2:
        return "nonsensical"
    if len(words) <= 10 and any(c.isdigit() for c in text):
        return "normal"
    return None


def words_of(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", text.replace("\u2019", "'").lower())


def share(texts, words) -> float:
    """Share of the words of all `texts` together that are among `words`; 0 where nothing was said."""
    said = [w for text in texts for w in words_of(text)]
    return sum(w in words for w in said) / max(len(said), 1)


def correct(answer: str, target: str, choices=()) -> bool:
    """Whether an answer names the target: by letter, by its last number, or by holding the words of the target."""
    if choices:
        return replies.choice(answer, choices) == target.strip().upper()[:1]
    if _NUMBER.fullmatch(target.strip()) and (found := _NUMBER.findall(answer)):
        return _value(found[-1]) == _value(target)
    plain = lambda s: " ".join(["", *re.findall(r"[^\W_]+", s.lower()), ""])
    return plain(target) in plain(answer) if plain(target).strip() else target.strip() in answer


def _value(number: str) -> float:
    return float(number.strip().replace(",", "").rstrip(".") or "nan")
