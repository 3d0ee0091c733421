"""A small run on the compilers of machines that are not there: what its programs hold, and what they send."""

import importlib.util
import json

import pytest
from test_estimate import settings

from welfare_jax import experiments
from welfare_jax import mesh as mesh_lib
from welfare_jax.errors import InputError
from welfare_jax.models.spec import small
from welfare_jax.planning import collectives, compiled, compilers, estimate
from welfare_jax.text import pieces as text
from welfare_jax.train.job import Job

MISSING = [name for name in ("libtpu", "jax_plugins") if importlib.util.find_spec(name) is None]
needs_compilers = pytest.mark.skipif(bool(MISSING), reason="needs the compilers: pip install -e .[rehearse]")
LAYERS, PASSES = 2, 2


def config(**changes):
    """Two passes of 32 episodes of two turns."""
    c = settings(**{"maze.turns": 2, "maze.size": 15, "curve.every": 0, "train.groups": 32, "train.group_size": 2})
    c.model.dtype = "bfloat16"
    c.train.micro_batch = 32
    c.plan_programs = "rollout,update"
    c.update_from_flattened_dict(changes)
    return c


@pytest.fixture(scope="module")
def known():
    spec = small(300, width=256, heads=8, kv_heads=4, head_dim=64, mlp=512, layers=LAYERS)
    return estimate.Source(spec, text.stand_in(15), "", {})


def trained(known, c) -> int:
    """Bytes of all float32 gradients."""
    return sum(4 * leaf.size for leaf in estimate.start(known.spec, c)[2].values())


def sent(one, kind=None, loops=None):
    return sum(
        row["bytes"] for row in one.sent
        if kind in (None, row["kind"]) and loops in (None, row["in_loops"])
    )  # fmt: skip


@pytest.mark.slow
@needs_compilers
def test_eight_chips_with_whole_weights_meet_once_a_step(known):
    """v6e-8 as 8 x 1 x 1: no gradient crosses the network within a loop, and all of them once, in float32."""
    c = Job.of(config(plan_programs="update"))
    (update,) = compiled.compile_all(c, "v6e-8", known)
    assert not update.error and update.code > 0 and update.seconds > 0
    assert sent(update, loops=True) == 0
    gradients = trained(known, c)
    assert gradients <= sent(update) <= 2 * gradients
    assert {row["dtype"] for row in update.sent if row["bytes"] > gradients / 10} == {"f32"}
    weights, both, optimiser = estimate.resident(known.spec, c, mesh_lib.imagined(8, 8, 1, 1))
    assert update.arguments + update.beside == pytest.approx(weights + both + optimiser, rel=0.1)
    assert update.aliased >= gradients  # the state is written where it lay
    assert update.fits(32e9) and not update.fits(1e6)


@pytest.mark.slow
@needs_compilers
def test_eight_hosts_gather_weights_and_meet_over_data_once(known):
    """v5e-32 as 8 x 4 x 1: weights are gathered layer by layer. Over the four devices that share them gradients are
    added up in every pass, over the eight that do not once a step."""
    c = Job.of(config(**{"mesh.data": 8, "mesh.fsdp": 4, "plan_programs": "update"}))
    (update,) = compiled.compile_all(c, "v5e-32", known)
    assert not update.error and sent(update, "all-gather", loops=True) > 0
    whole = estimate.resident(known.spec, c, mesh_lib.imagined(32, 32, 1, 1))
    cut = estimate.resident(known.spec, c, mesh_lib.imagined(32, 8, 4, 1))
    assert update.arguments + update.beside == pytest.approx(sum(cut), rel=0.2) and sum(cut) < 0.5 * sum(whole)
    gradients = trained(known, c)
    assert sent(update, "all-reduce", loops=True) <= 1.1 * PASSES * gradients
    assert gradients / 4 <= sent(update, "all-reduce", loops=False) <= 2 * gradients


@pytest.mark.slow
@needs_compilers
def test_one_gpu_sends_nothing(known, monkeypatch, tmp_path):
    c = config(**{"topology": "1xH100", "plan": "compile", "plan_file": str(tmp_path / "plan.json")})
    monkeypatch.setattr(estimate, "source", lambda config: known)
    said = "\n".join(experiments.find("rl").planned(c, None))
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["topology"] == "1xH100" and found["fits"] and "the run fits" in said
    assert [one["name"] for one in found["programs"]] == ["rollout", "update"]
    for one in found["programs"]:
        assert one["sent"] == [] and not one["error"] and one["temporaries"] > 0
        assert f"{one['most'] / 1e9:.2f}" in next(line for line in said.splitlines() if one["name"] in line)


@pytest.mark.parametrize(
    ("kind", "chips", "shape"),
    [
        ("v5e", 1, (1, 1)), ("v5e", 4, (2, 2)), ("v6e", 8, (2, 4)), ("v6e", 32, (4, 8)), ("v5e", 256, (16, 16)),
        ("v5p", 4, (2, 2, 1)), ("v5p", 8, (2, 2, 2)), ("v5p", 32, (4, 4, 2)), ("v4", 64, (4, 4, 4)),
    ],
)  # fmt: skip
def test_how_the_chips_of_a_slice_lie(kind, chips, shape):
    found = compilers.shape(kind, chips)
    assert sorted(found) == sorted(shape) and len(found) == len(shape)


@pytest.mark.parametrize("name", ["v6e-8", "8xH100"])
def test_without_the_compiler_the_extra_is_named(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"plan=compile: no compiler for .*rehearse") as error:
        compilers.find(name)
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"topology": ""}, "plan=compile: name the machine"),
        ({"topology": "v9x-8"}, "v9x-8"),
        ({"topology": "v6e-8", "plan_programs": "rollout,updat"}, "'updat' is none of rollout, update"),
        ({"plan": "compil"}, "config.plan='compil': choose True"),
    ],
)
def test_bad_rehearsals_end_in_one_line(changes, said, known, monkeypatch):
    monkeypatch.setattr(estimate, "source", lambda config: known)
    with pytest.raises(InputError) as error:
        list(experiments.find("rl").planned(config(**{"plan": "compile"} | changes), None))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_what_does_not_fit_says_by_how_much():
    error = RuntimeError(
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 35.12G of 31.25G hbm. Exceeded"
    )
    assert compiled.reason(error) == "needs 35.12GiB of 31.25GiB"
    assert compiled.reason(RuntimeError("a\n" + 300 * "b")) == "a " + 198 * "b"
    assert not compiled.Compiled("update", 1.0, error="needs 2G").fits(1e12)


def test_what_is_beside_counts_and_what_is_written_over_does_not():
    one = compiled.Compiled(
        "update", 1.0, arguments=10, temporaries=20, output=5, aliased=3, beside=7, code=1, sent=collectives.table([])
    )
    assert one.most == 40 and one.fits(45) and not one.fits(44)
