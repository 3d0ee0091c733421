"""The imitation sweep: tokens in their places, the loss one token at a time, planted rewards ranked, a whole run."""

import csv
import json

import jax
import numpy as np
import pytest
from helpers import hf_model, save
from ml_collections import ConfigDict
from scipy.special import log_softmax, logsumexp, softmax

from welfare_jax import config, experiments
from welfare_jax.errors import InputError
from welfare_jax.experiments.imitation import run as imitation
from welfare_jax.models import decoder
from welfare_jax.text import arithmetic

SMALL = {
    "model.dtype": "float32", "maze.size": 15, "maze.turns": 3, "train.steps": 3, "train.schedule_steps": 5,
    "train.lora.rank": 0, "train.trainable": ".*", "train.micro_batch": 8, "train.remat": False, "train.lr": 1e-2,
    "train.checkpoint_every": 2, "sft.batch": 8, "sft.trajectories": 16, "sft.held_out": 8, "sft.size": 0,
    "sft.beams": 4, "curve.every": 0, "imitation.lambdas": (0.0, 0.2), "imitation.temperatures": (0.0, 1.0),
    "imitation.prompts": 4, "imitation.samples": 2, "imitation.batch": 8, "imitation.arithmetic.demonstrations": 16,
    "imitation.arithmetic.level.steps": 1, "imitation.arithmetic.level.operations": "+-",
}  # fmt: skip

plain = jax.jit(lambda *a: decoder.forward(*a).logits, static_argnums=0)


@pytest.fixture(scope="module")
def cfg(tiny_tokenizer, tiny_tokenizer_dir, tmp_path_factory):
    model = hf_model("qwen3", vocab_size=len(tiny_tokenizer), num_hidden_layers=2)
    found = config.imitation()
    found.update_from_flattened_dict(
        SMALL | {"model.path": str(save(model, tmp_path_factory.mktemp("model"), tiny_tokenizer_dir))}
    )
    return found


@pytest.fixture(scope="module")
def task(cfg):
    return imitation.Arithmetic(cfg)


def test_demonstrations_are_right_and_whole(task):
    """Every row, decoded: a question of the training set and a right solution in one of three formats, ended."""
    rows, seen = task.shown, set()
    for i, p in enumerate(arithmetic.problems(0, 16, arithmetic.Level(1, 20, "+-"))):
        said = task.tokenizer.decode(rows.tokens[i][rows.mask[i]])
        assert said.startswith(f"<|bos|><|user|>{p.question}<|assistant|>") and said.endswith("<|end|>")
        text = task.tokenizer.decode(rows.targets[i][rows.shown[i]], skip_special_tokens=True)
        assert arithmetic.correct(p, text)
        seen.add(arithmetic.classify(text))
        at = rows.read[i][rows.shown[i]] + 1
        assert (rows.tokens[i][at] == rows.targets[i][rows.shown[i]]).all()
    assert seen == set(arithmetic.FORMATS) and rows.terminal.all()
    assert all(arithmetic.is_held_out(p.question) for p in task.asked)


def test_what_is_too_long_is_cut_and_not_terminal():
    rows = imitation.lay([[1, 2], [3]], [[4, 5, 6], [7]], [True, True], 0.5, 2, 2)
    assert rows.tokens.tolist() == [[1, 2, 4, 5], [3, 7, 0, 0]] and rows.terminal.tolist() == [False, True]
    assert rows.mask.tolist() == [[True] * 4, [True, True, False, False]] and rows.read.tolist() == [[1, 2], [0, 1]]
    assert rows.targets.tolist() == [[4, 5], [7, 0]] and rows.shown.tolist() == [[True, True], [True, False]]


def by_hand(task, row, temperature=1.0, gamma=1.0):
    """(log pi, entropy, implied rewards) of one row, a token at a time, from a plain forward without a mask."""
    ids = row.tokens[row.mask][None]
    params = task.base.join(task.base.initial, task.base.frozen)
    whole = np.pad(ids, ((0, 0), (0, len(row.mask) - ids.shape[1])))
    logits = np.asarray(plain(task.base.graphdef, params, whole)[0], "f8")
    count, logp, entropy, delta = int(row.shown.sum()), [], [], []
    for k in range(count):
        at = ids.shape[1] - count - 1 + k
        logp.append(log_softmax(logits[at])[ids[0, at + 1]])
        p = softmax(logits[at] / temperature)
        entropy.append(-(p * np.log(p)).sum())
        ahead = logsumexp(logits[at + 1]) if k + 1 < count else 0.0
        if k + 1 < count or row.terminal:
            delta.append(logits[at, ids[0, at + 1]] - gamma * ahead)
    return np.array(logp), np.array(entropy), np.array(delta)


@pytest.mark.slow
@pytest.mark.parametrize("lam", [0.0, 0.3])
def test_the_loss_one_token_at_a_time(task, lam):
    rows = jax.tree.map(lambda a: a[:4], task.shown)
    rows = rows._replace(lam=np.full(4, lam, "f4"), terminal=np.array([True, False, True, True]))
    each = [by_hand(task, jax.tree.map(lambda a, i=i: a[i], rows)) for i in range(4)]
    numerator, (count, metrics) = jax.jit(task.loss())(task.base.initial, task.base.frozen, rows)
    assert count == rows.shown.sum()
    want = sum(lam * (d**2).sum() - logp.sum() for logp, _, d in each)
    assert float(numerator) == pytest.approx(want, rel=1e-4)
    assert float(metrics["entropy"][0]) == pytest.approx(sum(e.sum() for _, e, _ in each), rel=1e-4)
    sums = task.implied(task.base.initial, rows)
    np.testing.assert_allclose(sums, [d.sum() for *_, d in each], rtol=1e-3, atol=1e-3)


def test_samples_and_their_entropy(task):
    found = task.sample(task.base.initial, 0.7)
    assert found.prompt.tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and len(found.said) == len(found.reward) == 8
    for i in (0, 5):
        row = jax.tree.map(lambda a, i=i: a[i], found.rows)
        assert found.entropy[i] == pytest.approx(by_hand(task, row, 0.7)[1].mean(), rel=1e-4)
    greedy = [task.sample(task.base.initial, 0.0) for _ in range(2)]
    assert greedy[0].said == greedy[1].said and greedy[0].said[0] == greedy[0].said[1]
    assert greedy[0].entropy.max() < 1e-3 and found.entropy.min() > 0.1


def samples(rewards, said=None):
    n = len(rewards)
    said = said or [["a", "b"], ["a", "b"], ["c"], ["d"]]
    return imitation.Samples(said, np.repeat([0, 1], n // 2), np.array(rewards, float), np.full(n, 0.5), None)


def test_quality_by_hand():
    found = imitation.quality(samples([1, 0, 1, 1]))
    assert (found["metric"], found["self_bleu"], found["entropy"]) == (0.75, 0.5, 0.5)  # prompts: 1 and 0 of Self-BLEU
    half = 12.7062 * np.std([0.5, 1.0], ddof=1) / np.sqrt(2)  # t with one degree of freedom
    assert found["metric_low"] == pytest.approx(0.75 - half) and found["prompts"] == 2 and found["samples"] == 4


class Scripted:
    """lambda 1 implies the task's own reward, lambda 0 its opposite within every prompt."""

    name, metric = "scripted", "nothing"

    def __init__(self):
        self.drawn = []

    def train(self, workdir, lam):
        return lam

    def sample(self, lam, temperature):
        self.drawn.append((lam, temperature))
        base = samples([1, 2, 13, 14] if temperature == 0.8 else [0, 0, 0, 0])
        return base._replace(rows=base.reward + 10 * lam * 0)

    def implied(self, lam, rows):
        return rows if lam else np.array([2.0, 1.0, 14.0, 13.0])


def test_planted_rewards_are_ranked(tmp_path):
    task = Scripted()
    rows, ranks = imitation.sweep(task, (0.0, 1.0), (0.3, 0.8, 1.3), tmp_path)
    assert task.drawn == [(lam, t) for lam in (0.0, 1.0) for t in (0.3, 0.8, 1.3)] and len(rows) == 6
    assert [r["temperature"] for r in ranks] == [0.8, 0.8] and [r["samples"] for r in ranks] == [8, 8]
    assert ranks[1]["correlation"] == pytest.approx(1) and ranks[1]["within"] == pytest.approx(1)
    assert 0 < ranks[0]["correlation"] < 1 and ranks[0]["within"] == pytest.approx(-1)


@pytest.mark.slow
def test_a_run_and_its_report(cfg, tmp_path):
    """Both tasks over two lambdas, from the settings to the page; again only measures, with the same numbers."""
    summary = imitation.run(cfg, tmp_path)
    analysis = json.loads((tmp_path / "analysis.json").read_text())
    assert {(r["task"], r["lambda"], r["temperature"]) for r in analysis["quality"]} == {
        (task, lam, t) for task in ("arithmetic", "maze") for lam in (0.0, 0.2) for t in (0.0, 1.0)
    }
    for r in analysis["quality"]:
        assert 0 <= r["self_bleu"] <= 1 + 1e-9 and (r["temperature"] or r["entropy"] < 1e-3)
        if r["task"] == "arithmetic" and not r["temperature"]:  # in a maze the wind may part two greedy episodes
            assert r["self_bleu"] == 1
    ranks = {(r["task"], r["lambda"]): r["correlation"] for r in analysis["ranks"]}
    assert ranks["maze", 0.2] is not None and summary["rank_correlation"]["maze_0.2"] == ranks["maze", 0.2]
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 12 and {m["run"] for m in metrics} == {
        f"{t}_{k}" for t in ("arithmetic", "maze") for k in ("0", "0.2")
    }
    page = experiments.report(tmp_path).read_text()
    assert page.count("<svg") == 2 and 'id="imitation"' in page and "maximum likelihood" in page
    assert "could not be shown" not in page and 'id="lens"' not in page
    with open(tmp_path / "tables" / "imitation_quality.csv") as file:
        assert len(list(csv.DictReader(file))) == 8


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tasks": ("chess",)}, "imitation.tasks=.*arithmetic, maze"),
        ({"lambdas": (0.1, -1.0)}, "imitation.lambdas"),
        ({"lambdas": (0.1, 0.1)}, "imitation.lambdas"),
        ({"temperatures": ()}, "imitation.temperatures"),
        ({"samples": 1}, "imitation.samples=1: must be at least 2"),
    ],
)
def test_settings_that_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        imitation.check(ConfigDict({"imitation": config.imitation().imitation.to_dict() | changes}))


def test_demonstrations_that_the_model_has_no_rows_for(cfg, tiny_tokenizer_dir, tmp_path):
    folder = save(hf_model("qwen3", vocab_size=261, num_hidden_layers=1), tmp_path, tiny_tokenizer_dir)
    own = cfg.copy_and_resolve_references()
    own.model.path = str(folder)
    with pytest.raises(InputError, match="imitation.arithmetic: demonstrations: id .* has no row in the model"):
        imitation.Arithmetic(own)
