"""RL on a reward of one's own, on the small decoder: what it is given, what a run leaves, that it learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import welfare_jax as wj
from welfare_jax.errors import InputError
from welfare_jax.models import decoder
from welfare_jax.train import checkpoints, rewarded

PROMPTS = ["How is it going?", "How do you feel?", "What happened?"]
FEW = {"steps": 2, "groups": 2, "group_size": 4, "max_new_tokens": 4, "lora": {"rank": 2}}


def short(prompts, answers):
    return [-len(answer) for answer in answers]


@pytest.fixture(scope="module")
def lm():
    return wj.load("tiny")


@pytest.fixture(scope="module")
def run(lm, tmp_path_factory):
    """(folder, the trained model, what the reward was given in each step)."""
    folder, given = tmp_path_factory.mktemp("run"), []

    def reward(prompts, answers):
        given.append((prompts, answers))
        return short(prompts, answers)

    rows = [{"prompt": prompt, "number": i} for i, prompt in enumerate(PROMPTS)]
    before = jax.tree.map(np.copy, lm.params)
    trained = wj.train_on_reward(lm, rows, reward, folder, **FEW)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, lm.params))
    return folder, trained, given


def test_the_reward_is_given_rows_and_their_answers(run):
    folder, _, given = run
    rows = checkpoints.read_metrics(folder / "metrics.jsonl")
    assert len(given) == len(rows) == 2
    for (prompts, answers), row in zip(given, rows):
        assert len(prompts) == len(answers) == 8 and all(isinstance(answer, str) for answer in answers)
        assert len({p["number"] for p in prompts}) == 2 and prompts[0] == prompts[3] != prompts[4]
        assert row["reward"] == pytest.approx(np.mean(short(prompts, answers)))
    first, later = ({p["number"] for p in prompts} for prompts, _ in given)
    assert first | later == {0, 1, 2}  # all have their turn before one comes again


def test_the_model_that_comes_back_has_adapters(run, lm, tmp_path):
    _, trained, _ = run
    assert decoder.static(trained.graphdef)[1].rank == 2 and decoder.static(lm.graphdef)[1] is None
    again = wj.load_peft(lm, wj.save_peft(trained, tmp_path))
    tokens = wj.encode(lm.tokenizer, PROMPTS[:1])[0]
    ours, theirs = (np.asarray(wj.forward(m.graphdef, m.params, tokens).logits) for m in (trained, again))
    base = np.asarray(wj.forward(lm.graphdef, lm.params, tokens).logits)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert np.abs(ours - base).max() > 1e-5


def test_a_run_goes_on_and_is_bound_to_what_it_was_made_of(lm, tmp_path):
    whole = wj.train_on_reward(lm, PROMPTS, short, tmp_path / "whole", **FEW)
    wj.train_on_reward(lm, PROMPTS, short, tmp_path / "parts", **FEW | {"steps": 1})
    parts = wj.train_on_reward(lm, PROMPTS, short, tmp_path / "parts", **FEW)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True):
        np.testing.assert_array_equal(a, b)

    def other(prompts, answers):
        return [len(answer) for answer in answers]

    for changed in ({"reward": other}, {"prompts": PROMPTS[:2]}, {"lr": 2e-4}):
        given = {"prompts": PROMPTS, "reward": short, "workdir": tmp_path / "whole"} | FEW | changed
        with pytest.raises(InputError) as error:
            wj.train_on_reward(lm, **given)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stepz": 3}, "stepz"),
        ({"steps": "many"}, "steps"),
        ({"algorithm": "all_actions"}, "algorithm='all_actions'"),
        ({"algorithm": "expert_iteration"}, "keep_best=0"),
        ({"groups": 3, "group_size": 5}, "micro_batch"),
        ({"groups": 0}, "groups=0"),
        ({"lr": 0.0}, "lr=0"),
        ({"optimizer": "adagrad"}, "optimizer='adagrad'"),
        ({"reward": lambda prompts, answers: [1.0]}, "reward: must return a list of 8"),
        ({"reward": lambda prompts, answers: [None] * 8}, "8 finite numbers"),
        ({"reward": lambda prompts, answers: [float("nan")] * 8}, "8 finite numbers"),
        ({"prompts": {"train": PROMPTS}}, "data['train']"),
        ({"prompts": []}, "at least one"),
    ],
)
def test_what_is_wrong_is_one_line(changes, said, lm, tmp_path):
    with pytest.raises(InputError) as error:
        wj.train_on_reward(lm, **{"prompts": PROMPTS, "reward": short, "workdir": tmp_path} | FEW | changes)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_adapters_are_not_put_on_adapters(run, tmp_path):
    with pytest.raises(InputError, match="has adapters already"):
        wj.train_on_reward(run[1], PROMPTS, short, tmp_path, **FEW)


def test_source_tells_functions_apart():
    other = lambda prompts, answers: [len(answer) for answer in answers]
    assert rewarded.source(short) == rewarded.source(short) != rewarded.source(other)
    assert rewarded.source(len) != rewarded.source(sum)  # without a source text


def reset(key):
    return jax.random.randint(key, (3, 2), 0, 2)[:, 0], jnp.int32(0)


def tell(state):
    coins, turn = state
    return coins[turn][None]


def step(key, state, action):
    coins, turn = state
    found = action == coins[turn]
    return (coins, turn + 1), jnp.where(found, 1.0, -1.0), {"found": found}


def test_an_environment_of_ones_own(lm, tmp_path):
    """Metrics follow from what `step` reports, adapters move, and the folder is bound to the rules."""
    cups = wj.Environment(reset, tell, step, (("It is left.\n", "It is right.\n"),), ("L", "R"), "Answer L or R.", 3)
    few = {"steps": 2, "groups": 2, "group_size": 4, "lora": {"rank": 2}, "lr": 1e-2}
    trained = wj.train_in_environment(lm, cups, tmp_path, **few)
    for row in checkpoints.read_metrics(tmp_path / "metrics.jsonl"):
        assert row["reward"] == pytest.approx(2 * row["found"] - 3, abs=1e-5)  # of three turns
        assert row["ratio_error_max"] < 1e-3 or row["step"]  # sampler and trainer agree at the first update
    moved = [k for k in ("q", "v") if np.abs(trained.params["blocks"]["attn"][k]["lora_b"]).max() > 0]
    assert moved == ["q", "v"]
    with pytest.raises(InputError):
        wj.train_in_environment(lm, dataclasses.replace(cups, closing="Say L or R."), tmp_path, **few)
    with pytest.raises(InputError, match="no tiles to even out"):
        wj.train_in_environment(lm, cups, tmp_path / "odd", entropy="equalised", **few)


@pytest.mark.slow
def test_a_planted_reward_is_learnt(lm, tmp_path):
    """Words that the small decoder seldom says by itself become usual."""
    letter = lambda prompts, answers: [float("g" in answer) for answer in answers]
    settings = {"steps": 15, "groups": 4, "group_size": 8, "max_new_tokens": 4, "lr": 3e-3}
    wj.train_on_reward(lm, PROMPTS, letter, tmp_path, **settings)
    rewards = [row["reward"] for row in checkpoints.read_metrics(tmp_path / "metrics.jsonl")]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.2, rewards
