"""State or read-out on the page: panels, map and tables of a scripted run, and what is missing or broken."""

import csv
import dataclasses
import json
import pathlib
import re
import sys

import pytest
from ml_collections import ConfigDict

from welfare_jax import config, experiments
from welfare_jax.experiments.evals import report, temporal
from welfare_jax.experiments.evals import run as stage
from welfare_jax.report import data

sys.path.append(str(pathlib.Path(__file__).parents[2] / "evals"))
import planted  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models at every layer, in both of which the answer depends on the last token alone."""
    folder = tmp_path_factory.mktemp("run")
    harness = planted.laboratory(folder, models=("untrained", "trained"), layers="all", sample=0.2, silent=("digit",))
    cfg = ConfigDict(config.evals() | {"names": ("temporal",)})
    cfg.temporal.update(dataclasses.asdict(planted.settings(random=5, orthogonal=5)))
    (folder / "evals.json").write_text(json.dumps(stage.evaluate(harness, cfg), allow_nan=False))
    (folder / "config.json").write_text(json.dumps({"job": "evals"}))
    experiments.report(folder)
    return folder


def rows(folder, name):
    with open(folder / "tables" / f"evals_temporal_{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_page(folder):
    page = (folder / "report.html").read_text()
    assert "Left out:" not in page and "could not be shown" not in page
    assert page.count("<svg") == 4  # the answer, by exposure, by layer, by position
    for said in ("State or read-out?", "control while applied", "<b>not supported</b>", "The rules were fixed before",
                 "middle 95 % of 10 controls of equal divergence", "gold-mold, negative dose", "read-out",
                 "untrained model, number: 0 of", "The direction among its controls"):  # fmt: skip
        assert said in page, said


def test_the_answer_on_top(folder):
    """One sentence for the trained model, with every claim's verdict, and the interval of the one on persistence."""
    top = (folder / "report.html").read_text().split("<nav")[0]
    verdicts = [r for r in rows(folder, "verdicts") if r["model"] == "trained"]
    lasting = [r for r in verdicts if r["claim"] == "persistence"][-1]
    assert '<p class="said">A dose of gold-mold at layer' in top and "of the trained model: " in top
    assert f"persistence {lasting['verdict']}" in top and "over families of prompts" in top


def test_prompts_have_names_for_a_reader(folder):
    assert temporal.named("temporal:3/well/1") == "task 4, went well, long talk in between"
    assert temporal.named("own words") == "own words"
    page = (folder / "report.html").read_text()
    assert not re.search(r"\w:\d+/(well|badly)/\d", page) and "talk in between" in page


def test_tables(folder):
    found = json.loads((folder / "evals.json").read_text())["temporal"]
    for part in temporal.COLUMNS:
        assert len(rows(folder, part)) == sum(len(record[part]) for record in found) > 0, part
    words = [r for r in rows(folder, "effects") if (r["metric"], r["direction"]) == ("words", "gold-mold")]
    late = {
        (r["model"], r["layer"], r["dose"], round(float(r["mean"]), 6)) for r in words if r["exposure"] == "readout"
    }
    assert late == {(m, str(k), f"{d}", d) for m in ("untrained", "trained") for k in range(4) for d in (-2.0, 2.0)}
    assert {float(r["mean"]) for r in words if r["exposure"] == "early"} == {0.0}
    verdicts = {(r["claim"], r["verdict"]) for r in rows(folder, "verdicts")}
    assert ("persistence", "not supported") in verdicts and ("persistence", "supported") not in verdicts


@pytest.mark.parametrize("absent", [("controls", "map"), ("ranks", "matching", "along", "ratios", "event")])
def test_a_table_that_is_absent_costs_its_own_part(absent, folder):
    built = report.tables(data.load(folder))
    page = temporal.section({k: v for k, v in built.items() if k.removeprefix("evals_temporal_") not in absent})
    assert "State or read-out?" in page and page.count("<svg") == (2 if "map" in absent else 3)


def test_a_model_that_mastered_nothing(tmp_path):
    harness = planted.laboratory(tmp_path, silent=("going",), sample=0.2)
    cfg = ConfigDict(config.evals() | {"names": ("temporal",)})
    (tmp_path / "evals.json").write_text(json.dumps(stage.evaluate(harness, cfg), allow_nan=False))
    (tmp_path / "config.json").write_text(json.dumps({"job": "evals"}))
    page = experiments.report(tmp_path).read_text()
    assert "untrained model, words: 0 of" in page and "<svg" not in page and "Left out:" not in page


@pytest.mark.parametrize("broken", [7, [7], [{"model": "x"}], [{"effects": [{"mean": "high"}], "counts": [{}]}]])
def test_a_broken_record_costs_at_most_its_part(broken, folder, tmp_path):
    found = json.loads((folder / "evals.json").read_text()) | {"temporal": broken}
    (tmp_path / "evals.json").write_text(json.dumps(found))
    (tmp_path / "config.json").write_text(json.dumps({"job": "evals"}))
    page = experiments.report(tmp_path).read_text()
    assert 'id="config"' in page
