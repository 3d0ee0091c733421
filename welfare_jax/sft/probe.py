"""What a decoder can do so far with the generated maze world, on documents it never sees in training."""

import jax
import numpy as np

from welfare_jax.models import decoder
from welfare_jax.sft import corpus
from welfare_jax.text import tiny_world
from welfare_jax.text.wording import LETTERS, Wording

LONG = 352  # tokens of a conversation of 15 turns


class Probe:
    """Called with parameters: accuracy of answers, entropy of moves, and how often stated goals are followed."""

    def __init__(self, graphdef, tokenizer, seed, n=32):
        self.tokenizer, self.spec = tokenizer, decoder.static(graphdef)[0]
        rng, wording = np.random.default_rng(seed), Wording()
        self.sets = {
            "questions": [tiny_world.surroundings(rng, wording, False) for _ in range(4 * n)],
            "choices": [tiny_world.surroundings(rng, wording, True) for _ in range(4 * n)],
            "stories": [tiny_world.stories(rng, wording) for _ in range(4 * n)],
            "goals": [tiny_world.conversation(rng, wording, True, 15) for _ in range(n)],
            "free": [tiny_world.conversation(rng, wording, False, 15) for _ in range(n)],
        }
        self.letters = np.array([tokenizer.convert_tokens_to_ids(x) for x in LETTERS])
        self.length = {"questions": 176, "stories": 128, "choices": 128}

        def predict(params, tokens):
            logits = decoder.forward(graphdef, params, tokens[:, :-1]).logits
            return logits.argmax(-1), jax.nn.log_softmax(logits[..., self.letters])

        self.predict = jax.jit(predict)

    def __call__(self, params) -> dict:
        out = {}
        for name, documents in self.sets.items():
            tokens, weights = corpus.single(documents, self.tokenizer, self.length.get(name, LONG), 0.0, self.spec)
            best, logp = (np.asarray(a) for a in self.predict(params, tokens))
            answer = weights[:, 1:] > 0
            if name in ("questions", "stories"):
                out[f"{name}_accuracy"] = float((best == tokens[:, 1:])[answer].mean())
            else:
                out.update(self.conversation(name, documents, tokens, answer, logp))
        return out

    def conversation(self, name, documents, tokens, answer, logp):
        entropy, follow, chance = [], [], []
        for i, d in enumerate(documents):
            at = np.flatnonzero(answer[i] & np.isin(tokens[i, 1:], self.letters))
            facts = d.facts
            if name == "choices":
                asked = [(facts["neighbours"], r, a) for r, a in zip(facts["reach"], facts["avoid"], strict=True)]
            else:
                asked = [(near, facts["reach"], facts["avoid"]) for near in facts["neighbours"]]
            for k, (near, reach, avoid) in zip(at, asked, strict=False):
                entropy.append(-(np.exp(logp[i, k]) * logp[i, k]).sum())
                options = tiny_world.options(near, reach, avoid)
                if name != "free" and len(options) < 4:
                    follow.append(np.exp(logp[i, k])[options].sum())
                    chance.append(len(options) / 4)
        out = {f"{name}_entropy": float(np.mean(entropy))}
        if follow:
            out |= {f"{name}_followed": float(np.mean(follow)), f"{name}_chance": float(np.mean(chance))}
        return out
