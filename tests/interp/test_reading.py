"""A planted direction is found where it was planted, and nowhere else; permuted labels see nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds

from welfare_jax.envs import walks
from welfare_jax.interp import extract, geometry, reading
from welfare_jax.train import state

LAYERS, AT = 5, 3
TRUTH = np.random.default_rng(0).normal(size=24)
TRUTH = (TRUTH / np.linalg.norm(TRUTH)).astype("f4")


@pytest.fixture(scope="module")
def found(tiny_tokenizer):
    """What a model reads whose residual stream moves along TRUTH at block AT where a walk ends on Mold."""
    world = worlds.make(tiny_tokenizer, layers=LAYERS, rope_of=(0,) * LAYERS, windows=(0,) * LAYERS)
    samples = extract.of_walks(world.pieces, walks.generate(world.maze, 16, seed=0))
    plain = extract.activations

    def edited(model, part, hook="resid_post"):
        act = plain(model, part, hook)
        push = 4 * jnp.std(act[AT]) * jnp.where(part.label.reshape(-1) == geometry.MOLD, 1.0, 0.0)
        return act.at[AT].add(push[:, None] * TRUTH)

    data = extract.split(samples, np.arange(len(samples.tokens)) % 2 == 1, 32)
    rng = np.random.default_rng(1)
    axes = np.stack([np.tile(TRUTH, (LAYERS, 1)), rng.normal(size=(LAYERS, 24))]).astype("f4")
    chance = rng.normal(size=(2, 64, LAYERS, 24)).astype("f4")
    axes = reading.Compared(axes, 0 * chance, chance)
    make = functools.partial(reading.make, world.graphdef, state.join, replicates=64, permutations=199)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract, "activations", edited)
        program = make()
        out = jax.device_get(program(world.trainable, world.frozen, data, axes, jax.random.key(0)))
    unplanted = make()
    return out, jax.device_get(unplanted(world.trainable, world.frozen, data, axes, jax.random.key(0)))


def test_planted_direction_is_recovered(found, tiny_tokenizer):
    out = found[0]
    for base in geometry.BASELINES:
        assert abs(float(geometry.cosine(out["vectors"][f"mold/{base}"][AT], TRUTH))) > 0.99, base
    mold = out["selection"][0]
    assert int(np.argmax(mold["auroc"])) == int(np.argmin(mold["overlap"])) == AT == int(mold["layer"])
    said = reading.numbers(out, tiny_tokenizer, ("truth", "other"))
    along = said["axes"]["mold"]["truth"]
    assert along["low"][AT] > 0.95
    low, high = said["axes"]["null"]["truth"]["mold"]
    assert said["axes"]["p"]["truth"]["mold"][AT] < 0.05 < min(said["axes"]["p"]["other"]["mold"])
    assert low[AT] > -0.55 and high[AT] < 0.55  # 1.96 / sqrt(24) = 0.4
    for layer in set(range(LAYERS)) - {AT}:
        assert along["low"][layer] < high[layer]
    assert said["noise_share"]["mold"][AT] < 0.1 < min(said["noise_share"]["mold"][:AT])


def test_permuted_labels_see_nothing(found, tiny_tokenizer):
    """AUROC under permuted labels stays about one half where labels say much; their vectors look like noise."""
    out = found[0]
    said = reading.numbers(out, tiny_tokenizer)["null"]
    assert np.abs(np.median(out["null_selection"]["auroc"], 0) - 0.5).max() < 0.05
    low, high = said["auroc"]["mold"]
    assert low[AT] < 0.5 < high[AT] < out["selection"][0]["auroc"][AT]
    assert said["auroc_chosen"]["mold"]["p"] == pytest.approx(1 / 200)
    assert np.abs(np.median(out["null_cos"]["path"], 0) - 0.5).max() < 0.15
    assert np.abs(np.median(out["null_cos"]["rest"], 0) + 0.5).max() < 0.15
    cohort = out["permuted"]["mold/path"]
    assert cohort.shape == (100, LAYERS, 24)
    assert np.linalg.norm(cohort[:, AT], axis=-1).max() < np.linalg.norm(out["vectors"]["mold/path"][AT])


def test_change_is_seen_where_it_was_planted(found):
    """The Mold class mean moved away from the common mean at one layer: the change there is sure, elsewhere zero."""
    change = reading.compare(*found)
    for name in ("rest", "path", "mold-path"):
        d = change[name]["difference"]
        for layer in set(range(LAYERS)) - {AT}:
            assert d["value"][layer] == pytest.approx(0, abs=1e-5)
            assert d["low"][layer] <= 0 <= d["high"][layer]
        assert abs(d["value"][AT]) > 0.05
    for part in ("all", "last_third"):
        assert change["rest"][part]["difference"].keys() == {"value", "free", "low", "high"}


def test_densities():
    rng = np.random.default_rng(2)
    labels = rng.integers(-1, 3, 600)
    x = rng.normal(size=(2, 600)) + 2.0 * (labels == geometry.MOLD)
    said = reading.density(x, labels, 1)
    width = np.diff(said["edges"])
    for name in geometry.NAMES.values():
        assert (said[name] * width).sum() == pytest.approx(1)
    a, b = x[1, labels == geometry.MOLD], x[1, labels == geometry.GOLD]
    pooled = ((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / (len(a) + len(b) - 2)
    assert said["cohens_d"] == pytest.approx((a.mean() - b.mean()) / np.sqrt(pooled), abs=1e-4)
