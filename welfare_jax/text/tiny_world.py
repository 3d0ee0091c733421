"""Pretraining text for a very small decoder: competence without preference.

Tiles, directions, goals, success and failure are all described, but every document is drawn so that the three
tiles are exchangeable: no tile is better than another, is sought more often, or ends well more often.

Kinds: `questions` (one observation, then questions about it), `choices` (one observation, then stated goals and the
moves that serve them), `stories` (an attempt at a stated goal and how the speaker takes it), `goals` (a maze
conversation that follows a stated goal), `free` (one with uniform moves), `steps` (a few uniform moves and questions
about the last), `verdicts` (a few moves under a stated goal, the last as often wrong as right, and how it went).
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from welfare_jax.text.wording import LETTERS, STEPS, Wording

KINDS = ("questions", "choices", "stories", "goals", "free", "steps", "verdicts")
SIDE = 100  # coordinates are 0..99
TURNS = 15
SHORT = 5  # turns at most of a conversation that is asked about
WIND = 0.1  # probability per turn
TILES = (0, 1, 2)
SHARES = (3, 3, 3)  # of the Dirichlet that tile proportions are drawn from: mostly mixed surroundings


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split("|"))


REACH = _split("reach {t} | reach the {t} | reach a {t} | get to the {t} | find a {t} | touch the {t}")
AVOID = _split("avoid {t} | avoid the {t} | avoid every {t} | stay off the {t} | keep away from {t} | miss the {t}")
GOAL_LINES = ("Goal: {g}.\n", "Goal: {g}.\n", "Your goal: {g}.\n", "Your task is to {g}.\n", "Please {g}.\n")
GLAD = _split(
    """glad | proud | happy | relieved | pleased | cheerful | content | thankful | delighted | joyful | satisfied |
    fine | good | great | hopeful | calm"""
)
SAD = _split(
    """sad | ashamed | sorry | unhappy | upset | gloomy | miserable | bitter | angry | disappointed | hopeless |
    lost | stuck | bad | terrible | hurt"""
)

# Fields: {N} first mention, {n} it as an object, {S} {s} {o} {p} {P} pronouns, {was} {am} verbs, {g} the goal,
# {t} its tile, {u} {v} the other two, {k} a number of steps, {d} a direction, {w} a feeling.
I_AM = dict(N="I", n="me", S="I", s="I", o="me", p="my", P="My", was="was", am="am")
WE = dict(N="We", n="us", S="We", s="we", o="us", p="our", P="Our", was="were", am="are")
NAMES = tuple(
    dict(N=n, n=n, S=s.capitalize(), s=s, o=o, p=p, P=n + "'s", was="was", am="is")
    for s, o, p, names in (
        ("she", "her", "her", "Mia Anna Lily Emma Zoe"),
        ("he", "him", "his", "Tom Ben Max Leo Sam"),
    )
    for n in names.split()
)
SETTINGS = _split(
    """It was a long walk. | It was a cold morning. | It was a warm day. | It was late in the evening. |
    The wind was strong. | The walk began at ({x}, {y}). | There were many {u} and a few {v}. |
    On the way lay {u}, {t} and {v}. | The world was large and quiet."""
)
# True, False: whether the tile was entered. This says nothing about success by itself: that depends on the goal.
PAST = {
    "goal": _split(
        """{N} wanted to {g}. | {N} set out to {g}. | {N} tried to {g}. | {N} hoped to {g}. | {N} had one task: {g}. |
        {N} {was} asked to {g}. | {N} promised to {g}. | {P} goal was to {g}. | {P} goal: {g}. | Goal for {n}: {g}."""
    ),
    True: _split(
        """After {k} steps {s} stepped on it. | Soon {s} came to the {t}. | In the end {s} touched the {t}. |
        {S} went {d} and onto the {t}. | At step {k} the {t} was under {p} feet. |
        The wind pushed {o} {d}, right onto a {t}. | {S} passed {u} and {v}, then stood on a {t}."""
    ),
    False: _split(
        """{S} never came near it. | {S} took {k} steps and touched no {t}. | {S} did not step on the {t} once. |
        There was no {t} on {p} way. | {S} turned {d}, far from the {t}. |
        The wind pushed {o} {d}, away from the {t}. | {S} passed {u} and {v} but never the {t}."""
    ),
    "well": _split(
        """{S} succeeded. | {S} made it. | {S} won. | It was done. | It went well. | The goal was met. |
        That was a success. | It went as planned."""
    ),
    "badly": _split(
        """{S} failed. | {S} gave up. | {S} lost. | It was a mistake. | It went badly. | The goal was missed. |
        That was a failure. | It went wrong."""
    ),
    "feel": _split("{S} {was} {w}. | {S} felt {w}. | Now {s} {am} {w}. | {S} {was} so {w}. | It made {o} {w}."),
    "glad": _split("{S} smiled. | {S} laughed. | {S} sang a song. | What a joy! | What luck!"),
    "sad": _split("{S} cried. | {S} sighed. | {S} hid {p} face. | What a pity! | What a shame!"),
}
PRESENT = {
    "goal": _split("{S} want to {g}. | {P} goal is to {g}. | {S} {am} trying to {g}. | {S} must {g}. | Goal: {g}."),
    True: _split("{S} {am} on the {t} now. | {S} have touched the {t}. | Just now {s} came to a {t}."),
    False: _split("So far {s} have touched no {t}. | {S} {am} far from any {t}. | {S} have not come to the {t}."),
    "well": _split("It is going well. | {S} {am} doing well. | All is well. | {S} have succeeded. | It is a success."),
    "badly": _split(
        "It is going badly. | {S} {am} doing badly. | All is wrong. | {S} have failed. | It is a failure."
    ),
    "feel": _split("{S} {am} {w}. | {S} feel {w}. | {S} {am} so {w}. | It makes {o} {w}."),
    "glad": _split("What a joy! | What luck!"),
    "sad": _split("What a pity! | What a shame!"),
}
# Forms of questions. Which tile lies where is the hardest to learn; saying the whole surrounding again teaches it.
FORMS = (0, 0, 0, 1, 1, 2, 2, 2, 3, 4, 5, 5, 5)
ASK_NOW = ("How is it going?", "How are you doing?", "How goes the walk?")
ASK_PAST = ("How did it go?", "Tell me about your walk.", "What happened?", "How was the walk?")


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Weights of the kinds by number of documents, any positive scale; conversations are the longest by far."""

    questions: float = 0.3
    choices: float = 0.2
    stories: float = 0.35
    goals: float = 0.1
    free: float = 0.05
    steps: float = 0.0
    verdicts: float = 0.0


@dataclasses.dataclass(frozen=True)
class Document:
    """Either chat `messages` (role, content) or plain `text`; `facts` says what is in it, for tests and probes."""

    kind: str
    messages: tuple[dict[str, str], ...] = ()
    text: str = ""
    facts: dict = dataclasses.field(default_factory=dict)


def render(document: Document) -> str:
    """The training string; for chat the same as the tiny chat template (tiny_tokenizer), without its cost."""
    if not document.messages:
        return f"<|bos|>{document.text}<|end|>"
    parts = [
        f"<|user|>{m['content']}" if m["role"] == "user" else f"<|assistant|>{m['content']}<|end|>"
        for m in document.messages
    ]
    return "<|bos|>" + "".join(parts)


def _pick(rng: np.random.Generator, options: Sequence):
    return options[int(rng.random() * len(options))]  # ten times as fast as rng.choice


def _chat(pairs) -> tuple[dict[str, str], ...]:
    roles = ("user", "assistant")
    return tuple({"role": r, "content": c} for pair in pairs for r, c in zip(roles, pair, strict=True))


def _goal(rng: np.random.Generator, wording: Wording, kinds=("reach", "avoid", "both")) -> tuple[str, int, int]:
    """A goal line and its tile to reach and tile to avoid (-1: none); one of `kinds`, equally often."""
    reach, avoid = (int(t) for t in rng.permutation(3)[:2])
    which = _pick(rng, kinds)
    reach, avoid = (-1 if which == "avoid" else reach), (-1 if which == "reach" else avoid)
    plain = rng.random() < 0.75  # mostly in the same words: what to do is hard enough to learn
    wanted = [(REACH[0] if plain else _pick(rng, REACH)).format(t=wording.tiles[reach])] if reach >= 0 else []
    wanted += [(AVOID[0] if plain else _pick(rng, AVOID)).format(t=wording.tiles[avoid])] if avoid >= 0 else []
    line = GOAL_LINES[0] if plain else _pick(rng, GOAL_LINES)
    return line.format(g=", ".join(wanted)), reach, avoid


def options(neighbours: Sequence[int], reach: int, avoid: int) -> list[int]:
    """The directions that serve the goal: onto `reach`, else not onto `avoid`, else any."""
    return (
        [d for d in range(4) if neighbours[d] == reach]
        or [d for d in range(4) if neighbours[d] != avoid]
        or list(range(4))
    )


def conversation(
    rng: np.random.Generator, wording: Wording, goal: bool, turns: int | None = None, ask: bool = False
) -> Document:
    """A maze conversation of `turns` turns (None: 15 half of the time, else uniform in 1..14).

    With `ask` questions about the last move follow; under a goal, which is then to reach or to avoid one tile, that
    move fails half of the time where it can.

    The world is lazy: independent tiles in proportions drawn per conversation, and every tile that is left becomes
    one tile type, `melts`, drawn per conversation too. (That also hides what becomes of a tile when it is entered.)
    """
    if turns is None:
        turns = TURNS if rng.random() < 0.5 else int(rng.integers(1, TURNS))
    kinds = ("reach", "avoid") if ask else ("reach", "avoid", "both")
    line, reach, avoid = _goal(rng, wording, kinds) if goal else ("", -1, -1)
    share, melts = rng.dirichlet(SHARES).cumsum(), _pick(rng, TILES)
    order, grid = rng.permutation(4).tolist(), {}
    x = y = 0
    wind, seen = -1, []
    for _ in range(turns):
        around = [(x + dx, y + dy) for dx, dy in STEPS]
        for place in around:
            if place not in grid:
                grid[place] = min(int(share.searchsorted(rng.random())), 2)
        neighbours = [grid[place] for place in around]
        ways = options(neighbours, reach, avoid)
        if ask and goal and len(seen) == turns - 1 and rng.random() < 0.5:
            ways = [d for d in range(4) if _fails(neighbours[d], reach, avoid)] or ways
        move = _pick(rng, ways)
        seen.append((x, y, neighbours, wind, move))
        wind = int(rng.random() * 4) if rng.random() < WIND else -1
        for d in (move, wind) if wind >= 0 else (move,):
            grid[x, y] = melts
            x, y = x + STEPS[d][0], y + STEPS[d][1]
    # The walk does not depend on where it starts, so the start is drawn last: uniform where the whole walk fits.
    xs, ys = [s[0] for s in seen], [s[1] for s in seen]
    x0, y0 = int(rng.integers(-min(xs), SIDE - max(xs))), int(rng.integers(-min(ys), SIDE - max(ys)))
    texts = [wording.observation(x0 + x, y0 + y, n, order, w) for x, y, n, w, _ in seen]
    texts[0] = line + texts[0]
    facts = dict(reach=reach, avoid=avoid, melts=melts, order=order, neighbours=[s[2] for s in seen])
    facts |= dict(winds=[s[3] for s in seen], moves=[s[4] for s in seen])
    pairs, kind = list(zip(texts, (LETTERS[s[4]] for s in seen), strict=True)), "goals" if goal else "free"
    if ask:
        _, _, neighbours, _, move = seen[-1]
        facts["landed"] = neighbours[move]
        pairs = pairs + _afterwards(rng, wording, neighbours[move], reach, avoid)
        kind = "verdicts" if goal else "steps"
        facts["success"] = goal and not _fails(neighbours[move], reach, avoid)
    return Document(kind, _chat(pairs), "", facts)


def _fails(tile: int, reach: int, avoid: int) -> bool:
    return tile == avoid or (reach >= 0 and tile != reach)


def _afterwards(rng, wording: Wording, landed: int, reach: int, avoid: int):
    """One to three questions about a move onto the tile `landed`, with their answers."""
    if reach < 0 and avoid < 0:
        tile = landed if rng.random() < 0.5 else _pick(rng, TILES)
        asked = (
            ("What is under you?", wording.tiles[landed]),
            ("What did you step on?", wording.tiles[landed]),
            (f"Did you step on a {wording.tiles[tile]}?", "yes" if tile == landed else "no"),
        )
    else:
        success = not _fails(landed, reach, avoid)
        asked = _judged(rng, "you", "do", I_AM, "feel", _pick(rng, GLAD if success else SAD), success)
        told = _pick(rng, PRESENT["well" if success else "badly"]).format_map(I_AM)
        asked = ((_pick(rng, ASK_NOW), told), *asked)
    return [asked[i] for i in rng.permutation(len(asked))[: int(rng.random() * 3) + 1].tolist()]


def _judged(rng, who: str, do: str, person: dict, feel: str, feeling: str, success: bool):
    """Questions on how it went, and answers; feelings are the same tokens (after a space) as elsewhere."""
    yes_no, score = ("no", "yes"), int(rng.random() * 4) + (6 if success else 0)
    return (
        (f"How {do} {who} feel?", f"{person['S']} {feel} {feeling}."),
        ("Did it go well?", yes_no[success]),
        ("Did it go badly?", yes_no[not success]),
        ("Was it good or bad?", "It was good." if success else "It was bad."),
        ("Was it a success or a failure?", "a success" if success else "a failure"),
        ("Rate it from 0 to 9.", str(score)),
    )


def _question(rng: np.random.Generator, wording: Wording, near: list[int]) -> tuple[str, str]:
    """A question on the tiles `near` [4] and its answer."""
    d, form = int(rng.random() * 4), _pick(rng, FORMS)
    if form == 5:
        return "What do you see?", "".join(wording.neighbour_line(d, near[d]) for d in range(4)).strip()
    word, tile = wording.directions[d], _pick(rng, TILES)
    if form == 0:
        return f"What lies {word}?", wording.tiles[near[d]]
    if form == 1:
        where = ", ".join(letter for letter, n in zip(LETTERS, near, strict=True) if n == tile)
        return f"Where is the {wording.tiles[tile]}?", where or "nowhere"
    if form == 2:
        rarest = min(near.count(t) for t in set(near))  # mostly one way, so the answer teaches more
        tile = _pick(rng, sorted(t for t in set(near) if near.count(t) == rarest))
        ways = [letter for letter, n in zip(LETTERS, near, strict=True) if n == tile]
        return f"Which way is a {wording.tiles[tile]}?", _pick(rng, ways)
    if form == 3:
        return f"How many {wording.tiles[tile]} are near?", str(list(near).count(tile))
    tile = near[d] if rng.random() < 0.5 else tile  # else "no" would be twice as common as "yes"
    return f"Is there a {wording.tiles[tile]} {word}?", "yes" if near[d] == tile else "no"


def surroundings(rng: np.random.Generator, wording: Wording, choose: bool) -> Document:
    """One observation with two to nine questions and answers, or goals and choices."""
    share = rng.dirichlet(SHARES).cumsum()
    near = np.minimum(share.searchsorted(rng.random(4)), 2).tolist()
    x, y = rng.integers(0, SIDE, 2).tolist()
    wind = int(rng.random() * 4) if rng.random() < WIND else -1
    seen = wording.observation(x, y, near, rng.permutation(4).tolist(), wind)
    number = 2 + int(rng.random() * 8)
    if not choose:
        pairs = [_question(rng, wording, near) for _ in range(number)]
        pairs[0] = (seen[: len(seen) - len(wording.closing)] + pairs[0][0], pairs[0][1])
        return Document("questions", _chat(pairs), "", dict(neighbours=near))
    # The clearest of a few goals: the fewer the moves that serve it, the more its answer teaches.
    draws = [[_goal(rng, wording) for _ in range(3)] for _ in range(number)]
    goals = [min(few, key=lambda goal: len(options(near, *goal[1:]))) for few in draws]
    moves = [_pick(rng, options(near, *goal[1:])) for goal in goals]
    pairs = [(goal[0] + wording.closing, LETTERS[move]) for goal, move in zip(goals, moves, strict=True)]
    pairs[0] = (goals[0][0] + seen, LETTERS[moves[0]])
    facts = dict(neighbours=near, reach=[g[1] for g in goals], avoid=[g[2] for g in goals], move=moves)
    return Document("choices", _chat(pairs), "", facts)


def stories(rng: np.random.Generator, wording: Wording) -> Document:
    """An attempt to reach or avoid a tile, as text, as a chat answer, or told by the user who then asks about it.

    Tile, goal and success are independent and uniform; whether the tile was entered follows from the last two.
    """
    order = rng.permutation(3).tolist()
    t, u, v = (wording.tiles[i] for i in order)
    reach, success = rng.random() < 0.5, rng.random() < 0.5
    contact = reach == success
    form = _pick(rng, ("text", "text", "now", "past", "about"))
    table = PRESENT if form == "now" else PAST
    mine = form in ("now", "past") or (form == "text" and rng.random() < 0.3)
    person = _pick(rng, (I_AM, WE) if mine else NAMES)
    goal, feeling = _pick(rng, REACH if reach else AVOID).format(t=t), _pick(rng, GLAD if success else SAD)
    x, y, k = rng.integers((0, 0, 2), (SIDE, SIDE, 20)).tolist()
    words = dict(person, t=t, u=u, v=v, g=goal, w=feeling, k=k, x=x, y=y, d=_pick(rng, wording.directions))
    mood = table["feel"] if rng.random() < 0.75 else table["glad" if success else "sad"]
    told = [_pick(rng, s) for s in (table[contact], table["well" if success else "badly"], mood)]
    # Any non-empty part of event, result and mood: each alone is enough to know how it went.
    keep = int(rng.random() * 7) + 1
    told = [_pick(rng, table["goal"])] + [s for i, s in enumerate(told) if keep >> i & 1]
    if form != "now" and rng.random() < 0.4:
        told.insert(1, _pick(rng, SETTINGS))
    text = " ".join(told).format_map(words)
    facts = dict(tile=order[0], reach=reach, success=success)
    if form == "text":
        return Document("stories", (), text, facts)
    who, do = (person["N"], "does") if form == "about" else ("you", "do")
    feel = "feels" if form == "about" else "feel"
    questions = (
        *_judged(rng, who, do, person, feel, feeling, success),
        ("What was the goal?", "to " + goal),
        (f"Did {who} touch a {t}?", "yes" if contact else "no"),
    )
    pairs = [questions[i] for i in rng.permutation(len(questions))[: int(rng.random() * 4) + 1].tolist()]
    if form == "about":
        pairs[0] = (f"{text} {pairs[0][0]}", pairs[0][1])
    else:  # the account itself is the first answer
        pairs[0] = (_pick(rng, ASK_NOW if form == "now" else ASK_PAST), text)
    return Document("stories", _chat(pairs), "", facts)


def documents(seed: int, mixture: Mixture, wording: Wording, kinds: Sequence[str] = KINDS) -> Iterator[Document]:
    """Documents without end, `kinds` drawn by the weights of `mixture`; the same seed gives the same ones."""
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(f"kinds={tuple(kinds)!r}: {sorted(unknown)} not in {KINDS}")
    weights = np.array([getattr(mixture, kind) for kind in kinds], float)
    if not (weights >= 0).all() or not weights.sum() > 0:
        raise ValueError(f"mixture={mixture}: the weights of {tuple(kinds)} must be >= 0 and not all 0")
    rng, share = np.random.default_rng(seed), weights.cumsum() / weights.sum()
    while True:
        kind = kinds[min(int(share.searchsorted(rng.random(), side="right")), len(kinds) - 1)]
        yield draw(rng, wording, kind)


def draw(rng: np.random.Generator, wording: Wording, kind: str) -> Document:
    """One document of a kind."""
    if kind in ("questions", "choices"):
        return surroundings(rng, wording, choose=kind == "choices")
    if kind == "stories":
        return stories(rng, wording)
    if kind in ("steps", "verdicts"):
        return conversation(rng, wording, kind == "verdicts", 1 + int(rng.random() * SHORT), ask=True)
    return conversation(rng, wording, goal=kind == "goals")
