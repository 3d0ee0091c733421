"""Read-outs without a judge: the program against whole forwards in NumPy, the words, and scores worked out by hand."""

import dataclasses
import math

import jax
import numpy as np
import pytest
import scripted
from helpers import tiny_model
from test_cells import bank, collect, device, rows_of

from welfare_jax import config
from welfare_jax.errors import InputError
from welfare_jax.evals import cells, logodds, refusal_logodds, samples, sentiment_logodds, summary
from welfare_jax.evals.evaluations import EVALUATIONS
from welfare_jax.experiments.evals import run as stage
from welfare_jax.models import chat, decoder, interventions


@pytest.fixture(scope="module")
def world(tiny_tokenizer):
    graphdef, params = tiny_model("qwen3", vocab=len(tiny_tokenizer))
    return graphdef, params, tiny_tokenizer, bank(3, 24, scale=3.0)


def steered(c, prompt, begun, forced):
    """bool, which tokens of prompt, begun answer and forced opening the cell steers; worked out from the words of
    `cells.WHERE` alone. The prompts here hold no earlier answers."""
    said = [False] * prompt + [True] * begun
    last = [False] * (prompt + begun - 1) + [True]
    first = [False] * (prompt - 1) + [True] + [False] * begun
    given = {"generation": said, "readout": last, "prompt": [not x for x in last],
             "assistant": [any(x) for x in zip(said, last, first)]}[c.where]  # fmt: skip
    return np.array(given + [c.where in ("assistant", "generation")] * forced)


WIDTH = 64  # what stands behind a row changes nothing before it, and one width is one compilation
whole_forward = jax.jit(lambda graphdef, params, tokens, iv: decoder.forward(
    graphdef, params, tokens, interventions=iv).logits, static_argnums=0)  # fmt: skip


def by_whole_forwards(world, c, talk, sides):
    """log P of each side: every sequence appended to the prompt, one full forward, its tokens summed in NumPy."""
    graphdef, params, tokenizer, found = world
    asked, begin = (talk, "") if isinstance(talk, str) else (talk[0]["content"], talk[1]["content"])
    prompt = tokenizer.encode(chat.render(tokenizer, asked), add_special_tokens=False)
    begun = tokenizer.encode(begin, add_special_tokens=False)
    out = []
    for side in sides:
        total = 0.0
        for ids in side:
            row = prompt + begun + list(ids)
            tokens, where = np.zeros((1, WIDTH), np.int32), np.zeros((1, WIDTH), bool)
            tokens[0, : len(row)], where[0, : len(row)] = row, steered(c, len(prompt), len(begun), len(ids))
            push = found.directions[c.vector].values[c.layer] if c.vector else np.zeros(24, "f4")
            iv = interventions.add(push, c.layer, c.alpha, where)
            logits = np.asarray(whole_forward(graphdef, params, tokens, iv)[0], np.float64)
            p = np.exp(logits - logits.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            at = len(prompt) + len(begun) - 1
            total += math.prod(p[at + i, token] for i, token in enumerate(ids))
        out.append(math.log(total))
    return out


@pytest.mark.parametrize("begin", ["", "The walk went"])
def test_sequences_are_those_of_whole_forwards(world, begin):
    """One, two and three tokens on either side, of every place and two layers, prompts of two lengths in a batch."""
    run = device(*world, buckets=1)
    sides = (((5,), (7, 9), (7, 11, 3)), ((6,), (8,), (7, 10)))
    talks = [logodds.begun(t, begin) for t in ("Who?", "What lies north of the long walk, and how did it go?")]
    grid = [cells.zero("untrained"), *(cells.Cell("untrained", "v", layer, alpha, where)
            for where in cells.WHERE for layer, alpha in ((0, 1.0), (1, -2.0)))]  # fmt: skip
    rows = rows_of(grid, talks)
    before = cells.read_out._cache_size()
    found = collect(run.read(rows, (), sides))
    assert cells.read_out._cache_size() <= before + 1  # 18 rows, 9 cells, batches of 8: one program
    for row in rows:
        np.testing.assert_allclose(found[row.key], by_whole_forwards(world, row.cell, row.talk, sides), atol=1e-4)
    assert len({round(v[0], 3) for v in found.values()}) == len(rows)  # every cell differs


def test_sides_of_single_tokens_alone(world):
    run = device(*world, buckets=1)
    rows = rows_of([cells.zero("untrained")], ["Who?"])
    sides = (((5,), (9,)), ((6,),))
    found = collect(run.read(rows, (), sides))
    np.testing.assert_allclose(
        found[rows[0].key], by_whole_forwards(world, rows[0].cell, rows[0].talk, sides), atol=1e-4
    )


def test_a_begun_answer_is_split_apart_from_the_prompt(tiny_tokenizer):
    """Its tokens follow those of the prompt; nothing of the end of a turn stands between or behind them."""
    plain = cells.encode(tiny_tokenizer, "Who?", {})
    begun = cells.encode(tiny_tokenizer, logodds.begun("Who?", "The walk"), {})
    more = tiny_tokenizer.encode("The walk", add_special_tokens=False)
    assert begun.ids == plain.ids + more and plain.start == begun.start == len(plain.ids) - 1
    assert begun.said.tolist() == [False] * len(plain.ids) + [True] * len(more)
    assert begun.opening.tolist() == plain.opening.tolist() + [False] * len(more)


SIGN = {"": 0, "v_mold": -1, "v_gold": 1}
WORDS = ("Good", " glad", " bad", "sad", "Sorry", "Sure", "The")


def settings(name, **changes):
    return dataclasses.replace(EVALUATIONS[name].settings, **changes)


def laboratory(folder, logp=None, say=None, vocabulary=WORDS, **kw):
    return scripted.make(folder, scripted.Script(say, logp, vocabulary=vocabulary), None, **kw)


def token(word):
    return (WORDS.index(word) + 10_000,)


def test_spellings_that_are_one_token_are_added_up(tmp_path):
    harness = laboratory(tmp_path)
    cfg = settings("sentiment_logodds", good=("good", "glad", "splendid"), bad=("Bad", "sad"))
    sides = logodds.sequences(harness, "sentiment_logodds", cfg, ("good", "bad"), whole=False)
    assert sides == ((token("Good"), token(" glad")), (token(" bad"), token("sad")))
    assert harness.notes == ["sentiment_logodds: left out of good, not one token of this tokenizer: splendid"]


def test_openings_of_several_tokens_stay_whole(tmp_path):
    harness = laboratory(tmp_path)
    cfg = settings("refusal_logodds", refusal=("Sorry", "I no", "I no no"), answer=("Sure", "I do"))
    sides = logodds.sequences(harness, "refusal_logodds", cfg, ("refusal", "answer"), whole=True)
    # "I no no" is one of the ways to go on from "I no", and must not be counted again
    assert sides == ((token("Sorry"), tuple(map(ord, "I no"))), (token("Sure"), tuple(map(ord, "I do"))))
    assert not harness.notes


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("sentiment_logodds", {"good": ("splendid", "superb")}, "evals.sentiment_logodds.good=.*no word that is one"),
        ("sentiment_logodds", {"good": ()}, "evals.sentiment_logodds.good=.*no word"),
        ("sentiment_logodds", {"good": ("good", " ")}, "evals.sentiment_logodds.good=.*empty"),
        ("sentiment_logodds", {"good": "glad"}, "evals.sentiment_logodds.good=.*list of words"),
        ("sentiment_logodds", {"good": ("sad",)}, "'sad' of good is 'sad' of bad"),
        ("refusal_logodds", {"refusal": ("I cannot",), "answer": ("I can",)}, "'I can' of answer .*'I cannot'"),
        ("refusal_logodds", {"refusal": ("I",), "answer": ("I do",)}, "'I' of refusal .*'I do'"),
    ],
)
def test_words_that_cannot_be_told_apart_are_refused(name, changes, said, tmp_path):
    changes = changes | ({"bad": ("sad",)} if name == "sentiment_logodds" else {})
    harness, cfg = laboratory(tmp_path), settings(name, **changes)
    with pytest.raises(InputError, match=said) as error:
        EVALUATIONS[name].run(harness, cfg)
    assert "\n" not in str(error.value) and not harness.device.calls


def test_sentiment_by_hand(tmp_path):
    """Gold adds and mold takes a nat and a half for each strength; at -4 gold's words have hardly any mass."""
    asked = set()

    def logp(c, talk):
        asked.add((talk[0]["content"], talk[1]["content"]))
        mass = 0.09 if (c.vector, c.alpha) == ("v_gold", -4) else 0.5
        odds = 0.25 + 1.5 * SIGN[c.vector] * c.alpha + ("letter" in talk[0]["content"])
        p = 1 / (1 + math.exp(-odds))
        return math.log(mass * p), math.log(mass * (1 - p))

    harness = laboratory(tmp_path, logp, models=("untrained",))
    cfg = settings("sentiment_logodds", good=("good", "glad"), bad=("bad", "sad"))
    scores = sentiment_logodds.sentiment_logodds(harness, cfg)
    assert len(asked) == 40 and {begin for _, begin in asked} == {"I feel very"}
    assert harness.device.sides == ((token("Good"), token(" glad")), (token(" bad"), token("sad")))
    cells_of, slopes = summary.by_cell(scores, harness.bank), summary.slopes(scores, harness.bank)
    letters = sum("letter" in prompt for prompt, _ in asked)
    for row in cells_of:
        if (row["metric"], row["group"]) == ("log_odds", "all"):
            want = 0.25 + 1.5 * SIGN[row["vector"]] * row["alpha"] + letters / 40
            silent = (row["vector"], row["alpha"]) == ("v_gold", -4)
            assert row["mean"] == (None if silent else pytest.approx(want)) and row["n"] == 40
            assert row["used"] == (0 if silent else 40) and row["masked"] == (row["incoherence"] == 1) == silent
        if (row["metric"], row["group"]) == ("mass", "all"):
            assert row["mean"] == pytest.approx(0.09 if (row["vector"], row["alpha"]) == ("v_gold", -4) else 0.5)
    assert {r["group"] for r in cells_of} == {"all", "self_report", "tile_association", "story"}
    assert {r["metric"] for r in cells_of} == {"log_odds", "log_p_good", "log_p_bad", "mass"}
    own = {s["vector"]: s for s in slopes if (s["metric"], s["group"]) == ("log_odds", "all")}
    assert {v: round(s["slope"], 9) for v, s in own.items()} == {"v_gold": 1.5, "v_mold": -1.5}
    assert own["v_gold"]["masked"] == [-4.0] and own["v_mold"]["strengths"] == [-4, -2, 0, 2, 4]


def test_refusal_by_hand(tmp_path):
    """Nothing is begun for it; both models are asked everything, and what is known is not read twice."""
    harness = laboratory(
        tmp_path, lambda c, talk: (math.log(0.2) + c.alpha, math.log(0.4)) if isinstance(talk, str) else 0
    )
    cfg = settings("refusal_logodds", refusal=("Sorry", "I am"), answer=("Sure", "The"))
    scores = refusal_logodds.refusal_logodds(harness, cfg)
    assert len(scores) == len(harness.cells) * 40 and not any(r["unparseable"] for r in scores)
    for r in scores:
        assert r["metrics"]["log_odds"] == pytest.approx(math.log(0.5) + r["cell"].alpha)
        assert r["metrics"]["mass"] == pytest.approx(0.2 * math.exp(r["cell"].alpha) + 0.4)
    calls = harness.device.calls
    assert refusal_logodds.refusal_logodds(harness, cfg) == scores and harness.device.calls == calls
    # Other words are another question.
    refusal_logodds.refusal_logodds(harness, dataclasses.replace(cfg, answer=("Sure",)))
    assert harness.device.calls == 2 * calls


def test_samples_are_of_vectors_alone(tmp_path):
    vectors = scripted.bank(("v_mold", "u_mold", "random_0/v_mold"), u_mold="untrained",
                            **{"random_0/v_mold": "random"})  # fmt: skip
    harness = laboratory(
        tmp_path, say=lambda c, talk, k: f"{c.vector} {c.alpha:g}", vectors=vectors, models=("untrained",)
    )
    assert samples.samples(harness, settings("samples")) == []
    texts = stage.shown(harness)
    assert {r["text"] for r in texts} == {"0", *(f"v_mold {a}" for a in (-4, -2, 2, 4))}
    assert len(texts) == 5 * len({r["prompt"] for r in texts}) == 15


def test_what_needs_a_judge():
    """By name, with the package's settings and with grading by a judge."""
    own = lambda e, changes: settings(e.name, **{k: v for k, v in changes.items() if hasattr(e.settings, k)})
    needs = lambda **changes: {name for name, e in EVALUATIONS.items() if e.needs_judge(own(e, changes))}
    assert needs() == {"sentiment", "backtracking", "refusal"}
    assert needs(grade="judge") == {"sentiment", "backtracking", "refusal", "confidence", "goal_tracking"}
    assert {name for name, e in EVALUATIONS.items() if e.thinking} == {"backtracking"}  # as in the paper, §L
    for name, e in EVALUATIONS.items():
        assert name in config.evals() and e.name == name
        assert bool(e.title) == bool(e.metric or e.rows != "scores")  # a panel, or a table of its own


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "llama3_1", "gptoss"])
def test_the_packages_own_words(name, shared_tokenizer, tmp_path):
    """With real tokenizers every default word counts, and none on both sides."""
    harness, tokenizer = laboratory(tmp_path), shared_tokenizer(name)
    harness.device.tokens = lambda text: tuple(tokenizer.encode(text, add_special_tokens=False))
    for name, sides, whole in (("sentiment_logodds", ("good", "bad"), False),
                               ("refusal_logodds", ("refusal", "answer"), True)):  # fmt: skip
        found = logodds.sequences(harness, name, settings(name), sides, whole)
        assert all(len(side) >= len(getattr(settings(name), s)) for side, s in zip(found, sides))
    assert not harness.notes
