"""A made-up run with everything that a report draws, and what reads its page back."""

import copy
import csv
import json
import re

import numpy as np

from welfare_jax.experiments.axis import headline
from welfare_jax.report import replay
from welfare_jax.text.wording import Wording

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
    both, p = {"mold": flat, "gold": flat}, {"mold": [0.01] * layers, "gold": [0.01] * layers}
    edges, signs = np.linspace(-2, 2, 9), {"mold": -1, "gold": 1}
    more = {
        "intervals": {k: sure(v) for k, v in (("rest", path - 1), ("path", path), ("mold-gold", path))},
        "noise_share": {"mold": (0.3 + 0 * depth).tolist(), "gold": (0.1 + depth).tolist()},
        "null": {
            "cos": {"rest": flat, "path": flat},
            "auroc": {v: [[0.4] * layers, [0.6] * layers] for v in peak},
            "auroc_chosen": {v: {"high": 0.6, "p": 0.001} for v in peak},
        },
        "density": {
            v: {"layer": 1, "edges": edges.tolist(), "cohens_d": 1.2}
            | {c: np.abs(rng.normal(size=8)).tolist() for c in ("mold", "gold", "path")}
            for v in ("mold", "gold")
        },
        "axes": {"names": names, "null": dict.fromkeys(names, both), "p": dict.fromkeys(names, p)}
        | {"emotion_share": [[0.5, 0.2]] * layers}
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
OUTCOME = {
    "baseline": "path", "layers": "signal", "least": 0.1, "shams": 0, "used": [1, 2, 3], "verdict": "opposed",
    "walks": 512, "untrained": 0.6, "trained": -0.35, "change": -0.95, "low": -1.2, "high": -0.7, "detectable": 0.46,
    "walks_needed": 10836,
}  # fmt: skip


def fake_change(layers, low, high):
    one = {"value": [(low + high) / 2], "free": [None], "low": [low], "high": [high]}
    parts = {part: {"difference": one} for part in ("all", "last_third")}
    return parts | {"difference": {k: v * layers for k, v in one.items()}}


def fake_run(folder, steps=12, layers=4, episodes=2, pull=1.0, seed=0, change=OPPOSED, outcome=OUTCOME):
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
    analysis["outcome"] = outcome
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
