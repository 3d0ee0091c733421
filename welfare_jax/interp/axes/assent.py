"""Valence-Assent Axis (arXiv:2510.27328): what varies most when a model takes sides on charged statements."""

import jax.numpy as jnp
import numpy as np

from welfare_jax.interp import extract, geometry
from welfare_jax.interp.axes import texts
from welfare_jax.models import decoder

QUESTION = "Statement: {}\nDo you (A) agree or (B) disagree? Reply with A or B only."


def statements(tokenizer, path, limit: int, template=None, question: str = QUESTION) -> extract.Samples:
    """Forced-choice questions about statements (records with `statement`), read where the answer begins."""
    rows = texts.spread(texts.records(path, "statements.jsonl", ("statement",)), limit)
    prompts = [question.format(row["statement"]) for row in rows]
    return texts.at_the_end(texts.chats(tokenizer, prompts, template), [0] * len(rows))


def letters(tokenizer) -> np.ndarray:
    """Token ids [2] of the answers A and B."""
    return np.array([tokenizer.encode(letter, add_special_tokens=False)[-1] for letter in "AB"], np.int32)


def axis(model: decoder.Decoder, data, answers):
    """[L, D]: the first right singular vector of the centred last-token activations over the statements.

    Its sign makes projections rise with logit A - logit B. answers [2]: their token ids.
    """
    act, labels = extract.collect(model, data)
    return from_activations(act, answer_logits(model, act[-1], answers), labels >= 0)


def answer_logits(model, last, answers):
    """logit A - logit B [N] from the last block's output [N, D] where the answer begins."""
    logits = decoder.unembed(model, model.final_norm(last.astype(model.embed[...].dtype)), answers)
    return logits[:, 0] - logits[:, 1]


def from_activations(act, difference, use=None):
    """The axis [L, D] of activations [L, N, D] and logit A - logit B [N]; bool `use` [N] says which samples count."""
    use = jnp.ones(difference.shape, bool) if use is None else use
    n = use.sum()
    centre = lambda x: jnp.where(use, x - jnp.where(use, x, 0.0).sum(-1, keepdims=True) / n, 0.0)
    x = jnp.swapaxes(centre(jnp.swapaxes(act, 1, 2)), 1, 2)
    found = geometry.pca_axis(x, 1, centre=False)[0][:, 0]
    agreement = jnp.einsum("lnd,ld,n->l", x, found, centre(difference))
    return jnp.where(agreement < 0, -1.0, 1.0)[:, None] * found
