"""Two steps of any main job, and what they took beside what the plan says."""

import json

import jax
import pytest

from welfare_jax import config
from welfare_jax.experiments.axis import plan, run, smoke
from welfare_jax.planning import devices, estimate, work
from welfare_jax.train.job import Job


def settings(**changes):
    c = config.rl()
    c.model.update(path="tiny", dtype="float32")
    c.maze.update(size=31, turns=3)
    c.train.update(groups=2, group_size=4, micro_batch=8, remat=False)
    c.train.lora.rank = 2
    c.smoke = True
    c.update_from_flattened_dict(changes)
    return c


def test_what_a_step_costs_stays():
    c = settings(**{"organisms.seed": (0, 1), "evals.random": 100, "outcome.shams": 5, "train.steps": 95})
    short = smoke.shortened(c)
    Job.of(short)  # fits together
    assert c.train.steps == 95 and short.train.steps == 2 and not any(map(len, short.organisms.values()))
    keep = ("groups", "group_size", "micro_batch", "rollout_batch", "remat", "lora", "lr", "algorithm")
    assert all(short.train[name] == c.train[name] for name in keep)
    assert short.model == c.model and short.maze == c.maze and short.evals.names == (smoke.EVALUATION,)
    assert smoke.shortened(settings(**{"distributed.coordinator": "auto"})).evals.names == ()
    assert sum(s.tokens for s in plan.stages(short, ".")) < 1e5


def test_rows_are_the_plans_beside_the_runs(tmp_path, monkeypatch):
    """On a chip of a million million FLOP a second, with seconds that are told."""
    c = smoke.shortened(settings())
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": i, "seconds": 2.0 + i, "curve_seconds": 1.0}) + "\n" for i in range(2))
    )
    toy = devices.Chip(1e12, 64e9, 1e30, ("toy",))
    monkeypatch.setattr(devices, "here", lambda: (toy, 1))
    stages = plan.stages(c, tmp_path)
    seconds = {"build": 1.0, "train": 5.0, "analysis": 4.0, "evaluation": 3.0}
    memory = {name: 1e9 * (i + 1) for i, name in enumerate(seconds)}
    rows = {row["stage"]: row for row in smoke.compare(c, tmp_path, stages, seconds, memory)}
    assert list(rows) == ["build", "train", "step", "analysis", "evaluation"]
    train = stages[0]
    assert rows["step"]["seconds"] == 2.0 and rows["step"]["planned_seconds"] == pytest.approx(train.flops / 2 / 1e12)
    assert rows["train"]["tflop_per_s"] == pytest.approx(train.flops / 5e12)
    rest = work.total("", "", *stages[1:]).flops
    assert rows["analysis"]["planned_seconds"] + rows["evaluation"]["planned_seconds"] == pytest.approx(rest / 1e12)
    assert rows["build"]["tflop_per_s"] is None and [rows[n]["bytes"] for n in seconds] == list(memory.values())
    job = Job.of(c)
    own = estimate.make(job, "here", estimate.source(job))
    assert rows["build"]["planned_bytes"] == own.resident and rows["train"]["planned_bytes"] == own.most
    said = smoke.lines(list(rows.values()))
    assert len(said) == 6 and said[3].split()[:3] == ["step", "2", "s"]


@pytest.mark.slow
def test_a_smoke_run_does_every_stage(tmp_path, capsys):
    run.run(settings(**{"mesh.data": jax.device_count()}), tmp_path)
    rows = json.loads((tmp_path / "smoke.json").read_text())
    assert [row["stage"] for row in rows] == ["build", "train", "step", "analysis", "evaluation"]
    assert all(row["seconds"] > 0 and row["bytes"] > 1e8 for row in rows)
    assert rows[0]["planned_seconds"] is None  # of a CPU no rates are known
    assert "memory so far" in capsys.readouterr().out and (tmp_path / "evals.json").is_file()
