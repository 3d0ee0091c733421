"""A text environment of one's own, played by the same one program as the maze.

A turn is one text from each of K slots, then a closing; the player answers with one of A words. B episodes.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax.errors import InputError
from welfare_jax.rl import rollout
from welfare_jax.text import pieces as text

OWN = text.LETTER  # the first piece after the frame of a turn: the answers, then the slots' texts


@dataclasses.dataclass(frozen=True)
class Environment:
    """Three pure functions of one episode, and the words in which a player is told of it.

    reset(key) -> state, any pytree; episodes of a group begin in the same state.
    tell(state) -> int32 [K]: of each slot, the number of the text that the player is told.
    step(key, state, action) -> (state, reward, info): action int32 [] is the number of the answer; reward is a number;
    info a dict of numbers whose sums over an episode become metrics, {} for none. Each is traced and batched by
    `jax.vmap`, so what depends on the state is written with `jnp.where` and indexing, not with `if`.
    """

    reset: Callable
    tell: Callable
    step: Callable
    texts: tuple[tuple[str, ...], ...]  # of each slot its texts; "" where a slot may say nothing
    answers: tuple[str, ...]  # no two may begin with the same token
    closing: str  # ends every turn and should name the answers
    turns: int  # of an episode

    def observation(self, told) -> str:
        """The user message of a turn in which `told` [K] was told."""
        return "".join(slot[int(number)] for slot, number in zip(self.texts, told, strict=True)) + self.closing


class Answers(NamedTuple):
    """What the piece tables keep of an environment's words."""

    letters: tuple[str, ...]


def _starts(env: Environment) -> list[int]:
    """The number of each slot's first piece."""
    sizes = [len(slot) for slot in env.texts]
    return [OWN + len(env.answers) + before for before in itertools.accumulate([0, *sizes[:-1]])]


def rules(env: Environment) -> rollout.Rules:
    """The environment as `rollout.play` takes it."""
    starts = jnp.asarray(_starts(env), jnp.int32)

    def group_states(key, groups, group_size, params):
        states = jax.vmap(env.reset)(jax.random.split(key, groups))
        return jax.tree.map(lambda a: jnp.repeat(a, group_size, axis=0), states)

    def numbers(states, answers, first, size):
        return text.turn_pieces(starts + jax.vmap(env.tell)(states), answers, first)

    def step(key, state, action, params):
        state, reward, info = env.step(key, state, action)
        return state, state, jnp.float32(reward), False, False, {k: jnp.float32(v) for k, v in info.items()}

    def keep(action, logits, reward, obs, after, info):
        return action, logits, None, reward, *[None] * 7, info

    return rollout.Rules(
        group_states, lambda params, group_size: group_size, lambda state, params: state, numbers, step, keep
    )


def tables(env: Environment, tokenizer, template: dict | None = None) -> text.Pieces:
    """Tokenise all texts and prove that they compose, on conversations in which each occurs (see `pieces.prove`).

    template: keyword arguments of the chat template. Raises `InputError` where the functions do not fit the words,
    where two answers begin with the same token, or where texts side by side are not what the tokenizer makes of them.
    """
    check(env)
    template = text.arguments(tokenizer, None, template)
    first, following, close, before, append_only = text.glue(tokenizer, template)
    frame = ["", first, following, env.closing + close, *(before + answer for answer in env.answers)]
    table = text.tabulate(tokenizer, [*frame, *itertools.chain(*env.texts)], env.answers)
    lengths, starts = np.asarray(table.lengths), _starts(env)
    told = sum(lengths[a : a + len(slot)].max() for a, slot in zip(starts, env.texts)) + lengths[text.CLOSE]
    later = told + lengths[OWN : OWN + len(env.answers)].max() + lengths[text.NEXT]
    widths = int(told + lengths[text.FIRST]), int(later), int(later)
    pieces = text.Pieces(
        table, 0, *widths, append_only=append_only, wording=Answers(env.answers), tokenizer=tokenizer,
        template=template, before_answer=before,
    )  # fmt: skip
    text.compare(pieces, _coverage(env, pieces))
    return pieces


def check(env: Environment):
    """Refuse words without a choice, and functions whose results have other shapes than `Environment` says."""
    if len(env.answers) < 2 or env.turns < 1 or not env.texts or not all(env.texts):
        raise InputError("environment: needs two answers or more, one turn or more, and texts in every slot")
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
    state = jax.eval_shape(env.reset, key)
    told = jax.eval_shape(env.tell, state)
    if getattr(told, "shape", None) != (len(env.texts),) or not jnp.issubdtype(told.dtype, jnp.integer):
        raise InputError(
            f"environment: tell(state) gives {told}, need whole numbers [{len(env.texts)}], one for each slot of texts"
        )
    out = jax.eval_shape(env.step, key, state, jax.ShapeDtypeStruct((), jnp.int32))
    if not isinstance(out, tuple) or len(out) != 3 or not isinstance(out[2], dict):
        raise InputError("environment: step(key, state, action) must return (state, reward, info), info a dict")
    shape = lambda tree: jax.tree.map(lambda a: (a.shape, str(a.dtype)), tree)
    if shape(out[0]) != shape(state):
        raise InputError(f"environment: step returns a state of {shape(out[0])}, reset one of {shape(state)}")
    for name, value in {"the reward": out[1], **out[2]}.items():
        if value.shape != ():
            raise InputError(f"environment: step returns {name} of shape {value.shape}, need one number")


def _coverage(env: Environment, pieces: text.Pieces, turns: int = 15):
    """Conversations in which every text occurs, beside others drawn at random: as `pieces.compare` takes them."""
    rng, starts = np.random.default_rng(0), _starts(env)
    n = -(-max(60, *map(len, env.texts), len(env.answers)) // turns) * turns
    told = np.stack([np.resize(rng.permutation(len(slot)), n) for slot in env.texts], 1)
    answers = rng.permutation(np.resize(np.arange(len(env.answers)), n))
    for begin in range(0, n, turns):
        talk = []
        for i in range(begin, begin + turns):
            head = [text.EMPTY, text.FIRST] if i == begin else [OWN + answers[i], text.NEXT]
            numbers = [*head, *(starts + told[i]), text.CLOSE]
            talk.append((answers[i], env.observation(told[i]), text.ids_of(pieces.table, numbers)))
        yield talk
