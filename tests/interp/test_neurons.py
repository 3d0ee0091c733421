"""Neuron scores against hooks in torch, sets of exact size whatever is tied, overlaps against Python's sets."""

import jax
import numpy as np
import torch
from helpers import hf_model, padded, params, save, torch_run

from welfare_jax.interp import neurons


def test_sums_against_torch_hooks(tmp_path):
    """Mean activation and squared change, token by token, of two transformers models."""
    models = [hf_model("qwen3"), hf_model("qwen3")]
    with torch.no_grad():
        for p in models[1].parameters():
            p.mul_(1.1)
    tokens, mask = padded()
    seen = []
    for model in models:
        kept = []
        torch_run(model, tokens, mask, [("mlp_neurons", lambda layer, x, kept=kept: kept.append(x) or x)])
        seen.append(torch.stack(kept).detach().numpy()[:, mask])  # [L, real tokens, F]
    (graphdef, ours, _), (_, base, _) = (params(save(m, tmp_path / str(i))) for i, m in enumerate(models))
    got, count = jax.jit(lambda *a: neurons.sums(graphdef, *a))(ours, base, tokens, mask)
    assert count == mask.sum()
    np.testing.assert_allclose(got["activation"], seen[0].sum(1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got["change"], ((seen[0] - seen[1]) ** 2).sum(1), rtol=1e-3, atol=1e-4)


def test_top_is_over_all_layers_together():
    scores = np.zeros((3, 40))
    scores[1, :10], scores[2, 3] = np.arange(10) + 1, 99
    chosen = neurons.top(scores, 5)
    assert chosen.sum() == 6 and chosen[2, 3] and chosen[1, 5:10].all() and neurons.tied(scores, chosen) == 0


def test_ties_never_take_more_than_the_share():
    """Most neurons silent: a percentile of zero would select them all. Those at the border are drawn, in any layer."""
    scores = np.zeros((4, 50))
    scores[0, :6] = 1.0
    draws = [neurons.top(scores, 10, seed) for seed in range(40)]
    assert (scores >= np.percentile(scores, 90)).all()  # the pitfall
    for chosen in draws:
        assert chosen.sum() == 20 and chosen[0, :6].all() and neurons.tied(scores, chosen) == 180
    filled = np.mean([c[scores == 0].mean() for c in draws])
    assert abs(filled - 14 / 194) < 1e-9
    assert all(0.03 < np.mean([c[layer, 6:].mean() for c in draws]) < 0.12 for layer in range(4))
    assert (neurons.top(scores, 10, 3) == draws[3]).all() and neurons.top(scores, 100).all()
    assert not neurons.top(scores, 0.1).any()


def test_parts_and_overlap_against_sets():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 5, 30)) < 0.3
    left, right = ({tuple(i) for i in np.argwhere(x)} for x in (a, b))
    want = {"only_a": left - right, "only_b": right - left, "shared": left & right}
    assert {k: {tuple(i) for i in np.argwhere(v)} for k, v in neurons.parts(a, b).items()} == want
    found = neurons.overlap(a, b)
    assert found["jaccard"] == len(left & right) / len(left | right) and found["shared"] == len(left & right)
    drawn = [(neurons.random(a, 2 * s), neurons.random(b, 2 * s + 1)) for s in range(300)]
    assert all(x.sum() == a.sum() for x, _ in drawn)
    assert abs(found["jaccard_by_chance"] - np.mean([neurons.overlap(*d)["jaccard"] for d in drawn])) < 0.01
    empty = np.zeros((2, 2), bool)
    assert neurons.overlap(empty, empty)["jaccard"] is None and neurons.tied(np.zeros((2, 2)), empty) == 0
    np.testing.assert_array_equal(neurons.factors(a), np.where(a, 0.0, 1.0))
