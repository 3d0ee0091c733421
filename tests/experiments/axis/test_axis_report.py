"""The page of a run: whole, safe, and with the numbers of its tables."""

import copy
import json
import math
import re

import numpy as np
import pytest
from fakes import fake_run, read_csv, sections_left_out

from welfare_jax.errors import InputError
from welfare_jax.experiments import report as write


def test_page_is_whole_and_self_contained(tmp_path):
    fake_run(tmp_path)
    path = write(tmp_path)
    page = path.read_text(encoding="utf-8")
    assert path == tmp_path / "report.html"
    assert sections_left_out(page) == [] and "could not be shown" not in page
    assert page.count("<svg") == 1 + 13 + 2  # the answer, figures and replays
    assert "http://" not in page and "https://" not in page
    targets = re.findall(r"""\b(?:src|href|action|data|poster)=["']?([^"'\s>]+)""", page)
    assert [t for t in targets if not t.startswith(("#", "data:"))] == []
    assert not re.search(r"@import|url\((?!#)|<link (?!rel=\"icon\" href=\"data:,\")|<iframe|<object", page)


def test_ids_and_links_fit_together(tmp_path):
    fake_run(tmp_path)
    page = write(tmp_path).read_text(encoding="utf-8")
    ids = re.findall(r'<\w+[^>]* id="([^"]+)"', page)
    assert set(re.findall(r'<a href="#([^"]+)"', page)) <= set(ids)
    clips = re.findall(r'<clipPath id="([^"]+)"', page)
    assert clips and len(clips) == len(set(clips))
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


def test_csv_holds_the_inputs(tmp_path):
    _, metrics, _, analysis = fake_run(tmp_path)
    write(tmp_path)
    rows = read_csv(tmp_path, "reward")
    assert [float(r["reward"]) for r in rows] == [m["reward"] for m in metrics]
    assert [float(r["mold_avoided"]) for r in read_csv(tmp_path, "behaviour")] == [m["mold_avoided"] for m in metrics]
    for row, trained, untrained in zip(
        read_csv(tmp_path, "cosine_by_layer"),
        analysis["trained"]["cos"]["path"],
        analysis["untrained"]["cos"]["path"],
        strict=True,
    ):
        assert (float(row["path_trained"]), float(row["path_untrained"])) == (trained, untrained)
        assert float(row["path_difference"]) == trained - untrained
    live = [(m["step"], c) for m in metrics if "cos_rest" in m for c in m["cos_rest"]]
    assert [(int(r["step"]), float(r["rest"])) for r in read_csv(tmp_path, "cosine_over_training")] == live
    means = {int(r["step"]): float(r["mean_rest"]) for r in read_csv(tmp_path, "cosine_mean_over_training")}
    assert means[3] == pytest.approx(np.mean(metrics[3]["cos_rest"]))
    geometry = [float(r["norm_gold_trained"]) for r in read_csv(tmp_path, "geometry")]
    assert geometry == analysis["trained"]["norms"]["gold"]
    chosen = [r for r in read_csv(tmp_path, "selection") if r["chosen"] == "1"]
    assert [(r["model"], r["vector"], int(r["layer"])) for r in chosen] == [
        (m, v, 2) for m in ("untrained", "trained") for v in ("mold", "gold")
    ]
    lens = [
        r
        for r in read_csv(tmp_path, "lens")
        if (r["model"], r["vector"], r["side"], r["norm"]) == ("trained", "mold", "promoted", "folded")
    ]
    assert [[r["token"], float(r["value"])] for r in lens] == analysis["trained"]["lens"]["mold"]["promoted"]
    assert [r["text"] for r in read_csv(tmp_path, "samples")] == [s["text"] for s in analysis["samples"]]
    last = [r for r in read_csv(tmp_path, "episodes") if r["episode"] == "1"][-1]
    assert float(last["reward_so_far"]) == pytest.approx(analysis["episodes"][1]["reward"])
    assert float(read_csv(tmp_path, "classes")[0]["E"]) == 0.26


def test_summary_cosines_stand_in_for_the_analysis(tmp_path):
    tmp_path.joinpath("summary.json").write_text(
        json.dumps({"cos_trained": [0.1, -0.2], "cos_untrained": [0.3, None]})
    )
    page = write(tmp_path).read_text(encoding="utf-8")
    assert "cosine" not in sections_left_out(page)
    rows = read_csv(tmp_path, "cosine_by_layer")
    assert [r["rest_difference"] for r in rows] == [repr(0.1 - 0.3), ""]
    assert [r["path_trained"] for r in rows] == ["", ""]


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "summary.json", "analysis.json"])
def test_a_missing_file_is_named(tmp_path, name):
    fake_run(tmp_path)
    (tmp_path / name).unlink()
    page = write(tmp_path).read_text(encoding="utf-8")
    assert f"{name} is not there" in page and "could not be shown" not in page


def test_an_empty_run_still_gets_a_report(tmp_path):
    page = write(tmp_path).read_text(encoding="utf-8")
    assert len(sections_left_out(page)) == 15
    assert list((tmp_path / "tables").iterdir()) == []


def test_several_side_by_side_have_their_vectors_in_their_own_reports(tmp_path):
    rows = [{"step": i, "reward": i, "organisms": [{"reward": i}, {"reward": -i}]} for i in range(3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "analysis.json").write_text(json.dumps({"training": {"changes": [-0.1, -0.2], "sham_changes": [0.0]}}))
    page = write(tmp_path).read_text(encoding="utf-8")
    assert 'href="organisms/1/report.html"' in page and "Left out" not in page.split('id="behaviour"')[0]
    assert {"cosine", "lens", "replay"}.isdisjoint(re.findall(r'<section id="(\w+)">', page))


def test_no_folder_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        write(tmp_path / "nothing")


def test_a_torn_and_repeated_metrics_file(tmp_path):
    lines = [{"step": 0, "reward": 1.0}, {"step": 1, "reward": 2.0}, {"step": 1, "reward": 3.0}, {"step": 2}]
    text = "".join(json.dumps(row) + "\n" for row in lines) + '{"step": 3, "rew'
    (tmp_path / "metrics.jsonl").write_text(text)
    page = write(tmp_path).read_text(encoding="utf-8")
    assert "1 unreadable line(s) skipped" in page
    assert [(r["step"], r["reward"]) for r in read_csv(tmp_path, "reward")] == [("0", "1.0"), ("1", "3.0"), ("2", "")]


# Keys that the report reads exactly as it reads these neighbours of theirs.
ALIKE = {
    "untrained": "trained", "gold": "mold", "path": "rest", "mold-gold": "rest",
    "last_third": "all", "valence-assent": "reviews", "low": "value", "high": "value", "free": "value",
}  # fmt: skip


def every_hole(tree, path=()):
    """All paths into a nested structure, lists entered at their first item only, of what is alike one."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree[:1]) if isinstance(tree, list) else ()
    for key, child in children:
        if ALIKE.get(key) in tree:
            continue
        yield (*path, key)
        yield from every_hole(child, (*path, key))


def test_no_hole_in_the_data_breaks_the_page(tmp_path, monkeypatch):
    *_, analysis = fake_run(tmp_path, steps=3, layers=2, episodes=1)
    drawn = {}

    def svg(draw, *tables, **look):  # each figure of the same numbers is drawn once, and never rendered
        key = f"{draw.__name__} {tables}"
        if key not in drawn:
            drawn[key] = draw(*tables)
        return ""

    monkeypatch.setattr("welfare_jax.report.svg.svg", svg)
    monkeypatch.setattr("welfare_jax.report.answer.picture", lambda *_: None)  # of the figure that svg has drawn
    for path in every_hole(analysis):
        for hole in ("absent", None, "text", [], {}, math.nan):
            broken = copy.deepcopy(analysis)
            parent = broken
            for key in path[:-1]:
                parent = parent[key]
            if hole == "absent":
                del parent[path[-1]]
            else:
                parent[path[-1]] = hole
            (tmp_path / "analysis.json").write_text(json.dumps(broken))
            page = write(tmp_path).read_text(encoding="utf-8")
            assert "could not be shown" not in page, (path, hole)


@pytest.mark.parametrize("value", [None, "text", [], {}, [None], math.nan, math.inf])
def test_no_strange_metric_breaks_the_page(tmp_path, value):
    _, metrics, *_ = fake_run(tmp_path, steps=4)
    for row, key in zip(metrics * 8, list(metrics[0]) * 2, strict=False):
        row[key] = value if key != "step" else row[key]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))
    page = write(tmp_path).read_text(encoding="utf-8")
    assert "could not be shown" not in page


def test_hostile_text_stays_text(tmp_path):
    evil = "</script><b>\"'&<img src=x onerror=alert(1)>\x00\ud800"
    *_, analysis = fake_run(tmp_path)
    analysis["samples"][0]["text"] = analysis["samples"][1]["prompt"] = evil
    analysis["trained"]["lens"]["gold"]["promoted"][0][0] = evil
    episode = analysis["episodes"][0]
    episode["title"] = episode["turns"][0]["message"] = episode["tiles"]["gold"] = analysis["hook"] = evil
    (tmp_path / "analysis.json").write_text(json.dumps(analysis))
    (tmp_path / "config.json").write_text(json.dumps({evil: evil}))
    page = write(tmp_path).read_text(encoding="utf-8")
    assert '<b>"' not in page and "<img" not in page and "could not be shown" not in page
    assert page.count("</script>") == page.count("<script") == 2 + 1  # two replays' data and the player
    embedded = re.findall(r'<script type="application/json">(.*?)</script>', page, flags=re.DOTALL)
    assert json.loads(embedded[0])["frames"][0]["message"] == evil


def test_csv_holds_intervals_axes_and_densities(tmp_path):
    *_, analysis = fake_run(tmp_path)
    write(tmp_path)
    of = lambda name, **where: [r for r in read_csv(tmp_path, name) if where.items() <= r.items()]
    trained = analysis["trained"]
    rows = of("cosine_intervals", kind="path", model="trained")
    assert [float(r["low"]) for r in rows] == trained["intervals"]["path"]["low"]
    rows = of("axes", model="trained", vector="gold", axis="reviews")
    assert [float(r["value"]) for r in rows] == trained["axes"]["gold"]["reviews"]["value"]
    assert {(r["chance_low"], r["chance_high"], r["p"]) for r in rows} == {("-0.2", "0.2", "0.01")}
    rows = of("densities", model="trained", vector="mold")
    assert [float(r["gold"]) for r in rows] == trained["density"]["mold"]["gold"]
    assert [float(r["from"]) for r in rows] == trained["density"]["mold"]["edges"][:-1]
    rows = of("emotions", model="trained")
    assert [(r["word"], float(r["mold"])) for r in rows] == list(
        zip(trained["emotions"]["words"], trained["emotions"]["mold"])
    )
    assert of("lens", norm="plain")[0]["also"] == "gold suppressed"
    assert {r["chance_auroc_high"] for r in of("selection", model="trained")} == {"0.6"}
    assert [float(r["noise_gold_trained"]) for r in read_csv(tmp_path, "geometry")] == trained["noise_share"]["gold"]
