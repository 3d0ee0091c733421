"""How alike the samples of one prompt are: Self-BLEU (Zhu et al., arXiv:1802.01886), by words or by any tokens.

BLEU as Papineni et al. (2002) define it: clipped n-gram precisions, their geometric mean, the brevity penalty; zero
where no word is shared, else a precision of zero counts as 0.1 / n-grams (method 1 of Chen and Cherry, 2014). 1 means
that all samples are the same.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence

LEAST = 0.1  # matches, where there are none


def self_bleu(samples: Sequence[Sequence[Hashable]], order: int = 4) -> float:
    """Mean BLEU of every sample against all the others, n-grams of 1..`order`; nan for fewer than two samples.

    A sample shorter than `order` is judged by the n-grams that it has. An empty one counts as one empty word.
    """
    rows = [tuple(s) or ("",) for s in samples]
    if len(rows) < 2:
        return math.nan
    grams = [[_grams(s, n) for n in range(1, min(order, len(s)) + 1)] for s in rows]
    most = [_two_most([g[n] for g in grams if len(g) > n]) for n in range(order)]
    lengths = Counter(map(len, rows))
    total = 0.0
    for sample, own in zip(rows, grams):
        clipped = [_clipped(counts, *two) for counts, two in zip(own, most)]
        if not clipped[0]:
            continue
        logs = [math.log(max(c, LEAST) / counts.total()) for c, counts in zip(clipped, own)]
        others = lengths - Counter([len(sample)])
        closest = min(others, key=lambda n: (abs(n - len(sample)), n))
        total += math.exp(sum(logs) / len(logs) + min(0.0, 1 - closest / len(sample)))
    return total / len(rows)


def _grams(sample: tuple, n: int) -> Counter:
    return Counter(sample[i : i + n] for i in range(len(sample) - n + 1))


def _clipped(counts, first, second) -> int:
    """Matches of one sample's n-grams with the others', where `first` and `second` are the largest counts of all."""
    return sum(min(c, second[g] if c == first[g] else first[g]) for g, c in counts.items())


def _two_most(counters) -> tuple[Counter, Counter]:
    """The largest and the second largest count of every n-gram over all samples; equal ones count as two."""
    first, second = Counter(), Counter()
    for counts in counters:
        for g, c in counts.items():
            if c > first[g]:
                first[g], second[g] = c, first[g]
            elif c > second[g]:
                second[g] = c
    return first, second
