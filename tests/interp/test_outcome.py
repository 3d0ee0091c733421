"""The primary outcome: false alarms with nothing planted, power where something is, and what shams rule out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from welfare_jax.errors import InputError
from welfare_jax.interp import extract, geometry, outcome, uncertainty

D, REPLICATES = 32, 200


def means(cosine, size, layers, blind):
    """Class means [L, C, D]: v_mold and v_gold against Path of one length and angle, none in the `blind` layers."""
    out = np.zeros((layers, 3, D), np.float32)
    out[blind:, geometry.MOLD, 0] = size
    out[blind:, geometry.GOLD, :2] = size * cosine, size * np.sqrt(1 - cosine**2)
    return jnp.asarray(out)


@functools.lru_cache
def program(layers, walks, anisotropic):
    """`(keys, trained means, untrained means) -> (Grams, Grams)` of data sets, resampled alike, with noise of rms one.

    Anisotropic noise has a spectrum of 1 / k, so that some ten directions hold most of it.
    """
    label = jnp.repeat(jnp.arange(3), walks)
    unit = (label << 24) + jnp.tile(jnp.arange(walks), 3)
    spread = jnp.arange(1, D + 1) ** (-0.5 if anisotropic else 0.0)
    turn = jnp.linalg.qr(jax.random.normal(jax.random.key(9), (D, D)))[0]
    mix = (spread / jnp.sqrt(jnp.mean(spread**2)))[:, None] * turn

    def read(key, mean, sign):
        act = mean[:, label] + jax.random.normal(key, (layers, 3 * walks, D)) @ mix
        return uncertainty.grams(extract.add(extract.nothing(layers, D, REPLICATES), act, label, sign))

    def one(key, trained, untrained):
        sign = extract.signs(key, unit, REPLICATES)
        return tuple(read(k, m, sign) for k, m in zip(jax.random.split(key), (trained, untrained)))

    return jax.jit(lambda keys, *both: jax.lax.map(lambda key: one(key, *both), keys))


def data_sets(count, trained, untrained, walks=60, anisotropic=False, seed=0):
    """Pairs of `Grams`, one data set at a time."""
    make = program(len(trained), walks, anisotropic)
    for start in range(0, count, 50):
        both = jax.device_get(make(jax.random.split(jax.random.key(seed + start), 50), trained, untrained))
        for i in range(50):
            yield jax.tree.map(lambda a, i=i: a[i], both)


def called(rule, pairs):
    """Share of data sets with each verdict."""
    found = [outcome.of_run(rule, *pair)["verdict"] for pair in pairs]
    return {v: found.count(v) / len(found) for v in ("opposed", "aligned", "small", "unknown")}


@pytest.mark.slow
@pytest.mark.parametrize("baseline", geometry.BASELINES)
@pytest.mark.parametrize("anisotropic", [False, True])
@pytest.mark.parametrize("blind", [0, 8])
def test_nothing_planted_is_called_in_three_to_seven_of_a_hundred(baseline, anisotropic, blind):
    same = means(0.3, 2.0, 12, blind)
    share = called(outcome.Rule(baseline), data_sets(400, same, same, anisotropic=anisotropic))
    assert 0.03 <= share["opposed"] + share["aligned"] <= 0.07, share
    assert min(share["opposed"], share["aligned"]) > 0.005


@pytest.mark.slow
@pytest.mark.parametrize("blind", [0, 12])
def test_a_planted_change_is_found_whatever_the_blind_layers(blind):
    """From +0.79 to -0.60 in 24 of 36 layers; noise in the others hides nothing."""
    pairs = list(data_sets(50, means(-0.6, 2.0, 36, blind), means(0.79, 2.0, 36, blind), seed=7))
    for baseline in geometry.BASELINES:
        assert called(outcome.Rule(baseline), pairs)["opposed"] == 1.0
    found = outcome.of_run(outcome.Rule(), *pairs[0])
    assert set(range(blind, 36)) >= set(found["used"]) and len(found["used"]) >= 20
    assert found["change"] == pytest.approx(-1.39, abs=0.1) and found["low"] < -1.39 < found["high"]


def test_a_null_names_what_it_could_have_seen():
    same = means(0.3, 2.0, 12, 0)
    few = [outcome.of_run(outcome.Rule(), *pair) for pair in data_sets(50, same, same)]
    error = np.std([f["change"] for f in few])
    assert np.median([f["detectable"] for f in few]) == pytest.approx(3.6 * error, rel=0.35)
    f = few[0]
    assert f["walks_needed"] == pytest.approx(60 * (f["detectable"] / 0.1) ** 2, abs=1)
    strong = means(0.3, 12.0, 12, 0)
    assert called(outcome.Rule(), data_sets(50, strong, strong))["small"] > 0.8


def test_layers_of_noise_alone_say_nothing():
    blind = means(0.3, 2.0, 12, 12)
    found = outcome.of_run(outcome.Rule(), *next(data_sets(50, blind, blind)))
    assert found["used"] == [] and found["verdict"] == "unknown" and "change" not in found
    assert outcome.of_run(outcome.Rule(layers="last_third"), *next(data_sets(50, blind, blind)))["used"] == [
        8,
        9,
        10,
        11,
    ]


def grams(cosine, rng, size=20.0):
    """`Grams` [L=2] without walks' noise of a model with the given cosine against Path."""
    mean = np.asarray(means(cosine, size, 2, 0), float)
    mean -= mean.mean(1, keepdims=True)
    gram, zero, none = np.einsum("lcd,led->lce", mean, mean), np.zeros((4, 2, 3, 3)), np.zeros((4, 2, 3, 0))
    axes = {"axes": none[0], "axes_noise": none, "axes_size": none[:, :, 0], "axes_error": none[0, :, 0]}
    return uncertainty.Grams(gram, zero, zero, **axes, counts=np.full(3, 100.0))


def trained_and_shams(rng, runs, shams, effect, spread=0.05):
    """Pairs of `Grams`: cosines change by `effect` in trained runs and by nothing in shams, each by chance too."""
    base = grams(0.3, rng)
    pairs = lambda n, shift: [(grams(0.3 + shift + spread * rng.normal(), rng), base) for _ in range(n)]
    return pairs(runs, effect), pairs(shams, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "shams"), [(3, 20), (10, 20), (5, 0), (1, 20), (1, 40)])
def test_runs_like_shams_are_not_said_to_be_training(runs, shams):
    rng, rule = np.random.default_rng(runs), outcome.Rule()
    found = [outcome.of_training(rule, *trained_and_shams(rng, runs, shams, 0.0)) for _ in range(400)]
    assert 0.03 <= np.mean([f["verdict"] in ("opposed", "aligned") for f in found]) <= 0.07


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "shams"), [(3, 20), (10, 20), (1, 20)])
def test_training_that_does_more_than_shams_is_found(runs, shams):
    rng, rule = np.random.default_rng(runs), outcome.Rule()
    found = [outcome.of_training(rule, *trained_and_shams(rng, runs, shams, -0.4)) for _ in range(100)]
    assert np.mean([f["verdict"] == "opposed" for f in found]) > 0.95
    assert np.mean([f["change"] for f in found]) == pytest.approx(-0.4, abs=0.02)


def test_of_forty_shams_at_most_two_are_said_to_have_changed_anything():
    rng, rule = np.random.default_rng(5), outcome.Rule()
    _, pairs = trained_and_shams(rng, 0, 40, 0.0)
    said = [outcome.of_training(rule, [pairs[i]], pairs[:i] + pairs[i + 1 :])["verdict"] for i in range(40)]
    assert sum(v != "unknown" for v in said) <= 2


def test_error_over_walks_enters_the_claim_about_training():
    """All runs read the same walks: where those know little, three runs that agree are no proof."""
    pairs = list(data_sets(50, means(0.1, 1.6, 2, 0), means(0.3, 1.6, 2, 0)))
    alike = [pairs[0]] * 3
    rule = outcome.Rule(layers="all")
    found = outcome.of_training(rule, alike, [])
    one = outcome.of_run(rule, *pairs[0])
    assert found["high"] - found["low"] == pytest.approx(one["high"] - one["low"], rel=0.06)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"baseline": "mean"}, "outcome.baseline: 'mean' is unknown: choose rest, path"),
        ({"layers": "best"}, "outcome.layers: 'best' is unknown: choose signal, last_third, all"),
        ({"least": 0.0}, "outcome.least: 0.0 is no change of a cosine"),
        ({"shams": -1}, "outcome.shams: -1 is no count of adapters"),
    ],
)
def test_rules_that_make_no_sense(change, said):
    with pytest.raises(InputError, match=said):
        outcome.Rule(**change)
