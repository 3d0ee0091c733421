"""Text generation as one compiled program: prefill, then a loop that ends when every row has stopped."""

import functools

import jax
import jax.numpy as jnp

from welfare_jax.errors import InputError
from welfare_jax.models import decoder
from welfare_jax.models.interventions import without_masks


@functools.partial(jax.jit, static_argnames=("graphdef", "max_new_tokens", "stop"))
def _generate(graphdef, params, tokens, mask, key, max_new_tokens, temperature, stop, iv):
    model = decoder.bind(graphdef, params)
    B, T = tokens.shape
    cache = decoder.empty_cache(model.spec, B, T + max_new_tokens, model.embed[...].dtype)
    last = (T - 1 - jnp.argmax(mask[:, ::-1], -1))[:, None]
    hidden, _, cache = decoder.backbone(
        model, tokens, mask, cache=cache, iv=iv, read=last, everywhere=False, residual=False
    )
    after = without_masks(iv)
    ends = jnp.asarray(stop, jnp.int32) if stop else None

    def draw(hidden, i):
        logits = decoder.unembed(model, hidden[:, 0])
        return jnp.argmax(logits + temperature * jax.random.gumbel(jax.random.fold_in(key, i), logits.shape), -1)

    def unfinished(state):
        return (state[0] < max_new_tokens) & state[-1].any()

    def body(state):
        i, hidden, cache, new, kept, alive = state
        token = jnp.where(alive, draw(hidden, i).astype(jnp.int32), 0)
        new, kept = new.at[:, i].set(token), kept.at[:, i].set(alive)
        if ends is not None:
            alive &= ~(token[:, None] == ends).any(-1)
        read = jnp.zeros((B, 1), jnp.int32)
        hidden, _, cache = decoder.backbone(
            model, token[:, None], alive[:, None], cache=cache, iv=after, read=read, everywhere=False, residual=False
        )
        return i + 1, hidden, cache, new, kept, alive

    new = jnp.zeros((B, max_new_tokens), jnp.int32)
    state = (jnp.int32(0), hidden, cache, new, new.astype(bool), mask.any(-1))
    _, _, _, new, kept, _ = jax.lax.while_loop(unfinished, body, state)
    return new, kept


def generate(graphdef, params, tokens, mask, key, *, max_new_tokens, temperature=0.0, stop=(), interventions=None):
    """Continue prompts: (new tokens int32 [B, max_new_tokens], their mask bool); a stop token is kept as the last.

    tokens int32 [B, T], padded at either side, mask bool [B, T]; temperature 0 is greedy, and may be traced; stop:
    token ids. Interventions act on the prompt where their `where` says, and on every generated token.
    """
    tokens, mask = jnp.asarray(tokens, jnp.int32), jnp.asarray(mask, bool)
    decoder.check_inputs(decoder.static(graphdef)[0], tokens, mask, interventions)
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens={max_new_tokens}: must be at least 1")
    if not isinstance(temperature, jax.core.Tracer) and temperature < 0:
        raise InputError(f"temperature={temperature}: must be 0 (greedy) or more")
    temperature, stop = jnp.asarray(temperature, jnp.float32), tuple(int(s) for s in stop)
    return _generate(graphdef, params, tokens, mask, key, max_new_tokens, temperature, stop, interventions)


def encode(tokenizer, prompts, template=None):
    """Chat prompts as left-padded (tokens, mask) [B, T] NumPy arrays, each a user message with generation prompt."""
    import numpy as np

    rows = []
    for prompt in prompts:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, **(template or {})
        )
        rows.append(tokenizer.encode(text, add_special_tokens=False))
    width = max(map(len, rows))
    tokens, mask = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        tokens[i, width - len(row) :], mask[i, width - len(row) :] = row, True
    return tokens, mask


def stop_ids(tokenizer) -> tuple[int, ...]:
    """The ids that end an answer: end of sequence, and the end-of-turn marks of known templates."""
    marks = [tokenizer.eos_token, "<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|end|>", "<|return|>"]
    known = tokenizer.get_vocab()
    return tuple(sorted({known[m] for m in marks if m in known}))
