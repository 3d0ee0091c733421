"""Interventions while training: from a file, in the programs that were named, and nowhere else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds

from welfare_jax.errors import InputError
from welfare_jax.interp import vectors
from welfare_jax.models import decoder, interventions
from welfare_jax.train import intervene, state, step
from welfare_jax.train.settings import Intervene

LAYERS, WIDTH = 3, 24


@pytest.fixture(scope="module")
def world(tiny_tokenizer):
    return worlds.make(tiny_tokenizer)


@pytest.fixture
def file(tmp_path):
    rows = np.random.default_rng(0).normal(size=(LAYERS, WIDTH)).astype("f4")
    vectors.save(
        tmp_path / "v.safetensors", {"gold/rest": rows}, model="m", hook="resid_post", data="d", layers={"gold": 1}
    )
    return tmp_path / "v.safetensors", rows


def settings(path, **changes):
    return Intervene(**{"vectors": str(path), "scale": 2.0} | changes)


def test_where_each_program_sees_it(file, world):
    spec = decoder.static(world.graphdef)[0]
    path, rows = file
    assert intervene.build(settings(""), spec) == (None, None) and not intervene.describe(settings(""))
    both = intervene.build(settings(path), spec)
    assert both[0] is both[1] is not None and (both[0].ops[0].direction == rows[1]).all()
    assert both[0].ops[0].layer is None  # projected out at every layer
    a, b = intervene.build(settings(path, when="rollout", op="add", layer=2), spec)
    assert b is None and int(a.ops[0].layer) == 2 and float(a.ops[0].scale) == 2 and (a.ops[0].vector == rows[2]).all()
    assert intervene.build(settings(path, when="update"), spec)[0] is None
    assert "away from one" in intervene.describe(settings(path, when="rollout"))
    assert "away from one" not in intervene.describe(settings(path))


@pytest.mark.parametrize(
    "changes", [{"vector": "mold/rest"}, {"op": "sub"}, {"when": "never"}, {"layer": 3}, {"vectors": "/nowhere"}]
)
def test_bad_settings_end_in_one_line(changes, file, world):
    with pytest.raises(InputError) as error:
        intervene.build(settings(file[0], **changes), decoder.static(world.graphdef)[0])
    assert "\n" not in str(error.value)


def test_the_ratio_is_one_only_where_both_see_it(world):
    """And other vectors, layers and strengths compile nothing anew."""
    cfg = worlds.train_config()
    tx = state.optimizer(cfg)
    collect, update = worlds.collector(world, cfg), worlds.updater(world, cfg, tx)
    rng = np.random.default_rng(0)

    def error(in_rollout, in_update):
        played, _ = collect(world.trainable, world.frozen, jax.random.key(0), 0, 0.7, in_rollout)
        found = update(worlds.fresh(world, tx), world.frozen, None, played, 0.7, None, in_update)[1]
        return step.values(found)["ratio_error_max"], played

    push = lambda size, layer: interventions.add(jnp.asarray(rng.normal(size=WIDTH)), layer, size)
    iv = push(3.0, 1)
    same, steered = error(iv, iv)
    other, free = error(None, iv)
    assert same < 1e-4 < 0.01 < other and not jnp.array_equal(steered.logits, free.logits)
    assert error(push(5.0, 2), None)[0] > 0.01
    assert collect._cache_size() == 2 and update._cache_size() == 2  # with and without
