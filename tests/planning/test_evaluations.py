"""What the planner counts against what evaluations really ask of a scripted model, and what has to be confirmed."""

import collections

import numpy as np
import pytest
import scripted

from welfare_jax import config
from welfare_jax.errors import InputError
from welfare_jax.evals import cells, directions
from welfare_jax.evals.evaluation import COHORTS, Grid
from welfare_jax.evals.evaluations import EVALUATIONS
from welfare_jax.evals.settings import Evals
from welfare_jax.evals.temporal import Dose
from welfare_jax.planning import evaluations, work
from welfare_jax.settings import typed


def settings(**changes):
    c = config.rl()
    c.job, c.model.path, c.model.dtype = "evals", "tiny", "float32"
    c.update_from_flattened_dict(changes)
    return c


COHORT = {"evals.permuted": 3, "evals.random": 4, "evals.orthogonal": 2}


@pytest.mark.parametrize("layers", ["chosen", "all", "1,3"])
@pytest.mark.parametrize("trained", [False, True])
def test_cells_are_those_of_the_grid(layers, trained, tmp_path):
    """Against directions with controls, made as a run makes them."""
    c = settings(**COHORT, **{"evals.layers": layers, "evals.where": ("assistant", "readout")})
    if trained:
        (tmp_path / "checkpoints").mkdir()
    rng = np.random.default_rng(0)
    make = lambda kind, beside: directions.Direction(rng.normal(size=(6, 16)).astype("f4"), 3, kind, beside)
    found = {f"u_{k}": make("untrained", f"v_{k}") for k in ("mold", "gold")}
    found |= {f"v_{k}": make("vector", f"v_{k}") for k in ("mold", "gold")} if trained else {}
    permuted = {name: rng.normal(size=(3, 6, 16)).astype("f4") for name in found}
    real = directions.Bank(directions.with_controls(found, 4, 2, 0, permuted), "resid_post")
    models = ["untrained", "trained"][: 1 + trained]
    want = cells.grid(models, real, layers, c.evals.alphas, list(c.evals.where))
    got = evaluations.grid(c, tmp_path, 6)
    assert (got.cells, got.models) == (len(want), len(models))
    shown = [cell for cell in want if cell.vector in ("", *real.main())]
    assert got.shown == len(shown) and got.doses == 2
    outline = directions.outline(["maze"], trained, typed(Evals, c, "evals"), 6).directions
    kinds = lambda bank: collections.Counter((d.kind, d.beside) for d in bank.values())
    assert {k: n for k, n in kinds(outline).items() if k[0] in COHORTS} == {
        k: n for k, n in kinds(real.directions).items() if k[0] in COHORTS
    }


def test_the_cells_of_the_shipped_configs(tmp_path):
    """258 cells in the folder of a finished run, as configs/evals.py says of SmolLM2."""
    import runpy

    c = runpy.run_path("configs/evals.py")["get_config"]("smollm2")
    assert evaluations.grid(c, tmp_path, 30, after_training=True).cells == 258


ONE = "confidence", "goal_tracking", "samples", "sentiment", "refusal", "sentiment_logodds", "refusal_logodds"


@pytest.mark.parametrize("name", ONE)
def test_rows_are_those_that_are_asked(name, tmp_path):
    """Every row that an evaluation asks of a model is in a journal afterwards."""
    c = settings(**{f"evals.{name}.samples": 3} if "samples" in config.rl().evals[name] else {}).evals[name]
    spoken = ("True", "False", "yes", *(c.get("good", ())), *(c.get("bad", ())))
    device = scripted.Script(
        say=lambda *_: "yes", logp=lambda *_: (-0.5, -1.5), along=lambda *_: 0.5, vocabulary=spoken
    )
    harness = scripted.make(tmp_path, device, lambda q: "Score: 3", sample=0.2)
    items = len(harness.items(c.prompts))
    main = sum(cell.vector in ("", *harness.bank.main()) for cell in harness.cells)
    found = Grid(len(harness.cells), 2, main, 1, 2)
    EVALUATIONS[name].run(harness, c)
    asks = EVALUATIONS[name].work(c, found, items)
    count = lambda kind: sum(a.count for a in asks if a.kind == kind)
    assert count("answers") == len(harness.answers.rows)
    known = sum(item.target is not None for item in harness.items(c.prompts)) * 2
    read = count("read-outs") + min(count("projections"), known if name == "goal_tracking" else 0)
    assert read == len(harness.readouts.rows) and read + count("answers")


def test_large_evaluations_have_to_be_confirmed(tmp_path):
    c = settings(**{"evals.names": ("sentiment",), "evals.random": 100, "evals.orthogonal": 100})
    with pytest.raises(InputError, match="1,609 cells with 1.29 million answers and read-outs are many"):
        evaluations.confirm(c, tmp_path, 4)
    evaluations.confirm(
        settings(**{"confirm": True, "evals.names": ("sentiment",), "evals.random": 1000}), tmp_path, 4
    )
    few = settings(**{"evals.names": ("sentiment",)})
    evaluations.confirm(few, tmp_path, 4)
    few.evals.sentiment.samples = 10_000
    with pytest.raises(InputError, match="--config.confirm=True"):
        evaluations.confirm(few, tmp_path, 4)


def test_a_run_asks_before_it_loads(tmp_path, monkeypatch):
    from welfare_jax.evals import models
    from welfare_jax.experiments.evals import run

    monkeypatch.setattr(models, "load", lambda *a: pytest.fail("loaded"))
    c = settings(**{"evals.names": ("samples",), "evals.random": 1000})
    with pytest.raises(InputError, match="cells"):
        run.measure(c, tmp_path)
    assert not list(tmp_path.iterdir())


def test_judges_are_planned_for(tmp_path):
    c = settings(**{"evals.names": ("sentiment", "samples"), "evals.sample": 0.1})
    model, _ = work.opened(c.model)
    names = [stage.name for stage in evaluations.stages(c, tmp_path, model)]
    assert names == ["evaluation sentiment", "judge of sentiment", "evaluation samples"]
    c.evals.judge.kind = "words"
    judge = evaluations.stages(c, tmp_path, model)[1]
    assert judge.flops == 0 and "words" in judge.what


def test_the_temporal_evaluation_counts_every_exposure(tmp_path):
    few = {"random": 5, "orthogonal": 0, "control_families": 4, "match_rounds": 1, "match_prompts": 2, "variants": 2}
    c = typed(Dose, settings(), "evals.temporal", **few)
    asks = {a.kind: a.count for a in EVALUATIONS["temporal"].work(c, Grid(0, 1, 0, 2, 3), 8)}
    assert asks["read-outs, without steering"] == 3 * 16  # and supposing that all goes well, or badly
    assert asks["read-outs, directions"] == 2 * 3 * 6 * 3 * 16
    assert asks["read-outs, controls"] == 2 * 5 * (4 + 4 + 2)
