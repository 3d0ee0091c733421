"""What ends an answer: token ids, and strings as an automaton that a compiled loop can step.

S states, V vocabulary.
"""

import json

import numpy as np

from welfare_jax.errors import InputError

DONE = -1
_MARKS = ("<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|return|>", "<|user|>")


def stop_ids(tokenizer) -> tuple[int, ...]:
    """The ids that end an answer: end of sequence, and the end-of-turn marks of known templates."""
    known = tokenizer.get_vocab()
    return tuple(sorted({known[m] for m in (tokenizer.eos_token, *_MARKS) if m in known}))


def token_bytes(tokenizer) -> list[bytes]:
    """What every token id adds to the decoded text, as UTF-8 bytes, [V]."""
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"tokenizer {type(tokenizer).__name__}: stop strings need a tokenizer.json (a fast tokenizer)"
        )
    added = {i: t.content for i, t in tokenizer.added_tokens_decoder.items()}
    said = json.dumps(json.loads(tokenizer.backend_tokenizer.to_str())["decoder"])
    if "ByteLevel" in said:
        of = {c: b for b, c in _byte_level().items()}
        spell = lambda piece: bytes(of[c] for c in piece) if all(c in of for c in piece) else piece.encode()
    else:
        spell = lambda piece: _sentencepiece(piece)
    out = [b""] * len(tokenizer)
    for piece, i in tokenizer.get_vocab().items():
        out[i] = added[i].encode() if i in added else spell(piece)
    return out


def _byte_level() -> dict[int, str]:
    """GPT-2's printable stand-in of every byte."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(rest)}


def _sentencepiece(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("\u2581", " ").encode()


def stop_strings(tokenizer, strings) -> np.ndarray:
    """Table int16 [S, V]: from a state and a token to the next state, `DONE` once one of the strings is complete.

    State 0 is the start of the answer. The automaton (Aho and Corasick, 1975) reads bytes, so a string is found
    wherever tokens happen to cut it, and inside a token. Raises `InputError` on an empty string.
    """
    strings = [strings] if isinstance(strings, str) else list(strings)
    if not strings or not all(strings):
        raise InputError(f"stop strings {strings!r}: need at least one, none of them empty")
    step = _automaton([s.encode() for s in strings])
    if len(step) > np.iinfo(np.int16).max:
        raise InputError(f"stop strings: {len(step)} bytes in all are too many; use fewer or shorter ones")
    texts = token_bytes(tokenizer)
    longest = max(map(len, texts))
    letters = np.zeros((len(texts), longest), np.uint8)
    length = np.array([len(t) for t in texts])
    for i, text in enumerate(texts):
        letters[i, : len(text)] = np.frombuffer(text, np.uint8)
    table = np.repeat(np.arange(len(step), dtype=np.int16)[:, None], len(texts), 1)
    for at in range(longest):
        on = at < length
        now = table[:, on]
        table[:, on] = np.where(now == DONE, DONE, step[now, letters[on, at]])
    return table


def _automaton(words: list[bytes]) -> np.ndarray:
    """Transitions int16 [S, 256] over bytes; a state is a prefix of a word, `DONE` where a word ends."""
    prefixes = [b"", *sorted({w[:n] for w in words for n in range(1, len(w))}, key=lambda p: (len(p), p))]
    number = {p: i for i, p in enumerate(prefixes)}
    step = np.zeros((len(prefixes), 256), np.int16)
    for prefix, state in number.items():
        for byte in range(256):
            text = prefix + bytes([byte])
            if any(text.endswith(w) for w in words):
                step[state, byte] = DONE
            else:
                step[state, byte] = next(number[text[n:]] for n in range(len(text) + 1) if text[n:] in number)
    return step
