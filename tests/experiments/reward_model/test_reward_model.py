"""Reward models: the head against transformers, the loss by hand, planted neurons found and silenced, a whole run."""

import csv
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers import hf_model, padded, params, save

from welfare_jax import config, experiments
from welfare_jax.errors import InputError
from welfare_jax.experiments.reward_model import run as reward_model
from welfare_jax.interp import neurons
from welfare_jax.models import decoder
from welfare_jax.train import checkpoints

LAYERS, WIDTH, MLP = 3, 40, 56


def test_rewards_against_transformers(tmp_path):
    """The scalar head of AutoModelForSequenceClassification on the last real token."""
    from transformers import Qwen3ForSequenceClassification

    plain = hf_model("qwen3")
    plain.config.num_labels, plain.config.pad_token_id = 1, 0
    judge = Qwen3ForSequenceClassification(plain.config).eval()
    judge.model.load_state_dict(plain.model.state_dict())
    tokens, mask = padded(sides="-ll")
    with torch.no_grad():
        want = judge(torch.tensor(tokens, dtype=torch.long), attention_mask=torch.tensor(mask)).logits[:, 0].numpy()
    graphdef, weights, _ = params(save(plain, tmp_path / "model"))
    head = [jnp.asarray(judge.score.weight.detach().numpy()[0]), jnp.zeros(())]
    for remat in (False, True):
        program = jax.jit(
            lambda p, r=remat: reward_model.rewards(decoder.bind(graphdef, p), head, tokens, mask, remat=r)
        )
        np.testing.assert_allclose(program(weights), want, rtol=1e-4, atol=1e-4)


def settings(folder, **changes):
    cfg = config.reward_model()
    cfg.update_from_flattened_dict({
        "model.path": str(folder), "model.dtype": "float32", "pairs.count": 24, "pairs.held_out": 10,
        "pairs.max_tokens": 64, "train.steps": 3, "train.schedule_steps": 5, "train.batch": 8, "train.micro_batch": 8,
        "train.checkpoint_every": 2, "train.lr": 1e-2, "train.lora.rank": 0, "train.trainable": ".*",
        "train.remat": False, "neurons.batch": 8, "neurons.random": 2, "neurons.sweep": (5.0, 20.0),
    } | changes)  # fmt: skip
    return cfg


@pytest.fixture(scope="module")
def folder(tiny_tokenizer, tiny_tokenizer_dir, tmp_path_factory):
    model = hf_model("qwen3", vocab_size=len(tiny_tokenizer))
    return save(model, tmp_path_factory.mktemp("model"), tiny_tokenizer_dir)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two objectives on whole texts: `letters` wants N before S, `numbers` wants 1 before 2."""
    where = tmp_path_factory.mktemp("pairs")
    for name, (yes, no) in {"letters": ("N", "S"), "numbers": ("1", "2")}.items():
        rows = [{"chosen": f"go {k} {yes}", "rejected": f"go {k} {no}"} for k in range(10, 40)]
        (where / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {f"pairs.{k}": str(where / f"{name}.jsonl") for k, name in (("a", "letters"), ("b", "numbers"))}


@pytest.fixture(scope="module")
def models(folder, files):
    return reward_model.Models(settings(folder, **files, **{"neurons.percent": 100 * 2 / (LAYERS * MLP)}))


PLACES = {"letters": [(0, 3), (2, 50)], "numbers": [(1, 7), (2, 50)]}  # the last is shared


@pytest.fixture(scope="module")
def planted(models):
    """Models whose reward is what two neurons write, read from tokens that carry their objective's direction."""
    tokenizer = models.base.lm.tokenizer
    out = {}
    lean = {
        k: (jnp.ones_like(v) if k.endswith("scale") else jnp.zeros_like(v)) for k, v in models.base.initial.items()
    }
    embed = np.zeros(lean["embed"].shape, "f4")
    embed[:, 1] = 1.0  # every token: what `up` reads
    for text, sign in (("N", 3.0), ("S", -3.0), ("1", 3.0), ("2", -3.0)):
        embed[tokenizer.encode("go " + text)[-1], 0 if text in "NS" else 2] = sign
    lean["embed"] = jnp.asarray(embed)
    base = dict(lean)
    for name, places in PLACES.items():
        gate, up, down = (np.array(lean[f"blocks/mlp/{k}/kernel"]) for k in ("gate", "up", "down"))
        for (layer, neuron), strength in zip(places, (4.0, 2.0)):
            gate[layer, 0 if name == "letters" else 2, neuron] = strength
            up[layer, 1, neuron], down[layer, neuron, 5] = 1.0, 1.0
        mine = {f"blocks/mlp/{k}/kernel": jnp.asarray(v) for k, v in (("gate", gate), ("up", up), ("down", down))}
        out[name] = lean | mine | {"value_head/kernel": jnp.zeros(WIDTH).at[5].set(1.0)}
    out["mixed"] = out["letters"]
    models.base = dataclasses.replace(models.base, initial=base)
    return out


def test_planted_neurons_are_found(models, planted):
    for name, places in PLACES.items():
        scores = models.scores(planted[name], name)
        for kind in neurons.SCORES:
            top = neurons.top(scores[kind], models.config.neurons.percent)
            assert sorted(map(tuple, np.argwhere(top))) == sorted(places), kind


def test_silencing_them_takes_the_objective_away(models, planted):
    silence = lambda *places: np.isin(np.arange(LAYERS * MLP), [a * MLP + b for a, b in places]).reshape(LAYERS, MLP)
    for name, other in (("letters", "numbers"), ("numbers", "letters")):
        model, places = planted[name], PLACES[name]
        assert models.right(model, name).tolist() == [1.0] * 10
        assert models.right(model, other).tolist() == [0.5] * 10  # it sees no difference: draws
        assert models.right(model, name, silence(*places)).tolist() == [0.5] * 10
        assert models.right(model, name, silence(places[0])).tolist() == [1.0] * 10  # one of two is enough
        assert models.right(model, name, ~silence(*places)).tolist() == [1.0] * 10
    assert models.margin_of._cache_size() == 1  # sets are data


def test_the_tables_of_planted_models(models, planted):
    scores = {
        name: models.scores(model, "numbers" if name == "numbers" else "letters") for name, model in planted.items()
    }
    rows = []
    for name in ("letters", "numbers"):
        rows += reward_model.ablations(models, name, planted[name], scores, models.config.neurons, 0)
    change = {(r["model"], r["objective"], r["set"], r["score"]): r["change"] for r in rows if r["set"] != "own"}
    for kind in neurons.SCORES:
        assert change["letters", "letters", "top_a", kind] == -0.5
        assert change["letters", "letters", "top_b", kind] == change["letters", "letters", "only_a", kind] == 0
        assert change["numbers", "numbers", "top_b", kind] == -0.5
        assert change["letters", "letters", "shared", kind] == change["letters", "numbers", "top_a", kind] == 0
    sizes = {r["set"]: r["neurons"] for r in rows if r["percent"] == models.config.neurons.percent}
    assert sizes == {"top_a": 2, "top_b": 2, "only_a": 1, "only_b": 1, "shared": 1, "random_top": 2, "random_only": 1,
                     "random_shared": 1}  # fmt: skip
    found = {
        (r["a"], r["b"]): r
        for r in reward_model.overlaps(models, scores, models.config.neurons, 0)
        if r["neurons"] == 2
    }
    assert found["letters", "numbers"]["jaccard"] == pytest.approx(1 / 3) and found["letters", "mixed"]["jaccard"] == 1
    accuracy = reward_model.accuracies(models, "numbers", planted["numbers"])
    assert {r["objective"]: r["mean"] for r in accuracy} == {"letters": 0.5, "numbers": 1.0}


def test_loss_by_hand(models):
    part = jax.tree.map(lambda a: a[:4], models.held["letters"])
    rng = np.random.default_rng(0)
    trainable = models.base.initial | {"value_head/kernel": jnp.asarray(rng.normal(size=WIDTH), jnp.float32)}
    trainable["embed"] = jnp.asarray(rng.normal(size=trainable["embed"].shape), jnp.float32)
    numerator, (count, metrics) = jax.jit(reward_model.make_loss(models.base, False))(trainable, {}, part)
    margins = models.margins(trainable, "letters")[:4].astype(float)
    assert float(numerator) == pytest.approx(np.log1p(np.exp(-margins)).sum(), rel=1e-4) and count == 4
    assert float(metrics["accuracy"][0]) == (margins > 0).sum()


def test_encode_ends_with_the_answer(tiny_tokenizer):
    rows = [
        {"prompt": "How is it going?", "chosen": "It is good.", "rejected": "no"},
        {"prompt": None, "chosen": "It is going well.", "rejected": "It is bad."},
        {"chosen": [{"role": "user", "content": "N"}, {"role": "assistant", "content": "S"}],
         "rejected": [{"role": "user", "content": "N"}, {"role": "assistant", "content": "E"}]},
    ]  # fmt: skip
    pairs = reward_model.encode(tiny_tokenizer, rows, 64)
    said = [tiny_tokenizer.decode(t[m]) for t, m in zip(pairs.chosen, pairs.chosen_mask)]
    assert said == ["<|bos|><|user|>How is it going?<|assistant|>It is good.<|end|>", "It is going well.",
                    "<|bos|><|user|>N<|assistant|>S<|end|>"]  # fmt: skip
    assert pairs.chosen_mask[:, -1].all() and pairs.chosen.shape == pairs.rejected.shape
    short = reward_model.encode(tiny_tokenizer, rows, 3, multiple=1)
    assert short.chosen.shape[1] == 3 and (short.chosen[0] == pairs.chosen[0, -3:]).all()


@pytest.mark.slow
def test_a_run_and_its_report(folder, tmp_path):
    """Generated objectives, from the settings to the page; the second call only measures again."""
    cfg = settings(folder, **{"neurons.sweep": (20.0,), "neurons.random": 1, "pairs.held_out": 8})
    summary = reward_model.run(cfg, tmp_path)
    metrics = (tmp_path / "metrics.jsonl").read_text()
    assert reward_model.run(cfg, tmp_path)["accuracy"] == summary["accuracy"]
    assert (tmp_path / "metrics.jsonl").read_text() == metrics and len(metrics.splitlines()) == 9
    page = experiments.report(tmp_path).read_text()
    assert page.count("<svg") == 3 and 'id="reward_models"' in page and 'id="lens"' not in page
    assert "could not be shown" not in page and "only helpful" in page
    with open(tmp_path / "tables" / "reward_accuracy.csv") as file:
        rows = list(csv.DictReader(file))
    assert {(r["model"], r["objective"]) for r in rows} == {
        (m, o) for m in ("helpful", "harmless", "mixed") for o in ("helpful", "harmless")
    }
    assert all(
        float(r["mean"]) == summary["accuracy"][f"{r['model']} on {r['objective']}"]
        for r in rows
        if r["pairs"] == "all"
    )
    for name in ("helpful", "harmless", "mixed"):
        assert len(checkpoints.read_metrics(tmp_path / name / "metrics.jsonl")) == 3


def test_pairs_that_the_model_has_no_rows_for(files, tiny_tokenizer_dir, tmp_path):
    folder = save(hf_model("qwen3", vocab_size=261, num_hidden_layers=1), tmp_path, tiny_tokenizer_dir)
    with pytest.raises(InputError, match="pairs: chosen answers of letters: id .* has no row in the model"):
        reward_model.Models(settings(folder, **files))
