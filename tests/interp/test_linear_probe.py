"""Linear probes: against scikit-learn, on planted truths, and on a model's own activations."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import welfare_jax as wj
from welfare_jax.errors import InputError
from welfare_jax.interp import contrast, probe

GOOD = ["I reached the shell.", "We won.", "It went well, I am glad", "I found it and I was happy", "It is here"]
BAD = ["I missed the shell.", "We lost.", "It went badly, I am sad", "I lost it and I was sad"]


def planted(strength, n=30, width=12, seed=0):
    """Activations of three layers, the last with both classes apart along an axis; very different scales."""
    rng = np.random.default_rng(seed)
    act = rng.normal(size=(3, 2 * n, width)) * np.geomspace(0.1, 100, width) + 5
    act[2, :n, 3] += strength * 0.1 * (1000 ** (3 / 11))
    return act.astype("f4"), np.arange(2 * n) < n


@pytest.mark.parametrize(("c", "width"), [(1.0, 12), (0.01, 12), (1.0, 100)])
def test_weights_and_bias_are_those_of_scikit_learn(c, width):
    """With fewer samples than numbers too, where classes can always be told apart."""
    act, labels = planted(1.5, width=width)
    weights, bias = probe.fit(act, labels, c)
    for layer in range(3):
        theirs = make_pipeline(StandardScaler(), LogisticRegression(C=c, tol=1e-9, max_iter=10_000))
        theirs.fit(act[layer].astype("f8"), labels)
        logits = act[layer] @ weights[layer] + bias[layer]
        np.testing.assert_allclose(logits, theirs.decision_function(act[layer].astype("f8")), rtol=1e-3, atol=1e-3)


def test_held_out_accuracy_is_that_of_scikit_learn(monkeypatch):
    act, labels = planted(1.0)
    monkeypatch.setattr(contrast, "activations", lambda *args, **named: act)
    found = wj.probe(None, ["x"] * 30, ["x"] * 30, folds=5)
    split = PredefinedSplit(np.tile(np.arange(30) % 5, 2))
    model = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8, max_iter=10_000))
    for layer in range(3):
        assert found.accuracy[layer] == pytest.approx(cross_val_score(model, act[layer], labels, cv=split).mean())


def test_a_planted_class_is_found_and_nothing_is_found_in_noise(monkeypatch):
    act, _ = planted(6.0, n=40)
    monkeypatch.setattr(contrast, "activations", lambda *args, **named: act)
    found = wj.probe(None, ["x"] * 40, ["x"] * 40)
    assert found.layer == 2 and found.accuracy[2] > 0.95 and found.chance == 0.5
    assert abs(found.accuracy[:2] - 0.5).max() < 0.2  # four standard errors of 80 texts
    assert "layer 2 of 3" in repr(found) and "chance 0.50" in repr(found)


def test_of_a_model():
    lm = wj.load("tiny")
    found = wj.probe(lm, GOOD, BAD, folds=2, batch=4)
    act = contrast.activations(lm, GOOD + BAD)
    weights, bias = probe.fit(act, np.arange(9) < 5)
    np.testing.assert_allclose(found.weights, weights, atol=1e-4)
    said = found.predict(lm, GOOD[:2] + BAD[:2], batch=3)
    logit = act[found.layer][[0, 1, 5, 6]] @ found.weights[found.layer] + found.bias[found.layer]
    np.testing.assert_allclose(said, 1 / (1 + np.exp(-logit)), atol=1e-4)
    assert (said[:2] > 0.5).all() and (said[2:] < 0.5).all()  # of texts that it was made from


@pytest.mark.parametrize(
    ("bad", "said"),
    [({"folds": 1}, "folds=1"), ({"folds": 9}, "folds=9"), ({"c": 0}, "c=0"), ({"position": "x"}, "position='x'")],
)
def test_what_makes_no_sense_is_one_line(bad, said):
    with pytest.raises(InputError, match=said) as error:
        wj.probe(None, ["a", "b"], ["c", "d"], **{"folds": 2} | bad)
    assert "\n" not in str(error.value)
