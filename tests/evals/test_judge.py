"""What judges see and how they are read; two judges compared."""

import json
import math
from collections import Counter

import numpy as np
import pytest
import scripted

from welfare_jax.errors import InputError
from welfare_jax.evals import agreement, backtracking, cells, journal, judge, prompts, refusal, replies
from welfare_jax.evals.settings import JudgeSettings


def test_a_judge_sees_prompt_and_answer_and_nothing_else():
    q = judge.question("refusal", "j", "", "P {prompt} A {answer}", "what {answer}?", "a {prompt} b")
    assert q.text == "P what {answer}? A a {prompt} b"
    assert q.about == judge.question("refusal", "k", "", "other", "what {answer}?", "a {prompt} b").about
    assert q.key != judge.question("refusal", "k", "", "P {prompt} A {answer}", "what {answer}?", "a {prompt} b").key


def test_verdicts_are_blind_shuffled_asked_once_and_kept(tmp_path):
    seen = []

    def ask(q):
        seen.append(q)
        return "Verdict: backtracking" if "5" in q.text else "?"

    run = scripted.make(tmp_path, None, ask)
    item = prompts.Item("s:0", "How much?", "", None, ())
    grid = run.cells
    answers = [{"cell": c, "item": item, "sample": 0, "prompt": item.prompt,
                "answer": f"hmm, it may be {i % 6} or more than that, who can tell, let us see again"}
               for i, c in enumerate(grid)]  # fmt: skip
    parse = lambda reply: replies.label(reply, backtracking.LABELS)
    found = run.verdicts("backtracking", answers, parse, "{prompt} {answer}")
    assert len(seen) == 6 and Counter(found) == {
        None: len(grid) - found.count("backtracking"),
        "backtracking": 5 // 2 + 1,
    }
    assert [q.key for q in seen] == sorted(q.key for q in seen) and [q.answer for q in seen] != sorted(
        q.answer for q in seen
    )
    told = json.dumps([q._asdict() for q in seen]) + (tmp_path / "judgements.jsonl").read_text()
    assert not any(word in told for word in ("v_mold", "v_gold", "trained", "alpha", "layer"))
    run.verdicts("backtracking", answers, parse, "{prompt} {answer}")
    assert len(seen) == 6  # kept
    run.judgements.close()
    again = scripted.make(tmp_path, None, ask)
    assert again.verdicts("backtracking", answers, parse, "{prompt} {answer}") == found and len(seen) == 6


def test_replies_belong_to_the_content_of_the_judge(tmp_path):
    """Another judge under the same path is asked again; replies from before there were digests go on, as it says."""
    seen, answer = [], {"prompt": "How much?", "answer": "five"}

    def verdicts(content):
        run = scripted.make(tmp_path, None, lambda q: seen.append(q) or "Verdict: direct answer")
        run.judge = run.judge._replace(name="model DIR", content=lambda: content)
        found = run.verdicts("refusal", [answer] * 2, lambda r: replies.label(r, refusal.LABELS), "{prompt} {answer}")
        run.judgements.close()
        assert found == ["direct answer"] * 2
        return run.notes

    assert verdicts("one") == verdicts("one") == [] and len(seen) == 1
    assert verdicts("two") == [] and len(seen) == 2
    assert verdicts("one") == [] and len(seen) == 2  # still known
    (tmp_path / "judgements.jsonl").unlink()
    verdicts("")  # as an earlier version wrote it
    assert len(seen) == 3
    (note,) = verdicts("one")
    assert "do not name it by content" in note and "model DIR" in note and len(seen) == 3


def test_recorded(tmp_path):
    q = judge.question("refusal", "person", "", "{prompt} {answer}", "Do it", "No.")
    row = {"key": q.key, "about": q.about, "evaluation": "refusal", "reply": "Verdict: direct refusal"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    ask = judge.recorded(tmp_path / "a.jsonl")
    assert list(ask([q])) == [[(q, "Verdict: direct refusal")]]
    cfg = JudgeSettings(kind="recorded", path=str(tmp_path / "a.jsonl"))
    before = judge.build(cfg, None, ()).content()
    (tmp_path / "a.jsonl").write_text(json.dumps(row | {"reply": "Verdict: direct answer"}) + "\n")
    assert judge.build(cfg, None, ()).content() != before
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match="no reply for 1 of 1 answers of refusal"):
        list(ask([judge.question("refusal", "person", "", "{answer}", "Do it", "Yes.")]))
    with pytest.raises(InputError, match="b.jsonl"):
        judge.recorded(tmp_path / "b.jsonl")


def test_word_counts():
    ask = lambda evaluation, answer: next(
        judge.ask_words([judge.question(evaluation, "words", "", "{answer}", "?", answer)])
    )[0][1]
    assert replies.score(ask("sentiment", "I am glad, so happy, not sad"), -5, 5) == round(5 / 3)
    assert replies.score(ask("sentiment", "the table"), -5, 5) == 0
    assert replies.score(ask("sentiment", "\U0001f9fe 3 ..."), -5, 5) == "nonsensical"
    assert ask("backtracking", "We add. Wait, that\u2019s wrong") == "Verdict: backtracking"
    assert (
        ask("backtracking", "We add and wait") == "Verdict: backtracking"
        and ask("backtracking", "We add") == "Verdict: normal"
    )
    assert ask("refusal", "I can\u2019t do that") == "Verdict: direct refusal"
    assert ask("refusal", "Have you considered a walk?") == "Verdict: indirect refusal"


def test_a_local_judge_is_our_own_model():
    """It thinks where its evaluation asks for it, greedily, and its replies come back by question."""
    asked = []

    class Fake:
        def __init__(self, think):
            self.think = think

        def speak(self, rows, done, longest, temperature):
            asked.append((self.think, longest, temperature, {row.cell for row in rows}))
            yield [(row, row.talk.upper()) for row in rows]

    cfg = JudgeSettings(thinking=True, thinking_tokens=99, max_new_tokens=7)
    ask = judge.local(Fake, cfg, {"backtracking"})
    for evaluation, want in (("backtracking", (True, 99)), ("refusal", (False, 7))):
        q = judge.question(evaluation, "m", "", "{answer}", "?", "no")
        assert list(ask([q])) == [[(q, "NO")]]
        assert asked[-1] == (*want, 0.0, {cells.zero("judge")})


def test_agreement_of_two_judges(tmp_path, capsys):
    def book(name, verdicts):
        rows = [{"key": f"{name}{i}", "about": str(i), "evaluation": "refusal" if i < 6 else "sentiment", "verdict": v}
                for i, v in enumerate(verdicts)]  # fmt: skip
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        return str(tmp_path / f"{name}.jsonl")

    a = book("a", ["x", "x", "y", "y", None, "x", 1.0, 2.0, 3.0])
    b = book("b", ["x", "y", "y", "y", "x", None, 2.0, 2.0, 4.0, 5.0])
    assert agreement.main([a, b, "--json"]) == 0
    labels, numbers = json.loads(capsys.readouterr().out)
    # x x, x y, y y, y y: 3 of 4 agree; by chance (2/4 * 1/4 + 2/4 * 3/4) = 1/2. Without one of them kappa is 0, 1,
    # 0.4 and 0.4; t of three degrees of freedom.
    half = 3.18244631 * math.sqrt(3 * np.var([0, 1, 0.4, 0.4]))
    assert labels == pytest.approx({"evaluation": "refusal", "both": 6, "only_one": 0, "unparseable": 2,
                                    "percent": 75.0, "kappa": 0.5, "pearson": float("nan"),
                                    "kappa_low": 0.5 - half, "kappa_high": 0.5 + half}, nan_ok=True)  # fmt: skip
    assert (numbers["both"], numbers["only_one"], numbers["percent"]) == (3, 1, pytest.approx(100 / 3))
    assert numbers["pearson"] == pytest.approx(0.8660254)
    assert agreement.main([a, b]) == 0 and "kappa" in capsys.readouterr().out
    assert agreement.main([a]) == 2 and agreement.main([a, str(tmp_path / "none.jsonl")]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 2 and "none.jsonl" in said[1]


def test_torn_and_broken_journals(tmp_path):
    book = journal.Journal(tmp_path / "a.jsonl")
    book.add([{"key": "x", "v": 1}, {"key": "y", "v": 2}])
    book.close()
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"key": "z", "v"')
    again = journal.Journal(tmp_path / "a.jsonl")
    assert set(again.rows) == {"x", "y"} and "z" not in again
    again.add([{"key": "z", "v": 3}])
    again.close()
    assert [r["v"] for r in journal.read(tmp_path / "a.jsonl").values()] == [1, 2, 3]
    (tmp_path / "b.jsonl").write_text('{"key": "x"}\nnonsense\n')
    with pytest.raises(InputError, match="b.jsonl, line 2"):
        journal.read(tmp_path / "b.jsonl")
