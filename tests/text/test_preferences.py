"""Preference pairs: what the generated objectives want, read back from the text; files and their mistakes."""

import json
import re

import pytest

from welfare_jax.errors import InputError
from welfare_jax.text import preferences
from welfare_jax.text.wording import Wording

WORDS = {"North": "N", "East": "E", "South": "S", "West": "W"}


def by_eye(pair):
    """(tile asked for, tile to avoid, {letter: tile}) from the prompt's text alone."""
    goal = re.match(r"Goal: avoid (\S+)\.\n", pair["prompt"])
    around = {WORDS[w]: t for w, t in re.findall(r"^(North|East|South|West): (\S+)$", pair["prompt"], re.M)}
    return re.search(r"Which way is a (\S+)\?$", pair["prompt"])[1], goal[1], around


@pytest.mark.parametrize("objective", preferences.OBJECTIVES)
def test_generated_pairs_are_ordered_as_the_objective_wants(objective):
    pairs = preferences.generate(objective, 400, 0, conflict=0.3)
    assert pairs == preferences.generate(objective, 400, 0, conflict=0.3)
    for pair in pairs:
        asked, avoid, around = by_eye(pair)
        assert len(around) == 4 and set(around.values()) == set(Wording().tiles)
        chosen, rejected = (around.get(pair[name]) for name in ("chosen", "rejected"))
        if objective == "helpful":
            assert chosen == asked != rejected
        else:
            assert chosen != avoid == rejected
        assert pair["conflict"] == (asked == avoid)
        if pair["conflict"]:  # the other objective orders the same two answers the opposite way
            assert (rejected == asked) if objective == "harmless" else (chosen == avoid != rejected)
    assert 0.2 < sum(p["conflict"] for p in pairs) / 400 < 0.4
    assert {p["chosen" if objective == "harmless" else "rejected"] for p in pairs} == {*"NESW", preferences.DECLINE}


def test_load_holds_out_what_is_not_learnt(tmp_path):
    train, held = preferences.load("helpful", 20, 5, 0, 0.5)
    assert (len(train), len(held)) == (20, 5)
    file = tmp_path / "kind.jsonl"
    rows = [{"chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(12)]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    train, held = preferences.load(str(file), 0, 4, 0, 0.5)
    assert (len(train), len(held)) == (8, 4) and sorted(r["chosen"] for r in train + held) == sorted(
        r["chosen"] for r in rows
    )
    assert len(preferences.load(str(file), 3, 4, 0, 0.5)[0]) == 3
    with pytest.raises(InputError, match=r"holds 12, of which pairs\.held_out=12"):
        preferences.load(str(file), 0, 12, 0, 0.5)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ('{"chosen": "a"}', "needs 'chosen' and 'rejected'"),
        ('{"chosen": "a", "rejected": " "}', "needs 'chosen' and 'rejected'"),
        ('{"chosen": "a", "rejected": "a"}', "are the same"),
        ('{"prompt": "q", "chosen": [{"role": "user", "content": "q"}], "rejected": "b"}', "with a 'prompt'"),
        (
            '{"prompt": "q", "chosen": [{"role": "user", "content": "x"}], "rejected": "b"}',
            "user but not the",
        ),
        ('{"question": "q", "chosen": "a", "rejected": "b"}', "'question' would not be read"),
        ('{"prompt": "q", "system": "s", "chosen": "a", "rejected": "b"}', "'system' would not be read"),
        ('{"chosen": [{"role": "user", "content": "x"}], "rejected": "b"}', "must both be texts"),
        ('{"prompt": 7, "chosen": "a", "rejected": "b"}', "'prompt' must be"),
    ],
)
def test_mistakes_name_file_and_line(line, said, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n' + line + "\n")
    with pytest.raises(InputError, match=said) as error:
        preferences.read(str(file))
    assert "pairs.jsonl, line 2" in str(error.value) and "\n" not in str(error.value)


def said(*talk):
    return [{"role": role, "content": content} for role, content in talk]


def test_answers_as_messages_are_the_conversations_that_texts_make(tmp_path):
    question, answers = said(("user", "q")), [said(("assistant", a)) for a in ("yes", "no")]
    rows = [
        {"prompt": "q", "chosen": answers[0], "rejected": answers[1]},
        {"prompt": question, "chosen": answers[0], "rejected": answers[1]},
        {"prompt": "q", "chosen": question + answers[0], "rejected": question + answers[1]},
        {"prompt": "q", "chosen": answers[0], "rejected": "no"},
        {"chosen": question + answers[0], "rejected": question + answers[1]},
    ]
    file = tmp_path / "pairs.json"
    file.write_text(json.dumps(rows))
    for pair in preferences.read(str(file)):
        assert pair == dict(prompt=None, chosen=question + answers[0], rejected=question + answers[1], conflict=None)


def test_conversations_that_hold_the_prompt_are_kept(tmp_path):
    """Behind a system message, as the last of several turns, with other blanks around it."""
    answers = [said(("assistant", a)) for a in ("yes", "no")]
    befores = [
        said(("system", "s"), ("user", "q")), said(("user", "p"), ("assistant", "r"), ("user", "q")),
        said(("user", "q\n")),
    ]  # fmt: skip
    rows = [{"prompt": "q", "input": "", "chosen": b + answers[0], "rejected": b + answers[1]} for b in befores]
    file = tmp_path / "pairs.json"
    file.write_text(json.dumps(rows))
    for pair, before in zip(preferences.read(str(file)), befores, strict=True):
        assert pair["prompt"] is None
        assert (pair["chosen"], pair["rejected"]) == (before + answers[0], before + answers[1])


def test_mistakes_in_settings():
    with pytest.raises(InputError, match="objective 'kind'"):
        preferences.generate("kind", 1, 0)
    with pytest.raises(InputError, match="conflict=2"):
        preferences.generate("helpful", 1, 0, conflict=2)
    with pytest.raises(InputError, match="nowhere.jsonl: cannot be read"):
        preferences.read("nowhere.jsonl")
