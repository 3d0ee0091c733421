"""The trained model of a run: base weights and the newest checkpoint's adapters, in one program with the untrained."""

import dataclasses
import itertools
import json
import shutil

import jax
import numpy as np
import pytest
import torch
from helpers import hf_model, save
from hypothesis import given
from hypothesis import strategies as st
from mutations import bytes_like, few, one_line

from welfare_jax import config, mesh
from welfare_jax.errors import InputError
from welfare_jax.evals import directions, models
from welfare_jax.evals.settings import Evals
from welfare_jax.interp import vectors
from welfare_jax.models import decoder, hf, lora
from welfare_jax.models.layers import Lora
from welfare_jax.train import checkpoints, state
from welfare_jax.train.job import Job


@pytest.fixture(scope="module", params=["adapters", "full"])
def run(request, tiny_tokenizer, tiny_tokenizer_dir, tmp_path_factory):
    """(base folder, run folder, what the trained model says) of a run that was written as the main job writes it."""
    base = save(hf_model("qwen3", vocab_size=len(tiny_tokenizer)), tmp_path_factory.mktemp("base"), tiny_tokenizer_dir)
    folder, cfg = tmp_path_factory.mktemp("run"), config.rl()
    cfg.train.lora.rank = 4 if request.param == "adapters" else 0
    cfg.train.trainable = ".*/lora_[ab]" if request.param == "adapters" else "blocks/mlp/.*"
    lm = hf.load(base)
    graphdef, full = lm.graphdef, lm.params
    if cfg.train.lora.rank:
        own = Lora(4, cfg.train.lora.alpha, cfg.train.lora.targets)
        graphdef, full = lora.attach(graphdef, full, own, jax.random.key(0))
    trainable, frozen = state.split(full, cfg.train.trainable)
    trained = {
        k: v + 0.05 * jax.random.normal(jax.random.key(i), v.shape) for i, (k, v) in enumerate(trainable.items())
    }
    saved = checkpoints.Checkpoints(folder, 2)
    tx = state.optimizer(Job.of(cfg).train)
    settings = checkpoints.bound(cfg.to_dict(), weights=checkpoints.digest(lm.params))
    for step, now in ((2, trainable), (3, trained)):
        saved.save(step, state.State(jax.numpy.int32(step), now, tx.init(now)), settings)
    saved.close()
    tokens = np.arange(3, 12)[None]
    return base, folder, decoder.forward(graphdef, state.join(trained, frozen), tokens).logits, tokens


def test_both_models_of_a_run(run):
    base, folder, want, tokens = run
    found = models.load(str(base), str(folder), "float32", mesh.make())
    assert found["untrained"].graphdef == found["trained"].graphdef
    assert found["untrained"].identity != found["trained"].identity
    say = lambda m: np.asarray(decoder.forward(m.graphdef, m.params, tokens).logits)
    np.testing.assert_allclose(say(found["trained"]), want, atol=1e-4)
    lm = hf.load(base)
    np.testing.assert_allclose(
        say(found["untrained"]), decoder.forward(lm.graphdef, lm.params, tokens).logits, atol=1e-4
    )
    shared = [a is b for a, b in zip(*(jax.tree.leaves(found[n].params) for n in ("untrained", "trained")))]
    assert sum(shared) >= 8  # the base weights are in memory once
    assert np.abs(np.asarray(want) - say(found["untrained"])).max() > 0.01


def test_another_base_is_refused(run, tiny_tokenizer, tiny_tokenizer_dir, tmp_path):
    other = save(hf_model("qwen3", vocab_size=len(tiny_tokenizer), num_hidden_layers=2), tmp_path, tiny_tokenizer_dir)
    with pytest.raises(InputError, match="evals.trained"):
        models.load(str(other), str(run[1]), "float32", mesh.make())


def test_exchanged_weights_of_the_same_shape_are_refused(run, tiny_tokenizer, tiny_tokenizer_dir, tmp_path):
    model = hf_model("qwen3", vocab_size=len(tiny_tokenizer))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] += 1e-3
    other = save(model, tmp_path, tiny_tokenizer_dir)
    with pytest.raises(InputError, match="trained on other base weights"):
        models.load(str(other), str(run[1]), "float32", mesh.make())


def test_a_checkpoint_that_does_not_say_how_it_was_made(run, tmp_path):
    shutil.copytree(run[1], tmp_path / "run")
    written = next((tmp_path / "run" / "checkpoints" / "3" / "config").glob("metadata"))
    for text in ("[]", "{", '{"train": {}}', "\x00"):
        written.write_text(text)
        with pytest.raises(InputError, match="does not say how it was made") as error:
            models.load(str(run[0]), str(tmp_path / "run"), "float32", mesh.make())
        assert "\n" not in str(error.value)


def other_settings(step):
    """Adapters of twice the strength, and a seed from which others would begin."""
    file = step / "config" / "metadata"
    written = json.loads(file.read_text())
    written["train"]["lora"]["alpha"] *= 2
    written["seed"] += 1
    file.write_text(json.dumps(written))


def other_numbers(step):
    """A state that reads well and is the one of the checkpoint before."""
    shutil.rmtree(step / "state")
    shutil.copytree(step.parent / "2" / "state", step / "state")


def cut(step):
    for file in [p for p in (step / "state").rglob("*") if p.is_file()]:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("damage", [other_settings, other_numbers, cut, lambda step: shutil.rmtree(step / "sums")])
def test_a_checkpoint_that_is_not_what_was_saved_is_refused(damage, run, tmp_path):
    """By the same reader as a run's own that goes on; nothing in the folder is moved."""
    shutil.copytree(run[1], tmp_path / "run")
    damage(tmp_path / "run" / "checkpoints" / "3")
    with pytest.raises(InputError, match=f"evals.trained={tmp_path}/run: its checkpoint 3") as error:
        models.load(str(run[0]), str(tmp_path / "run"), "float32", mesh.make())
    assert "\n" not in str(error.value) and (tmp_path / "run" / "checkpoints" / "3").is_dir()


def test_any_bytes_in_a_checkpoint(run, tmp_path):
    """The trained parameters are those that were saved, or the folder is refused in one line."""
    lm, (_, folder, want, tokens) = hf.load(run[0]), run
    files = sorted(p.relative_to(folder) for p in (folder / "checkpoints" / "3").rglob("*") if p.is_file())
    count = itertools.count()

    @few(8)
    @given(
        st.sampled_from(files).flatmap(lambda f: st.tuples(st.just(f), bytes_like((folder / f).read_bytes() or b"0")))
    )
    def check(args):
        file, data = args
        here = tmp_path / f"{next(count)}"
        shutil.copytree(folder, here)
        (here / file).write_bytes(data)
        if found := one_line(lambda: models.restore(here, lm, mesh.make()), "evals.trained", str(here)):
            graphdef, both = found
            got = decoder.forward(graphdef, both["trained"], tokens).logits
            np.testing.assert_array_equal(got, want)

    check()


def test_vectors_of_a_run(run, tmp_path):
    """v and u of its two files; u takes v's norm and layer; one baseline of the two."""
    rng = np.random.default_rng(0)
    for name, layer in (("trained", 2), ("untrained", 0)):
        found = {f"{c}/{b}": rng.normal(size=(3, 40)) for c in ("mold", "gold") for b in ("rest", "path")}
        vectors.save(tmp_path / "vectors" / f"{name}.safetensors", found, model="", hook="resid_post", data="",
                     layers={"mold": layer, "gold": 1})  # fmt: skip
    cohort = {f"{c}/{b}": rng.normal(size=(9, 3, 40)) for c in ("mold", "gold") for b in ("rest", "path")}
    vectors.save(
        tmp_path / "vectors" / "permuted.safetensors", cohort, model="", hook="resid_post", data="", layers={}
    )
    loaded = models.load(str(run[0]), "", "float32", mesh.make())
    job, evals = Job.of(config.rl()), Evals(baseline="path")
    bank = directions.build([str(tmp_path)], loaded, evals, job)
    assert sorted(bank.directions) == ["u_gold", "u_mold", "v_gold", "v_mold"] and bank.hook == "resid_post"
    raw, _ = vectors.load(tmp_path / "vectors" / "trained.safetensors")
    np.testing.assert_array_equal(bank.directions["v_mold"].values, raw["mold/path"])
    assert {n: d.layer for n, d in bank.directions.items()} == {"v_mold": 2, "v_gold": 1, "u_mold": 2, "u_gold": 1}
    more = directions.build([str(tmp_path)], loaded, dataclasses.replace(evals, permuted=2), job).directions
    assert len(more) == 4 + 2 * 2 and more["permuted_1/v_gold"][1:] == (1, "permuted", "v_gold")
    made, like = more["permuted_1/v_gold"].values, more["v_gold"].values
    np.testing.assert_allclose(np.linalg.norm(made, axis=-1), np.linalg.norm(like, axis=-1), rtol=1e-5)
    ratio = made / cohort["gold/path"][1]
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1], ratio.shape), rtol=1e-4)
    with pytest.raises(InputError, match="once more"):
        directions.build([str(tmp_path), str(tmp_path)], loaded, evals, job)
