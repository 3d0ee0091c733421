"""Planned data: played by the rules, laid out as the tokenizer would, shuffled the same way every time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import play_again

from welfare_jax.envs import maze
from welfare_jax.sft import planned
from welfare_jax.text import pieces as text
from welfare_jax.text.wording import LETTERS

PARAMS, COUNT = maze.Params(size=15, turns=4), 40


@pytest.fixture(scope="module")
def data():
    return planned.generate(PARAMS, COUNT, 3, beams=8, batch=16)


def test_trajectories_obey_the_rules(data):
    """Replayed in plain Python from their own mazes, without wind; and far better than chance."""
    for i in range(0, COUNT, 7):
        _, start = maze.reset(jax.random.fold_in(jax.random.key(3), i), PARAMS)
        calm = maze.Params(size=15, turns=4, wind=0.0)
        turns, _ = play_again(start.grid, start.x, start.y, data.actions[i], [-1] * 4, calm)
        np.testing.assert_allclose(data.rewards[i], [t["reward"] for t in turns], rtol=1e-5)
        assert [t["x"] for t in turns[:-1]] == data.x[i, 1:].tolist()
        assert turns[0]["neighbours"] == data.neighbours[i, 1].tolist()
    assert data.rewards.sum(1).mean() > 10
    again = planned.generate(PARAMS, 10, 3, beams=8, batch=10)
    np.testing.assert_array_equal(again.actions, data.actions[:10])


def test_laid_out_as_the_tokenizer_would(data, tiny_tokenizer):
    pieces = text.build(tiny_tokenizer, size=15)
    width = planned.longest(pieces, data)
    tokens, mask, read = (np.asarray(a) for a in planned.lay(pieces.table, pieces.size, data, width))
    assert mask.sum(1).max() == width and mask.mean() > 0.9
    for i in (0, 11):
        messages = []
        for t in range(4):
            said = pieces.wording.observation(data.x[i, t], data.y[i, t], data.neighbours[i, t], data.order[i, t])
            messages.append({"role": "user", "content": said})
            want = tiny_tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            ids = tiny_tokenizer.encode(want, add_special_tokens=False)
            assert tokens[i, : read[i, t] + 1].tolist() == ids
            messages.append({"role": "assistant", "content": LETTERS[data.actions[i, t]]})
        assert mask[i].sum() == read[i, -1] + 1


def test_pipeline_is_deterministic_and_resumable(data):
    first = planned.pipeline(data, 1, 16)
    seen = [next(first) for _ in range(3)]
    state = first.get_state()
    ahead = [next(first) for _ in range(4)]
    other = planned.pipeline(data, 1, 16)
    other.set_state(state)
    for a, b in zip(ahead, (next(other) for _ in range(4))):
        assert all(np.array_equal(x, y) for x, y in zip(a, b))
    again = planned.pipeline(data, 1, 16)
    assert all(np.array_equal(next(again).x, part.x) for part in seen)
    assert isinstance(seen[0], planned.Planned) and seen[0].neighbours.shape == (16, 4, 4)
    rows = lambda part: {tuple(r) for r in np.concatenate([part.x, part.y, part.actions], 1).tolist()}
    assert not rows(seen[0]) & rows(seen[1])  # within an epoch nothing comes twice


def test_agreement_by_hand():
    near = np.zeros((1, 3, 4), np.int8)
    near[0, 0, 1] = near[0, 1, 2] = near[0, 1, 3] = maze.GOLD
    actions = np.array([[1, 2, 0]], np.int8)
    data = planned.Planned(actions, near, *[np.zeros((1, 3), np.int16)] * 2, near, np.zeros((1, 3), np.float32))
    logits = np.full((1, 3, 4), -5.0)
    logits[0, 0, 0] = logits[0, 1, 3] = logits[0, 2, 0] = 0.0  # misses the first Gold, takes another in the second
    found = planned.adjacent_gold(jax.nn.log_softmax(jnp.asarray(logits)), data)
    assert tuple(map(int, found["gold_agreement"])) == (1, 2) and tuple(map(int, found["move_agreement"])) == (1, 3)


def test_rules_find_what_can_be_known():
    """Moves that follow from the neighbours are predicted; moves at random are not, whatever is looked at."""
    rng = np.random.default_rng(0)
    near = rng.integers(0, 3, (4000, 2, 4)).astype(np.int8)
    blank = np.zeros((4000, 2), np.int16)

    def made(actions):
        whole = planned.Planned(actions.astype(np.int8), near, blank, blank, near, blank.astype("f4"))
        return jax.tree.map(lambda a: a[:3000], whole), jax.tree.map(lambda a: a[3000:], whole)

    known, chance = planned.rules(*made(near.argmax(-1))), planned.rules(*made(rng.integers(0, 4, (4000, 2))))
    assert known["neighbours"] > -0.15 and all(v < np.log(0.25) + 0.01 for v in chance.values())
    copied = np.stack([a := rng.integers(0, 4, 4000), a], 1)  # the second move repeats the first
    found = planned.rules(*made(copied))
    assert found["and the last move"] > found["neighbours"] + 0.3
