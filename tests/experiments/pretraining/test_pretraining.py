"""Pretraining from scratch: a loss that falls, an optimiser that does what it says, a folder that loads, a restart."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import traverse_util
from helpers import VOCAB, hf_model, save, tiny_model
from scipy.special import log_softmax

from welfare_jax import config as settings
from welfare_jax.errors import InputError
from welfare_jax.experiments.pretraining import run as pretrain
from welfare_jax.models import decoder, hf
from welfare_jax.text import arithmetic

SHAPE = dict(layers=2, width=32, heads=2, kv_heads=1, head_dim=16, mlp=48)


def config(**changes):
    cfg = settings.pretrain()
    cfg.shape.update(SHAPE)
    cfg.tokenizer.documents = 100
    cfg.train.update(micro_batch=4, checkpoint_every=2)
    cfg.update(steps=6, rows=8, length=48, warmup=1, probe_every=3, lr=1e-2)
    cfg.update(changes)
    return cfg


def flat(params):
    return traverse_util.flatten_dict(params, sep="/")


def test_loss_sums():
    graphdef, params = tiny_model("gemma3")
    rng = np.random.default_rng(0)
    tokens, weights = rng.integers(0, VOCAB, (3, 9)), rng.random((3, 9)).astype("f4") * (rng.random((3, 9)) < 0.7)
    got = jax.jit(lambda p: pretrain.loss_sums(decoder.bind(graphdef, p), tokens, weights))(params)
    logp = log_softmax(np.asarray(jax.jit(lambda p: decoder.forward(graphdef, p, tokens).logits)(params), "f8"), -1)
    total = mass = 0.0
    for b in range(3):
        for t in range(1, 9):
            total -= weights[b, t] * logp[b, t - 1, tokens[b, t]]
            mass += weights[b, t]
    np.testing.assert_allclose(got, (total, mass), rtol=1e-5)


@pytest.mark.parametrize("rule", ["muon", "adamw"])
def test_decay_spares_norms_and_embeddings(rule):
    """With gradients of zero nothing but the decay moves a parameter."""
    params = flat(tiny_model()[1])
    tx = pretrain.optimizer(config(optimizer=rule, muon_lr=0.5, lr=0.5, warmup=0, steps=10, weight_decay=0.5))
    updates, _ = jax.jit(tx.update)(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    for name, p in params.items():
        np.testing.assert_allclose(updates[name], -0.25 * p if name.endswith("kernel") else 0 * p, atol=1e-6)


def test_muon_moves_each_layer_by_itself():
    """A stacked kernel is orthogonalised layer by layer: a layer without a gradient does not move."""
    params = flat(tiny_model()[1])
    tx = pretrain.optimizer(config(muon_lr=0.1, lr=0.1, warmup=0, steps=10, weight_decay=0.0))
    rng = np.random.default_rng(0)
    grads = {k: jnp.asarray(rng.normal(size=p.shape), jnp.float32) for k, p in params.items()}
    grads = {k: g.at[1].set(0) if k.startswith("blocks") else g for k, g in grads.items()}
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    up = np.asarray(updates["blocks/mlp/up/kernel"])
    assert np.abs(up[1]).max() < 1e-6
    for layer in (0, 2):  # Newton-Schulz leaves singular values around one, times 0.2 sqrt(max(in, out)) * lr
        values = np.linalg.svd(up[layer], compute_uv=False) / (0.1 * 0.2 * np.sqrt(40))
        assert 0.5 < values.min() and values.max() < 1.5, values


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "steps=0"), ({"warmup": 6}, "warmup=6"), ({"rows": 6}, "micro_batch=4"),
        ({"dtype": "float16"}, "float16"), ({"optimizer": "adma"}, "'adma'"), ({"length": 1}, "length=1"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_before_anything_is_written(changes, said, tmp_path):
    with pytest.raises(InputError, match=said):
        pretrain.run(config(**changes), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run that was stopped after four steps and went on, and one that was not."""
    stopped, whole = tmp_path_factory.mktemp("stopped"), tmp_path_factory.mktemp("whole")
    summary = pretrain.run(config(), whole)
    write, count = pretrain.checkpoints.MetricsLog.write, []

    def killed(log, row):
        write(log, row)
        count.append(row)
        if len(count) == 5:  # one step after the checkpoint
            raise KeyboardInterrupt

    pretrain.checkpoints.MetricsLog.write = killed
    try:
        with pytest.raises(KeyboardInterrupt):
            pretrain.run(config(), stopped)
    finally:
        pretrain.checkpoints.MetricsLog.write = write
    return whole, summary, stopped, pretrain.run(config(), stopped)


TIMED = ("seconds", "tokens_per_s")


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_run_and_restart(done):
    whole, summary, stopped, again = done
    found = [[{k: v for k, v in row.items() if k not in TIMED} for row in rows(folder)] for folder in (whole, stopped)]
    assert found[0] == found[1] and [row["step"] for row in found[0]] == list(range(6))
    assert ["nll_words" in row for row in found[0]] == [False, False, True, False, False, True]
    losses = [row["loss"] for row in found[0]]
    assert losses[0] == pytest.approx(np.log(hf.load(whole / "model").spec.vocab), abs=1.0)
    assert losses[-1] < losses[0] - 0.5, losses
    assert summary["sha256"] == again["sha256"] == pretrain.folder_hash(stopped / "model")
    assert json.loads((whole / "summary.json").read_text()) == summary
    assert summary["bytes"] == sum(p.stat().st_size for p in (whole / "model").iterdir())
    with pytest.raises(InputError, match=r"seed=0 \(now 1\)"):
        pretrain.run(config(seed=1), whole)


@pytest.mark.slow
def test_going_on_from_a_model(done, tmp_path):
    """The first loss is that of the model that was named, on what is read now, whatever shape the settings have."""
    changes = dict(start=str(done[0] / "model"), steps=1, warmup=0, seed=5)
    pretrain.run(config(**changes), tmp_path)
    cfg, lm = config(**changes), hf.load(done[0] / "model")
    batch = pretrain.corpus.Corpus(pretrain.corpus.Mixture.of(cfg), lm.tokenizer).batch(0)
    sums = pretrain.loss_sums(decoder.bind(lm.graphdef, lm.params), *(batch[k] for k in ("tokens", "weights")))
    assert rows(tmp_path)[0]["loss"] == pytest.approx(float(sums[0] / sums[1]), rel=1e-5)
    assert hf.load(tmp_path / "model").spec == lm.spec


@pytest.mark.slow
def test_run_leaves_a_folder_that_transformers_loads(done):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = done[0] / "model"
    lm = hf.load(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    p = arithmetic.problem(0, 0)
    text = arithmetic.document(p, arithmetic.solution(p, "words"))
    tokens = np.array([tokenizer.encode(text, add_special_tokens=False)])
    with torch.no_grad():
        want = model(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(decoder.forward(lm.graphdef, lm.params, jnp.asarray(tokens)).logits, want, atol=1e-4)
    assert model.config.eos_token_id == tokenizer.eos_token_id == lm.tokenizer.eos_token_id


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """`finished()`: what is written where the model of a finished pretraining is asked for; it began with a model and
    read a file of text. Nothing is trained anew."""
    start, texts = tmp_path / "start", tmp_path / "texts.txt"
    save(hf_model("qwen3", num_hidden_layers=1), start)
    texts.write_text("one\n")
    cfg = config(start=str(start))
    cfg.sources.words.data = str(texts)
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    runs = []
    monkeypatch.setattr(pretrain, "run", lambda *args: runs.append(args))

    def write(**content):
        settings = json.loads(json.dumps(cfg.to_dict())) | ({pretrain.checkpoints.CONTENT: content} if content else {})
        (tmp_path / "run" / "config.json").write_text(json.dumps(settings))
        (tmp_path / "run" / "summary.json").write_text(json.dumps({"sha256": pretrain.folder_hash(model)}))

    return cfg, tmp_path, write, runs


def test_a_finished_pretraining_belongs_to_what_it_read_and_wrote(finished, capfd):
    """The model it began with, its files of text, the model it left; an older one has no digests of what it read."""
    cfg, folder, write, runs = finished
    ask = lambda: pretrain.finished(cfg, folder / "run")
    write(**pretrain.content(cfg), tokenizer="x")
    assert ask() == folder / "run" / "model" and not capfd.readouterr().err
    save(hf_model("qwen3", num_hidden_layers=1, rms_norm_eps=1e-3), folder / "start")
    assert ask()  # the same weights
    kept = (folder / "start" / "model.safetensors").read_bytes()
    model = hf_model("qwen3", num_hidden_layers=1)
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-3
    save(model, folder / "start")
    with pytest.raises(InputError, match="pretrained with another weights"):
        ask()
    (folder / "start" / "model.safetensors").write_bytes(kept)
    (folder / "texts.txt").write_text("two\n")
    with pytest.raises(InputError, match="pretrained with another source words"):
        ask()
    (folder / "texts.txt").write_text("one\n")
    (folder / "run" / "model" / "config.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="model: is not what its pretraining wrote"):
        ask()
    write()
    assert ask() and "does not name what it read by content" in capfd.readouterr().err and not runs
    cfg.steps += 1
    ask()
    assert len(runs) == 1
