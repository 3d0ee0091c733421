"""Training on planned trajectories: the loss against the tokenizer and a plain forward, mixing, resuming."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds
from scipy.special import log_softmax

from welfare_jax.envs import maze
from welfare_jax.models import decoder
from welfare_jax.sft import planned
from welfare_jax.text.wording import LETTERS
from welfare_jax.train import checkpoints, loop, state, step, supervised
from welfare_jax.train.job import Job


@pytest.fixture(scope="module")
def world(tiny_tokenizer):
    return worlds.make(tiny_tokenizer)


@pytest.fixture(scope="module")
def data():
    return planned.generate(maze.Params(size=15, turns=worlds.TURNS), 8, 0, beams=4)


def by_hand(world, tokenizer, data):
    """Log-probabilities [B, N] of the planned moves: each conversation rendered, tokenised and read anew."""
    out = np.zeros(data.actions.shape)
    letters = np.asarray(world.pieces.table.letters)
    params = state.join(world.trainable, world.frozen)
    for i in range(len(out)):
        messages = []
        for t in range(worlds.TURNS):
            said = world.pieces.wording.observation(
                data.x[i, t], data.y[i, t], data.neighbours[i, t], data.order[i, t]
            )
            messages.append({"role": "user", "content": said})
            shown = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            ids = jnp.array([tokenizer.encode(shown, add_special_tokens=False)])
            logits = np.asarray(decoder.forward(world.graphdef, params, ids).logits[0, -1], "f8")
            out[i, t] = log_softmax(logits[letters])[data.actions[i, t]]
            messages.append({"role": "assistant", "content": LETTERS[data.actions[i, t]]})
    return out


def update_of(world, cfg, data):
    tx = state.optimizer(cfg)
    width = planned.longest(world.pieces, data)
    program = supervised.make_imitate(world.graphdef, world.pieces, tx, cfg, width)
    return jax.jit(program), tx


@pytest.mark.slow
def test_the_loss_is_the_likelihood_of_the_tokenised_conversation(world, data, tiny_tokenizer):
    cfg = worlds.train_config(algorithm="sft", micro_batch=4)
    update, tx = update_of(world, cfg, data)
    found = step.values(update(worlds.fresh(world, tx), world.frozen, data)[1])
    want = by_hand(world, tiny_tokenizer, data)
    assert found["loss"] == pytest.approx(-want.mean(), rel=1e-4)
    assert found["log_likelihood"] == pytest.approx(want.mean(), rel=1e-4) and 0.9 < found["packed"] <= 1


@pytest.mark.slow
def test_the_policys_own_samples_enter_only_the_implied_rewards(world, data):
    """With lambda = 0 they change nothing; with it, the loss is the likelihood plus lambda * delta^2 of all turns."""
    played, _ = worlds.collector(world, worlds.train_config())(
        world.trainable, world.frozen, jax.random.key(0), 0, 0.7
    )
    sums = {}
    for lam in (0.0, 0.05):
        cfg = worlds.train_config(algorithm="inverse_soft_q", soft_q=lam)
        update, tx = update_of(world, cfg, data)
        for name, own in (("alone", None), ("both", played)):
            sums[lam, name] = step.values(update(worlds.fresh(world, tx), world.frozen, data, own)[1])
    assert sums[0.0, "both"]["loss"] == pytest.approx(sums[0.0, "alone"]["loss"], rel=1e-5)
    assert sums[0.0, "both"]["log_likelihood"] == pytest.approx(sums[0.0, "alone"]["log_likelihood"], rel=1e-5)
    for name in ("alone", "both"):
        found = sums[0.05, name]
        want = sums[0.0, name]["loss"] + 0.05 * found["implied_reward_squared"]
        assert found["loss"] == pytest.approx(want, rel=1e-4)
    assert "reward" in sums[0.0, "both"] and "reward" not in sums[0.0, "alone"]


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_the_same_batches(tiny_tokenizer, tiny_tokenizer_dir, tmp_path):
    """The pipeline's place is in the checkpoint: metrics after a stop are those of a run that never stopped."""
    from helpers import hf_model, save

    from welfare_jax import config

    model = hf_model("qwen3", vocab_size=len(tiny_tokenizer), num_hidden_layers=2)
    folder = save(model, tmp_path / "model", tiny_tokenizer_dir)
    cfg = config.rl()
    cfg.model.path = str(folder)
    cfg.update_from_flattened_dict({
        "model.dtype": "float32", "maze.size": 15, "maze.turns": 3, "train.algorithm": "sft", "train.steps": 5,
        "train.lora.rank": 2, "train.micro_batch": 8, "train.checkpoint_every": 2, "train.groups": 2,
        "train.group_size": 4, "train.eval_every": 5, "train.lr": 1e-2, "sft.trajectories": 24, "sft.held_out": 8,
        "sft.size": 0, "sft.beams": 4, "sft.batch": 8,
    })  # fmt: skip
    job = Job.of(cfg)
    setup = loop.build(job)
    collect = loop.collector(setup, job)

    def run(workdir, steps):
        supply = supervised.build(setup, job)
        trained = loop.train(setup, job.changed({"train.steps": steps}), workdir, collect, None, supply)
        rows = checkpoints.read_metrics(workdir / "metrics.jsonl")
        timing = {"seconds", "rollout_seconds", "curve_seconds", "episodes_per_s", "tokens_per_s", "eval_reward"}
        return trained, supply, [{k: v for k, v in r.items() if k not in timing and "eval" not in k} for r in rows]

    whole, supply, rows = run(tmp_path / "whole", 5)
    run(tmp_path / "twice", 3)
    again, _, other = run(tmp_path / "twice", 5)
    assert rows == other and rows[0]["loss"] > rows[-1]["loss"]
    assert all((whole[k] == again[k]).all() for k in whole)
    assert (tmp_path / "whole" / "best").is_dir() and list((tmp_path / "whole" / "tensorboard").iterdir())
    played, _ = collect(whole, setup.frozen, jax.random.key(3), 0, 0.7)
    found = supervised.findings(setup, job.train, supply, whole, played)
    assert found["trained"]["log_likelihood"] > found["untrained"]["log_likelihood"]
    assert np.shape(found["implied_rewards"]["implied"]) == np.shape(found["implied_rewards"]["reward"]) == (8, 3)
    assert -1 <= found["implied_rewards"]["rank_correlation"] <= 1 and len(found["rules_log_likelihood"]) == 4
