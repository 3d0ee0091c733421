"""The first page claims no more than the numbers say."""

import json
import math

import numpy as np
import pytest
from fakes import fake_run, read_csv

from welfare_jax.report import headline, write


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


def test_noise_is_not_called_learning(tmp_path):
    rewards = [-40 + (5 if i % 2 else -5) for i in range(20)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"reward": r}) + "\n" for r in rewards))
    assert "no clear change beside the step-to-step scatter" in write(tmp_path).read_text(encoding="utf-8")
