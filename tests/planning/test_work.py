"""Hours and cost against closed forms worked out here."""

import dataclasses
import math

import pytest
from helpers import tiny_spec

from welfare_jax.errors import InputError
from welfare_jax.models import decoder
from welfare_jax.planning import cost, devices, work
from welfare_jax.settings import Renting

ASKED = Renting(efficiency=0.25, topology="4xtoy")


@pytest.fixture
def toy(monkeypatch):
    """A chip of one FLOP and one byte a second."""
    monkeypatch.setitem(devices.CHIPS, "toy", devices.Chip(1.0, 1.0, 1.0, ("toy",)))


@pytest.fixture(scope="module")
def model():
    return work.Model.of(tiny_spec(), "float32")


def test_a_model_weighs_what_its_parameters_do(model):
    spec = tiny_spec()
    assert model.weights == cost.tree_size(decoder.structure(spec)[1])
    cache = cost.tree_size(jax_cache(spec, 3, 10))
    assert 3 * 10 * model.position == pytest.approx(cache, rel=0.2)  # beside positions and counts


def jax_cache(spec, rows, slots):
    import jax

    cache = jax.eval_shape(lambda: decoder.empty_cache(spec, rows, slots, "float32"))
    return cache.k, cache.v


def test_reading_and_writing(model):
    spec = model.spec
    read = model.read(6, 10, 3)
    assert (read.tokens, read.written, read.kept) == (60, 0, 0)
    assert read.flops == 3 * 60 * spec.flops_per_token(5)
    told = model.write(5, 10, 4, batch=2)  # three batches
    assert told.tokens == 5 * 14 and told.written == 3 * 4 * model.weights
    assert told.flops == 5 * (10 * spec.flops_per_token(5) + 4 * spec.flops_per_token(12, head=True))
    assert told.kept == 5 * sum(10 + t + 0.5 for t in range(4)) * model.position


def test_the_floor_is_arithmetic_or_memory_whichever_is_slower(toy):
    chip, count = devices.topology("4xtoy")
    assert work.Stage("", "", flops=400).floor(chip, count) == 100
    # Every device reads the weights, and its share of the caches.
    assert work.Stage("", "", flops=40, written=70, kept=40).floor(chip, count) == 80
    assert work.Stage("", "", flops=400, seconds=7.0).floor(chip, count) == 7.0
    assert work.Stage("", "", flops=400, seconds=7.0).times(3).floor(chip, count) == 21.0


def test_hours_and_cost(toy):
    stages = [work.Stage("one", "some", tokens=2e6, flops=4 * 7200.0), work.Stage("two", "more", flops=4 * 3600.0)]
    said = list(work.report(ASKED, stages))
    assert said[0].endswith("one: some; 2 million tokens, 2.88e-11 PFLOP") and len(said) == 4
    assert said[-1] == "4xtoy: 3.0 hours at least, 12.0 hours at 25% of its stated rates"
    priced = dataclasses.replace(ASKED, price=2.5)
    assert list(work.report(priced, stages))[-1].endswith("; at 2.5 an hour it costs 7.50 to 30.00")


def test_a_price_needs_a_machine(toy, monkeypatch):
    monkeypatch.setattr(devices, "COMMON", ("1xtoy", "4xtoy"))
    asked = dataclasses.replace(ASKED, price=2.5, topology="")
    said = list(work.report(asked, [work.Stage("one", "some", flops=400)]))
    assert [line.split(":")[0].removesuffix(" of") for line in said[2:]] == [
        "1xtoy",
        "4xtoy",
        "for a price, name the machine that it is",
    ]


@pytest.mark.parametrize("bad", [{"efficiency": 0.0}, {"efficiency": 1.5}, {"price": -1.0}])
def test_bad_figures_are_refused(bad):
    with pytest.raises(InputError, match=f"{next(iter(bad))}="):
        list(work.report(dataclasses.replace(ASKED, **bad), []))


def test_rates_that_are_not_known(monkeypatch):
    monkeypatch.setitem(devices.CHIPS, "toy", devices.Chip(math.nan, 1.0, math.nan, ("toy",)))
    assert "not known" in work.hours(ASKED, [work.Stage("", "", flops=1)], "1xtoy")
