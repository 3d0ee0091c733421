"""The whole episode as one program: maze, text, tokens, cached model, sampling and reward, without leaving the device.

B episodes, N turns, T slots: F of the first turn, which alone holds what a template says before a conversation, and W
of each later one. A turn's tokens are laid against the right edge of its slots, so that the position where the player
answers is the same for all episodes.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from welfare_jax.envs import maze
from welfare_jax.models import decoder, interventions
from welfare_jax.text import pieces as text


class Trajectory(NamedTuple):
    """What was shown, done and earned. Nothing is ever tokenised again."""

    tokens: jax.Array  # int32 [B, T]
    mask: jax.Array  # bool [B, T]
    read: jax.Array  # int32 [B, N], the slots at which the player answers
    actions: jax.Array  # int32 [B, N]
    logits: jax.Array  # float32 [B, N, 4], of the four answers, before temperature
    neighbours: jax.Array | None  # int32 [B, N, 4], tile roles before the move; None outside the maze, as below
    rewards: jax.Array  # float32 [B, N]
    gold: jax.Array | None = None  # int32 [B, N], gold tiles entered
    mold: jax.Array | None = None  # int32 [B, N]
    x: jax.Array | None = None  # int32 [B, N], before the move
    y: jax.Array | None = None
    wind: jax.Array | None = None  # int32 [B, N], the push after the move, -1 for none
    landed: jax.Array | None = None  # int32 [B, N, 2], after the own move, before the wind
    order: jax.Array | None = None  # int32 [B, N, 4]
    info: dict | None = None  # numbers [B, N] that another environment wants averaged


class Policy(NamedTuple):
    """Anything that plays: `act(carry, tokens, mask, observation) -> (carry, logits [B, 4])`.

    The first turn, and every segment of turns after it, is compiled for itself: `grow(carry, turns, width)` comes
    before each segment and makes room for so many turns. `repeat(carry, times)` comes after a first turn that was
    played for several episodes at once: the carry of each row, so many times. Policies without a cache return the
    carry.
    """

    act: Callable
    grow: Callable = lambda carry, turns, width: carry
    repeat: Callable = lambda carry, times: carry


def check_ids(spec, pieces: text.Pieces, question: str = ""):
    """Refuse piece tables with tokens that the model has no row for, and such a question after the last answer."""
    name = f"tokenizer {pieces.tokenizer.name_or_path}" if pieces.tokenizer else "tokenizer"
    decoder.check_ids(spec, pieces.table.tokens, f"{name}: the maze's tokens")
    if question:
        decoder.check_ids(spec, text.follow_up(pieces, question), f"extract.question={question!r}")


def uniform() -> Policy:
    return Policy(lambda carry, tokens, mask, obs: (carry, jnp.zeros(obs.neighbours.shape)))


class _Memory(NamedTuple):
    """What a model has read: whole stretches of turns, the one being filled, and the last turn, which is written there
    when the next one is played. So no stretch has room that none of its turns reads, and none is ever copied."""

    done: tuple[decoder.Cache, ...]
    filling: decoder.Cache | None
    last: decoder.Cache


def from_model(model: decoder.Decoder, letters, iv=None, lay=lambda cache: cache) -> Policy:
    """The language model, restricted to the four answers `letters` [4].

    lay: says where the rows of a new stretch of cache lie.
    """

    def act(carry, tokens, mask, obs):
        done, filling = (), None
        if carry is not None:
            done, filling = carry.done, decoder.append(carry.filling, carry.last)
        last = jnp.full((tokens.shape[0], 1), tokens.shape[1] - 1)
        hidden, _, new = decoder.backbone(
            model, tokens, mask, cache=None if carry is None else (*done, filling), iv=iv, read=last,
            everywhere=False, residual=False, fresh=True,
        )  # fmt: skip
        return _Memory(done, filling, new), decoder.unembed(model, hidden[:, 0], letters)

    def grow(carry, turns, width):
        if carry.filling is None:  # the first turn, of another width, is a stretch of its own
            room = lay(decoder.room_after(carry.last, max(turns - 1, 1) * width))
            nothing = decoder.room_after(carry.last, width)  # is written and then overwritten by the next turn
            return _Memory((carry.last,), room, nothing)
        return _Memory((*carry.done, carry.filling), lay(decoder.room_after(carry.last, turns * width)), carry.last)

    def repeat(carry, times):
        return carry._replace(last=decoder.repeat(carry.last, times))

    return Policy(act, grow, repeat)


def draw(logits, keys, temperature):
    """Actions [B] at `temperature` (0: the most likely), one key an episode."""
    noise = jax.vmap(lambda k: jax.random.gumbel(k, logits.shape[-1:]))(keys)
    return jnp.argmax(logits + temperature * noise, -1).astype(jnp.int32)


def begin_alike(params: maze.Params, group_size: int) -> int:
    """How many consecutive episodes of `group_states` are told the same in their first turn."""
    return 1 if params.order == "episode" else group_size


def group_states(key, groups: int, group_size: int, params: maze.Params):
    """Start states [groups * group_size, ...]: a fresh maze a group, shared by its members."""
    _, states = jax.vmap(maze.reset, (0, None))(jax.random.split(key, groups), params)
    states = jax.tree.map(lambda a: jnp.repeat(a, group_size, axis=0), states)
    if params.order == "episode":
        keys = jax.random.split(jax.random.fold_in(key, 1), groups * group_size)
        states = states._replace(order=jax.vmap(maze.listing)(keys))
    return states


class Rules(NamedTuple):
    """What an episode is played by, as pure functions: the maze's, or those of another text environment.

    params: whatever has `turns`, and what else the functions read of it.
    """

    group_states: Callable  # (key, groups, group_size, params) -> states [groups * group_size, ...]
    alike: Callable  # (params, group_size) -> how many consecutive episodes are told the same in their first turn
    observe: Callable  # (state, params) -> observation, of one episode
    numbers: Callable  # (observations [B, ...], answers [B], whether it is the first turn, size) -> pieces [B, K]
    step: Callable  # (key, state, action, params) -> what `maze.step` returns, of one episode
    keep: Callable  # (action, logits, reward, observation, state after, info) -> fields of `Trajectory` from `actions`


def _keep(action, logits, reward, obs, after, info):
    return (
        action, logits, obs.neighbours, reward, info["gold"], info["mold"], obs.x, obs.y, after.wind,
        info["landed"], obs.order,
    )  # fmt: skip


MAZE = Rules(group_states, begin_alike, maze.observe, text.observation_pieces, maze.step, _keep)


def play(
    policy: Policy, carry, pieces_table, size, widths, params, states, keys, temperature, segments=None,
    alike: int = 1, rules: Rules = MAZE,
):  # fmt: skip
    """Play `params.turns` turns of all episodes.

    params: `maze.Params`, or what other `rules` read; states: batched `maze.State` [B, ...], or theirs;
    keys [B]: everything random in an episode follows from its own key; temperature: scalar, may be traced; size, and
    widths of the first and of a later turn: those of the piece tables.
    After the first turn what was read is kept in static `segments` (by default up to four, of at least 100 slots):
    attention early in the episode does not pay for its end. alike: so many consecutive episodes begin with the same
    turn (`begin_alike`), which the policy reads once for all of them.
    """
    turns, (first, later) = params.turns, widths
    most = min(segments or max(1, min(4, turns * later // 100)), turns - 1)
    starts = [1 + (turns - 1) * s // most for s in range(most)]

    def turn(state, t, width=later, alike=1):
        carry, states, answer = state
        obs = jax.vmap(rules.observe, (0, None))(states, params)
        numbers = rules.numbers(obs, answer, t == 0, size)
        tokens, mask = text.pack(pieces_table, numbers, width)
        carry, logits = policy.act(carry, *jax.tree.map(lambda a: _one_of(a, alike), (tokens, mask, obs)))
        if alike > 1:
            carry, logits = policy.repeat(carry, alike), decoder.repeat_rows(logits, alike)
        now = jax.vmap(jax.random.fold_in, (0, None))(keys, t)
        k_act, k_env = jnp.moveaxis(jax.vmap(jax.random.split)(now), 1, 0)
        action = draw(logits, k_act, temperature)
        _, after, reward, _, _, info = jax.vmap(rules.step, (0, 0, 0, None))(k_env, states, action, params)
        return (carry, after, action), ((tokens, mask), rules.keep(action, logits, reward, obs, after, info))

    state = (carry, states, jnp.zeros(keys.shape[0], jnp.int32))
    state, (shown, out) = turn(state, jnp.int32(0), first, alike)
    shown, outs = [shown], [jax.tree.map(lambda a: a[None], out)]
    for start, end in itertools.pairwise([*starts, turns]):
        state = (policy.grow(state[0], end - start, later), *state[1:])
        state, (part, out) = jax.lax.scan(turn, state, jnp.arange(start, end))
        tokens, mask = (jnp.moveaxis(a, 0, 1).reshape(a.shape[1], -1) for a in part)
        shown.append((tokens, mask))
        outs.append(out)
    tokens, mask = (jnp.concatenate(parts, 1) for parts in zip(*shown, strict=True))
    read = jnp.broadcast_to(first - 1 + later * jnp.arange(turns), (len(tokens), turns))
    return Trajectory(tokens, mask, read, *jax.tree.map(lambda *p: jnp.moveaxis(jnp.concatenate(p), 0, 1), *outs))


def _one_of(a, alike: int):
    """The first of every `alike` consecutive rows of a [B, ...]."""
    return a.reshape(-1, alike, *a.shape[1:])[:, 0]


def replay(model, tokens, mask, read, letters, *, iv=None, remat=False, hold=lambda x: x, opening=(0, 1)):
    """(hidden [B, N, D], the four logits [B, N, 4]) at slots `read` [B, N], by one forward over what was shown.

    opening: (slots of the first turn, how many consecutive rows have it in common): it is read once for all of them,
    forward and backward, and the rest of every row sees it through a cache. (0, 1) where nothing is known.
    """
    kw = {"everywhere": False, "residual": False, "remat": remat, "slice_last": not remat, "hold": hold, "iv": iv}
    first, alike = opening
    if alike == 1 or first == tokens.shape[1] or interventions.per_row(iv):  # nothing to share, or no rest
        hidden, _, _ = decoder.backbone(model, tokens, mask, read=read, **kw)
        return hidden, decoder.unembed(model, hidden, letters)
    begin, end = _one_of(tokens[:, :first], alike), jnp.full((len(tokens) // alike, 1), first - 1)
    before, _, cache = decoder.backbone(model, begin, _one_of(mask[:, :first], alike), read=end, fresh=True, **kw)
    after, _, _ = decoder.backbone(
        model, tokens[:, first:], mask[:, first:], cache=(decoder.repeat(cache, alike),), read=read[:, 1:] - first,
        fresh=True, **kw,
    )  # fmt: skip
    hidden = jnp.concatenate([decoder.repeat_rows(before, alike), after], 1)
    return hidden, decoder.unembed(model, hidden, letters)
