"""Text generation as one compiled program: prefill, then a loop that ends when every row has stopped."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax.errors import InputError
from welfare_jax.models import chat as conversations
from welfare_jax.models import decoder, inputs, sampling, stops
from welfare_jax.models.interventions import without_masks


@functools.partial(jax.jit, static_argnames=("graphdef", "max_new_tokens", "stop"))
def _generate(graphdef, params, tokens, mask, keys, settings, max_new_tokens, stop, table, iv, after):
    model = decoder.bind(graphdef, params)
    B, T = tokens.shape
    cache = decoder.empty_cache(model.spec, B, T + max_new_tokens - 1, model.embed[...].dtype)
    last = (T - 1 - jnp.argmax(mask[:, ::-1], -1))[:, None]
    hidden, _, cache = decoder.backbone(
        model, tokens, mask, cache=cache, iv=iv, read=last, everywhere=False, residual=False
    )
    ends = jnp.asarray(stop, jnp.int32) if stop else None

    def draw(hidden, state):
        """Token i of every row, and what it ends."""
        i, new, kept, seen, alive = state
        now = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
        token = sampling.draw(decoder.unembed(model, hidden[:, 0]), now, *settings)
        token = jnp.where(alive, token, 0)
        new, kept = new.at[:, i].set(token), kept.at[:, i].set(alive)
        if ends is not None:
            alive &= ~(token[:, None] == ends).any(-1)
        if table is not None:
            step = table[jnp.maximum(seen, 0), token].astype(jnp.int32)
            # The model may have rows beyond the tokenizer's ids, and the tokenizer ids beyond the model's rows.
            seen = jnp.where(token < table.shape[1], step, seen)
            alive &= seen != stops.DONE
        return i + 1, new, kept, seen, alive

    def unfinished(carry):
        i, *_, alive = carry[1]
        return (i < max_new_tokens) & alive.any()

    def body(carry):
        cache, (i, new, kept, seen, alive) = carry
        hidden, _, cache = decoder.backbone(
            model, new[:, i - 1][:, None], alive[:, None], cache=cache, iv=after, read=first, everywhere=False,
            residual=False,
        )  # fmt: skip
        return cache, draw(hidden, (i, new, kept, seen, alive))

    first = jnp.zeros((B, 1), jnp.int32)
    new = jnp.zeros((B, max_new_tokens), jnp.int32)
    state = draw(hidden, (jnp.int32(0), new, new.astype(bool), jnp.zeros(B, jnp.int32), mask.any(-1)))
    _, (_, new, kept, _, _) = jax.lax.while_loop(unfinished, body, (cache, state))
    return new, kept


def generate(
    graphdef, params, tokens, mask, key, *, max_new_tokens, temperature=0.0, top_k=None, top_p=None, stop=(),
    stop_strings=None, interventions=None, new_interventions=None,
):  # fmt: skip
    """Continue prompts: (new tokens int32 [B, max_new_tokens], their mask bool). One compiled program a shape.

    tokens int32 [B, T], padded at either side, mask bool [B, T]; key: a seed, a key, or a key for each
    row [B], in which case a row's answer does not depend on the batch it is sampled in.
    temperature: 0 is greedy; top_k: 0 for all; top_p in (0, 1]: each one value or one a row, and may be traced.
    stop: token ids, of which those without a row in the model never come; stop_strings: a table from
    `stops.stop_strings`; what ends a row is kept as its last token.
    interventions act on the prompt where their `where` says, and on every new token; new_interventions, where given,
    act on the new tokens instead (a scale of zero for the rows that are steered in the prompt only).
    """
    tokens, mask, key = inputs.tokens(tokens), jnp.asarray(mask, bool), inputs.key(key)
    spec = decoder.static(graphdef)[0]
    decoder.check_inputs(spec, tokens, mask, interventions)
    tokens = jnp.asarray(tokens, jnp.int32)
    rows = len(tokens)
    after = without_masks(interventions if new_interventions is None else new_interventions)
    if new_interventions is not None:
        decoder.check_inputs(spec, tokens[:, :1], None, after)
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens={max_new_tokens}: must be at least 1")
    key = jax.random.split(key, rows) if key.ndim == 0 else key
    settings = (
        _setting("temperature", temperature, jnp.float32, rows, lambda t: t >= 0, "0 (greedy) or more"),
        _setting("top_k", top_k, jnp.int32, rows, lambda k: k >= 0, "0 (all tokens) or more"),
        _setting("top_p", top_p, jnp.float32, rows, lambda p: (p > 0) & (p <= 1), "above 0 and at most 1"),
    )
    if isinstance(stop, str) or not all(isinstance(s, int | np.integer) for s in stop):
        raise InputError(f"stop={stop!r}: needs token ids; make a table of texts by wj.stop_strings")
    stop = tuple(sorted({int(s) for s in stop if 0 <= s < spec.vocab}))
    return _generate(
        graphdef, params, tokens, mask, key, settings, max_new_tokens, stop, stop_strings, interventions, after
    )


def _setting(name, value, dtype, rows, good, need):
    if value is None:
        return None
    if not isinstance(value, jax.core.Tracer):
        if np.ndim(value) and np.shape(value) != (rows,):
            raise InputError(f"{name}: has shape {np.shape(value)}, need one value or {rows}, a row each")
        if not np.all(good(np.asarray(value))):
            raise InputError(f"{name}={value}: must be {need}")
    return jnp.asarray(value, dtype)


def chat(
    lm, prompts, steer=None, *, max_new_tokens=128, temperature=0.0, top_p=None, seed=0, template=None, stop_strings=()
):  # fmt: skip
    """Answers of a loaded model as texts: one for a single prompt, else a list.

    prompts: a string or a list of strings (one user message each) or of lists of {"role", "content"}, or a data set as
    in `wj.encode`; steer: an `Interventions` that acts on every token, or None; temperature: 0 is greedy; template:
    keyword arguments of the chat template; stop_strings: texts that end an answer, beside the ids that the model's
    files name. Whatever the vector, layer and scale, one program is compiled for each number of prompts and each 32
    tokens of their length.
    """
    single = isinstance(prompts, str)
    prompts = conversations.rows(prompts)
    one = single or (len(prompts) > 0 and isinstance(prompts[0], dict) and "role" in prompts[0])
    tokens, mask = conversations.encode(
        lm.tokenizer, [prompts] if one and not single else prompts, template, multiple=32
    )
    new, kept = generate(
        lm.graphdef, lm.params, tokens, mask, seed, max_new_tokens=max_new_tokens, temperature=temperature,
        top_p=top_p, stop=stops.stop_ids(lm.tokenizer, template), interventions=steer,
        stop_strings=stops.stop_strings(lm.tokenizer, list(stop_strings)) if stop_strings else None,
    )  # fmt: skip
    said = [
        lm.tokenizer.decode(ids[on], skip_special_tokens=True) for ids, on in zip(np.asarray(new), np.asarray(kept))
    ]
    return said[0] if one else said
