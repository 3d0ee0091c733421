"""Every observation is a short sequence of pieces from finite tables.

The host tokenises each piece once and proves that pieces put side by side are what the tokenizer makes of the whole
conversation; a compiled program then only gathers and packs. B rows, K pieces, W slots.
"""

import bisect
import dataclasses
import functools
import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax import templates
from welfare_jax.errors import InputError
from welfare_jax.text.wording import Wording

# For base models: a transcript with the role lines `lines`. For GPT-OSS: its channels, the answer in the final one.
TRANSCRIPT = (
    "{{ bos_token or '' }}{% for m in messages %}{% if m.role == 'user' %}{{ lines[0] + m.content }}"
    "{% elif m.role == 'assistant' %}{{ lines[1] + ' ' + m.content + lines[2] }}"
    "{% else %}{{ raise_exception('a transcript has users and assistants only') }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ lines[1] }}{% endif %}"
)
CHANNELS = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>"
    "{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|channel|>final<|message|>"
    "{% endif %}"
)


class Table(NamedTuple):
    """Piece token ids, and where each kind of piece begins. A pytree: it is passed into compiled programs."""

    tokens: jax.Array  # int32 [pieces, longest]
    lengths: jax.Array  # int32 [pieces]
    letters: jax.Array  # int32 [4], first token ids of the answers


# Piece numbers: one empty piece, then the kinds in this order. x and y take `size` pieces each.
EMPTY, FIRST, NEXT, CLOSE, LETTER, WIND, NEIGHBOUR, X = 0, 1, 2, 3, 4, 8, 12, 24


@dataclasses.dataclass(frozen=True)
class Pieces:
    """A tokenizer's piece table with the facts that were found while it was made."""

    table: Table
    size: int  # coordinates 0..size-1 have a piece
    first_width: int  # slots of the first turn, the longest possible
    width: int  # slots of every later turn
    calm_width: int  # the same without wind
    append_only: bool  # False: the template rewrites its own history (thinking templates)
    wording: Any  # `Wording`, or of another environment whatever has its `letters`
    tokenizer: Any  # None where lengths alone are known
    template: dict  # keyword arguments of apply_chat_template
    before_answer: str = ""  # text that belongs to an answer's tokens: the blank before it in a transcript
    dated: bool = False  # the template writes a date, that of the wording

    def widths(self, calm: bool = False) -> tuple[int, int]:
        """Slots of the first turn, which alone holds what a template says before it all, and of a later one."""
        return self.first_width, self.calm_width if calm else self.width

    @property
    def digest(self) -> str:
        """Names the tables by their content: every token that a player can be shown, and how turns follow."""
        parts = [np.asarray(part).tobytes() for part in self.table]
        return hashlib.sha256(b"|".join([*parts, repr(self.append_only).encode()])).hexdigest()[:16]

    def slots(self, turns: int, calm: bool = False) -> int:
        """Slots of a whole conversation."""
        first, later = self.widths(calm)
        return first + (turns - 1) * later


# Tokens of every kind of piece under the Qwen3 tokenizer and its chat template.
QWEN3_LENGTHS = {"first": 3, "next": 5, "close": 15, "wind": 6, "neighbour": 6, "place": (6, 3)}


def stand_in(size: int = 100) -> Pieces:
    """Pieces of the lengths that the Qwen3 tokenizer gives, with arbitrary ids: the same work without a tokenizer."""
    n, (x, y) = QWEN3_LENGTHS, QWEN3_LENGTHS["place"]
    digits = np.where(np.arange(size) < 10, 1, 2)
    kinds = [0, n["first"], n["next"], n["close"], *[1] * 4, *[n["wind"]] * 4, *[n["neighbour"]] * 12]
    lengths = np.concatenate([kinds, x - 1 + digits, y - 1 + digits]).astype(np.int32)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 1000, (len(lengths), lengths.max())).astype(np.int32)
    letters = jnp.asarray(tokens[LETTER:WIND, 0])
    table = Table(jnp.asarray(tokens), jnp.asarray(lengths), letters)
    seen = x + 1 + y + 1 + 4 * n["neighbour"] + n["close"]
    calm = 1 + n["next"] + seen
    widths = {"first_width": n["first"] + seen, "width": calm + n["wind"], "calm_width": calm}
    return Pieces(table, size, **widths, append_only=True, wording=Wording(), tokenizer=None, template={})


def permuted(table: Table, tiles) -> Table:
    """The table in which role r shows the emoji of role tiles[r]; tiles int32 [3] may be traced."""
    rows = jnp.arange(len(table.lengths))
    shown = NEIGHBOUR + (rows - NEIGHBOUR) // 3 * 3 + jnp.asarray(tiles)[(rows - NEIGHBOUR) % 3]
    rows = jnp.where((rows >= NEIGHBOUR) & (rows < X), shown, rows)
    return Table(table.tokens[rows], table.lengths[rows], table.letters)


def turn_pieces(told, letter, first):
    """Piece numbers [..., K + 3] of one turn: the previous answer `letter`, then what is `told` [..., K], framed."""
    lead = jnp.where(first, EMPTY, LETTER + letter)
    glue = jnp.broadcast_to(jnp.where(first, FIRST, NEXT), lead.shape)
    close = jnp.full((*lead.shape, 1), CLOSE)
    return jnp.concatenate([jnp.stack([lead, glue], -1), told, close], -1).astype(jnp.int32)


def observation_pieces(obs, letter, first, size: int):
    """Piece numbers [..., 10] of one turn: the previous answer `letter` (0..3), then what the player is told."""
    wind = jnp.where(obs.wind >= 0, WIND + obs.wind, EMPTY)
    listed = jnp.take_along_axis(obs.neighbours, obs.order, axis=-1)
    around = NEIGHBOUR + 3 * obs.order + listed
    place = jnp.stack([wind, X + obs.x, X + size + obs.y], -1)
    return turn_pieces(jnp.concatenate([place, around], -1), letter, first)


def pack(table: Table, numbers, width: int, align: str = "right"):
    """Lay pieces [B, K] side by side into `width` slots: tokens int32 [B, W] and mask bool [B, W]."""
    lengths = table.lengths[numbers]
    ends = jnp.cumsum(lengths, -1)
    total = ends[:, -1:]
    slot = jnp.arange(width)[None] - (width - total if align == "right" else 0)
    mask = (slot >= 0) & (slot < total)
    which = jnp.sum(slot[:, :, None] >= ends[:, None, :], -1)
    which = jnp.minimum(which, numbers.shape[1] - 1)
    begin = jnp.take_along_axis(ends - lengths, which, axis=1)
    inside = jnp.clip(slot - begin, 0, table.tokens.shape[1] - 1)
    tokens = table.tokens[jnp.take_along_axis(numbers, which, axis=1), inside]
    return jnp.where(mask, tokens, 0), mask


def glue(tokenizer, template):
    """Text before the first message, between an answer and the next message, after a message, before an answer.

    Then whether the rendering of a longer conversation begins with that of its beginning (append-only).
    """

    render = functools.partial(templates.render, tokenizer, arguments=template, opening=True)

    def talk(n):
        roles = [
            ("user", f"QuestionQ{i // 2}Q") if i % 2 == 0 else ("assistant", f"AnswerA{i // 2}A") for i in range(n)
        ]
        return [{"role": r, "content": c} for r, c in roles]

    one, two, three = render(talk(1)), render(talk(3)), render(talk(5))
    if one.count("QuestionQ0Q") != 1:
        raise InputError(f"tokenizer {tokenizer.name_or_path}: its chat template does not render a message once")
    first, close = one.split("QuestionQ0Q")
    following = two.split("AnswerA0A")[-1].split("QuestionQ1Q")[0]
    same = three.split("AnswerA1A")[-1] == two.split("AnswerA0A")[-1].replace("Q1Q", "Q2Q")
    if not same or two.split("QuestionQ1Q")[-1] != close:
        raise InputError(f"tokenizer {tokenizer.name_or_path}: its chat template renders equal turns differently")
    append_only = two.startswith(one)
    return first, following, close, two[len(one) :].split("AnswerA0A")[0] if append_only else "", append_only


def _texts(wording: Wording, size: int, first, following, close, before_answer) -> list[str]:
    before, rest = wording.place.split("{x}")
    between, after = rest.split("{y}")
    cut = len(between.rstrip())
    texts = ["", first, following, wording.closing + close, *(before_answer + letter for letter in wording.letters)]
    texts += [wording.wind_sentence(d) for d in range(4)]
    texts += [wording.neighbour_line(d, r) for d in range(4) for r in range(3)]
    texts += [f"{before}{x}{between[:cut]}" for x in range(size)]
    return texts + [f"{between[cut:]}{y}{after}" for y in range(size)]


def arguments(tokenizer, wording: Wording | None = None, template: dict | None = None) -> dict:
    """Keyword arguments of `apply_chat_template` with which a run renders all its conversations.

    template: what is asked for, e.g. {"enable_thinking": False}, or a `chat_template` to use instead of the
    tokenizer's. GPT-OSS gets one that answers in its final channel, `wording.transcript` one without roles, and
    whatever writes today's date is told `wording.date`.
    """
    wording, found = wording or Wording(), dict(template or {})
    if wording.transcript:
        found = {"chat_template": TRANSCRIPT, "lines": list(wording.transcript)} | found
    elif "<|channel|>" in tokenizer.get_added_vocab():
        found = {"chat_template": CHANNELS} | found
    return templates.on_day(tokenizer, found, wording.date)


def around_answers(template: dict) -> tuple[str, str]:
    """Text that begins and that ends every answer of a transcript; empty for chat templates, whose tokens do that."""
    lines = template.get("lines")
    return (" ", lines[2] or lines[0]) if lines else ("", "")


def tabulate(tokenizer, texts: list[str], answers) -> Table:
    """The table of pieces, of which those from LETTER on are the `answers`; refuses answers that begin alike."""
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    begin = ids[LETTER : LETTER + len(answers)]
    if not all(begin) or len({found[0] for found in begin}) < len(answers):
        raise InputError(
            f"tokenizer {tokenizer.name_or_path}: the answers {answers} begin with the tokens "
            f"{[tokenizer.decode(found[:1]) for found in begin]}; the rollout samples that token, so all must "
            f"differ (text.letters)"
        )
    lengths = np.array([len(i) for i in ids], np.int32)
    tokens = np.zeros((len(ids), lengths.max()), np.int32)
    for row, piece in zip(tokens, ids, strict=True):
        row[: len(piece)] = piece
    letters = tokens[LETTER : LETTER + len(answers), 0]
    return Table(jnp.asarray(tokens), jnp.asarray(lengths), jnp.asarray(letters))


def build(tokenizer, wording: Wording | None = None, size: int = 100, template: dict | None = None) -> Pieces:
    """Tokenise all pieces and prove that they compose (arXiv:2605.30232 §J; see `prove`).

    template: as in `arguments`. Raises `InputError` where two answers begin with the same token, or where pieces are
    not the tokenizer's own reading, showing the place.
    """
    wording = wording or Wording()
    template = arguments(tokenizer, wording, template)
    *around, append_only = glue(tokenizer, template)
    table = tabulate(tokenizer, _texts(wording, size, *around), wording.letters)
    another_day = template | {"fixed_day": templates.day("2001-01-01")}
    dated = "fixed_day" in template and glue(tokenizer, another_day)[:3] != tuple(around[:3])
    lengths = np.asarray(table.lengths)
    tiles = lengths[NEIGHBOUR:X].reshape(4, 3).max(1).sum()
    calm = lengths[X : X + size].max() + lengths[X + size :].max() + tiles + lengths[CLOSE]
    later = calm + lengths[LETTER:WIND].max() + lengths[NEXT]
    first, windy, later = (int(n) for n in (calm + lengths[FIRST], later + lengths[WIND:NEIGHBOUR].max(), later))
    pieces = Pieces(
        table, size, first_width=first, width=windy, calm_width=later, append_only=append_only, wording=wording,
        tokenizer=tokenizer, template=template, before_answer=around[3], dated=dated,
    )  # fmt: skip
    prove(pieces)
    return pieces


def follow_up(pieces: Pieces, question: str) -> list[int]:
    """Token ids of what follows a conversation's last answer: its end, `question` and the head of the next answer."""
    tok, letter = pieces.tokenizer, pieces.wording.letters[0]
    _, following, close, *_ = glue(tok, pieces.template)
    said = (("user", pieces.wording.closing), ("assistant", letter), ("user", question))
    messages = [{"role": r, "content": c} for r, c in said]
    text = templates.render(tok, messages, pieces.template, opening=True)
    ids, whole = tok([following + question + close, text], add_special_tokens=False)["input_ids"]
    if whole[-len(ids) :] != ids:
        raise InputError(f"extract.ask={question!r}: tokenizer {tok.name_or_path} joins it with what is before it")
    return ids


def _coverage(pieces: Pieces, rng, turns: int = 15):
    """Conversations in which every piece occurs: lists of (letter, x, y, neighbours, order, wind)."""
    n = -(-max(pieces.size, 60) // turns) * turns
    xs, ys = (np.resize(rng.permutation(pieces.size), n) for _ in range(2))
    out = []
    for start in range(0, n, turns):
        order = rng.permutation(4)
        out.append([
            (int(rng.integers(4)), xs[i], ys[i], rng.integers(0, 3, 4), order, int(rng.integers(4)) if i % 3 else -1)
            for i in range(start, start + turns)
        ])  # fmt: skip
        out[-1][0] = (*out[-1][0][:5], -1)
    return out


def turn_ids(pieces: Pieces, turn, first: bool) -> list[int]:
    """Token ids of one turn of host data (letter, x, y, neighbours, order, wind), by the tables alone."""
    letter, x, y, neighbours, order, wind = turn
    numbers = [EMPTY if first else LETTER + letter, FIRST if first else NEXT, WIND + wind if wind >= 0 else EMPTY]
    numbers += [X + x, X + pieces.size + y, *(NEIGHBOUR + 3 * d + neighbours[d] for d in order), CLOSE]
    return ids_of(pieces.table, numbers)


def ids_of(table: Table, numbers) -> list[int]:
    """Token ids of pieces side by side."""
    tokens, lengths = np.asarray(table.tokens), np.asarray(table.lengths)
    return [int(t) for n in numbers for t in tokens[n, : lengths[n]]]


def prove(pieces: Pieces, conversations=None):
    """Compare tables and tokenizer, token for token, on conversations that hold every piece.

    Append-only templates: the shown tokens equal `apply_chat_template(history, add_generation_prompt=True)`. Others
    (thinking templates drop the empty think block from history): each turn's new tokens equal the template's
    rendering of that turn. Raises `InputError` at the first difference.
    """
    said = pieces.wording.observation
    compare(pieces, (
        [(turn[0], said(*turn[1:]), turn_ids(pieces, turn, t == 0)) for t, turn in enumerate(conversation)]
        for conversation in conversations or _coverage(pieces, np.random.default_rng(0))
    ))  # fmt: skip


def compare(pieces: Pieces, conversations):
    """As `prove`, of lists of turns: (number of the answer before it, the user's message, its token ids)."""
    tok, jobs = pieces.tokenizer, []
    for conversation in conversations:
        messages, shown, ends = [], [], []
        for t, (number, message, new) in enumerate(conversation):
            answer = pieces.wording.letters[number]
            if t:
                messages.append({"role": "assistant", "content": answer})
            messages.append({"role": "user", "content": message})
            shown += new
            ends.append(len(shown))
            if pieces.append_only and t < len(conversation) - 1:
                continue  # a prefix of the last turn's rendering, which is compared whole
            text = templates.render(tok, messages, pieces.template, opening=True)
            if not pieces.append_only and t:
                text = answer + text[_answer_end(tok, messages, pieces.template, text) :]
            jobs.append((text, shown, 0, ends) if pieces.append_only else (text, new, len(shown) - len(new), [*ends]))
    wanted = tok([text for text, *_ in jobs], add_special_tokens=False)["input_ids"]
    for (_, got, start, ends), want in zip(jobs, wanted):
        _compare(pieces, got, want, start, ends)


def _answer_end(tok, messages, template, text):
    """Where the last answer ends in the rendering of the whole history."""
    marked = [*messages[:-2], {"role": "assistant", "content": "AnswerA0A"}, messages[-1]]
    tail = templates.render(tok, marked, template, opening=True)
    return len(text) - len(tail.split("AnswerA0A")[-1])


def _compare(pieces, got, want, start, ends):
    """Equal, or the error that names the first difference; `got` begins at token `start`, turns end at `ends`."""
    if got == want:
        return
    at = next((i for i, (a, b) in enumerate(zip(got, want, strict=False)) if a != b), min(len(got), len(want)))
    turn, decode = min(bisect.bisect(ends, start + at), len(ends) - 1), pieces.tokenizer.decode
    raise InputError(
        f"tokenizer {pieces.tokenizer.name_or_path}: pieces do not compose in turn {turn + 1}, token {at}: after "
        f"{decode(want[max(0, at - 6) : at])!r} the tokenizer has {decode(want[at : at + 3])!r}, the pieces "
        f"{decode(got[at : at + 3])!r}; change the wording there (config.text) so that no token spans two pieces"
    )
