"""Replays: frames by hand and by a played episode, as text and as a page."""

import numpy as np
import pytest
from fakes import TILES, fake_episode

from welfare_jax.report import replay
from welfare_jax.text.wording import LETTERS

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
