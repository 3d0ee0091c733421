"""The episode as one program: its logits against full forwards, its bookkeeping against plain Python."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers import play_again, run, tiny_model, torch_run

from welfare_jax.envs import maze
from welfare_jax.envs.maze import GOLD, MOLD
from welfare_jax.errors import InputError
from welfare_jax.models import decoder, hf, hf_save
from welfare_jax.models.interventions import ablate, add, combine
from welfare_jax.rl import baselines, rollout
from welfare_jax.text import pieces as text

GROUPS, MEMBERS, TURNS, D = 2, 3, 6, 24
B = GROUPS * MEMBERS
MAZE = maze.Params(size=12, wind=0.3, turns=TURNS)
VECTORS = np.random.default_rng(0).normal(size=(B, D)).astype("f4")


@pytest.fixture(scope="module")
def world(tiny_tokenizer):
    """(graphdef, params, pieces) of a random two-layer model that is far from indifferent between the letters."""
    spec = dict(vocab=len(tiny_tokenizer), layers=2, rope_of=(0, 0), windows=(0, 0))
    graphdef, params = tiny_model(**spec)
    return graphdef, params, text.build(tiny_tokenizer, size=MAZE.size)


def episodes(world, segments=3, alike=1):
    """A jitted rollout: (group key, keys [B], maze parameters, temperature, interventions) -> (states, trajectory)."""
    graphdef, params, pieces = world

    @jax.jit
    def f(key, keys, maze_params, temperature, iv):
        model = decoder.bind(graphdef, params)
        states = rollout.group_states(key, GROUPS, MEMBERS, maze_params)
        policy = rollout.from_model(model, pieces.table.letters, iv)
        out = rollout.play(
            policy, None, pieces.table, pieces.size, pieces.widths(), maze_params, states,
            keys, temperature, segments, alike,
        )  # fmt: skip
        return states, out

    return f


@pytest.fixture(scope="module")
def roll(world):
    return episodes(world)


def steer(scale):
    """Per row another vector, layer and sign."""
    return add(VECTORS, np.arange(B) % 2, scale * (-1.0) ** np.arange(B))


KEYS = jax.random.split(jax.random.key(1), B)
CALL = (jax.random.key(0), KEYS, MAZE, 0.7)


@pytest.fixture(scope="module")
def plain(roll):
    return jax.device_get(roll(*CALL, steer(0.0)))


ABLATED = combine(add(VECTORS, np.arange(B) % 2, 2.0), ablate(VECTORS[::-1].copy()))


@pytest.mark.parametrize("iv", [steer(0.0), steer(3.0), ABLATED], ids=["plain", "steered", "ablated"])
def test_logits_equal_one_full_forward(iv, world, roll):
    """Of the same tokens, steered alike: what the trainer computes is what the sampler saw."""
    graphdef, params, pieces = world
    _, out = (episodes(world) if iv is ABLATED else roll)(*CALL, iv)
    full = run(graphdef, params, out.tokens, mask=out.mask, interventions=iv).logits
    want = np.take_along_axis(np.asarray(full), out.read[..., None], 1)[..., np.asarray(pieces.table.letters)]
    assert want.std() > 0.3
    np.testing.assert_allclose(out.logits, want, atol=1e-4)

    @jax.jit
    def again(out, iv):
        model = decoder.bind(graphdef, params)
        return rollout.replay(model, out.tokens, out.mask, out.read, pieces.table.letters, iv=iv)[1]

    np.testing.assert_allclose(again(out, iv), out.logits, atol=1e-4)


@pytest.mark.parametrize("remat", [False, "nothing"])
def test_a_common_opening_changes_nothing(remat, world, plain):
    """Members of a maze read its first turn once: the same episodes, the same logits, the same gradients."""
    graphdef, params, pieces = world
    shared = jax.device_get(episodes(world, alike=MEMBERS)(*CALL, None))[1]
    for name in ("tokens", "mask", "read", "actions", "wind"):
        np.testing.assert_array_equal(getattr(shared, name), getattr(plain[1], name))
    np.testing.assert_allclose(shared.logits, plain[1].logits, atol=1e-4)

    def loss(params, alike):
        model, opening = decoder.bind(graphdef, params), (pieces.first_width, alike)
        args = (shared.tokens, shared.mask, shared.read, pieces.table.letters)
        logits = rollout.replay(model, *args, remat=remat, opening=opening)[1]
        weight = jnp.asarray(np.random.default_rng(1).normal(size=logits.shape))
        return jnp.sum(weight * jax.nn.log_softmax(logits)), logits

    grad = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    (own, _), (got, logits) = grad(params, 1), grad(params, MEMBERS)
    np.testing.assert_allclose(logits, shared.logits, atol=1e-4)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(own)):
        np.testing.assert_allclose(a, b, atol=1e-4 * max(1.0, np.abs(b).max()))


def test_an_episode_of_one_turn(world):
    """It is all opening."""
    graphdef, params, pieces = world
    one, args = dataclasses.replace(MAZE, turns=1), (CALL[0], CALL[1])
    out = jax.device_get(episodes(world, alike=MEMBERS)(*args, one, 0.7, None))[1]
    assert out.tokens.shape == (B, pieces.first_width) and out.logits.shape == (B, 1, 4)
    model, seen = decoder.bind(graphdef, params), (out.tokens, out.mask, out.read, pieces.table.letters)
    got = rollout.replay(model, *seen, opening=(pieces.first_width, MEMBERS))[1]
    np.testing.assert_allclose(got, out.logits, atol=1e-4)


def test_rows_that_are_steered_apart_have_no_common_opening(world):
    graphdef, params, pieces = world
    out = jax.device_get(episodes(world)(*CALL, steer(3.0)))[1]
    model, args = decoder.bind(graphdef, params), (out.tokens, out.mask, out.read, pieces.table.letters)
    got = rollout.replay(model, *args, iv=steer(3.0), opening=(pieces.first_width, MEMBERS))[1]
    np.testing.assert_allclose(got, out.logits, atol=1e-4)
    assert rollout.begin_alike(maze.Params(order="episode"), 8) == 1 and rollout.begin_alike(MAZE, 8) == 8


def test_logits_equal_those_of_transformers(world, plain, tmp_path):
    from transformers import AutoModelForCausalLM

    graphdef, params, pieces = world
    lm = hf.LM(graphdef, params, decoder.static(graphdef)[0], pieces.tokenizer, "nowhere")
    folder = hf_save.save_hf(lm, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    out = plain[1]
    for row in range(B):  # without the padding between the turns
        tokens = out.tokens[row][out.mask[row]]
        with torch.no_grad():
            logits = torch_run(model, tokens[None])[0][0]
        ends = np.cumsum(out.mask[row])[out.read[row]] - 1
        np.testing.assert_allclose(out.logits[row], logits[ends][:, np.array(pieces.table.letters)], atol=1e-4)


def test_groups_share_a_maze_and_nothing_else(plain):
    states, out = plain
    grids = states.grid.reshape(GROUPS, MEMBERS, -1)
    assert (grids == grids[:, :1]).all() and (grids[0, 0] != grids[1, 0]).any()
    for field in (states.x, states.y, states.order[:, 0], states.order[:, 1]):
        assert (field.reshape(GROUPS, -1) == field.reshape(GROUPS, -1)[:, :1]).all()
    assert (states.turn == 0).all() and (states.wind == -1).all()
    assert len({row.tobytes() for row in np.concatenate([out.actions, out.wind], 1)}) == B


def test_same_keys_same_episodes(roll, plain):
    """An episode follows from its own key, not from its place in the batch or its neighbours' keys."""
    again = jax.device_get(roll(*CALL, steer(0.0)))[1]
    for a, b in zip(again, plain[1]):
        np.testing.assert_array_equal(a, b)
    mixed = KEYS[jnp.array([0, 2, 1, 5, 4, 3])]  # first and middle rows keep their keys
    out = jax.device_get(roll(CALL[0], mixed, *CALL[2:], steer(0.0)))[1]
    for name in ("actions", "wind", "rewards", "tokens"):
        a, b = getattr(out, name), getattr(plain[1], name)
        np.testing.assert_array_equal(a[[0, 4, 1, 2]], b[[0, 4, 2, 1]])
        assert (a[3] != b[3]).any()


def test_one_compilation_for_everything_that_is_data(roll, plain):
    for i in range(3):
        params = dataclasses.replace(
            MAZE, gold_reward=1.0 + i, mold_reward=-1.0 * i, turn_reward=0.1 * i, wind=0.2 * i
        )
        keys = jax.random.split(jax.random.key(i), B)
        roll(jax.random.key(i), keys, params, 0.5 * i, add(VECTORS + i, np.arange(B) // 3, np.full(B, i)))
    assert roll._cache_size() == 1


def test_temperature_zero_is_the_likeliest(roll):
    out = roll(CALL[0], KEYS, MAZE, 0.0, steer(0.0))[1]
    np.testing.assert_array_equal(out.actions, np.argmax(out.logits, -1))


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_draws_follow_the_softmax(temperature):
    n, logits = 20_000, np.array([1.0, 0.2, -0.5, -2.0])
    keys = jax.random.split(jax.random.key(3), n)
    actions = rollout.draw(jnp.broadcast_to(logits, (n, 4)), keys, temperature)
    p = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    assert (np.abs(np.bincount(actions, minlength=4) - n * p) < 5 * np.sqrt(n * p * (1 - p))).all()


def test_segments_of_the_cache_do_not_matter(world, plain):
    out = jax.device_get(episodes(world, segments=1)(*CALL, steer(0.0)))[1]
    np.testing.assert_allclose(out.logits, plain[1].logits, atol=1e-4)
    np.testing.assert_array_equal(out.tokens, plain[1].tokens)


def consistent(states, out, params):
    """Every field of a trajectory against the rules, from start, moves and winds."""
    for i in range(len(out.actions)):
        grid, x, y = states.grid[i], states.x[i], states.y[i]
        turns, _ = play_again(grid, x, y, out.actions[i], out.wind[i], params)
        for name in ("gold", "mold"):
            assert [t[name] for t in turns] == list(getattr(out, name)[i])
        assert [t["landed"] for t in turns] == [tuple(c) for c in out.landed[i]]
        np.testing.assert_allclose(out.rewards[i], [t["reward"] for t in turns], rtol=1e-6)
        # Where the player stood before a move is where the move before it ended.
        assert [int(x), *(t["x"] for t in turns)][:-1] == list(out.x[i])
        assert [int(y), *(t["y"] for t in turns)][:-1] == list(out.y[i])
        first = [grid[y - 1, x], grid[y, x + 1], grid[y + 1, x], grid[y, x - 1]]
        assert [first, *(t["neighbours"] for t in turns)][:-1] == out.neighbours[i].tolist()


def test_trajectories_again_in_plain_python(plain):
    states, out = plain
    consistent(states, out, MAZE)
    assert (out.order == states.order[:, None]).all()


@functools.lru_cache
def scripted(name, params, n):
    """n episodes of a policy without a model, in groups of two; there is nothing to read, so the table is bare."""
    greedy = rollout.Policy(
        lambda carry, tokens, mask, obs: (carry, 40 * jnp.asarray(baselines.WORTH)[obs.neighbours])
    )
    policy = {"uniform": rollout.uniform(), "greedy": greedy}[name]
    table = text.Table(
        jnp.zeros((24 + 2 * params.size, 1), jnp.int32), jnp.zeros(24 + 2 * params.size, jnp.int32), None
    )

    @jax.jit
    def f(keys):
        states = rollout.group_states(jax.random.key(9), n // 2, 2, params)
        return states, rollout.play(policy, None, table, params.size, (1, 1), params, states, keys, 1.0, segments=1)

    return jax.device_get(f(jax.random.split(jax.random.key(8), n)))


REPLACE = maze.Params(size=9, turns=11, wind=0.4, wind_mode="replace", order="turn")


@pytest.mark.parametrize(("name", "params"), [("uniform", REPLACE), ("greedy", maze.Params())])
def test_scripted_trajectories_again(name, params):
    states, out = scripted(name, params, 64)
    consistent(states, out, params)
    assert out.actions.shape == (64, params.turns)


def test_uniform_reward():
    """Where plain Python puts it in the same mazes."""
    states, out = scripted("uniform", maze.Params(), 512)
    reward = out.rewards.sum(1)
    rng, params = np.random.default_rng(0), maze.Params()
    other = []
    for i in range(512):
        winds = np.where(rng.random(15) < 0.1, rng.integers(0, 4, 15), -1)
        turns, _ = play_again(states.grid[i], states.x[i], states.y[i], rng.integers(0, 4, 15), winds, params)
        other.append(sum(t["reward"] for t in turns))
    assert -90 < reward.mean() < -60
    assert abs(reward.mean() - np.mean(other)) < 5 * np.hypot(reward.std(), np.std(other)) / 512**0.5
    assert np.abs(np.bincount(out.actions.ravel(), minlength=4) / out.actions.size - 0.25).max() < 0.025


def test_greedy_takes_gold_and_shuns_mold():
    _, out = scripted("greedy", maze.Params(), 64)
    taken = np.take_along_axis(out.neighbours, out.actions[..., None], -1)[..., 0]
    gold, escape = (out.neighbours == GOLD).any(-1), (out.neighbours != MOLD).any(-1)
    assert gold.any() and (taken[gold] == GOLD).all()
    assert (taken[escape] != MOLD).all()
    assert out.rewards.sum(1).mean() > 0


def test_texts_that_the_model_has_no_rows_for(world):
    graphdef, _, pieces = world
    spec = decoder.static(graphdef)[0]
    rollout.check_ids(spec, pieces, "Who?")
    with pytest.raises(InputError, match="tokenizer .*: the maze's tokens: id .* has no row in the model"):
        rollout.check_ids(dataclasses.replace(spec, vocab=300), pieces)
    word = pieces.tokenizer.encode(" walk", add_special_tokens=False)
    known = dataclasses.replace(spec, vocab=max(word))
    assert np.asarray(pieces.table.tokens).max() < max(word)
    rollout.check_ids(known, pieces)
    with pytest.raises(InputError, match="extract.question='A walk': id"):
        rollout.check_ids(known, pieces, "A walk")
