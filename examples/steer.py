"""Load a model, steer it inside your own jitted function: python examples/steer.py [folder or hub name]"""

import sys

import jax
import jax.numpy as jnp

import welfare_jax as wj

lm = wj.load(sys.argv[1] if len(sys.argv) > 1 else "tiny")
tokens, mask = wj.encode(lm.tokenizer, ["How is it going?"])
good, bad = (jnp.array([lm.tokenizer.encode(said)]) for said in ("I reached it. I am glad", "I failed. I am sad"))


@jax.jit
def steered(params, layer, scale):
    """The next token's most likely id, with the difference of two texts' last residuals added at one layer."""
    a, b = (wj.forward(lm.graphdef, params, t, read=jnp.array([t.shape[1] - 1])).residual for t in (good, bad))
    iv = wj.add(jnp.take(a - b, layer, axis=0)[0, 0], layer, scale)
    return wj.forward(lm.graphdef, params, tokens, mask=mask, interventions=iv).logits[0, -1].argmax()


for scale in (-8.0, 0.0, 8.0):  # one compilation: layer, vector and scale are data
    print(scale, repr(lm.tokenizer.decode([int(steered(lm.params, 2, scale))])))
