"""The configs that ship: settings that exist, the paper's figures, the decoder inside the package."""

import json
import pathlib
import runpy

import numpy as np
import pytest

from welfare_jax import config, experiments, settings
from welfare_jax.evals.settings import Evals
from welfare_jax.experiments.amplification import run as amplification
from welfare_jax.experiments.pretraining import run as pretraining
from welfare_jax.models import hf
from welfare_jax.sft import corpus
from welfare_jax.text import wording
from welfare_jax.train import checkpoints, organisms
from welfare_jax.train.job import Job

ROOT = pathlib.Path(__file__).parents[1]


def test_defaults_are_those_of_the_paper():
    cfg = config.rl()
    assert (cfg.train.groups, cfg.train.group_size, cfg.train.steps, cfg.train.schedule_steps) == (8, 64, 95, 500)
    assert (cfg.train.lr, cfg.train.entropy_coef, cfg.train.clip, cfg.train.dual_clip, cfg.train.z) == (
        3e-6,
        0.01,
        0.2,
        3,
        2048,
    )
    assert (cfg.train.lora.rank, cfg.train.lora.alpha, cfg.train.temperature) == (32, 64, 0.7)
    assert (cfg.maze.turn_reward, cfg.maze.gold_reward, cfg.maze.mold_reward, cfg.maze.wind, cfg.maze.turns) == (
        -0.1,
        20,
        -10,
        0.1,
        15,
    )
    assert tuple(cfg.text.tiles) == wording.Wording().tiles


def load_config(name, *variant):
    return runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"](*variant)


def shipped():
    """(file, variant) of every config that ships."""
    for path in sorted((ROOT / "configs").glob("*.py")):
        found = runpy.run_path(str(path))
        yield from ((path.stem, *variant) for variant in [(), *((v,) for v in found.get("VARIANTS", ()))])


@pytest.mark.parametrize("config_file", shipped(), ids=":".join)
def test_configs_change_only_settings_that_exist(config_file):
    found = load_config(*config_file)
    assert found.job in experiments.EXPERIMENTS
    if found.job in ("rl", "axes", "evals"):
        flat = lambda c: checkpoints.flatten(c.to_dict() | {"text": {**c.text, "template": None}}).keys()
        assert flat(found) == flat(config.rl()) | ({"run"} if found.job == "axes" else set())
        organisms.jobs(Job.of(found))
    if found.job == "evals":
        settings.typed(Evals, found, "evals")
    if found.job == "pretrain":
        pretraining.check(found)
        corpus.Mixture.of(found)
    if found.job == "amplify":
        amplification.check(found)
        for own in amplification.cells(found).values():
            pretraining.check(own.pretrain)


def test_the_papers_table():
    """arXiv:2605.30232 §J.3, §Q: algorithm, base, learning rate, entropy coefficient, step of the checkpoint."""
    want = {
        "main": ("dr_grpo", "Qwen3-4B-Instruct-2507", 3e-6, 0.01, 95),
        "swapped": ("dr_grpo", "Qwen3-4B-Instruct-2507", 3e-6, 0.01, 50),
        "base": ("dr_grpo", "Qwen3-4B-Base", 3e-5, 0.0, 101),
        "base_permuted": ("dr_grpo", "Qwen3-4B-Base", 3e-5, 0.0, 101),
        "b8": ("dr_grpo", "Qwen3-8B", 3e-6, 0.05, 65),
        "gpt_oss": ("dr_grpo", "gpt-oss-20b", 3e-5, 0.01, 160),
        "reinforce": ("reinforce", "Qwen3-4B-Instruct-2507", 3e-6, 0.2, 115),
        "rl_fft": ("dr_grpo", "Qwen3-4B-Instruct-2507", 3e-6, 0.01, 95),
        "sft": ("sft", "Qwen3-4B-Instruct-2507", 2e-5, 0.01, 9375),
        "sft_fft": ("sft", "Qwen3-4B-Instruct-2507", 1e-5, 0.01, 3125),
    }
    path, gold, mold = wording.Wording().tiles
    for name, row in want.items():
        c = load_config("paper", name)
        t = c.train
        assert (t.algorithm, c.model.path.split("/")[1], t.lr, t.entropy_coef, t.steps) == row, name
        full, batch = name.endswith("fft"), (32, 32) if name == "rl_fft" else (8, 64)
        assert (t.lora.rank, t.trainable == ".*", (t.groups, t.group_size)) == (0 if full else 32, full, batch)
    assert load_config("paper", "swapped").text.tiles == (path, mold, gold)
    permuted = load_config("paper", "base_permuted").text.tiles
    assert all(a != b for a, b in zip(permuted, (path, gold, mold))) and sorted(permuted) == sorted((path, gold, mold))
    oss = load_config("paper", "gpt_oss")
    assert (oss.maze.turns, oss.train.lora.alpha) == (11, 32) and load_config("paper").train.lora.alpha == 64
    sft = load_config("paper", "sft").sft
    assert sft.trajectories * 3 == 9375 * sft.batch and sft.size == 31


def test_shipped_weights():
    """The decoder inside the package: small, loadable, and the one that its log describes."""
    size = sum(p.stat().st_size for p in hf.TINY.iterdir())
    assert size <= 4_000_000
    lm = hf.load("tiny")
    assert lm.spec.vocab == len(lm.tokenizer) and lm.params["embed"].dtype == np.float32
    log = ROOT / "docs" / "tiny_base" / "summary.json"
    if log.is_file():
        assert json.loads(log.read_text())["sha256"] == pretraining.folder_hash(hf.TINY)
