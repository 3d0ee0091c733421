"""Building a run from its settings, and the summary of its metrics."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from welfare_jax import config
from welfare_jax.errors import InputError
from welfare_jax.interp import vectors
from welfare_jax.text import pieces
from welfare_jax.train import loop
from welfare_jax.train.job import Job


@pytest.fixture(scope="module")
def folder(tiny_tokenizer, tiny_tokenizer_dir, tmp_path_factory):
    from helpers import hf_model, save

    model = hf_model("qwen3", vocab_size=len(tiny_tokenizer), num_hidden_layers=2)
    return save(model, tmp_path_factory.mktemp("model"), tiny_tokenizer_dir)


def settings(folder, **changes):
    cfg = config.rl()
    cfg.model.path, cfg.model.dtype = str(folder), "float32"
    cfg.update_from_flattened_dict(changes)
    return Job.of(cfg)


def test_build(folder):
    setup = loop.build(settings(folder))
    assert all("lora" in k for k in setup.initial) and len(setup.initial) == 14
    assert setup.initial["blocks/mlp/up/lora_a"].shape == (2, 40, 32)
    assert all(v.sharding.mesh == setup.mesh for v in (setup.initial | setup.frozen).values())
    said = loop.describe(setup, settings(folder))
    count = sum(v.size for v in setup.initial.values())
    assert f"{count:,} trained" in said and "append-only" in said and "\n" not in said
    assert said.startswith(f"{folder}: ")
    said = loop.describe(setup, settings("OWNER/NAME", **{"model.revision": "step1000"}))
    assert said.startswith("OWNER/NAME@step1000: ")


def test_full_fine_tuning_has_no_adapters(folder):
    setup = loop.build(settings(folder, **{"train.lora.rank": 0, "train.trainable": ".*"}))
    assert not setup.frozen and not any("lora" in k for k in setup.initial)


def test_settings_name_weights_texts_and_vectors_by_content(folder, tmp_path):
    """What differs: the weights of another folder, another wording, another vector file under the same name."""

    def content(model=folder, **changes):
        cfg = settings(model, **changes)
        return loop.build(cfg).settings(cfg)["content"]

    want, other = content(), tmp_path / "other"
    shutil.copytree(folder, other)
    assert content(other) == want
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"][0] += 1e-3
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    changed = content(other)
    assert changed["weights"] != want["weights"] and changed["text"] == want["text"]
    changed = content(**{"text.closing": "Go N, E, S or W."})
    assert changed["weights"] == want["weights"] and changed["text"] != want["text"]
    assert content(**{"text.date": "2001-01-01"}) == want  # this template writes no date
    seen = []
    for scale in (1.0, 2.0):
        path = vectors.save(
            tmp_path / "v.safetensors", {"gold/rest": np.full((2, 40), scale)}, model="", hook="resid_post", data="",
            layers={"gold": 1},
        )  # fmt: skip
        seen.append(content(**{"train.intervene.vectors": str(path)})["vectors"])
    assert seen[0] != seen[1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.path": "/nowhere"}, "/nowhere"),
        ({"model.dtype": "float16"}, "float16"),
        ({"mesh.fsdp": 3}, "mesh"),
        ({"mesh.tensor": 0}, "mesh"),
        ({"maze.size": 3}, "maze.size=3"),
        ({"maze.wind_mode": "gale"}, "'gale'"),
        ({"text.closing": "Go {x}."}, "text.closing"),
        ({"text.tiles": ["x", "x", "y"]}, "text.tiles"),
        ({"train.trainable": "nothing"}, "train.trainable"),
        ({"train.trainable": "("}, "train.trainable"),
        ({"train.lora.targets": "nothing"}, "lora.targets"),
        ({"train.lora.targets": "("}, "train.lora.targets"),
        ({"train.micro_batch": 24}, "train.micro_batch=24"),
        ({"train.micro_batch": 0}, "train.micro_batch=0"),
        ({"train.algorithm": "dr_gpro"}, "dr_gpro"),
        ({"train.optimizer": "adamww"}, "adamww"),
        ({"train.kl_in": "rewards"}, "train.kl_in"),
        ({"train.lr": 0.0}, "train.lr=0.0"),
        ({"train.minibatches": 3}, "train.minibatches=3"),
        ({"train.algorithm": "sft", "sft.batch": 48}, "48 trajectories"),
        ({"train.intervene.vectors": "/nowhere"}, "/nowhere"),
        ({"organisms.seed": [0, 1], "organisms.lr": [1.0]}, "organisms"),
        ({"train.steps": 0}, "train.steps=0"),
        ({"train.rollout_batch": 24}, "train.rollout_batch=24"),
        ({"train.rollout_batch": 4}, "8 devices"),
        ({"train.remat_keeps": "everything"}, "'everything'"),
        ({"parallel": "vmap"}, "jit, pmap"),
        ({"parallel": "pmap", "mesh.tensor": 2}, "mesh.tensor"),
        ({"train.group_size": 0}, "train.group_size=0"),
        ({"train.checkpoint_every": 0}, "train.checkpoint_every=0"),
        ({"extract.per_length": 0}, "extract.per_length=0"),
        ({"extract.permutations": 0}, "extract.permutations=0"),
        ({"extract.held_out": 1.0}, "extract.held_out=1.0"),
        ({"extract.held_out": 0.0}, "extract.held_out=0.0"),
        ({"extract.per_length": 2}, "extract.held_out=0.2"),
        ({"curve.per_length": 0}, "curve.per_length=0"),
    ],
)
def test_bad_settings_end_in_one_line(changes, said, folder):
    with pytest.raises(InputError) as error:
        loop.build(settings(folder, **changes))
    text = str(error.value)
    assert "\n" not in text and said in text and len(text) < 500


def test_the_live_curve_costs_less_than_a_twentieth_of_training():
    """In the paper's schedule, in tokens through the model: a forward of the walks against rollout and update."""
    cfg, shown = config.rl(), pieces.stand_in()
    lengths = np.repeat(np.arange(1, cfg.maze.turns + 1), 3 * cfg.curve.per_length)
    batches = np.array_split(lengths, 5)  # a bucket is as wide as its longest walk
    walks = sum(len(part) * (shown.slots(part.max(), calm=True) + 1) for part in batches)
    episodes = cfg.train.groups * cfg.train.group_size * shown.slots(cfg.maze.turns, calm=True)
    passes = 1 + 2  # the rollout, and forward and backward of the update
    assert walks / (cfg.curve.every * passes * episodes) < 0.02 < 0.05


def test_ends(tmp_path):
    rows = [
        {"step": i, "reward": float(i), "gold_taken": None if i == 0 else 0.5, "mold_avoided": None} for i in range(8)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    found = loop.ends(tmp_path, 3)
    assert found == {
        "steps": 8, "reward_first": 1.0, "reward_last": 6.0, "gold_taken_first": 0.5, "gold_taken_last": 0.5,
        "mold_avoided_first": None, "mold_avoided_last": None,
    }  # fmt: skip
    assert loop.ends(tmp_path / "none")["reward_first"] is None


def test_a_model_without_rows_for_the_mazes_words(tiny_tokenizer_dir, tmp_path):
    from helpers import hf_model, save

    model = save(hf_model("qwen3", vocab_size=300, num_hidden_layers=1), tmp_path, tiny_tokenizer_dir)
    with pytest.raises(InputError, match="the maze's tokens: id .* has no row in the model"):
        loop.build(settings(model))
