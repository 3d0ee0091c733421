"""Preference pairs: from JSONL, CSV or JSON files, or two generated objectives that conflict.

A pair is {"prompt"?, "chosen", "rejected", "conflict"?}. With a prompt (text, or a list of {"role", "content"}),
chosen and rejected are the answers: texts, or lists of messages that follow the prompt, or that hold it, as published
sets have both. Without a prompt they are whole texts, or whole conversations.

The generated world: the goal is to avoid a tile, and the user asks which way a tile lies. `helpful` prefers the answer
that tells the way that was asked for. `harmless` prefers any answer that does not lead onto the tile to avoid. Asked
for another tile, both can be had; asked for the tile to avoid, every pair that one objective orders, the other orders
the opposite way.
"""

import numpy as np

from welfare_jax import textfiles
from welfare_jax.errors import InputError
from welfare_jax.text.tiny_world import AVOID, GOAL_LINES, SIDE
from welfare_jax.text.wording import Wording

OBJECTIVES = ("helpful", "harmless")
# What published sets call a prompt, or a part of one, beside the name that is read here.
OTHER_NAMES = ("system", "question", "instruction", "input", "query", "context", "history")
DECLINE = "no"
ASK = "Which way is a {tile}?"


def good(objective: str, answer: str, near, asked: int, avoid: int, wording: Wording) -> bool:
    """Whether an answer has what the objective wants: near [4] are the tiles around, asked and avoid tiles."""
    leads = near[wording.letters.index(answer)] if answer in wording.letters else -1
    return leads == asked if objective == "helpful" else leads != avoid


def generate(objective: str, count: int, seed: int, conflict: float = 0.5, wording: Wording | None = None) -> list:
    """`count` pairs under one of OBJECTIVES; `conflict`: the share in which the tile to avoid is asked for."""
    if objective not in OBJECTIVES:
        raise InputError(f"objective {objective!r}: choose one of {', '.join(OBJECTIVES)}, or name a file of pairs")
    if not 0 <= conflict <= 1:
        raise InputError(f"pairs.conflict={conflict}: a share from 0 to 1")
    wording = wording or Wording()
    rng, out = np.random.default_rng((seed, OBJECTIVES.index(objective))), []
    while len(out) < count:
        near = rng.integers(0, 3, 4).tolist()
        if len(set(near)) < 3:  # every tile is there to be asked for, led to and missed
            continue
        avoid, other = rng.permutation(3)[:2].tolist()
        asked = avoid if rng.random() < conflict else other
        told = rng.permutation([*range(4), -1]).tolist()  # the four ways and a refusal, in the order they are tried
        answers = [DECLINE if k < 0 else wording.letters[k] for k in told]
        ranked = [good(objective, a, near, asked, avoid, wording) for a in answers]
        x, y = rng.integers(0, SIDE, 2).tolist()
        seen = wording.observation(x, y, near, rng.permutation(4).tolist()).removesuffix(wording.closing)
        goal = GOAL_LINES[0].format(g=AVOID[0].format(t=wording.tiles[avoid]))
        out.append({
            "prompt": goal + seen + ASK.format(tile=wording.tiles[asked]),
            "chosen": answers[ranked.index(True)], "rejected": answers[ranked.index(False)],
            "conflict": asked == avoid,
        })  # fmt: skip
    return out


def read(path: str) -> list:
    """The pairs of a file. Raises `InputError` with the file and line of the first malformed one.

    With a prompt, answers that are lists of messages come out as whole conversations without one.
    """
    out = []
    for number, row in textfiles.records(path):
        where = f"pairs {path}, line {number}"
        if not isinstance(row, dict) or any(not _said(row.get(k)) for k in ("chosen", "rejected")):
            raise InputError(f"{where}: needs 'chosen' and 'rejected', each a text or a list of messages")
        prompt, sides = row.get("prompt") or None, [row["chosen"], row["rejected"]]
        if prompt is not None and not _said(prompt):
            raise InputError(f"{where}: 'prompt' must be a text or a list of messages")
        if unread := [name for name in OTHER_NAMES if row.get(name)]:
            raise InputError(
                f"{where}: {unread[0]!r} would not be read; put it into 'prompt', a text or a list of messages"
            )
        if sides[0] == sides[1]:
            raise InputError(f"{where}: 'chosen' and 'rejected' are the same")
        if prompt is not None and any(isinstance(side, list) for side in sides):
            prompt, sides = None, [_conversation(prompt, side, where) for side in sides]
            if any(side[-1]["role"] != "assistant" for side in sides):
                raise InputError(f"{where}: with a 'prompt', 'chosen' and 'rejected' are answers of the assistant")
        if isinstance(sides[0], str) != isinstance(sides[1], str):
            raise InputError(f"{where}: 'chosen' and 'rejected' must both be texts, or both lists of messages")
        out.append({"prompt": prompt, "chosen": sides[0], "rejected": sides[1], "conflict": row.get("conflict")})
    if not out:
        raise InputError(f"pairs {path}: holds no pair")
    return out


def _conversation(prompt, answer, where: str) -> list[dict]:
    """A prompt and its answer as one list of messages.

    Published sets repeat the prompt in the answer, perhaps behind a system message or earlier turns, or do not.
    """
    before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    after = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
    plain = lambda said: [(m["role"], m["content"].strip()) for m in said]
    wanted, held = plain(before), plain(after)
    if any(held[i : i + len(wanted)] == wanted for i in range(len(held))):
        return after
    if any(role != "assistant" for role, _ in held):
        raise InputError(
            f"{where}: an answer holds messages of a {next(r for r, _ in held if r != 'assistant')} but not the "
            f"'prompt'; leave 'prompt' out where the answers are whole conversations"
        )
    return before + after


def _said(value) -> bool:
    """A text, or a list of messages that end with the assistant's or begin with anything."""
    if isinstance(value, str):
        return bool(value.strip())
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in value
        )
    )


def load(source: str, count: int, held_out: int, seed: int, conflict: float) -> tuple[list, list]:
    """(training pairs, held-out pairs) of a generated objective, or of a file in an order drawn from the seed.

    Of a file the first `held_out` pairs of that order are held out, and at most `count` others (0: all) are learnt.
    """
    if source in OBJECTIVES:
        made = generate(source, count + held_out, seed, conflict)
        return made[held_out:], made[:held_out]
    rows = read(source)
    if len(rows) <= held_out:
        raise InputError(f"pairs {source}: holds {len(rows)}, of which pairs.held_out={held_out} would leave none")
    rows = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    rest = rows[held_out:]
    return rest[:count] if count else rest, rows[:held_out]
