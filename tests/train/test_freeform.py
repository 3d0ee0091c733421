"""Free text with a reward at its end: numbers against NumPy, and a model that learns what is rewarded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import VOCAB, tiny_model
from scipy.special import log_softmax

from welfare_jax import config as settings
from welfare_jax.models import decoder
from welfare_jax.settings import typed
from welfare_jax.train import freeform, state, step
from welfare_jax.train.settings import FreeText

GROUPS, SIZE, T, N, STOP, HEAT = 3, 4, 5, 6, 7, 0.7
plain = jax.jit(lambda *a: decoder.forward(*a).logits, static_argnums=0)


def config(algorithm, **changes):
    few = {"algorithm": algorithm, "groups": GROUPS, "group_size": SIZE, "micro_batch": 6, "warmup": 0}
    return typed(FreeText, settings.amplify(), "train", **few | changes)


@pytest.fixture(scope="module")
def model():
    graphdef, params = tiny_model()
    trainable, frozen = state.split(params, ".*")
    return graphdef, trainable, frozen


@pytest.fixture(scope="module")
def played(model):
    graphdef, trainable, frozen = model
    rng = np.random.default_rng(0)
    prompts = np.repeat(rng.integers(8, VOCAB, (GROUPS, T)), SIZE, 0).astype(np.int32)
    mask = np.repeat(np.arange(T) >= rng.integers(0, 3, (GROUPS, 1)), SIZE, 0)
    keys = jax.random.split(jax.random.key(0), GROUPS * SIZE)
    sample = jax.jit(freeform.make_sample(graphdef, N, (STOP,)))
    new, kept = (np.array(a) for a in sample(trainable, frozen, prompts, mask, keys, 2.0))
    new[1, 2], kept[1, 3:], new[1, 3:] = STOP, False, 0  # one answer ends early, whatever was drawn
    new[5], kept[5] = new[4], kept[4]  # and one is another one again
    rewards = np.array([1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0], np.float32)
    return freeform.episodes(prompts, mask, new, kept, rewards)


def logps_by_hand(model, played, heat):
    """Log-probabilities [B, N, V] of every token of the answers, a row at a time, against the left edge, no mask."""
    graphdef, trainable, frozen = model
    params, out = state.join(trainable, frozen), np.zeros((*played.kept.shape, VOCAB))
    for b, (tokens, mask) in enumerate(zip(np.asarray(played.tokens), np.asarray(played.mask))):
        ids, before = tokens[mask], int(mask[:T].sum())
        logits = np.asarray(plain(graphdef, params, np.pad(ids, (0, len(tokens) - len(ids)))[None])[0], "f8")
        out[b, : len(ids) - before] = log_softmax(logits[before - 1 : len(ids) - 1] / heat, -1)
    return out


def update(model, played, cfg, **changes):
    graphdef, trainable, frozen = model
    tx = state.optimizer(cfg)
    if cfg.algorithm == "ppo":
        trainable = trainable | state.value_head(24)
    now = state.State(jnp.int32(0), trainable, tx.init(trainable))
    run = jax.jit(freeform.make_update(graphdef, tx, cfg))
    now, metrics = run(now, frozen, changes.get("initial", trainable), played, HEAT)
    return now, step.values(metrics)


def test_every_prompt_has_its_turn_once_an_epoch():
    rows = np.concatenate([freeform.chosen(0, i, 6, 16) for i in range(8)])
    epochs = rows.reshape(3, 16)
    assert all(sorted(e) == list(range(16)) for e in epochs.tolist()) and (epochs[0] != epochs[1]).any()


def test_grpo_against_numpy(model, played):
    """Loss, entropy and k3 at the first update: the ratio is one, so the loss is -A and the penalty's, by length."""
    other = {k: v * 1.05 for k, v in model[1].items()}
    _, found = update(model, played, config("grpo", kl_coef=0.3), initial=other)
    kept, actions = np.asarray(played.kept), np.asarray(played.actions)
    new, ref = (logps_by_hand((model[0], p, model[2]), played, HEAT) for p in (model[1], other))
    groups = np.asarray(played.rewards).reshape(GROUPS, SIZE)
    std = groups.std(1, keepdims=True)
    gained = ((groups - groups.mean(1, keepdims=True)) / np.where(std > 0, std, 1)).reshape(-1, 1)
    at = lambda logps: np.take_along_axis(logps, actions[..., None], -1)[..., 0]
    k3 = np.exp(at(ref) - at(new)) - (at(ref) - at(new)) - 1
    loss = ((-gained + 0.3 * k3) * kept).sum(1) / kept.sum(1)
    assert found["loss"] == pytest.approx(loss.mean(), rel=1e-4)
    assert found["kl"] == pytest.approx((k3 * kept).sum() / kept.sum(), rel=1e-4)
    entropy = -(np.exp(new) * new).sum(-1)
    assert found["entropy"] == pytest.approx((entropy * kept).sum() / kept.sum(), rel=1e-4)
    assert found["ratio_error_max"] < 1e-4 and "equalised_entropy" not in found
    assert found["reward"] == pytest.approx(5 / 12) and found["length"] == pytest.approx(kept.sum(1).mean())


def test_ppo_expects_nothing_after_the_end(model, played):
    """The value head says zero at first: generalised advantages are lambda^(tokens left) times the reward."""
    cfg = config("ppo", gae_lambda=0.5, value_coef=1.0)
    _, found = update(model, played, cfg)
    kept = np.asarray(played.kept)
    left = kept[:, ::-1].cumsum(1)[:, ::-1] - 1
    raw = np.where(kept, 0.5**left * np.asarray(played.rewards)[:, None], 0.0)
    assert found["value_loss"] == pytest.approx((0.5 * raw**2)[kept].mean(), rel=1e-4)
    white = (raw - raw[kept].mean()) / raw[kept].std()
    assert found["loss"] == pytest.approx(-white[kept].mean() + found["value_loss"], abs=1e-4)


def test_reward_of_ppo_pays_for_leaving_the_reference(model, played):
    other = {k: v * 1.05 for k, v in model[1].items()}
    other |= state.value_head(24)
    cfg = config("ppo", gae_lambda=1.0, kl_coef=0.3, kl_in="reward")
    _, found = update(model, played, cfg, initial=other)
    kept, actions = np.asarray(played.kept), np.asarray(played.actions)
    new, ref = (logps_by_hand((model[0], p, model[2]), played, HEAT) for p in (model[1], other))
    paid = np.where(kept, np.take_along_axis(ref - new, actions[..., None], -1)[..., 0] * 0.3, 0.0)
    returns = paid[:, ::-1].cumsum(1)[:, ::-1] + np.asarray(played.rewards)[:, None]
    assert found["value_loss"] == pytest.approx((0.5 * returns**2)[kept].mean(), rel=1e-3)


def test_expert_iteration_learns_from_distinct_right_answers(model, played):
    """Loss: mean negative log-likelihood of the kept answers, at temperature one, from the base each time."""
    cfg = config("expert_iteration", keep_best=2)
    now, found = update(model, played, cfg)
    chosen = [0, 3, 4, 6]  # 5 repeats 4; the last group has no right answer
    kept, actions = np.asarray(played.kept)[chosen], np.asarray(played.actions)[chosen]
    logps = np.take_along_axis(logps_by_hand(model, played, 1.0)[chosen], actions[..., None], -1)[..., 0]
    assert found["learnt"] == 4 and found["loss"] == pytest.approx(-logps[kept].mean(), rel=1e-4)
    moved = {k: v + 1.0 for k, v in now.trainable.items()}
    graphdef, trainable, frozen = model
    tx = state.optimizer(cfg)
    again, _ = jax.jit(freeform.make_update(graphdef, tx, cfg))(
        state.State(now.step * 0, moved, tx.init(moved)), frozen, trainable, played, HEAT
    )
    for name in trainable:
        np.testing.assert_allclose(again.trainable[name], now.trainable[name], atol=1e-6)


def test_judge_against_numpy(model, played):
    graphdef, trainable, frozen = model
    other = {k: v * 1.1 for k, v in trainable.items()}
    found = step.values(jax.jit(freeform.make_judge(graphdef, 6))(trainable, other, frozen, played))
    kept = np.asarray(played.kept)
    new, ref = (logps_by_hand((graphdef, p, frozen), played, 1.0) for p in (trainable, other))
    assert found["entropy"] == pytest.approx(-(np.exp(new) * new).sum(-1)[kept].mean(), rel=1e-4)
    assert found["kl"] == pytest.approx((np.exp(new) * (new - ref)).sum(-1)[kept].mean(), rel=1e-3)


@pytest.mark.slow
def test_what_is_rewarded_becomes_more_likely(model):
    """A planted reward: answers that hold an even token first. A few updates make them usual; one program each."""
    graphdef, trainable, frozen = model
    cfg = config("grpo", groups=4, group_size=8, micro_batch=32, lr=3e-3)
    tx = state.optimizer(cfg)
    now = state.State(jnp.int32(0), jax.tree.map(jnp.copy, trainable), tx.init(trainable))
    sample = jax.jit(freeform.make_sample(graphdef, 2, (STOP,)))
    run = jax.jit(freeform.make_update(graphdef, tx, cfg))
    prompts = np.full((32, T), 9, np.int32)
    mask, shares = np.ones((32, T), bool), []
    for i in range(15):
        keys = jax.random.split(jax.random.key(i), 32)
        new, kept = sample(now.trainable, frozen, prompts, mask, keys, 1.0)
        right = (np.asarray(new)[:, 0] % 2 == 0).astype(np.float32)
        shares.append(right.mean())
        now, _ = run(now, frozen, None, freeform.episodes(prompts, mask, new, kept, right), 1.0)
    assert np.mean(shares[-3:]) > np.mean(shares[:3]) + 0.25, shares
    assert sample._cache_size() == run._cache_size() == 1
