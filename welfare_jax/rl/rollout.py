"""The whole episode as one program: maze, text, tokens, cached model, sampling and reward, without leaving the device.

B episodes, N turns, W slots of a turn, T = N * W. A turn's tokens are laid against the right edge of its W slots, so
that the position where the player answers is the same for all episodes: slot t * W + W - 1.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from welfare_jax.envs import maze
from welfare_jax.models import attention, decoder
from welfare_jax.text import pieces as text


class Trajectory(NamedTuple):
    """What was shown, done and earned. Nothing is ever tokenised again."""

    tokens: jax.Array  # int32 [B, T]
    mask: jax.Array  # bool [B, T]
    actions: jax.Array  # int32 [B, N]
    logits: jax.Array  # float32 [B, N, 4], of the four answers, before temperature
    neighbours: jax.Array  # int32 [B, N, 4], tile roles before the move
    rewards: jax.Array  # float32 [B, N]
    gold: jax.Array  # int32 [B, N], gold tiles entered
    mold: jax.Array  # int32 [B, N]
    x: jax.Array  # int32 [B, N], before the move
    y: jax.Array
    wind: jax.Array  # int32 [B, N], the push after the move, -1 for none
    landed: jax.Array  # int32 [B, N, 2], after the own move, before the wind
    order: jax.Array  # int32 [B, N, 4]


class Policy(NamedTuple):
    """Anything that plays: `act(carry, tokens, mask, observation) -> (carry, logits [B, 4])`.

    The first turn, and every segment of turns after it, is compiled for itself: `grow(carry, slots)` comes before each
    segment and makes room for what its last turn reads of earlier ones. Policies without a cache return the carry.
    """

    act: callable
    grow: callable = lambda carry, slots: carry


def uniform() -> Policy:
    return Policy(lambda carry, tokens, mask, obs: (carry, jnp.zeros(obs.neighbours.shape)))


def scripted(score) -> Policy:
    """A policy from `score(observation) -> logits [B, 4]`, e.g. greedy on neighbours."""
    return Policy(lambda carry, tokens, mask, obs: (carry, score(obs)))


def greedy_neighbours() -> Policy:
    """Takes gold where there is one, else path, mold last: the best that sees one turn and forgets it."""
    return scripted(lambda obs: jnp.array([0.0, 40.0, -40.0])[obs.neighbours])


def from_model(model: decoder.Decoder, letters, iv=None) -> Policy:
    """The language model, restricted to the four answers `letters` [4].

    Its carry is None before the first turn, then two of `decoder.Cache`: the turns before the last, and the last,
    which is written when the next one is played. So a segment has no room that none of its turns reads.
    """

    def act(carry, tokens, mask, obs):
        cache = None if carry is None else decoder.append(*carry)
        last = jnp.full((tokens.shape[0], 1), tokens.shape[1] - 1)
        hidden, _, new = decoder.backbone(
            model, tokens, mask, cache=cache, iv=iv, read=last, everywhere=False, residual=False, fresh=True
        )
        return (cache, new), decoder.unembed(model, hidden[:, 0], letters)

    def grow(carry, slots):
        cache, new = carry
        if cache is None:  # its slots are to be written, but are filled with keys already
            nowhere = jnp.full_like(new.pos, attention.NOWHERE)
            cache = new._replace(pos=nowhere, count=jnp.zeros_like(new.count), used=jnp.zeros_like(new.used))
        return decoder.grow(cache, slots), new

    return Policy(act, grow)


def draw(logits, keys, temperature):
    """Actions [B] at `temperature` (0: the most likely), one key an episode."""
    noise = jax.vmap(lambda k: jax.random.gumbel(k, (4,)))(keys)
    return jnp.argmax(logits + temperature * noise, -1).astype(jnp.int32)


def play(
    policy: Policy, carry, pieces_table, size, width, params: maze.Params, states, keys, temperature, segments=None
):
    """Play `params.turns` turns of all episodes.

    states: batched `maze.State` [B, ...]; keys [B]: everything random in an episode follows from its own key;
    temperature: scalar, may be traced. `size` and `width` are those of the piece tables. After the first turn the
    cache grows in static `segments` (by default up to four, of at least 100 slots): attention early in the episode
    does not pay for its end.
    """
    turns = params.turns
    most = min(segments or max(1, min(4, turns * width // 100)), turns - 1)
    starts = [1 + (turns - 1) * s // most for s in range(most)]

    def turn(state, t):
        carry, states, answer = state
        obs = jax.vmap(maze.observe, (0, None))(states, params)
        numbers = text.observation_pieces(obs, answer, t == 0, size)
        tokens, mask = text.pack(pieces_table, numbers, width)
        carry, logits = policy.act(carry, tokens, mask, obs)
        now = jax.vmap(jax.random.fold_in, (0, None))(keys, t)
        k_act, k_env = jnp.moveaxis(jax.vmap(jax.random.split)(now), 1, 0)
        action = draw(logits, k_act, temperature)
        _, after, reward, _, _, info = jax.vmap(maze.step, (0, 0, 0, None))(k_env, states, action, params)
        out = (
            tokens, mask, action, logits, obs.neighbours, reward, info["gold"], info["mold"], obs.x, obs.y,
            after.wind, info["landed"], obs.order,
        )  # fmt: skip
        return (carry, after, action), out

    state, out = turn((carry, states, jnp.zeros(keys.shape[0], jnp.int32)), jnp.int32(0))
    outs = [jax.tree.map(lambda a: a[None], out)]
    for start, end in itertools.pairwise([*starts, turns]):
        state = (policy.grow(state[0], (end - 1) * width), *state[1:])
        state, out = jax.lax.scan(turn, state, jnp.arange(start, end))
        outs.append(out)
    out = [jnp.moveaxis(jnp.concatenate(parts), 0, 1) for parts in zip(*outs, strict=True)]
    flat = [a.reshape(a.shape[0], -1) for a in out[:2]]
    return Trajectory(*flat, *out[2:])


def group_states(key, groups: int, group_size: int, params: maze.Params):
    """Start states [groups * group_size, ...]: a fresh maze a group, shared by its members."""
    _, states = jax.vmap(maze.reset, (0, None))(jax.random.split(key, groups), params)
    states = jax.tree.map(lambda a: jnp.repeat(a, group_size, axis=0), states)
    if params.order == "episode":
        keys = jax.random.split(jax.random.fold_in(key, 1), groups * group_size)
        states = states._replace(order=jax.vmap(maze.listing)(keys))
    return states


def answer_slots(turns: int, width: int):
    """Slots [N] at which the player answers."""
    return jnp.arange(turns) * width + width - 1


def replay(model, tokens, mask, read, letters, *, iv=None, remat=False, hold=lambda x: x):
    """(hidden [B, N, D], the four logits [B, N, 4]) at slots `read` [B, N], by one forward over what was shown."""
    hidden, _, _ = decoder.backbone(
        model,
        tokens,
        mask,
        iv=iv,
        read=read,
        everywhere=False,
        residual=False,
        remat=remat,
        slice_last=not remat,
        hold=hold,
    )
    return hidden, decoder.unembed(model, hidden, letters)


def replay_logits(model, tokens, mask, letters, turns: int, **kw):
    """The four logits [B, N, 4] at every answer of episodes that `play` laid out."""
    B, T = tokens.shape
    return replay(model, tokens, mask, jnp.broadcast_to(answer_slots(turns, T // turns), (B, turns)), letters, **kw)[1]
