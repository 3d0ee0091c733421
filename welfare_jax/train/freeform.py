"""Reinforcement learning on free text with a verified reward: many sampled tokens an episode, one reward at its end.

Three programs: `sample` writes the answers, `update` learns from them with the objectives of `rl.objectives`, a token
an action, and `judge` compares two models on them. B episodes, T prompt slots, N new tokens, V vocabulary. Full
logits exist for a micro-batch at a time only.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax.models import decoder
from welfare_jax.models.generate import generate
from welfare_jax.rl import advantages, objectives, rollout
from welfare_jax.train import step
from welfare_jax.train.algorithms import ALGORITHMS
from welfare_jax.train.settings import FreeText
from welfare_jax.train.state import State, join


class Episodes(NamedTuple):
    """Prompts and answers; consecutive rows share a prompt."""

    tokens: jax.Array  # int32 [B, T + N], prompt and answer
    mask: jax.Array  # bool [B, T + N]
    kept: jax.Array  # bool [B, N], the tokens of the answer, its end included
    rewards: jax.Array  # float32 [B]

    @property
    def actions(self):
        return self.tokens[:, -self.kept.shape[1] :]

    @property
    def read(self):
        """Slots [B, N] after which each token of the answer was drawn."""
        B, N = self.kept.shape
        return jnp.broadcast_to(jnp.arange(N) + self.tokens.shape[1] - N - 1, (B, N))


def chosen(seed: int, step: int, groups: int, count: int) -> np.ndarray:
    """Numbers of a step's prompts: all `count` in a new order every time they have been gone through."""
    numbers = range(step * groups, (step + 1) * groups)
    orders = {e: np.random.default_rng((seed, e)).permutation(count) for e in {n // count for n in numbers}}
    return np.array([orders[n // count][n % count] for n in numbers])


def texts(tokenizer, new, kept) -> list[str]:
    """Answers [B, N] as text."""
    rows = [ids[on] for ids, on in zip(*jax.device_get((new, kept)))]
    return tokenizer.batch_decode(rows, skip_special_tokens=True)


def episodes(prompts, mask, new, kept, rewards) -> Episodes:
    """Prompts [B, T], padded at the left, and what `sample` wrote [B, N]."""
    tokens, whole = jnp.concatenate([prompts, new], 1), jnp.concatenate([mask, kept], 1)
    return Episodes(tokens, whole, jnp.asarray(kept), jnp.asarray(rewards, jnp.float32))


def make_sample(graphdef, max_new_tokens: int, stop, dtype=None):
    """`sample(trainable, frozen, prompts, mask, keys, temperature) -> (new [B, N], kept [B, N])`."""

    def sample(trainable, frozen, prompts, mask, keys, temperature):
        params = join(trainable, frozen, dtype)
        return generate(
            graphdef, params, prompts, mask, keys, max_new_tokens=max_new_tokens, temperature=temperature, stop=stop
        )

    return sample


def last(kept):
    """Where each answer ends, bool [B, N]."""
    return kept & ~jnp.pad(kept[:, 1:], ((0, 0), (0, 1)))


def make_update(graphdef, optimizer, config: FreeText, dtype=None):
    """`update(state, frozen, initial, played, temperature, knobs=None) -> (state, metrics)`, (sum, count) pairs.

    initial: the trainable parameters before training, the reference of a KL term and the start of every round of
    Expert Iteration. The gain of an episode goes to all of its tokens; PPO's rewards stand at its last one.
    """
    algorithm = ALGORITHMS[config.algorithm]
    learn, outputs = step.make_learn(graphdef, None, optimizer, config, dtype=dtype)

    def told(trainable, frozen, played, temperature):
        """Log-probabilities of the tokens taken [B, N] and values [B, N] or None, a micro-batch at a time."""

        def run(part):
            logps, _, values = outputs(trainable, frozen, part.tokens, part.mask, part.read, temperature, None)
            return objectives.chosen(logps, part.actions), values

        return step.uncut(jax.lax.map(run, step.cut(played, config.micro_batch)))

    def prepare(state, frozen, initial, played, temperature):
        kept = played.kept
        batch = objectives.Batch(played.actions, None, None, None, mask=kept)
        if algorithm.advantage is None:
            return step.Examples(played.tokens, played.mask, played.read, batch)
        old, values = told(state.trainable, frozen, played, temperature)
        ref = told(initial, frozen, played, temperature)[0] if config.kl_coef else None
        rewards = config.reward_scale * jnp.where(last(kept), played.rewards[:, None], 0.0)
        if config.kl_coef and config.kl_in == "reward":
            rewards = rewards - config.kl_coef * jnp.where(kept, old - ref, 0.0)
        values = None if values is None else jnp.where(kept, values, 0.0)  # nothing is expected after the end
        gained, returns = algorithm.advantage(rewards, values, config, kept)
        batch = batch._replace(old_logps=old, ref_logps=ref, advantages=gained, returns=returns, old_values=values)
        return step.Examples(played.tokens, played.mask, played.read, batch)

    def update(state: State, frozen, initial, played: Episodes, temperature, knobs=None):
        knobs = knobs or step.Knobs(config.lr, config.entropy_coef)
        about = {
            "reward": (played.rewards.sum(), played.rewards.size), "tokens": (played.mask.sum(), 1.0),
            "length": (played.kept.sum(), played.rewards.size),
        }  # fmt: skip
        if config.keep_best:
            played, about["learnt"] = verified(played, config)
        examples = prepare(state, frozen, initial, played, temperature)
        if algorithm.restart:
            state = State(state.step, initial, optimizer.init(initial))
        heat = 1.0 if algorithm.advantage is None else temperature
        state, metrics = learn(state, frozen, examples, heat, knobs)
        return state, metrics | about

    return update


def verified(played: Episodes, config: FreeText):
    """At most `config.keep_best` distinct answers of every prompt, right ones only: (episodes, (their number, 1)).

    The others stay in the batch, whose shape is fixed, without a token that counts.
    """
    answer = jnp.where(played.kept, played.actions, -1)
    same = lambda i, j: (answer[i] == answer[j]).all(-1)
    rows, kept = advantages.best_distinct(played.rewards, same, config.group_size, config.keep_best)
    good = kept & (played.rewards[rows] > 0)
    played = jax.tree.map(lambda a: a[rows], played)
    return played._replace(kept=played.kept & good[:, None]), (good.sum(), 1.0)


def make_judge(graphdef, size: int, dtype=None):
    """`judge(trainable, initial, frozen, played) -> {"entropy", "kl"}`, (sum, count) pairs over the answers' tokens.

    Entropy of the model and its exact KL to the model before training, over the vocabulary, at temperature one.
    """

    def judge(trainable, initial, frozen, played: Episodes):
        def logps(flat, part):
            model = decoder.bind(graphdef, join(flat, frozen, dtype))
            return jax.nn.log_softmax(rollout.replay(model, part.tokens, part.mask, part.read, None)[1])

        def run(part):
            new, old = logps(trainable, part), logps(initial, part)
            return [jnp.sum(a * part.kept) for a in (objectives.entropy(new), jnp.sum(jnp.exp(new) * (new - old), -1))]

        sums = [a.sum() for a in jax.lax.map(run, step.cut(played, size))]
        return {name: (a, played.kept.sum()) for name, a in zip(("entropy", "kl"), sums)}

    return judge
