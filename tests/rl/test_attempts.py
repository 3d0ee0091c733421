"""pass@k against the closed form and all subsets, maj@k against all subsets, shares on written examples."""

import collections
import itertools
import math

import numpy as np
import pytest

from welfare_jax.rl import attempts

CASES = [  # attempts at one problem whose answer is 5
    [5, 5, 5, 5, 5],
    [1, 2, 3, 4, 6],
    [5, 5, 3, 3, 4],
    [5, None, None, 3, 3, 3],
    [None, None, None, None],
    [None, 5, None],
    [5, 3, 5, 3, 4, 4, 5],
]


def majority(votes):
    """Chance that 5 is drawn from the most frequent answers."""
    counts = collections.Counter(v for v in votes if v is not None)
    best = [a for a, c in counts.items() if c == max(counts.values())]
    return (5 in best) / max(len(best), 1)


@pytest.mark.parametrize("answers", CASES)
def test_against_every_subset(answers):
    right = np.array([[a == 5 for a in answers]])
    for k in range(1, len(answers) + 1):
        subsets = list(itertools.combinations(answers, k))
        assert attempts.pass_at_k(right, k) == pytest.approx(np.mean([5 in s for s in subsets]))
        assert attempts.maj_at_k([answers], [5], k) == pytest.approx(np.mean([majority(s) for s in subsets]))


def test_pass_at_k_closed_form():
    """Independent attempts that succeed with probability p: 1 - (1 - p)^k in expectation, without bias for k < n."""
    p, n, k = 0.3, 6, 3
    of = {c: attempts.pass_at_k(np.array([[i < c for i in range(n)]]), k) for c in range(n + 1)}
    weight = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    assert sum(w * of[c] for c, w in enumerate(weight)) == pytest.approx(1 - (1 - p) ** k)


def test_problems_are_averaged():
    right = np.array([[True, False], [False, False], [True, True], [False, False]])
    assert attempts.pass_at_k(right, 1) == 3 / 8 and attempts.pass_at_k(right, 2) == 0.5
    assert attempts.maj_at_k([[1, 1], [2, 3], [4, 9]], [1, 9, 4], 2) == pytest.approx((1 + 0 + 0.5) / 3)


def test_formats():
    styles, right = ["words", "words", "script", "other"], [True, False, True, False]
    assert attempts.by_format(styles, right, ("words", "script", "function", "other")) == {
        "share_words": 0.5, "accuracy_words": 0.5, "share_script": 0.25, "accuracy_script": 1.0, "share_function": 0.0,
        "accuracy_function": None, "share_other": 0.25, "accuracy_other": 0.0, "accuracy": 0.5,
    }  # fmt: skip
