"""Self-BLEU against BLEU written out loop by loop, and that against a published value."""

import math

import numpy as np
import pytest

from welfare_jax.text import diversity


def reference_bleu(hypothesis, references, order=4):
    """Papineni et al. (2002) sentence by sentence; where a precision is zero, 0.1 matches; nothing shared is zero."""
    precisions = []
    for n in range(1, min(order, len(hypothesis)) + 1):
        mine = [hypothesis[i : i + n] for i in range(len(hypothesis) - n + 1)]
        matches = 0
        for gram in {tuple(g) for g in mine}:
            times = sum(tuple(g) == gram for g in mine)
            most = max(
                sum(tuple(r[i : i + n]) == gram for i in range(len(r) - n + 1)) for r in references
            )  # fmt: skip
            matches += min(times, most)
        if n == 1 and matches == 0:
            return 0.0
        precisions.append((matches or 0.1) / len(mine))
    nearest = sorted((abs(len(r) - len(hypothesis)), len(r)) for r in references)[0][1]
    penalty = 1.0 if len(hypothesis) > nearest else math.exp(1 - nearest / len(hypothesis))
    return penalty * math.prod(precisions) ** (1 / len(precisions))


CANDIDATE = "It is a guide to action which ensures that the military always obeys the commands of the party"
PUBLISHED = [  # of Papineni et al. (2002), their first example
    "It is a guide to action that ensures that the military will forever heed Party commands",
    "It is the guiding principle which guarantees the military forces always being under the command of the Party",
    "It is the practical guide for the army always to heed the directions of the party",
]


def test_the_reference_gives_the_published_value():
    found = reference_bleu(CANDIDATE.split(), [r.split() for r in PUBLISHED])
    assert found == pytest.approx(0.5045666840058485, abs=1e-12)  # NLTK's documentation


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("seed", range(6))
def test_self_bleu_against_the_reference(seed, order):
    rng = np.random.default_rng(seed)
    samples = [rng.integers(0, 2 + seed, rng.integers(1, 12)).tolist() for _ in range(2 + 2 * seed)]
    samples += samples[:1]  # one of them twice
    want = np.mean([reference_bleu(s, samples[:i] + samples[i + 1 :], order) for i, s in enumerate(samples)])
    assert diversity.self_bleu(samples, order) == pytest.approx(want, rel=1e-12)


def test_self_bleu_of_sentences():
    samples = [CANDIDATE.split(), *(r.split() for r in PUBLISHED)]
    want = np.mean([reference_bleu(s, samples[:i] + samples[i + 1 :]) for i, s in enumerate(samples)])
    assert diversity.self_bleu(samples) == pytest.approx(want, rel=1e-12)


def test_ends_of_the_scale():
    assert diversity.self_bleu([["a", "b", "c"]] * 5) == 1 and diversity.self_bleu([["a"], ["a"]]) == 1
    assert diversity.self_bleu([["a", "b"], ["c", "d"], ["e"]]) == 0
    assert diversity.self_bleu([[], []]) == 1 and diversity.self_bleu([[], ["a"]]) == 0
    assert math.isnan(diversity.self_bleu([["a"]]))
