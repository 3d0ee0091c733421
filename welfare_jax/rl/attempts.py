"""What several attempts at each problem are worth (arXiv:2504.07912 §2): pass@k, maj@k, shares by format. NumPy.

P problems, n attempts each.
"""

import math

import numpy as np


def pass_at_k(right, k: int) -> float:
    """Probability that at least one of k attempts is right, drawn without replacement from the n there are.

    right: bool [P, n]. Mean over problems of 1 - C(n - c, k) / C(n, k) with c right ones (arXiv:2107.03374 §2.1).
    """
    n = right.shape[1]
    return float(np.mean([1 - math.comb(n - int(c), k) / math.comb(n, k) for c in right.sum(1)]))


def maj_at_k(answers, truth, k: int) -> float:
    """Probability that the most frequent answer of k attempts is the right one, over all draws without replacement.

    answers: P lists of n whole numbers, or None where there is no answer, which has no vote; truth [P]. Answers that
    are equally frequent share the win. Exact: draws are counted, not sampled.
    """
    return float(np.mean([_majority(own, t, k) for own, t in zip(answers, truth, strict=True)]))


def _majority(answers, truth, k: int) -> float:
    counts = {a: answers.count(a) for a in set(answers)}
    right, silent = counts.pop(truth, 0), counts.pop(None, 0)
    won = 0.0
    for votes in range(1, min(right, k) + 1):
        # ways[size][ties]: draws of `size` other attempts in which no answer beats `votes` and `ties` equal it
        ways = {(size, 0): math.comb(silent, size) for size in range(min(silent, k - votes) + 1)}
        for count in counts.values():
            more = {}
            for (size, ties), number in ways.items():
                for taken in range(min(count, votes, k - votes - size) + 1):
                    key = (size + taken, ties + (taken == votes))
                    more[key] = more.get(key, 0) + number * math.comb(count, taken)
            ways = more
        won += math.comb(right, votes) * sum(w / (ties + 1) for (size, ties), w in ways.items() if size == k - votes)
    return won / math.comb(len(answers), k)


def by_format(styles, right, names) -> dict:
    """Share of every format among the attempts and its accuracy, None where there are none: flat, for metrics.

    styles: format names [N]; right: bool [N]; names: the formats to tell apart.
    """
    styles, right, out = np.asarray(styles), np.asarray(right, bool), {}
    for name in names:
        own = styles == name
        out[f"share_{name}"] = float(own.mean())
        out[f"accuracy_{name}"] = float(right[own].mean()) if own.any() else None
    return out | {"accuracy": float(right.mean())}
