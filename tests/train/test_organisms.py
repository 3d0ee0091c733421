"""Organisms side by side: the numbers of separate runs, from one program."""

import json
import time

import jax
import numpy as np
import pytest

from welfare_jax.errors import InputError
from welfare_jax.train import checkpoints, loop, organisms
from welfare_jax.train.job import Job

STEPS = 2
LISTS = {
    "organisms.seed": [0, 1, 0, 5], "organisms.tiles": [[0, 1, 2], [0, 1, 2], [0, 2, 1], [1, 2, 0]],
    "organisms.lr": [1e-2, 5e-3, 1e-2, 2e-2], "organisms.entropy_coef": [0.0, 0.1, 0.2, 0.3],
}  # fmt: skip
SMALL = {
    "model.dtype": "float32", "mesh.data": 1, "mesh.fsdp": 1, "maze.size": 15, "maze.turns": 3, "train.groups": 2,
    "train.group_size": 4, "train.micro_batch": 8, "train.steps": STEPS, "train.remat": False, "train.z": 1.0,
    "train.lora.rank": 2, "train.schedule_steps": 10, "train.eval_every": 2, "train.checkpoint_every": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def settings(tiny_tokenizer, tiny_tokenizer_dir, tmp_path_factory):
    from helpers import hf_model, save

    from welfare_jax import config

    model = hf_model("qwen3", vocab_size=len(tiny_tokenizer), num_hidden_layers=2)
    folder = save(model, tmp_path_factory.mktemp("model"), tiny_tokenizer_dir)

    def make(**changes):
        cfg = config.rl()
        cfg.model.path = str(folder)
        cfg.update_from_flattened_dict(SMALL | {"mesh.data": jax.device_count()} | changes)
        return Job.of(cfg)

    return make


def rows(folder):
    return checkpoints.read_metrics(folder / "metrics.jsonl")


@pytest.fixture(scope="module")
def together(settings, tmp_path_factory):
    cfg, workdir = settings(**LISTS), tmp_path_factory.mktemp("together")
    begin, setup = time.perf_counter(), loop.build(cfg)
    trained = loop.train(setup, cfg, workdir, loop.collector(setup, cfg, True))
    return cfg, workdir, jax.device_get(trained), time.perf_counter() - begin


def test_means_leave_out_organisms_of_shuffled_rewards(settings):
    """They speak for themselves; where no other was trained, they speak for the run."""
    rows = [{"reward": x, "entropy": None if x == 2 else x} for x in (1.0, 2.0, 6.0)]
    mean = lambda *shuffled: organisms.mean_row(
        rows, organisms.jobs(settings(**{"organisms.shuffle_rewards": list(shuffled)}))
    )
    assert mean(False, False, True)["reward"] == 1.5 and mean(False, False, True)["entropy"] == 1.0
    assert mean(True, True, True)["reward"] == mean(False, False, False)["reward"] == 3.0
    assert mean(True, False, False)["organisms"] == rows


@pytest.mark.slow
def test_four_organisms_are_four_runs(together, settings, tmp_path):
    """Other seeds, tiles, rates: each as in a run of its own, to 1e-5 of what it moved or said, and sooner done."""
    cfg, workdir, trained, seconds = together
    apart = 0.0
    for i, own in enumerate(organisms.jobs(cfg)):
        begin, setup = time.perf_counter(), loop.build(own)  # the pieces of other tiles are tokenised anew here
        alone = jax.device_get(loop.train(setup, own, tmp_path / str(i), loop.collector(setup, own)))
        apart += time.perf_counter() - begin
        for name in alone:
            moved = np.abs(alone[name] - np.asarray(setup.initial[name])).max()
            assert moved > 1e-4
            np.testing.assert_allclose(trained[name][i], alone[name], atol=1e-5, err_msg=f"{i} {name}")
        for a, b in zip(rows(tmp_path / str(i)), rows(workdir)):
            mine = b["organisms"][i]
            assert mine["lr"] == pytest.approx(a["lr"]) and mine["reward"] == pytest.approx(a["reward"], abs=1e-5)
            for key in ("loss", "grad_norm", "entropy", "eval_reward"):
                assert (key in a) == (key in mine)
                # With Z = 1 the loss is a sum of terms of about 20 that cancel: float32 leaves some 1e-5 of it.
                assert key not in a or mine[key] == pytest.approx(a[key], rel=1e-4, abs=1e-4), key
    found = rows(workdir)
    assert found[0]["reward"] == pytest.approx(np.mean([o["reward"] for o in found[0]["organisms"]]))
    assert len({o["lr"] for o in found[0]["organisms"]}) == 3
    assert seconds < apart


@pytest.mark.slow
def test_each_leaves_a_folder_that_is_a_run(together):
    """Its settings, metrics and a checkpoint that a run of its own continues from."""
    cfg, workdir, trained, _ = together
    for i, own in enumerate(organisms.jobs(cfg)):
        place = organisms.folder(workdir, i)
        assert json.loads((place / "config.json").read_text())["seed"] == own.seed
        assert [r["step"] for r in rows(place)] == [0, 1] and "organisms" not in rows(place)[0]
        setup = loop.build(own)
        again = loop.train(setup, own, place, loop.collector(setup, own))  # nothing is left to do
        for name in again:
            np.testing.assert_array_equal(again[name], trained[name][i])


def test_lists_must_agree(settings):
    with pytest.raises(InputError, match="different lengths"):
        organisms.jobs(settings(**{"organisms.seed": [0, 1], "organisms.lr": [1.0]}))
    with pytest.raises(InputError, match="no order"):
        organisms.jobs(settings(**{"organisms.tiles": [[0, 0, 1]]}))
    plain = settings()
    assert organisms.jobs(plain) == [plain]
    setup = loop.build(plain)
    bad = settings(**{"organisms.seed": [0, 1], "train.algorithm": "sft"})
    with pytest.raises(InputError, match="own episodes"):
        loop.runs(setup, bad)


def test_one_model_and_two():
    """First factors of adapters may differ where the second ones are zero; everything else counts."""
    a = {"blocks/q/lora_a": np.ones((2, 3)), "blocks/q/lora_b": np.zeros((3, 2)), "norm": np.ones(4)}
    assert organisms.one_model(a, a | {"blocks/q/lora_a": np.zeros((2, 3))})
    assert not organisms.one_model(a, a | {"norm": np.zeros(4)})
    assert not organisms.one_model(a, a | {"blocks/q/lora_b": np.ones((3, 2))})
    both = a | {"blocks/q/lora_b": np.ones((3, 2))}
    assert organisms.one_model(both, dict(both)) and not organisms.one_model(
        both, both | {"blocks/q/lora_a": 0 * a["blocks/q/lora_a"]}
    )
