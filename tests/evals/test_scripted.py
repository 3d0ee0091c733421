"""A scripted model whose answers depend on the steering in a known way: every number worked out by hand."""

import dataclasses
import json
import math

import numpy as np
import pytest
import scripted
from ml_collections import ConfigDict

from welfare_jax import config
from welfare_jax.errors import InputError
from welfare_jax.evals import (
    backtracking,
    cells,
    confidence,
    goal_tracking,
    refusal,
    replies,
    sentiment,
    summary,
    sweep,
)  # fmt: skip
from welfare_jax.evals.evaluations import EVALUATIONS
from welfare_jax.experiments.evals import run as stage

SIGN = {"": 0, "v_mold": -1, "v_gold": 1, "u_mold": 0}
GONE = 4.0  # the trained model falls apart at this strength of v_mold


def settings(tmp_path, name, rows, **changes):
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return dataclasses.replace(EVALUATIONS[name].settings, prompts=(str(path),), **changes)


def pick(rows, **wanted):
    found = [r for r in rows if all(r[k] == v for k, v in wanted.items())]
    assert len(found) == 1, (wanted, found)
    return found[0]


def push(c):
    """What the script's steering does: mold against gold, twice as much in the trained model, most at layer 2."""
    return SIGN[c.vector] * c.alpha * (2 if c.model == "trained" else 1) * (1 - 0.5 * abs(c.layer - 2))


def test_sentiment(tmp_path):
    """Score = push / 4 + (-1, 0 or 1 by sample), judged from the text; one cell is nonsense, one reply unreadable."""

    def say(c, talk, k):
        if c.model == "trained" and c.vector == "v_mold" and c.alpha == GONE:
            return f"gone {k}"
        return f"{talk} {push(c) / 4 + k - 1:g}" if talk != "b" or k else "mumble"

    def ask(q):
        word = q.text.split()[-1]
        return "Verdict: nonsensical" if "gone" in q.text else "eh?" if word == "mumble" else f"Score: {word}"

    bank = scripted.bank(("v_mold", "v_gold", "u_mold"), u_mold="untrained")
    harness = scripted.make(tmp_path, scripted.Script(say), ask, bank)
    (tmp_path / "judge.txt").write_text("{answer}")
    cfg = settings(tmp_path, "sentiment", [{"prompt": "a", "category": "self"}, {"prompt": "b", "category": "tile"}],
                   samples=3, judge_prompt=str(tmp_path / "judge.txt"))  # fmt: skip
    scores = sentiment.sentiment(harness, cfg)
    assert len(scores) == len(harness.cells) * 2 * 3 == len(harness.answers.rows)
    table, slopes = summary.by_cell(scores, bank), summary.slopes(scores, bank)
    for c in harness.cells:
        row = pick(table, group="all", **c._asdict())
        if (c.model, c.vector, c.alpha) == ("trained", "v_mold", GONE):
            assert row["masked"] and row["incoherence"] == 1 and row["mean"] is None and row["used"] == 0
            continue
        # a: -1, 0, 1 and b: 0, 1 around push / 4
        assert row["mean"] == pytest.approx(push(c) / 4 + 1 / 5) and row["n"] == 6 and row["used"] == 5
        assert row["unparseable"] == 1 and row["incoherence"] == 0 and not row["masked"]
        # deviations from the mean add up to -0.6 in a and 0.6 in b; t of one degree of freedom
        half = 12.7062047 * math.sqrt(2 * (0.6**2 + 0.6**2)) / 5
        assert (row["low"], row["high"]) == pytest.approx((row["mean"] - half, row["mean"] + half))
        assert pick(table, group="self", **c._asdict())["mean"] == pytest.approx(push(c) / 4)
        assert pick(table, group="tile", **c._asdict())["mean"] == pytest.approx(push(c) / 4 + 1 / 2)
    for model, size in (("untrained", 1 / 4), ("trained", 1 / 2)):
        for vector, sign in (("v_mold", -1), ("v_gold", 1), ("u_mold", 0)):
            s = pick(slopes, group="all", model=model, vector=vector)
            assert s["slope"] == pytest.approx(sign * size, abs=1e-12) and s["kind"] == bank.directions[vector].kind
            gone = model == "trained" and vector == "v_mold"
            assert s["masked"] == ([4.0] if gone else []) and s["n"] == (20 if gone else 25)
            assert s["strengths"] == ([-4, -2, 0, 2] if gone else [-4, -2, 0, 2, 4])
            assert s["error"] == pytest.approx(0, abs=1e-9) or gone  # samples only shift the line


def test_slopes_over_layers(tmp_path):
    device = scripted.Script(lambda c, talk, k: f"{push(c):g}")
    harness = scripted.make(tmp_path, device, lambda q: f"Score: {q.answer}", layers="all", alphas=(-1, 0, 1))
    scores = sentiment.sentiment(
        harness, settings(tmp_path, "sentiment", [{"prompt": "a"}, {"prompt": "b"}], samples=1)
    )
    slopes = summary.slopes(scores, harness.bank)
    for s in slopes:
        want = SIGN[s["vector"]] * (2 if s["model"] == "trained" else 1) * (1 - 0.5 * abs(s["layer"] - 2))
        assert s["slope"] == pytest.approx(want)
    peak = pick(sweep.sweep(slopes), model="trained", vector="v_mold")
    assert (peak["layers"], peak["peak_layer"], peak["peak_slope"], peak["low"], peak["high"]) == (4, 2, -2, 1, 3)
    assert not sweep.sweep([s for s in slopes if s["layer"] == 2])


def test_backtracking(tmp_path):
    """Doubt at positive gold strength; the shortcuts never reach the judge, loops do, folded."""
    seen = []
    long = "first we take six and then we add the other and it goes on"

    def say(c, talk, k):
        if k == 2:
            return "wait no wait no wait no wait no"
        if k == 1:
            return "The answer is 12"
        return f"{long} but hold on" if push(c) > 0 else f"{long} and so on and so on and so on"

    def ask(q):
        seen.append(q.answer)
        return "Verdict: backtracking" if "hold on" in q.text else "Verdict: normal"

    harness = scripted.make(tmp_path, scripted.Script(say), ask)
    rows = [{"prompt": "6 + 6?", "target": "12"}, {"prompt": "5 + 5?", "target": "10"}]
    scores = backtracking.backtracking(harness, settings(tmp_path, "backtracking", rows, samples=3))
    assert sorted(set(seen)) == sorted({f"{long} but hold on", f"{long} and so on [repeated 3 times]"})
    assert len(seen) == 4  # two prompts, two texts: each is asked once
    for row in summary.by_cell(scores, harness.bank):
        if row["group"] == "all":
            want = {
                "backtracking": 0.5 * (push(cells.Cell(*(row[f] for f in cells.Cell._fields))) > 0),
                "solved": 1 / 4,
            }
            assert row["mean"] == pytest.approx(want[row["metric"]])
            assert row["incoherence"] == pytest.approx(1 / 3) and row["used"] == 4


def test_refusal(tmp_path):
    kinds = ["direct answer", "direct refusal", "indirect refusal", "nonsensical", "what?"]
    say = lambda c, talk, k: kinds[k] if push(c) <= 0 else kinds[1 + k // 3]
    harness = scripted.make(tmp_path, scripted.Script(say), lambda q: f"Verdict: {q.answer}")
    scores = refusal.refusal(harness, settings(tmp_path, "refusal", [{"prompt": "p", "category": "hard"}], samples=5))
    table = summary.by_cell(scores, harness.bank)
    for c in harness.cells:
        means = {m: pick(table, group="hard", metric=m, **c._asdict()) for m in
                 ("refusal", "direct_refusal", "indirect_refusal")}  # fmt: skip
        want = (2 / 3, 1 / 3, 1 / 3) if push(c) <= 0 else (1, 3 / 5, 2 / 5)
        assert [m["mean"] for m in means.values()] == pytest.approx(want)
        told = means["refusal"]
        assert (told["unparseable"], told["incoherence"]) == ((1, 1 / 4) if push(c) <= 0 else (0, 0))


def surely(talk):
    """The script's own confidence in its answer to prompt i of 9: i / 10, right on the even ones."""
    return (int(talk[0]["content"].split()[0]) + 1) / 10


def sure(c, talk):
    odds = math.log(surely(talk) / (1 - surely(talk))) + push(c) / 8
    p = 1 / (1 + math.exp(-odds))
    mass = 0.05 if c.alpha == GONE and c.vector == "v_gold" and c.model == "trained" else 0.8
    return math.log(mass * p), math.log(mass * (1 - p))


def questions():
    return [{"prompt": f"{i} what is it?", "target": "yes" if i % 2 == 0 else "other"} for i in range(9)]


def test_confidence(tmp_path):
    """Raw and normalised read-outs, groups by correctness and by third, over the model's own unsteered answers."""
    asked = []
    device = scripted.Script(lambda c, talk, k: asked.append(c) or "yes it is", sure)
    harness = scripted.make(tmp_path, device, None)
    cfg = settings(tmp_path, "confidence", questions(), true=("T",), false=("F",))
    scores = confidence.confidence(harness, cfg)
    assert len(asked) == 2 * 9 and set(asked) == set(harness.zeros())  # greedy, unsteered, once a model
    table = summary.by_cell(scores, harness.bank)
    for c in harness.cells:
        gone = (c.model, c.vector, c.alpha) == ("trained", "v_gold", GONE)
        p = {i: 1 / (1 + math.exp(-(math.log((i + 1) / (9 - i)) + push(c) / 8))) for i in range(9)}
        groups = {"all": range(9), "correct": range(0, 9, 2), "incorrect": range(1, 9, 2)}
        groups |= {name: range(3 * t, 3 * t + 3) for t, name in enumerate(confidence.TERTILES)}
        for group, members in groups.items():
            row = pick(table, metric="confidence", group=group, **c._asdict())
            assert row["mean"] == (None if gone else pytest.approx(np.mean([p[i] for i in members])))
            assert row["incoherence"] == gone and row["masked"] == gone and row["n"] == len(members)
        mass = 0.05 if gone else 0.8
        assert pick(table, metric="mass", group="all", **c._asdict())["mean"] == pytest.approx(mass)
        logs = [math.log(mass * p[i]) for i in range(9)]
        assert pick(table, metric="log_p_true", group="all", **c._asdict())["mean"] == pytest.approx(np.mean(logs))
    x = np.repeat([-4, -2, 0, 2], 9)  # strength 4 is masked
    odds = lambda i, a: math.log((i + 1) / (9 - i)) + 2 * a / 8
    y = [1 / (1 + math.exp(-odds(i, a))) for a in (-4, -2, 0, 2) for i in range(9)]
    s = pick(summary.slopes(scores, harness.bank), metric="confidence", group="all", model="trained", vector="v_gold")
    assert s["slope"] == pytest.approx(np.polyfit(x, y, 1)[0]) and s["masked"] == [4.0]


def test_the_same_token_for_both_words_is_refused(tmp_path):
    harness = scripted.make(tmp_path, scripted.Script(lambda c, talk, k: "yes", sure), None)
    with pytest.raises(InputError, match="evals.confidence.true"):
        confidence.confidence(harness, settings(tmp_path, "confidence", questions(), true=("To",), false=("Te",)))


def test_grading_by_the_judge(tmp_path):
    ask = lambda q: "Verdict: correct" if "Right answer: other" in q.prompt else "Verdict: incorrect"
    harness = scripted.make(tmp_path, scripted.Script(lambda c, talk, k: "yes", sure), ask, alphas=(0,))
    cfg = settings(tmp_path, "confidence", questions(), true=("T",), false=("F",), grade="judge")
    scores = confidence.confidence(harness, cfg)
    assert [("correct" in s["groups"]) for s in scores[:9]] == [i % 2 == 1 for i in range(9)]


def test_goal_tracking(tmp_path):
    """Projection = 3 if the feedback was good, else 1, plus the item's tenth; twice that on gold."""

    def along(talk, pair):
        assert [m["role"] for m in talk] == ["user", "assistant", "user"]
        good = talk[2]["content"] == "That is correct."
        assert good == (int(talk[0]["content"].split()[0]) % 2 == 0)
        value = (3 if good else 1) + surely(talk)
        return value * {"v_gold": 2, "v_mold": -1}[pair[0]]

    harness = scripted.make(tmp_path, scripted.Script(lambda c, talk, k: "yes", sure, along), None, alphas=(0, 1))
    rows = goal_tracking.goal_tracking(
        harness, settings(tmp_path, "goal_tracking", questions(), true=("T",), false=("F",))
    )
    assert len(rows) == 2 * 2 * 4
    good, bad = ([base + (i + 1) / 10 for i in range(first, 9, 2)] for base, first in ((3, 0), (1, 1)))
    row = pick(rows, model="trained", vector="v_gold", group="all")
    assert (row["layer"], row["n_correct"], row["n_incorrect"], row["auroc"]) == (2, 5, 4, 1.0)
    assert row["mean_correct"] == pytest.approx(2 * np.mean(good))
    pooled = math.sqrt((4 * np.var(good, ddof=1) + 3 * np.var(bad, ddof=1)) / 7)
    assert row["cohens_d"] == pytest.approx((np.mean(good) - np.mean(bad)) / pooled)
    assert pick(rows, model="trained", vector="v_mold", group="all")["cohens_d"] == pytest.approx(-row["cohens_d"])
    third = pick(rows, model="untrained", vector="v_gold", group=confidence.TERTILES[0])
    assert (third["n_correct"], third["n_incorrect"]) == (2, 1) and third["mean_incorrect"] == pytest.approx(2 * 1.2)


def test_nothing_is_sampled_twice(tmp_path):
    """A device that dies in the middle; the next one answers only what is missing, and the tables agree."""

    def say(c, talk, k):
        return f"{talk} {push(c):g} {k}"

    def run(folder, device):
        harness = scripted.make(folder, device, lambda q: f"Score: {float(q.answer.split()[-2]) / 8:g}")
        cfg = ConfigDict(config.evals() | {"names": ("sentiment", "refusal")})
        cfg.sentiment.prompts = cfg.refusal.prompts = ("tiny_stories",)
        cfg.sentiment.samples = cfg.refusal.samples = 2
        try:
            return stage.evaluate(harness, cfg)
        finally:
            for book in (harness.answers, harness.readouts, harness.judgements):
                book.close()

    class Dies(scripted.Script):
        def _yield(self, rows, done, value):
            for batch in super()._yield(rows, done, value):
                if self.calls > 15:
                    raise KeyboardInterrupt
                yield batch

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = run(tmp_path / "whole", scripted.Script(say))
    said = []
    for _ in range(30):
        try:
            found = run(tmp_path / "killed", Dies(lambda c, talk, k: said.append((c, talk, k)) or say(c, talk, k)))
            break
        except KeyboardInterrupt:
            continue
    assert found == whole
    lines = (tmp_path / "killed" / "answers.jsonl").read_text().splitlines()
    keys = [json.loads(line)["key"] for line in lines]
    assert len(keys) == len(set(keys)) == len((tmp_path / "whole" / "answers.jsonl").read_text().splitlines())


def test_changed_settings_are_sampled_anew_and_never_mixed(tmp_path):
    for alphas, samples, more in (((0, 1), 1, 3), ((0, 1), 2, 3), ((0, 1, 2), 2, 4), ((0, 1, 2), 2, 0)):
        said = []
        harness = scripted.make(tmp_path, scripted.Script(lambda c, talk, k, said=said: said.append(1) or "x"),
                            lambda q: "Score: 1", alphas=alphas, models=("untrained",))  # fmt: skip
        sentiment.sentiment(harness, settings(tmp_path, "sentiment", [{"prompt": "a"}], samples=samples))
        assert len(said) == more
        for book in (harness.answers, harness.readouts, harness.judgements):
            book.close()
    assert replies.NONSENSE in backtracking.LABELS
