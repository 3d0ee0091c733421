import copy
import csv
import json
import math
import re

import numpy as np
import pytest

from welfare_jax.errors import InputError
from welfare_jax.report import headline, replay, write
from welfare_jax.text.wording import LETTERS, Wording

WORDING = Wording()
TILES = dict(zip(("path", "gold", "mold"), WORDING.tiles, strict=True))


def fake_episode(rng, title, greed, turns=15, size=25):
    """An episode played by the rules on a random maze; `greed` draws the player to Gold and away from Mold."""
    board = rng.choice(3, size=(size, size), p=(0.62, 0.1, 0.28))
    board[[0, -1]] = board[:, [0, -1]] = 2
    x = y = size // 2
    board[y, x] = 0
    rows = ["".join(".g#"[role] for role in row) for row in board]
    start, played, wind, gains = [x, y], [], -1, (-0.1, 19.9, -10.1)

    def enter(place, to):
        board[place[1], place[0]] = 2
        role = board[to[1], to[0]]
        board[to[1], to[0]] = 0 if role == 1 else role
        return role

    for _ in range(turns):
        near = [board[y - 1, x], board[y, x + 1], board[y + 1, x], board[y, x - 1]]
        message = WORDING.observation(40 + x, 40 + y, near, rng.permutation(4), wind)
        logits = rng.normal(size=4) + greed * np.array([(0.5, 2.0, -1.5)[role] for role in near])
        probs = np.exp(logits) / np.exp(logits).sum()
        action = int(rng.choice(4, p=probs))
        wind = int(rng.integers(4)) if rng.random() < 0.15 else -1
        place, reward, stops = (x, y), 0.0, []
        for k in (action, wind):
            to = place
            if k >= 0:
                dx, dy = replay.STEPS[k]
                to = (int(np.clip(place[0] + dx, 1, size - 2)), int(np.clip(place[1] + dy, 1, size - 2)))
            reward += gains[enter(place, to)] + 0.1 if to != place else 0.0
            stops.append([to[0] + 40, to[1] + 40])
            place = to
        reward -= 0.1
        turn = {"x": x + 40, "y": y + 40, "message": message, "action": action, "probs": probs.tolist(), "wind": wind}
        played.append(turn | {"landed": stops[0], "end": stops[1], "reward": reward})
        x, y = place
    window = {"x0": 40, "y0": 40, "rows": rows}
    total = sum(t["reward"] for t in played)
    start = [start[0] + 40, start[1] + 40]
    return {"title": title, "size": [100, 100], "tiles": dict(TILES), "window": window, "start": start} | {
        "turns": played,
        "reward": total,
    }


def fake_model(rng, layers, pull):
    depth = np.linspace(0, 1, layers)
    path = 0.7 - pull * 1.2 * depth + 0.03 * rng.normal(size=layers)
    peak = {v: np.exp(-(((depth - at) / 0.3) ** 2)) * (0.1 + 0.9 * pull) for v, at in (("mold", 0.6), ("gold", 0.7))}
    selection = {
        v: {
            "layer": int(0.6 * layers),
            "auroc": (0.5 + 0.45 * peak[v]).tolist(),
            "cohens_d": (2.5 * peak[v]).tolist(),
            "overlap": (1 - 0.8 * peak[v]).tolist(),
        }
        for v in ("mold", "gold")
    }

    def sure(value, width=0.1):
        noise = {"free": value, "low": value - width, "high": value + width, "noise": 0 * value - 0.5}
        return {k: v.tolist() for k, v in ({"value": value} | noise).items()}

    flat, names = [(-0.2 * np.ones(layers)).tolist(), (0.2 * np.ones(layers)).tolist()], ["reviews", "valence-assent"]
    cohorts = {kind: {"mold": flat, "gold": flat} for kind in ("random", "orthogonal")}
    edges, signs = np.linspace(-2, 2, 9), {"mold": -1, "gold": 1}
    more = {
        "intervals": {k: sure(v) for k, v in (("rest", path - 1), ("path", path), ("mold-gold", path))},
        "noise_share": {"mold": (0.3 + 0 * depth).tolist(), "gold": (0.1 + depth).tolist()},
        "null": {"cos": cohorts, "auroc": {k: {v: [[0.4] * layers, [0.6] * layers] for v in peak} for k in cohorts}},
        "density": {
            v: {"layer": 1, "edges": edges.tolist(), "cohens_d": 1.2}
            | {c: np.abs(rng.normal(size=8)).tolist() for c in ("mold", "gold", "path")}
            for v in ("mold", "gold")
        },
        "axes": {"names": names, "null": dict.fromkeys(names, cohorts), "emotion_share": [[0.5, 0.2]] * layers}
        | {v: {n: sure(s * depth * 0.5) for n in names} for v, s in signs.items()},
        "emotions": {"layer": 1, "words": [f"word {i}" for i in range(30)]}
        | {v: (s * np.linspace(-0.4, 0.4, 30) + 0.03 * rng.normal(size=30)).tolist() for v, s in signs.items()},
    }  # fmt: skip
    tokens = [" failed", " cannot", "\n\n", "错误", "<b>", " ", " stuck", "\u200d"]
    sides = {"promoted": [[t, 5 - 0.4 * i] for i, t in enumerate(tokens)]}
    sides["suppressed"] = [[t, -4 + 0.3 * i] for i, t in enumerate([" done", "</s>", " complete", " yes", "\t"])]
    return {
        "cos": {"rest": [headline.rest_from_path(c) for c in path], "path": path.tolist()},
        "centred": {
            p: (a - pull * depth * b).tolist()
            for p, a, b in (("mold-gold", 0.1, 0.9), ("mold-path", -0.5, -0.4), ("gold-path", -0.8, -0.3))
        },
        "norms": {"mold": (1 + 4 * depth).tolist(), "gold": (1 + 7 * depth * (1 + pull)).tolist()},
        "selection": selection,
        "lens": {"layer": 5 * layers // 6, "mold": sides, "gold": copy.deepcopy(sides)}
        | {"plain": {"mold": {"promoted": [["word", 1.0, "gold suppressed"]]}}},
    } | more


OPPOSED = {"rest": (-0.5, -0.2), "path": (-1.2, -0.7)}


def fake_change(layers, low, high):
    one = {"value": [(low + high) / 2], "free": [None], "low": [low], "high": [high]}
    parts = {part: {"difference": one} for part in ("all", "last_third")}
    return parts | {"difference": {k: v * layers for k, v in one.items()}}


def fake_run(folder, steps=12, layers=4, episodes=2, pull=1.0, seed=0, change=OPPOSED):
    """Writes the four files of a run into `folder` and returns (config, metrics, summary, analysis)."""
    rng = np.random.default_rng(seed)
    metrics = []
    for step in range(steps):
        t = step / max(1, steps - 1)
        gold, mold = 0.6 + 2.5 * t + 0.1 * rng.normal(), 4.6 - 3 * t + 0.1 * rng.normal()
        row = {"step": step, "gold": gold, "mold": mold, "reward": 20 * gold - 10 * mold - 1.5}
        row |= {"gold_taken": 0.27 + 0.5 * t, "mold_avoided": 0.7 + 0.25 * t, "entropy": 1.3 - 0.6 * t}
        row |= {"ratio_max": 1.1, "clip_frac": 0.02, "grad_norm": 0.5 + t, "lr": 3e-6 * (1 - t), "loss": -0.1 * t}
        row |= {"entropy_coef": 0.01, "episodes_per_s": 30.0, "tokens_per_s": 24000.0, "seconds": 17.1}
        if step % 3 == 0:
            path = 0.7 - pull * 1.2 * t * np.linspace(0, 1, layers)
            row |= {"cos_rest": [headline.rest_from_path(c) for c in path], "cos_path": path.tolist()}
            row |= {
                f"{k}_{v}": (0.5 + 0.4 * t * np.linspace(0, 1, layers)).tolist()
                for k in ("auroc", "d")
                for v in ("mold", "gold")
            }
        metrics.append(row)
    analysis = {"layers": layers, "hook": "resid_post", "classes": ["mold", "gold", "path"]}
    analysis |= {"trained": fake_model(rng, layers, pull), "untrained": fake_model(rng, layers, 0.0)}
    analysis["change"] = {b: fake_change(layers, low, high) for b, (low, high) in change.items()}
    analysis["counts"] = {"mold": 512, "gold": 512, "path": 511}
    analysis["directions"] = {c: [0.24, 0.26, 0.255, 0.245] for c in ("mold", "gold", "path")}
    analysis["samples"] = [
        {
            "model": m,
            "vector": v,
            "layer": 2,
            "alpha": a,
            "prompt": p,
            "text": f"{m} {v} {a}: I think that\nit went. " * 3,
        }
        for p in ("How is it going?", "Tell me about the last task.")
        for m in ("trained", "untrained")
        for v in ("mold", "gold")
        for a in (-4.0, -2.0, 0.0, 2.0, 4.0)
    ]
    analysis["episodes"] = [fake_episode(rng, f"step {i * (steps - 1)}", 2.0 * i) for i in range(episodes)]
    summary = {"reward_first": metrics[0]["reward"], "reward_last": metrics[-1]["reward"], "layer_mold": 2}
    summary |= {"model": "small random decoder", "device": "cpu", "seconds": {"train": 205.2, "extract": 30.0}}
    config = {"model": {"path": "random"}, "rl": {"steps": steps, "lr": 3e-6}, "text": {"closing": WORDING.closing}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "analysis.json").write_text(json.dumps(analysis))
    return config, metrics, summary, analysis


def read_csv(folder, name):
    with open(folder / "tables" / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def sections_left_out(page):
    return re.findall(r'<section id="(\w+)"><h2>[^<]*</h2><p class="missing">Left out', page)


def test_page_is_whole_and_self_contained(tmp_path):
    fake_run(tmp_path)
    path = write(tmp_path)
    page = path.read_text(encoding="utf-8")
    assert path == tmp_path / "report.html"
    assert sections_left_out(page) == [] and "could not be shown" not in page
    assert page.count("<svg") == 13 + 2  # figures and replays
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
    "untrained": "trained", "gold": "mold", "path": "rest", "mold-gold": "rest", "orthogonal": "random",
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

    def svg(draw, *tables):  # each figure of the same numbers is drawn once, and never rendered
        key = f"{draw.__name__} {tables}"
        if key not in drawn:
            drawn[key] = draw(*tables)
        return ""

    monkeypatch.setattr("welfare_jax.report.figures.svg", svg)
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


SHORT = {
    "title": "by hand",
    "tiles": TILES,
    "window": {"x0": 4, "y0": 7, "rows": [".g#.", "..#g", "#..."]},
    "start": [4, 8],
    "turns": [
        # East along the path, then blown north onto Gold.
        {"x": 4, "y": 8, "message": "m0", "action": 1, "probs": [0.1, 0.7, 0.1, 0.1]}
        | {"landed": [5, 8], "wind": 0, "end": [5, 7], "reward": 19.9},
        # East onto Mold.
        {"x": 5, "y": 7, "message": "m1", "action": 1, "probs": [0.25] * 4}
        | {"landed": [6, 7], "wind": -1, "end": [6, 7], "reward": -10.1},
        # Back west, onto the eaten Gold that has melted.
        {"x": 6, "y": 7, "message": "m2", "action": 3, "probs": [0.25] * 4}
        | {"landed": [5, 7], "wind": -1, "end": [5, 7], "reward": -10.1},
    ],
    "reward": -0.3,
}


def test_frames_by_hand():
    seen = replay.frames(SHORT)
    assert [f["rows"] for f in seen] == [
        [".g#.", "..#g", "#..."],
        ["..#.", "xx#g", "#..."],  # start and the tile blown off are Mold now, the Gold is eaten
        [".x#.", "xx#g", "#..."],
        [".x#.", "xx#g", "#..."],  # what was Mold stays as it was
    ]
    assert [f["at"] for f in seen] == [(4, 8), (5, 7), (6, 7), (5, 7)]
    assert [f["reward"] for f in seen] == pytest.approx([0, 19.9, 9.8, -0.3])
    assert [(f["gold"], f["mold"]) for f in seen] == [(0, 0), (1, 0), (1, 1), (1, 2)]
    assert [f["gains"] for f in seen[:-1]] == [{"gold": 1, "mold": 0}, {"gold": 0, "mold": 1}, {"gold": 0, "mold": 1}]
    assert seen[-1]["trail"] == [(4, 8), (5, 8), (5, 7), (6, 7), (5, 7)]
    assert [f["near"] for f in seen[:-1]] == ["..#?", "?#x.", "?.#x"]
    assert seen[0]["outcome"] == "Moves E to (5, 8): path. Wind pushes N to (5, 7): gold. Reward +19.9."
    assert seen[2]["outcome"] == "Moves W to (5, 7): mold (melted). Reward \u221210.1."
    assert "action" not in seen[-1]


def test_frames_agree_with_a_played_episode():
    rng = np.random.default_rng(3)
    for _ in range(20):
        episode = fake_episode(rng, "any", 1.0)
        seen = replay.frames(episode)
        rewards = [20 * f["gains"]["gold"] - 10 * f["gains"]["mold"] - 0.1 for f in seen[:-1]]
        assert rewards == pytest.approx([t["reward"] for t in episode["turns"]])
        emoji = {".": TILES["path"], "g": TILES["gold"], "#": TILES["mold"], "x": TILES["mold"]}
        for f in seen[:-1]:  # what the player was told is what the board shows
            for word, sign in zip(("North", "East", "South", "West"), f["near"], strict=True):
                assert f"{word}: {emoji[sign]}" in f["message"]


def test_crop_keeps_the_tiles_in_place():
    rng = np.random.default_rng(5)
    episode = fake_episode(rng, "any", 1.0)
    small = replay.crop(episode, margin=1)
    assert len(small["window"]["rows"]) < len(episode["window"]["rows"])
    for whole, part in zip(replay.frames(episode), replay.frames(small), strict=True):
        assert whole["at"] == part["at"] and whole.get("near") == part.get("near")


def test_text_for_a_terminal():
    lines = replay.text(SHORT, 1).splitlines()
    assert lines[0] == "by hand: turn 2 of 3, at (5, 7), reward so far +19.9, gold 1, mold 0"
    assert lines[1:4] == [". @ # .", "x x # g", "# . . ."]
    assert "m1" in lines and "answer: E   (N 25%  E 25%  S 25%  W 25%)" in lines
    assert replay.text(SHORT, 3).splitlines()[-1] == "The episode is over. Reward -0.3."
    assert all(letter in LETTERS for letter in "NESW")


def test_replay_page_stands_alone():
    page = replay.page(SHORT)
    assert page.startswith("<!doctype html>") and page.count("<svg") == 1 and "http" not in page


def test_equal_norms_rule():
    a, b = np.array([1.0, 0.0]), np.array([0.39, math.sqrt(1 - 0.39**2)])
    mold, gold = a - b / 2, b - a / 2  # class mean minus the mean of the other two, Path at the origin
    cosine = mold @ gold / np.linalg.norm(mold) / np.linalg.norm(gold)
    assert headline.rest_from_path(0.39) == pytest.approx(cosine)
    assert round(cosine, 2) == -0.6


@pytest.mark.parametrize(
    "rest, path, says",
    [
        ((-0.5, -0.9), (0.5, -0.4), "more opposed under both baselines"),
        ((-0.6, -0.68), (0.39, 0.25), "no clear effect"),  # 0.14 is small beside 0.39
        ((-0.6, -0.65), (0.39, 0.10), "only against the Path mean: weak evidence"),
        ((-0.5, -0.1), (0.1, 0.6), "less opposed"),
        ((0.0, -0.3), (0.0, 0.3), "disagree"),
        ((-0.6, None), (None, 0.3), "nothing can be said"),
    ],
)
def test_the_verdict_claims_no_more_than_the_numbers(tmp_path, rest, path, says):
    summary = dict(
        cos_untrained=[rest[0]], cos_trained=[rest[1]], cos_untrained_path=[path[0]], cos_trained_path=[path[1]]
    )
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert says in write(tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "rest, path, says",
    [
        ((-0.5, -0.2), (-1.2, -0.7), "more opposed under both baselines: neither interval holds zero"),
        ((-0.5, 0.2), (-1.2, 0.7), "not distinguishable from sampling noise"),
        ((-2.0, 2.0), (-2.0, 2.0), "not distinguishable from sampling noise"),
        ((-0.5, -0.1), (-0.3, 0.1), "only one against rest: weak evidence"),
        ((0.1, 0.2), (0.3, 0.4), "less opposed under both baselines"),
        ((-0.2, -0.1), (0.3, 0.4), "disagree"),
    ],
)
def test_the_verdict_follows_from_the_intervals(tmp_path, rest, path, says):
    """However large the values themselves are."""
    fake_run(tmp_path, steps=3, change={"rest": rest, "path": path})
    page = write(tmp_path).read_text(encoding="utf-8")
    assert says in page and "95 % intervals of that difference" in page
    rows = read_csv(tmp_path, "cosine_overall")
    got = [(float(r["low"]), float(r["high"])) for r in rows if (r["layers"], r["model"]) == ("all", "difference")]
    assert got == [rest, path]


def test_csv_holds_intervals_axes_and_densities(tmp_path):
    *_, analysis = fake_run(tmp_path)
    write(tmp_path)
    of = lambda name, **where: [r for r in read_csv(tmp_path, name) if where.items() <= r.items()]
    trained = analysis["trained"]
    rows = of("cosine_intervals", kind="path", model="trained")
    assert [float(r["low"]) for r in rows] == trained["intervals"]["path"]["low"]
    rows = of("axes", model="trained", vector="gold", axis="reviews")
    assert [float(r["value"]) for r in rows] == trained["axes"]["gold"]["reviews"]["value"]
    assert {(r["random_low"], r["orthogonal_high"]) for r in rows} == {("-0.2", "0.2")}
    rows = of("densities", model="trained", vector="mold")
    assert [float(r["gold"]) for r in rows] == trained["density"]["mold"]["gold"]
    assert [float(r["from"]) for r in rows] == trained["density"]["mold"]["edges"][:-1]
    rows = of("emotions", model="trained")
    assert [(r["word"], float(r["mold"])) for r in rows] == list(
        zip(trained["emotions"]["words"], trained["emotions"]["mold"])
    )
    assert of("lens", norm="plain")[0]["also"] == "gold suppressed"
    assert {r["random_auroc_high"] for r in of("selection", model="trained")} == {"0.6"}
    assert [float(r["noise_gold_trained"]) for r in read_csv(tmp_path, "geometry")] == trained["noise_share"]["gold"]


def test_noise_is_not_called_learning(tmp_path):
    rewards = [-40 + (5 if i % 2 else -5) for i in range(20)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"reward": r}) + "\n" for r in rewards))
    assert "no clear change beside the step-to-step scatter" in write(tmp_path).read_text(encoding="utf-8")
