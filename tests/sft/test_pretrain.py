"""Pretraining of the small decoder: every token in its place and weight, a loss that falls, a folder that loads."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers import VOCAB, tiny_model
from ml_collections import ConfigDict
from scipy.special import log_softmax

from welfare_jax.models import decoder, hf
from welfare_jax.models.spec import small
from welfare_jax.sft import pretrain
from welfare_jax.text import tiny_world
from welfare_jax.text.wording import Wording

TOLD = 0.25


def documents(kinds=tiny_world.KINDS, n=40, seed=0):
    return list(itertools.islice(tiny_world.documents(seed, tiny_world.Mixture(1, 1, 1, 1, 1), Wording(), kinds), n))


def by_hand(tokenizer, document):
    """(ids, weights) of a document, message by message: answers and plain text count fully, the rest is told."""
    ids = [tokenizer.convert_tokens_to_ids("<|bos|>")]
    if not document.messages:
        ids += tokenizer.encode(document.text, add_special_tokens=False) + [tokenizer.eos_token_id]
        return ids, [1.0] * len(ids)
    weights = [TOLD]
    for m in document.messages:
        body = tokenizer.encode(m["content"], add_special_tokens=False)
        answer = m["role"] == "assistant"
        ids += [tokenizer.convert_tokens_to_ids(f"<|{m['role']}|>"), *body]
        weights += [TOLD, *[1.0 if answer else TOLD] * len(body)]
        if answer:  # the end of an answer is the player's own
            ids, weights = [*ids, tokenizer.eos_token_id], [*weights, 1.0]
    return ids, weights


def test_packing_keeps_every_token_in_order(tiny_tokenizer):
    docs = documents(n=400)
    want = [x for d in docs for x in zip(*by_hand(tiny_tokenizer, d))]
    stream = pretrain.Stream(tiny_tokenizer, iter(docs), TOLD)
    rows = [stream.packed(3, 50) for _ in range(12)]  # several calls: what is left over opens the next batch
    got = [x for ids, weights in rows for x in zip(ids.ravel().tolist(), weights.ravel().tolist())]
    assert all(ids.shape == weights.shape == (3, 50) for ids, weights in rows)
    assert got == want[: len(got)] and len(got) == 12 * 150


@pytest.mark.parametrize("kind", tiny_world.KINDS)
def test_weights_of_every_kind(kind, tiny_tokenizer):
    docs = documents((kind,), 12)
    stream = pretrain.Stream(tiny_tokenizer, iter(docs), TOLD)
    tokens, weights = stream.single(12, 300)
    for row, d in enumerate(docs):
        ids, want = by_hand(tiny_tokenizer, d)
        n = min(300, len(ids))
        assert tokens[row, :n].tolist() == ids[:n] and weights[row, :n].tolist() == want[:n]
        assert (tokens[row, n:] == tiny_tokenizer.pad_token_id).all() and not weights[row, n:].any()


def test_loss_sums():
    graphdef, params = tiny_model("gemma3")
    rng = np.random.default_rng(0)
    tokens, weights = rng.integers(0, VOCAB, (3, 9)), rng.random((3, 9)).astype("f4") * (rng.random((3, 9)) < 0.7)
    got = pretrain.loss_sums(decoder.bind(graphdef, params), jnp.asarray(tokens), jnp.asarray(weights))
    logp = log_softmax(np.asarray(decoder.forward(graphdef, params, jnp.asarray(tokens)).logits, "f8"), -1)
    total = mass = 0.0
    for b in range(3):
        for t in range(1, 9):
            total -= weights[b, t] * logp[b, t - 1, tokens[b, t]]
            mass += weights[b, t]
    np.testing.assert_allclose(got, (total, mass), rtol=1e-5)


def test_decay_spares_norms_and_embeddings():
    """With gradients of zero nothing but the decay moves a parameter."""
    _, params = tiny_model()
    tx = pretrain.optimizer(config(muon_lr=0.5, adam_lr=0.5, warmup=0, steps=10, weight_decay=0.5))
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    for (path, u), p in zip(jax.tree.leaves_with_path(updates), jax.tree.leaves(params)):
        want = -0.25 * p if path[-1].key == "kernel" else 0 * p
        np.testing.assert_allclose(u, want, atol=1e-6, err_msg=jax.tree_util.keystr(path))


def test_muon_moves_each_layer_by_itself():
    """A stacked kernel is orthogonalised layer by layer: a layer without a gradient does not move."""
    _, params = tiny_model()
    tx = pretrain.optimizer(config(muon_lr=0.1, adam_lr=0.1, warmup=0, steps=10, weight_decay=0.0))
    rng = np.random.default_rng(0)
    grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
    grads["blocks"] = jax.tree.map(lambda g: g.at[1].set(0), grads["blocks"])
    updates, _ = tx.update(grads, tx.init(params), params)
    up = np.asarray(updates["blocks"]["mlp"]["up"]["kernel"])
    assert np.abs(up[1]).max() < 1e-6
    for layer in (0, 2):  # Newton-Schulz leaves singular values around one, times 0.2 sqrt(max(in, out)) * lr
        values = np.linalg.svd(up[layer], compute_uv=False) / (0.1 * 0.2 * np.sqrt(40))
        assert 0.5 < values.min() and values.max() < 1.5, values


def config(**changes):
    return ConfigDict({
        "seed": 0, "shape": dict(layers=2, width=32, heads=2, kv_heads=1, head_dim=16, mlp=48),
        "phases": [ConfigDict({"until": 1, "questions": 1.0}), ConfigDict({"until": 3, "stories": 0.4, "goals": 0.6})],
        "steps": 3, "short_rows": 4, "short_length": 64, "long_rows": 2, "long_length": 96, "muon_lr": 1e-2,
        "adam_lr": 3e-3, "warmup": 1, "weight_decay": 0.1, "told_weight": TOLD, "probe_every": 1,
    } | changes)  # fmt: skip


def test_thirty_steps_lower_the_loss(tiny_tokenizer):
    cfg = config(steps=30, adam_lr=1e-2)
    graphdef, params = decoder.init(small(len(tiny_tokenizer), **cfg.shape), jax.random.key(0))
    tx = pretrain.optimizer(cfg)
    step, memory = pretrain.make_step(graphdef, tx), tx.init(params)
    stream = pretrain.Stream(tiny_tokenizer, tiny_world.documents(1, tiny_world.Mixture(), Wording()), TOLD)
    losses = []
    for _ in range(30):
        params, memory, parts = step(params, memory, [stream.packed(8, 64)])
        losses.append(float(parts[0]))
    assert losses[0] == pytest.approx(np.log(len(tiny_tokenizer)), abs=1.0)
    assert np.mean(losses[-3:]) < losses[0] - 1.5, losses


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    return folder, pretrain.run(config(), folder)


@pytest.mark.slow
def test_run_leaves_a_folder_that_transformers_loads(done):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = done[0] / "model"
    lm = hf.load(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = np.array([tokenizer.encode(tiny_world.render(documents()[0]), add_special_tokens=False)])
    with torch.no_grad():
        want = model(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(decoder.forward(lm.graphdef, lm.params, jnp.asarray(tokens)).logits, want, atol=1e-4)
    assert model.config.eos_token_id == tokenizer.eos_token_id == lm.tokenizer.eos_token_id


@pytest.mark.slow
def test_run_says_what_it_did(done):
    folder, summary = done
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [1, 2, 3]
    assert [len(r["loss"]) for r in rows] == [1, 2, 2]  # the first phase has no conversations
    on_disk = json.loads((folder / "summary.json").read_text())
    assert on_disk == summary and summary["sha256"] == pretrain.folder_hash(folder / "model")
    assert summary["bytes"] == sum(p.stat().st_size for p in (folder / "model").iterdir())
    assert 0 < summary["goals_entropy"] <= np.log(4) + 1e-3 and 0 < summary["free_entropy"] <= np.log(4) + 1e-3
    assert {"questions_accuracy", "stories_accuracy", "goals_followed", "goals_chance"} <= summary.keys()
