"""An environment of one's own, in the one program: what it says and pays against the same rules on the host."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny_model

from welfare_jax import templates
from welfare_jax.errors import InputError
from welfare_jax.models import hf
from welfare_jax.rl import environment, rollout

TURNS, TILES, SIDES = 5, ("log", "lily", "water"), ("Left", "Ahead", "Right")


class River(NamedTuple):
    tiles: jax.Array
    turn: jax.Array
    wet: jax.Array


def reset(key):
    return River(jax.random.randint(key, (TURNS, 3), 0, 3), jnp.int32(0), jnp.int32(0))


def tell(river):
    return jnp.append(river.wet, river.tiles[river.turn])


def step(key, river, action):
    tile = river.tiles[river.turn, action]
    reward = jnp.array([1.0, 0.0, -1.0])[tile] * jnp.where(river.wet, 0.5, 1.0)
    return River(river.tiles, river.turn + 1, jnp.int32(tile == 1)), reward, {"logs": tile == 0}


def river(**changes):
    words = {
        "texts": (("", "Your feet are wet.\n"), *(tuple(f"{side}: {tile}\n" for tile in TILES) for side in SIDES)),
        "answers": ("L", "A", "R"), "closing": "Answer with L, A or R.", "turns": TURNS,
    }  # fmt: skip
    return environment.Environment(**{"reset": reset, "tell": tell, "step": step} | words | changes)


@pytest.fixture(scope="module")
def tokenizer():
    return hf.load_tokenizer(hf.TINY)


@pytest.fixture(scope="module")
def played(tokenizer):
    """Two groups of three episodes by a small model, at a temperature at which answers differ."""
    env = river()
    pieces, rules = environment.tables(env, tokenizer), environment.rules(env)
    graphdef, params = tiny_model(vocab=len(tokenizer))
    from welfare_jax.models import decoder

    @jax.jit
    def program(params, key):
        states = rules.group_states(key, 2, 3, env)
        policy = rollout.from_model(decoder.bind(graphdef, params), pieces.table.letters)
        keys = jax.random.split(key, 6)
        return states, rollout.play(
            policy, None, pieces.table, pieces.size, pieces.widths(), env, states, keys, 5.0, alike=3, rules=rules
        )

    return jax.device_get(program(params, jax.random.key(1)))


def test_what_is_shown_and_paid(played, tokenizer):
    """Every conversation is, to the token, what the chat template makes of what the rules say on the host."""
    states, out = played
    env = river()
    assert out.actions.shape == (6, TURNS) and out.logits.shape == (6, TURNS, 3) and out.neighbours is None
    assert len({tuple(a) for a in out.actions}) > 3
    for row in range(6):
        np.testing.assert_array_equal(states.tiles[row], states.tiles[row // 3 * 3])
        talk, wet, paid, logs = [], 0, [], []
        for t in range(TURNS):
            talk.append({"role": "user", "content": env.observation([wet, *states.tiles[row, t]])})
            tile = states.tiles[row, t, out.actions[row, t]]
            paid.append((1.0, 0.0, -1.0)[tile] * (0.5 if wet else 1.0))
            logs.append(float(tile == 0))
            wet = int(tile == 1)
            if t < TURNS - 1:
                talk.append({"role": "assistant", "content": env.answers[out.actions[row, t]]})
        np.testing.assert_allclose(out.rewards[row], paid)
        np.testing.assert_allclose(out.info["logs"][row], logs)
        said = templates.render(tokenizer, talk, {}, opening=True)
        want = tokenizer(said, add_special_tokens=False)["input_ids"]
        assert out.tokens[row][out.mask[row]].tolist() == want
        assert out.mask[row][out.read[row]].all()


def test_slots_are_as_wide_as_the_longest_turn(tokenizer):
    env = river(texts=(("", "x " * 30), ("a\n", "bb\n")), tell=lambda state: jnp.zeros(2, jnp.int32))
    pieces = environment.tables(env, tokenizer)
    long = len(tokenizer.encode("x " * 30 + "bb\n", add_special_tokens=False))
    short = environment.tables(river(texts=(("",), ("a\n", "bb\n")), tell=env.tell), tokenizer)
    assert pieces.first_width - short.first_width == long - len(tokenizer.encode("bb\n", add_special_tokens=False))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tell": lambda river: river.tiles[0]}, "one for each slot"),
        ({"tell": lambda river: jnp.zeros(4)}, "need whole numbers"),
        ({"step": lambda key, river, action: (river, 0.0)}, "must return"),
        ({"step": lambda key, river, action: (river.tiles, 0.0, {})}, "step returns a state"),
        ({"step": lambda key, river, action: (river, jnp.zeros(2), {})}, "the reward of shape"),
        ({"step": lambda key, river, action: (river, 0.0, {"x": jnp.zeros(2)})}, "x of shape"),
        ({"answers": ("L",)}, "two answers"),
        ({"answers": ("going", "going on")}, "all must differ"),
        ({"texts": (("You are at",) * 2, *[(" (a", " (b", " (c")] * 3)}, "do not compose"),
    ],
    ids=lambda x: x if isinstance(x, str) else "-".join(x),
)
def test_what_does_not_fit_is_one_line(changes, said, tokenizer):
    with pytest.raises(InputError, match=said) as error:
        environment.tables(river(**changes), tokenizer)
    assert "\n" not in str(error.value)
