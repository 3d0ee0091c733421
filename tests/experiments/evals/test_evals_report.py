"""The evaluations' section: panels, heatmap, answers and tables from a scripted run, and from broken files."""

import csv
import dataclasses
import json
import math
import pathlib
import sys

import pytest
from ml_collections import ConfigDict

from welfare_jax import config, experiments
from welfare_jax.evals import cells, judge, summary
from welfare_jax.evals.evaluation import Asked, Evaluation, Sampled
from welfare_jax.evals.evaluations import EVALUATIONS
from welfare_jax.experiments.evals import report as evals
from welfare_jax.experiments.evals import run as stage
from welfare_jax.report import data, tables
from welfare_jax.settings import setting

sys.path.append(str(pathlib.Path(__file__).parents[2] / "evals"))
import scripted  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Gold raises and mold lowers what the script says, most at layer 2; trained mold falls apart at strength 4."""
    folder = tmp_path_factory.mktemp("run")
    sign = {"": 0, "v_mold": -1, "v_gold": 1}

    def push(c):
        return sign[c.vector] * c.alpha * (1 - abs(c.layer - 2) / 2)

    def say(c, talk, k):
        gone = c.model == "trained" and c.vector == "v_mold" and c.alpha == 4
        return "gone" if gone else f"<script>alert(1)</script> {push(c):g}"

    ask = lambda q: "Verdict: nonsensical" if q.answer == "gone" else f"Score: {q.answer.split()[-1]}"
    device = scripted.Script(say, lambda c, talk: (-1 + push(c) / 10, -2.0), lambda talk, pair: len(str(talk)) % 7)
    harness = scripted.make(folder, device, ask, layers="all", where=("assistant", "readout"))
    cfg = ConfigDict(config.evals())
    cfg.names = ("sentiment", "confidence", "goal_tracking")
    cfg.sentiment.update(prompts=("tiny_stories",), samples=2)
    for name in ("confidence", "goal_tracking"):
        cfg[name].update(prompts=("maths",))
    found = stage.evaluate(harness, cfg)
    assert {c.where for c in harness.cells} < set(cells.WHERE)
    (folder / "evals.json").write_text(json.dumps(found))
    (folder / "config.json").write_text(json.dumps({"job": "evals"}))
    experiments.report(folder)
    return folder


def unjudged(folder, **kw):
    """A run of evaluations that no judge takes part in; what gold adds to the odds is 0.3 nats for each strength."""
    sign = {"v_mold": -0.2, "v_gold": 0.3}
    settings = config.evals()
    words = (settings["sentiment_logodds"], ("good", "bad")), (settings["refusal_logodds"], ("refusal", "answer"))
    vocabulary = [word for cfg, sides in words for side in sides for word in cfg[side] if word != "bad"]

    def logp(c, talk):
        return math.log(0.3) + sign.get(c.vector, 0.01) * c.alpha, math.log(0.3)

    vectors = scripted.bank(("v_mold", "v_gold", "random_0/v_gold"), **{"random_0/v_gold": "random"})
    device = scripted.Script(lambda c, talk, k: f"said at {c.alpha:g}", logp, vocabulary=vocabulary)
    harness = scripted.make(folder, device, None, vectors, **kw)
    harness.judge = judge.NONE
    cfg = ConfigDict(settings | {"names": ("confidence", "sentiment_logodds", "refusal_logodds", "samples")})
    (folder / "evals.json").write_text(json.dumps(stage.evaluate(harness, cfg)))
    (folder / "config.json").write_text(json.dumps({"job": "evals"}))
    return experiments.report(folder).read_text()


def test_evaluations_without_a_judge(tmp_path):
    """Panels, slopes beside their controls and answers to read, as for any other evaluation."""
    page = unjudged(tmp_path)
    assert "could not be shown" not in page and "Judge: none" in page
    for name in ("confidence", "sentiment_logodds", "refusal_logodds"):
        assert EVALUATIONS[name].title in page and f"<td>{name}</td>" in page
    assert "1 random, norm-matched" in page and "Answers side by side" in page and "said at -4" in page
    assert "sentiment_logodds: left out of bad, not one token of this tokenizer: bad." in page
    slopes = [r for r in rows(tmp_path, "evals_slopes") if (r["metric"], r["group"]) == ("log_odds", "all")]
    assert {(r["evaluation"], r["vector"], round(float(r["slope"]), 6)) for r in slopes} == {
        (e, v, s) for e in ("sentiment_logodds", "refusal_logodds")
        for v, s in (("v_mold", -0.2), ("v_gold", 0.3), ("random_0/v_gold", 0.01))
    }  # fmt: skip
    assert {r["p"] for r in slopes if r["vector"] == "v_gold"} == {"0.5"}
    assert page.count("1 of 1") == 4 + 2  # steeper than its control: gold, of each model and evaluation


def test_a_single_strength_has_no_slope_and_still_a_section(tmp_path):
    page = unjudged(tmp_path, alphas=(0.0,))
    assert "Left out" not in page and "Slopes on the strength" not in page and page.count("<svg") == 2
    assert "not steered" in page and EVALUATIONS["refusal_logodds"].title in page
    assert not (tmp_path / "tables" / "evals_slopes.csv").exists() and rows(tmp_path, "evals_cells")


@pytest.mark.parametrize("alphas", [(-4.0, 0.0, 4.0), (0.0,)])
def test_an_evaluation_is_one_value(alphas, tmp_path, monkeypatch):
    """Two more, known nowhere else: their settings with what they mean, a panel with slopes, a table of its own."""

    def length(harness, config):
        answers = harness.sampled("length", config)
        return [summary.score("length", a, {"words": float(len(a["answer"].split()))}, False, False) for a in answers]

    def oddness(harness, config):
        return [{"model": m, "kind": "vector", "asked": config.count, "odd_share": 0.25} for m in harness.models()]

    @dataclasses.dataclass(frozen=True)
    class Lengths(Sampled):
        samples: int = setting(2, "of a prompt")

    @dataclasses.dataclass(frozen=True)
    class Oddness(Asked):
        count: int = 7

    for new in (
        Evaluation("length", length, "words", "Words in an answer", settings=Lengths(("maths",), max_new_tokens=4)),
        Evaluation("oddness", oddness, title="How odd it is", rows="odd", settings=Oddness()),
    ):
        monkeypatch.setitem(EVALUATIONS, new.name, new)
    told = config.documented("evals")
    assert (
        told["evals.length.samples"] == "of a prompt" and "temporal, length, oddness (no judge" in told["evals.names"]
    )
    push = lambda c, talk, k: "so " * int(6 + c.alpha * (c.vector == "v_gold"))
    harness = scripted.make(tmp_path, scripted.Script(push), None, alphas=alphas)
    harness.judge = judge.NONE
    cfg = ConfigDict(config.evals() | {"names": ("length", "oddness")})
    (tmp_path / "evals.json").write_text(json.dumps(stage.evaluate(harness, cfg)))
    (tmp_path / "config.json").write_text(json.dumps({"job": "evals"}))
    page = experiments.report(tmp_path).read_text()
    assert "Left out" not in page and "Words in an answer" in page and page.count("<svg") == 2
    assert "<h3>How odd it is</h3>" in page and 'class="n">odd share</th>' in page and "0.25" in page
    assert {(r["asked"], r["odd_share"]) for r in rows(tmp_path, "evals_odd")} == {("7", "0.25")}
    assert ("Slopes on the strength" in page) == (len(alphas) > 1)
    if len(alphas) > 1:
        found = [r for r in rows(tmp_path, "evals_slopes") if r["vector"] == "v_gold"]
        assert found and all(float(r["slope"]) == pytest.approx(1.0) for r in found)


@pytest.mark.parametrize("name", ["../../tracking", "cells", "judge"])
def test_no_table_goes_elsewhere(name, folder, tmp_path):
    """What a file of a run says of its evaluations names no path."""
    found = json.loads((folder / "evals.json").read_text())
    found["evaluations"]["goal_tracking"]["rows"] = name
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "evals.json").write_text(json.dumps({name: found["tracking"]} | found))
    (tmp_path / "a" / "b" / "config.json").write_text(json.dumps({"job": "evals"}))
    experiments.report(tmp_path / "a" / "b")
    assert not [p for p in tmp_path.rglob("*.csv") if p.parent != tmp_path / "a" / "b" / "tables"]
    assert len(rows(tmp_path / "a" / "b", "evals_cells")) == len(rows(folder, "evals_cells"))


PARTS = {  # what the reader sees of each table
    "evals_cells": ("Each metric against the strength", "Raw read-outs, parts and groups"),
    "evals_slopes": ("Slopes on the strength", "as a share of the steepest"),
    "evals_sweep": ("as a share of the steepest",),
    "evals_tracking": ("Goal tracking: projections",),
    "evals_answers": ("Answers side by side",),
}


@pytest.mark.parametrize("absent", PARTS)
def test_a_table_that_is_absent_costs_its_own_part(absent, folder):
    run = data.load(folder)
    built = tables.kept(evals.tables(run))
    assert PARTS.keys() <= built.keys()
    page = evals.section(run, {name: table for name, table in built.items() if name != absent})
    assert "Left out" not in page and "Judge: script" in page
    for said in {text for texts in PARTS.values() for text in texts}:
        assert (said in page) == (said not in PARTS[absent]), said


@pytest.mark.parametrize(("part", "malformed"), [
    ("evals_cells", {"mask": "high"}), ("evals_answers", {"samples": [{"evaluation": "sentiment"}]}),
    (None, {"judge": {"scored": 7}}),
])  # fmt: skip
def test_a_malformed_part_costs_itself(part, malformed, folder, tmp_path):
    found = json.loads((folder / "evals.json").read_text()) | malformed
    (tmp_path / "evals.json").write_text(json.dumps(found))
    (tmp_path / "config.json").write_text(json.dumps({"job": "evals"}))
    page = experiments.report(tmp_path).read_text()
    assert page.count("Left out: the data could not be shown") == 1
    lost = PARTS[part][0] if part else "Judge: script"
    for said in {"Judge: script", *(texts[0] for texts in PARTS.values())}:
        assert (said in page) == (said != lost), said


def test_a_run_of_samples_alone(tmp_path):
    harness = scripted.make(tmp_path, scripted.Script(lambda c, talk, k: f"said at {c.alpha:g}"), None)
    cfg = ConfigDict(config.evals() | {"names": ("samples",)})
    (tmp_path / "evals.json").write_text(json.dumps(stage.evaluate(harness, cfg)))
    (tmp_path / "config.json").write_text(json.dumps({"job": "evals"}))
    page = experiments.report(tmp_path).read_text()
    assert "Left out" not in page and "said at -4" in page and "<svg" not in page


@pytest.mark.parametrize("evaluations", [None, 7, {"sentiment": 7}, {"sentiment": {}}])
def test_a_file_that_does_not_say_what_its_evaluations_are(evaluations, folder, tmp_path):
    """As older runs left it: names take the place of titles and metrics."""
    found = json.loads((folder / "evals.json").read_text()) | {"evaluations": evaluations}
    (tmp_path / "evals.json").write_text(json.dumps(found))
    (tmp_path / "config.json").write_text(json.dumps({"job": "evals"}))
    page = experiments.report(tmp_path).read_text()
    assert page.count("<svg") == 3 and "Left out" not in page and "Slopes on the strength" in page


def rows(folder, name):
    with open(folder / "tables" / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_page(folder):
    page = (folder / "report.html").read_text()
    assert 'id="evals"' in page and 'id="reward"' not in page and "could not be shown" not in page
    for said in ("v_mold, layer 2", "trained model", "Slopes on the strength", "Goal tracking", "Answers side by side",
                 "slope, as a share of the steepest", "Judge: script", "sentiment: 0 of"):  # fmt: skip
        assert said in page, said
    assert page.count("<svg") == 3 and "<script>alert" not in page and "&lt;script&gt;alert" in page


def test_tables(folder):
    found = json.loads((folder / "evals.json").read_text())
    table = rows(folder, "evals_cells")
    assert len(table) == len(found["cells"])
    for row, cell in zip(table, found["cells"]):
        assert row["mean"] == ("" if cell["mean"] is None else str(cell["mean"]))
    gone = [r for r in table if r["masked"] == "True"]
    assert {(r["model"], r["vector"], r["alpha"], r["mean"]) for r in gone} == {("trained", "v_mold", "4.0", "")}
    slopes = rows(folder, "evals_slopes")
    peak = [r for r in slopes if r["metric"] == "sentiment" and r["group"] == "all" and r["layer"] == "2"]
    assert {(r["vector"], round(float(r["slope"]), 6)) for r in peak} == {("v_mold", -1), ("v_gold", 1)}
    assert {r["peak_layer"] for r in rows(folder, "evals_sweep") if r["metric"] == "sentiment"} == {"2"}
    assert {r["group"] for r in rows(folder, "evals_tracking")} >= {"all", "surest third"}
    assert any("alert(1)" in r["text"] for r in rows(folder, "evals_answers"))


@pytest.mark.parametrize(
    "broken", ["[]", "{", '{"cells": [{"evaluation": "sentiment"}]}', '{"tracking": 7, "cells": []}']
)
def test_broken_files_cost_only_their_section(broken, tmp_path):
    (tmp_path / "evals.json").write_text(broken)
    (tmp_path / "config.json").write_text('{"job": "rl"}')
    page = experiments.report(tmp_path).read_text()
    assert 'id="config"' in page
    assert experiments.report(tmp_path).read_text() == page


def test_other_runs_have_no_such_section(tmp_path):
    (tmp_path / "config.json").write_text('{"job": "rl"}')
    assert 'id="evals"' not in experiments.report(tmp_path).read_text()
