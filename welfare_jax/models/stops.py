"""What ends an answer: token ids, and strings as an automaton that a compiled loop can step.

S states, V vocabulary.
"""

import json
import pathlib

import numpy as np

from welfare_jax import templates, textfiles
from welfare_jax.errors import InputError

DONE = -1
CONFIG, GENERATION = "config.json", "generation_config.json"
# What the templates of known families write behind an answer, or begin the next turn with, and what ends a text. Not
# "</s>", which closes struck-out text in Gemma's vocabulary; where it is the end of sequence the tokenizer says so.
MARKS = (
    "<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|end|>", "<|return|>", "<|call|>",
    "<|user|>", "<|observation|>", "<|END_OF_TURN_TOKEN|>", "<end_of_utterance>", "<|endoftext|>", "<|end_of_text|>",
    "<eos>",
)  # fmt: skip
CHANNEL, MESSAGE, END = "<|channel|>", "<|message|>", "<|end|>"


def stop_ids(tokenizer, template=None) -> tuple[int, ...]:
    """The ids that end an answer: all that the model's files, the tokenizer and the chat template say of it.

    template: keyword arguments of the chat template, as for `encode`. The files are those beside a tokenizer that
    `wj.load` has read: `eos_token_id` of config.json and of generation_config.json, or a GGUF file's metadata. The
    tokenizer adds its end of sequence and the marks of known templates, the template the added token that it writes
    right behind an answer. With channels (GPT-OSS), `<|end|>` closes each of them: it ends an answer only where the
    files say so, or the prompt opens the final channel.
    """
    return tuple(sorted({*listed(tokenizer), *_marks(tokenizer, template)}))


def listed(tokenizer) -> tuple[int, ...]:
    """What the files beside a tokenizer say an answer ends with; nothing where `wj.load` has not read it."""
    return getattr(tokenizer, "listed_ends", ())


def only_listed(tokenizer, template=None) -> tuple[int, ...]:
    """Those of `stop_ids` that nothing but the model's files says."""
    return tuple(sorted({*listed(tokenizer)} - _marks(tokenizer, template)))


def _marks(tokenizer, template) -> set[int]:
    """What the tokenizer and the chat template say an answer ends with."""
    known = tokenizer.get_vocab()
    marks = {*MARKS, *_behind_answers(tokenizer, template)}
    if CHANNEL in known and not _opens_final(tokenizer, template):
        marks.discard(END)
    return {known[mark] for mark in (*marks, tokenizer.eos_token) if mark in known}


def listed_in(folder) -> tuple[int, ...]:
    """The ids that config.json and generation_config.json of a folder say an answer ends with, where there are any.

    A multimodal model has them outside of its `text_config`, or else inside.
    """
    found = set()
    for file in (pathlib.Path(folder) / CONFIG, pathlib.Path(folder) / GENERATION):
        said = textfiles.json_object(file) if file.is_file() else {}
        inner = said.get("text_config")
        if said.get("eos_token_id") is None and isinstance(inner, dict):
            said = inner
        found.update(token_ids(said.get("eos_token_id"), f"{file}: eos_token_id"))
    return tuple(sorted(found))


def token_ids(said, name: str) -> list[int]:
    """A token id, several or None, as the list of those that can be one: some files write -1 for none."""
    found = [] if said is None else said if isinstance(said, list) else [said]
    if not all(type(i) is int for i in found):
        raise InputError(f"{name}={str(said)[:80]}: need a token id, a list of them or null")
    return [i for i in found if i >= 0]


def _behind_answers(tokenizer, template) -> list[str]:
    """The added tokens that the chat template writes right behind an answer, the last one or one before a question."""
    question, answer = {"role": "user", "content": "QuestionQ"}, {"role": "assistant", "content": "AnswerQ"}
    added, out = [t.content for t in tokenizer.added_tokens_decoder.values()], []
    for talk in ([question, answer], [question, answer, question]):
        try:
            text = templates.render(tokenizer, talk, template, opening=False)
        except InputError:  # a base model has no template, and a template need not take such a conversation
            continue
        behind = text.partition(answer["content"])[2].lstrip()
        out += sorted((t for t in added if t.strip() and behind.startswith(t)), key=len)[-1:]
    return out


def _opens_final(tokenizer, template) -> bool:
    """Whether the head of an answer, as the chat template writes it, ends within a channel called final."""
    try:
        text = templates.render(tokenizer, [{"role": "user", "content": "Q"}], template, opening=True)
    except InputError:
        return False
    _, channel, head = text.rpartition(CHANNEL)
    name, message, said = head.partition(MESSAGE)
    return bool(channel and message) and name.split("<")[0].strip() == "final" and END not in said


def without_end(ids, stop):
    """Token ids of an answer without the one that ended it, where one of `stop` did."""
    return ids[:-1] if len(ids) and int(ids[-1]) in stop else ids


def cut(table: np.ndarray, ids) -> list[int]:
    """Token ids up to the first that has a part in the stop string that ends them; all where none does.

    table: of `stop_strings`.
    """
    state = before = 0
    for n, i in enumerate(ids, 1):
        state = int(table[state, i]) if i < table.shape[1] else state
        if state == DONE:
            return list(ids[:before])
        before = n if state == 0 else before
    return list(ids)


def vocabulary_size(tokenizer) -> int:
    """The rows that an embedding needs for every id; ids may have holes, so this can be more than `len`."""
    return max(tokenizer.get_vocab().values()) + 1


def token_bytes(tokenizer) -> list[bytes]:
    """What every token id adds to the decoded text, as UTF-8 bytes, [V]; nothing for ids without a token."""
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
    out = [b""] * vocabulary_size(tokenizer)
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
    if not strings or not all(isinstance(s, str) and s for s in strings):
        raise InputError(f"stop strings {strings!r}: need at least one, all of them texts and none empty")
    for s in strings:
        templates.whole(s, f"stop string {s!r}")
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
