"""The first page claims no more than the numbers say."""

import json
import math

import numpy as np
import pytest
from fakes import OUTCOME, fake_run, read_csv

from welfare_jax.experiments import report as write
from welfare_jax.experiments.axis import headline


def test_equal_norms_rule():
    a, b = np.array([1.0, 0.0]), np.array([0.39, math.sqrt(1 - 0.39**2)])
    mold, gold = a - b / 2, b - a / 2  # class mean minus the mean of the other two, Path at the origin
    cosine = mold @ gold / np.linalg.norm(mold) / np.linalg.norm(gold)
    assert headline.rest_from_path(0.39) == pytest.approx(cosine)
    assert round(cosine, 2) == -0.6


def known(found):
    return {k: v for k, v in found.items() if v is not None}


@pytest.mark.parametrize(
    "change, says",
    [
        ({}, ("This checkpoint differs from the untrained model: its vectors are more opposed, by \u22120.95",)),
        ({"verdict": "aligned", "change": 0.9}, ("its vectors are less opposed, by +0.90",)),
        ({"verdict": "small", "change": 0.01}, ("no change as large as 0.10", "a change of 0.46 or more is found")),
        ({"verdict": "unknown"}, ("cannot be told", "some 10,836 walks a class")),
        ({"verdict": "unknown", "change": None}, ("too little signal in those layers (512 a class were read)",)),
        ({"used": [0, 2, 3, 4, 9]}, ("layers 0, 2 to 4, 9: 5 of 12",)),
    ],
)
def test_one_checkpoint(tmp_path, change, says):
    fake_run(tmp_path, steps=3, layers=12, outcome=known(OUTCOME | change))
    page = write(tmp_path).read_text(encoding="utf-8")
    for said in ("Primary outcome, fixed before the run: how cos(v_mold, v_gold) against the Path mean", *says):
        assert said in page
    assert "Training made" not in page


TRAINING = OUTCOME | {
    "runs": 3, "changes": [-0.9, -1.0, -0.95], "sham_changes": [-0.02, 0.03], "low": -1.1, "high": -0.8
}  # fmt: skip
LONE = {"changes": [-0.9], "sham_changes": [0.01, -0.02] * 10, "p": 1 / 21}


@pytest.mark.parametrize(
    "change, says",
    [
        ({}, "Training made the two vectors more opposed."),
        ({"verdict": "aligned"}, "Training made the two vectors less opposed."),
        ({"verdict": "small"}, "Training made no change as large as 0.10"),
        ({"verdict": "unknown"}, "Whether training changed the two vectors cannot be told"),
        ({"sham_changes": []}, "would do the same was not tested: set outcome.shams"),
        ({"change": None}, "Whether training changed anything cannot be told"),
        (LONE, "lies outside what they do, p = 0.048. It is one training run"),
        (LONE | {"p": 0.5}, "does not stand out among them, p = 0.500"),
        (LONE | {"p": 0.25, "sham_changes": [0.0] * 3}, "(with so few, p cannot be below 0.25)"),
    ],
)
def test_only_runs_and_shams_speak_of_training(tmp_path, change, says):
    (tmp_path / "analysis.json").write_text(json.dumps({"training": known(TRAINING | change)}))
    (tmp_path / "metrics.jsonl").write_text("")
    page = write(tmp_path).read_text(encoding="utf-8")
    assert says in page
    if not says.startswith("Training made"):
        assert "Training made" not in page


@pytest.mark.parametrize(
    "change, says",
    [
        (
            {},
            "the means differ by \u22120.95 (95 % interval \u22121.10 to \u22120.80), so what the tiles earn did it.",
        ),
        ({"verdict": "unknown"}, "so whether what the tiles earn did it cannot be told."),
        ({"verdict": "small"}, "makes no difference as large as 0.10."),
        ({"changes": [-0.9]}, "2 more changed it by \u22120.02 to +0.03."),
    ],
)
def test_runs_of_shuffled_rewards_speak_of_the_reward(tmp_path, change, says):
    found = TRAINING | {"shuffled": known(TRAINING | change)}
    (tmp_path / "analysis.json").write_text(json.dumps({"training": known(found)}))
    (tmp_path / "metrics.jsonl").write_text("")
    page = write(tmp_path).read_text(encoding="utf-8")
    assert "Training made" in page and says in page and "nothing to learn" not in page


@pytest.mark.parametrize(
    "settings", [{"train": {"shuffle_rewards": True}}, {"organisms": {"shuffle_rewards": [True]}}]
)
def test_a_run_of_shuffled_rewards_alone_says_so(tmp_path, settings):
    fake_run(tmp_path, steps=3, layers=12, outcome=OUTCOME)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | settings))
    assert "there was nothing to learn" in write(tmp_path).read_text(encoding="utf-8")


def test_secondary_intervals_are_shown_without_a_verdict(tmp_path):
    fake_run(tmp_path, steps=3, change={"rest": (-0.5, -0.2), "path": (-1.2, -0.7)})
    page = write(tmp_path).read_text(encoding="utf-8")
    assert "Secondary, as others report it" in page and "95 % interval over walks \u22121.20 to \u22120.70" in page
    rows = read_csv(tmp_path, "cosine_overall")
    got = [(float(r["low"]), float(r["high"])) for r in rows if (r["layers"], r["model"]) == ("all", "difference")]
    assert got == [(-0.5, -0.2), (-1.2, -0.7)]


def test_noise_is_not_called_learning(tmp_path):
    rewards = [-40 + (5 if i % 2 else -5) for i in range(20)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"reward": r}) + "\n" for r in rewards))
    assert "no clear change beside the step-to-step scatter" in write(tmp_path).read_text(encoding="utf-8")
