"""RL on a reward of one's own: of answers to prompts, or in a text environment, with what every run leaves on disk.

Both train adapters of a loaded model and return the model with them. `train.settings` has the trainer's settings.
"""

import dataclasses
import hashlib
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax.errors import InputError
from welfare_jax.models import chat, decoder, hf, stops
from welfare_jax.rl import environment as environments
from welfare_jax.rl import rollout
from welfare_jax.settings import changed, defaults, tree, typed
from welfare_jax.train import checkpoints, freeform, state, step, training
from welfare_jax.train.algorithms import ALGORITHMS
from welfare_jax.train.settings import FREE_TEXT, FreeText, InEnvironment, Rewarded

# What a few hundred answers on one device can learn from.
START = {"steps": 50, "groups": 4, "group_size": 8, "micro_batch": 8, "temperature": 1.0, "lr": 1e-4, "keep": 1}


def train_on_reward(
    lm: hf.LM, prompts, reward: Callable, workdir, *, seed=0, max_new_tokens=64, template=None, **settings
) -> hf.LM:
    """The model after policy gradient (GRPO unless `algorithm` says otherwise) on its own answers to `prompts`.

    prompts: texts or conversations, as `wj.encode` takes them; rows of a data set may hold more than the prompt.
    reward(prompts, answers) -> one number an answer: called once a step with `groups` * `group_size` prompts, as they
    were given, and as many texts. settings: those of the trainer (`welfare_jax/train/settings.py`), such as steps=50,
    groups=4 (prompts a step), group_size=8 (answers a prompt), lr=1e-4, lora={"rank": 8}, kl_coef=0.05.

    workdir gets `metrics.jsonl`, `checkpoints/` and `tensorboard/`; the same call again goes on where it was stopped.
    Returns the model with its adapters; `lm` stays as it was. Raises `InputError` on settings that are unknown or do
    not fit together, on a reward that does not give finite numbers, and where workdir holds a run of other settings,
    prompts, weights or of a reward of other source text.
    """
    cfg = configured(FreeText, settings)
    rows = chat.several(lm.tokenizer, prompts)
    tokens, mask = chat.encode(lm.tokenizer, rows, template, multiple=32)
    decoder.check_ids(lm.spec, tokens, "prompts")
    ends = stops.stop_ids(lm.tokenizer, template)
    graphdef, initial, frozen = start(lm, cfg, seed)
    dtype, tx = lm.params["embed"].dtype, state.optimizer(cfg)
    sample = jax.jit(freeform.make_sample(graphdef, max_new_tokens, ends, dtype))
    update = jax.jit(freeform.make_update(graphdef, tx, cfg, dtype), donate_argnums=0)

    def play(trainable, i):
        picked = np.repeat(freeform.chosen(seed, i, cfg.groups, len(rows)), cfg.group_size)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), i), len(picked))
        new, kept = sample(trainable, frozen, tokens[picked], mask[picked], keys, cfg.temperature)
        answers = freeform.texts(lm.tokenizer, new, kept)
        paid = numbers(reward([rows[j] for j in picked], answers), len(picked))
        return freeform.episodes(tokens[picked], mask[picked], new, kept, paid)

    bound = checkpoints.bound(
        {"seed": seed, "max_new_tokens": max_new_tokens, "train": dataclasses.asdict(cfg)},
        weights=checkpoints.digest(lm.params), text=digest(tokens, mask, ends), reward=source(reward),
    )  # fmt: skip
    trained = train(initial, frozen, tx, cfg, workdir, bound, play=play, update=update)
    return dataclasses.replace(lm, graphdef=graphdef, params=state.join(trained, frozen, dtype))


def train_in_environment(
    lm: hf.LM, environment: environments.Environment, workdir, *, seed=0, template=None, **settings
) -> hf.LM:
    """The model after policy gradient in a text environment, each step's episodes one compiled program.

    settings and workdir as in `train_on_reward`; groups are start states a step, group_size episodes of each. Metrics
    have the reward of an episode and the sums of what `step` reports as info.
    """
    cfg = configured(InEnvironment, {"kl": "exact"} | settings)
    pieces = environments.tables(environment, lm.tokenizer, template)
    rollout.check_ids(lm.spec, pieces)
    graphdef, initial, frozen = start(lm, cfg, seed)
    dtype, tx, rules = lm.params["embed"].dtype, state.optimizer(cfg), environments.rules(environment)
    shape = {"groups": cfg.groups, "group_size": cfg.group_size}
    collect = jax.jit(
        step.make_collect(graphdef, pieces, environment, **shape, dtype=dtype, at_once=cfg.rollout_batch, rules=rules)
    )
    update = jax.jit(
        step.make_update(graphdef, pieces, tx, cfg, environment, dtype=dtype, rules=rules), donate_argnums=0
    )

    def play(trainable, i):
        return collect(trainable, frozen, jax.random.key(seed), i, cfg.temperature)[0]

    functions = "".join(source(f) for f in (environment.reset, environment.tell, environment.step))
    bound = checkpoints.bound(
        {"seed": seed, "turns": environment.turns, "train": dataclasses.asdict(cfg)},
        weights=checkpoints.digest(lm.params), text=pieces.digest, rules=functions,
    )  # fmt: skip
    trained = train(initial, frozen, tx, cfg, workdir, bound, play=play, update=update)
    return dataclasses.replace(lm, graphdef=graphdef, params=state.join(trained, frozen, dtype))


def configured(cls, given: dict):
    """The trainer's settings with a caller's."""
    return typed(cls, changed(defaults(tree(cls)) | FREE_TEXT | START, given))


def start(lm, cfg: Rewarded, seed: int):
    """(graphdef, trainable, frozen) with fresh adapters and, where the algorithm has one, a value head."""
    if ALGORITHMS[cfg.algorithm].advantage is None and cfg.keep_best < 1:
        raise InputError(f"keep_best={cfg.keep_best}: {cfg.algorithm} learns from so many best answers of each prompt")
    if decoder.static(lm.graphdef)[1] is not None:
        raise InputError("lm: has adapters already; write it with wj.save_hf, which folds them in, and load that")
    graphdef, trainable, frozen = state.adapted(lm, cfg.lora, cfg.trainable, seed)
    if ALGORITHMS[cfg.algorithm].value_head:
        trainable |= state.value_head(lm.spec.width)
    return graphdef, trainable, frozen


def train(initial, frozen, tx, cfg: Rewarded, workdir, bound: dict, *, play: Callable, update: Callable) -> dict:
    """The trained parameters, flat. `play(trainable, step)` gives a step's episodes, `update` learns from them."""
    needs = cfg.kl_coef or ALGORITHMS[cfg.algorithm].restart
    trainable = jax.tree.map(jnp.copy, initial)  # the update gives its input's memory away
    now = state.State(jnp.int32(0), trainable, tx.init(trainable))

    def advance(i, now, _):
        played = play(now.trainable, i)
        now, metrics = update(now, frozen, initial if needs else None, played, cfg.temperature)
        return now, step.values(metrics)

    return training.train(workdir, now, bound, cfg, advance, shown={"reward": ("reward", 2)}).trainable


def numbers(paid, count: int) -> np.ndarray:
    """What a reward function returned, float32 [count]."""
    try:
        found = np.asarray(paid, np.float32)
    except (TypeError, ValueError):
        found = np.asarray(None)
    if found.shape != (count,) or not np.isfinite(found).all():
        raise InputError(
            f"reward: must return a list of {count} finite numbers, one an answer; it gave {str(paid)[:80]}"
        )
    return found


def source(function) -> str:
    """A digest of a function's source text; of what has none (a built-in, a class's instance), its name."""
    try:
        said = inspect.getsource(function)
    except (OSError, TypeError):
        said = getattr(function, "__qualname__", type(function).__qualname__)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def digest(*parts) -> str:
    return hashlib.sha256(b"|".join(np.asarray(p).tobytes() for p in parts)).hexdigest()[:16]
