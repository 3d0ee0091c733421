"""The sentence on top of each kind of run, of planted results: it says what was planted, and no more."""

import html
import json
import re

import pytest
from fakes import OUTCOME, fake_run

from welfare_jax.experiments import EXPERIMENTS, report
from welfare_jax.experiments.axis import answer as axis_answer
from welfare_jax.report import answer, data, tables


def top(folder, **files):
    """(sentence, verdict, interval, seeds) on top of the page of a folder with these files."""
    for name, content in files.items():
        lines = isinstance(content, list)
        text = "".join(json.dumps(row) + "\n" for row in content) if lines else json.dumps(content)
        (folder / f"{name}.{'jsonl' if lines else 'json'}").write_text(text)
    run = data.load(folder)
    part = EXPERIMENTS[run.config.get("job", "rl")].part("report")
    head = answer.top(run, tables.kept(part.tables(run)), part.answer)
    assert "could not be shown" not in head and (folder / "answer.png").exists(), head
    assert re.search(r"<title>[^<]+</title><desc>[^<]*</desc>", head)  # the figure, in words
    facts = re.findall(r"<dt>\w+</dt><dd>([^<]+)</dd>", head)
    return tuple(
        html.unescape(text) for text in (re.search(r'<p class="said">([^<]+)</p>', head).group(1), *facts[1:])
    )


TRAINING = OUTCOME | {
    "runs": 3, "changes": [-0.9, -1.0, -0.95], "sham_changes": [-0.02, 0.03], "low": -1.1, "high": -0.8,
}  # fmt: skip


@pytest.mark.parametrize(
    "training, says, verdict, seeds",
    [
        (None, "this checkpoint's vectors of Gold and Mold are more opposed than", "more opposed",
         "1 training run, no shams"),
        (TRAINING, "training left the vectors of Gold and Mold more opposed than", "more opposed",
         "3 training runs, 2 shams (random adapters of the same size)"),
        (TRAINING | {"sham_changes": []}, "the trained vectors of Gold and Mold are more opposed than", "more opposed",
         "3 training runs, no shams"),
        (TRAINING | {"shuffled": TRAINING}, "training left the vectors of Gold and Mold more opposed than",
         "more opposed", "3 training runs, 2 shams (random adapters of the same size), 2 of shuffled rewards"),
        (TRAINING | {"verdict": "unknown"}, "whether it moved the vectors of Gold and Mold cannot be told",
         "cannot be told", "3 training runs, 2 shams (random adapters of the same size)"),
        (TRAINING | {"verdict": "small"}, "training moved the vectors of Gold and Mold by less than 0.10",
         "moved by less than 0.10", "3 training runs, 2 shams (random adapters of the same size)"),
    ],
)  # fmt: skip
def test_the_main_job(training, says, verdict, seeds, tmp_path):
    _, metrics, summary, analysis = fake_run(tmp_path)
    found = top(tmp_path, analysis=analysis | ({"training": training} if training else {}))
    ends = [f"{v:.1f}".replace("-", "\u2212") for v in (metrics[0]["reward"], metrics[-1]["reward"])]
    assert found[0].startswith(f"Reward per episode went from {ends[0]} to {ends[1]}; {says}") and found[1] == verdict
    low = "\u22121.10" if training else "\u22121.20"
    assert f"(95\N{NO-BREAK SPACE}% {low} to" in found[2] and found[3] == seeds


def test_the_picture_shows_every_arm():
    """Each change once, and the difference of runs and shams with its interval."""
    apart = [0.1, 0.2, 0.3]
    _, right = axis_answer.both(None, None, None, TRAINING | {"shuffled": {"sham_changes": apart}}).axes
    names = [label.get_text() for label in right.get_xticklabels()]
    assert names == ["3\nruns", "2\nshams", "3\nshuffled", "runs less\nshams"]
    arms = [line.get_ydata().tolist() for line in right.lines[:3]]
    assert arms == [TRAINING["changes"], TRAINING["sham_changes"], apart]


def test_the_analysis_alone_is_complete_without_metrics(tmp_path):
    """Both planted axes lie along both vectors on opposite sides; nothing is missing, nothing was trained here."""
    config, *_ = fake_run(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    said, verdict, interval, seeds = top(tmp_path, config=config | {"job": "axes", "run": "runs/x"})
    assert said.startswith("In the trained model the vectors of Gold and Mold lie on opposite sides of 2 of 2 ")
    assert "reviews, valence-assent" in said and verdict == "2 of 2 axes" and "cosine with" in interval
    page = report(tmp_path).read_text(encoding="utf-8")
    assert "not complete" not in page and "Left out" not in page and 'id="reward"' not in page


def test_the_analysis_alone_claims_nothing_by_chance(tmp_path):
    config, *_, analysis = fake_run(tmp_path)
    found = analysis["trained"]["axes"]["p"]["reviews"]
    analysis["trained"]["axes"]["p"] = {"reviews": found | {"gold": [0.5] * 4}, "valence-assent": {"mold": [0.5] * 4}}
    said, verdict, *_ = top(tmp_path, config=config | {"job": "axes"}, analysis=analysis)
    assert said.startswith("None of 2 comparison axes has the trained model's vectors") and verdict == "0 of 2 axes"


def cell(winner, seed, before=(0.3, 0.4, 0.3), right=(0.1, 0.5, 0.3)):
    formats = ("words", "function", "script")
    ends = {
        when: {f"share_{f}": s for f, s in zip(formats, shares)} | {f"accuracy_{f}": a for f, a in zip(formats, right)}
        | {"accuracy": 0.3, "greedy": 0.4, "entropy": 0.4, "kl": 0.1, "pass_4": 0.8}
        for when, shares in (("before", before), ("after", [float(f == winner) for f in formats]))
    }  # fmt: skip
    return {
        "algorithm": "grpo",
        "shape": "tiny",
        "mixture": "even",
        "kl_coef": 0.0,
        "seed": seed,
        "winner": winner,
    } | ends


def steps(name=""):
    row = {
        "reward": 0.5,
        "eval_accuracy": 0.3,
        "eval_greedy": 0.4,
        "eval_pass_4": 0.6,
        "eval_entropy": 0.4,
        "eval_kl": 0.0,
    }
    row |= {f"{e}share_{f}": 0.25 for e in ("", "eval_") for f in ("words", "function", "script", "other")}
    row |= {f"eval_accuracy_{f}": 0.2 for f in ("words", "function", "script")}
    rows = [row | {"step": i} for i in range(3)]
    return [{"step": r["step"], "cells": {k: r for k in name}} for r in rows] if name else rows


def test_amplification(tmp_path):
    config = {"job": "amplify"}
    found = top(tmp_path, config=config, summary=cell("function", 0), metrics=steps())
    assert found[0] == (
        "GRPO moved the share of the format \u201cfunction\u201d from 40\xa0% to 100\xa0%, which is the format that "
        "the base solves best."
    )
    assert found[1:] == ("function won", "none: one seed", "1 seed, 1 cell")
    said, *_ = top(tmp_path, config=config, summary=cell("script", 0), metrics=steps())
    assert "which is not the format that the base solves best" in said
    over = {"shape": "tiny", "mixture": "even", "kl_coef": 0.0, "seeds": 2, "winners": ["function", "script"]}
    for name in ("winner_share", "winner_accuracy", "accuracy", "greedy"):
        over |= {f"{name}_{when}": {"mean": 0.9, "low": 0.7, "high": 1.1} for when in ("before", "after")}
    two = {"cells": {"a": cell("function", 0), "b": cell("script", 1)}, "over_seeds": [over]}
    said, verdict, interval, seeds = top(tmp_path, config=config, summary=two, metrics=steps("ab"))
    assert "in 1 of 2 cells" in said and verdict == "base's best format won in 1 of 2"
    assert "0.90 (95\xa0% 0.70 to 1.10) over seeds" in interval and seeds == "2 seeds, 2 cells"


def test_pretraining(tmp_path):
    rows = [{"step": i, "loss": 5.0 - i, "nll_a": 4.0 - i, "nll_b": 6.0 - i} for i in range(3)]
    found = top(
        tmp_path, config={"job": "pretrain"}, metrics=rows, summary={"parameters": 1000, "tokens": 50, "steps": 3}
    )
    assert found[:2] == (
        "Loss on held-out documents went from 5.00 to 3.00 nats a token in 3 steps and 50 tokens.", "fell by 2.00 nats"
    )  # fmt: skip


def samples(lam, metric, bleu=0.5, temperature=1.0):
    ends = {f"{k}{e}": v + d for k, v in (("metric", metric), ("self_bleu", bleu), ("entropy", 1.0))
            for e, d in (("", 0), ("_low", -0.1), ("_high", 0.1))}  # fmt: skip
    return {"task": "maze", "lambda": lam, "temperature": temperature, "prompts": 4, "samples": 8} | ends


@pytest.mark.parametrize(
    "rows, better, worse",
    [
        ([samples(0.0, 1.0), samples(0.1, 1.5)], 1, 0),
        ([samples(0.0, 1.0), samples(0.1, 1.15)], 0, 0),  # intervals that overlap
        ([samples(0.0, 1.0), samples(0.1, 1.5, bleu=0.9)], 0, 0),  # better, but less diverse
        ([samples(0.0, 1.0), samples(0.1, 0.5), samples(0.0, 1.0, temperature=0.5)], 0, 1),
    ],
)
def test_imitation(rows, better, worse, tmp_path):
    analysis = {"metrics": {"maze": "reward per episode"}, "quality": rows, "ranks": []}
    said, verdict, interval, _ = top(tmp_path, config={"job": "imitation"}, analysis=analysis)
    assert said.startswith(f"In {better} of 1 settings (maze") and f"in {worse} it does worse" in said
    assert verdict == (f"gain in {better} of 1" if better else "no gain") and "reward per episode" in interval


def test_reward_models(tmp_path):
    """The helpful model loses by its own neurons what random ones do not cost, the harmless one by both."""
    silenced = lambda m, s, change, draw=-1: {
        "model": m, "score": "activation", "percent": 30.0, "set": s, "draw": draw, "neurons": 9, "objective": m,
        "accuracy": 0.9 + change, "change": change, "low": change - 0.02, "high": change + 0.02,
    }  # fmt: skip
    ablation = [
        silenced("helpful", "top_a", -0.2), silenced("harmless", "top_b", -0.05),
        silenced("helpful", "random_top", -0.01, 0), silenced("helpful", "random_top", -0.03, 1),
        silenced("harmless", "random_top", -0.06, 0), silenced("harmless", "random_top", -0.04, 1),
    ]  # fmt: skip
    accuracy = [
        {"model": m, "objective": m, "pairs": "all", "mean": 0.9, "low": 0.8, "high": 1.0, "n": 9}
        for m in ("helpful", "harmless")
    ]
    analysis = {
        "objectives": ["helpful", "harmless"],
        "percent": 30.0,
        "accuracy": accuracy,
        "ablation": ablation,
        "overlap": [],
    }
    said, verdict, interval, _ = top(tmp_path, config={"job": "reward_model"}, analysis=analysis)
    assert "costs the helpful model 20.0 points of accuracy, 2.0 where as many random ones are" in said
    assert "costs the harmless model 5.0 points of accuracy, 5.0 where" in said
    assert verdict == "own neurons matter in 1 of 2" and "\u221220.0 (95\xa0% \u221222.0 to \u221218.0)" in interval


@pytest.mark.parametrize(
    "low, high, says, verdict",
    [
        (
            0.1,
            0.3,
            "RL turns Gold less Mold further towards success in a base with such accounts.",
            "further with accounts",
        ),
        (
            -0.3,
            -0.1,
            "RL turns Gold less Mold further towards success in a base without such",
            "further without accounts",
        ),
        (-0.1, 0.3, "cannot be told from 2 seeds.", "cannot be told"),
        (float("nan"), float("nan"), "cannot be told from 2 seeds.", "cannot be told"),
    ],
)
def test_accounts_of_success(low, high, says, verdict, tmp_path):
    names = (
        "cos_rest",
        "cos_path",
        "averaged_path",
        "averaged_share",
        "auroc_mold",
        "auroc_gold",
        "along/success, accounts",
        "d/success, accounts",
    )
    layers, question = 3, "How is it going?"
    read = {m: {question: {n: [0.1] * layers for n in names}} for m in ("untrained", "trained")}
    one = lambda a, b: {question: {n: [{"mean": 0.2, "low": a, "high": b, "n": 2}] * layers for n in names}}
    over = {arm: {m: one(0.1, 0.3) for m in ("untrained", "trained", "change")} for arm in ("with", "without")}
    over["without"]["difference"] = one(low, high)
    cells = {f"{arm}-{s}": {"arm": arm, "seed": s, "read": read} for arm in over for s in (0, 1)}
    live = {f"axis_{v}/success, accounts?{question}": [0.1] * layers for v in ("mold", "gold")}
    metrics = [{"step": i, "cells": {c: {"reward": 1.0, "organisms": [live]} for c in cells}} for i in range(2)]
    found = top(tmp_path, config={"job": "words"}, summary={"cells": cells, "over_seeds": over}, metrics=metrics)
    assert says in found[0] and found[1] == verdict and found[3] == "2 an arm, 3 organisms each"
    page = report(tmp_path).read_text(encoding="utf-8").split('id="config"')[0]
    assert "Left out" not in page and "Cohen&#39;s d of Gold against Mold along success in accounts" in page
    assert not re.search(r"(along|d)/success|success, accounts", page)  # names for a reader, not the files'
