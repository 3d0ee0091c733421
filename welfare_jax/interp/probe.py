"""Linear probes: logistic regression at every layer, with how often it is right about texts that it has not seen.

L layers, N texts, D width.
"""

import dataclasses

import numpy as np

from welfare_jax.errors import InputError
from welfare_jax.interp import contrast
from welfare_jax.models import chat, inputs


@dataclasses.dataclass(frozen=True)
class Probe:
    """What `probe` found; the logit of "positive" is `activation @ weights[l] + bias[l]`."""

    weights: np.ndarray  # float32 [L, D], of activations as they are
    bias: np.ndarray  # float32 [L]
    accuracy: np.ndarray  # [L], on texts in folds that the probe tested had not seen
    chance: float  # what naming the larger class every time would reach
    layer: int  # that of the highest accuracy, the first among equals
    hook: str
    position: str

    def predict(self, lm, texts, layer: int | None = None, *, batch=32, template=None, plain=False) -> np.ndarray:
        """The probability of "positive" [N] of other texts, given as in `wj.probe`."""
        layer = self.layer if layer is None else layer
        where = {"position": self.position, "hook": self.hook, "batch": batch, "template": template, "plain": plain}
        act = contrast.activations(lm, texts, **where)[layer]
        return 1 / (1 + np.exp(-(act @ self.weights[layer] + self.bias[layer])))

    def __repr__(self):
        best = f"layer {self.layer} of {len(self.bias)}, held-out accuracy {self.accuracy[self.layer]:.2f}"
        return f"Probe at {self.hook}: {best} (chance {self.chance:.2f})"


def probe(
    lm, positive, negative, *, c=1.0, position="last", hook="resid_post", folds=4, batch=32, template=None, plain=False
) -> Probe:
    """A logistic regression at every layer that tells two lists of texts apart.

    positive, negative, position, hook, template, plain: as in `wj.read_direction`. c: the inverse strength of the L2
    penalty on the weights of standardised activations, as scikit-learn's `C`. The accuracy is of held-out texts: the
    lists are cut in `folds`, each judged by the probe that was fitted to the others.
    Raises `InputError` where a list is shorter than `folds`, which is two or more, and where `c` is not positive.
    """
    positive, negative = chat.rows(positive), chat.rows(negative)
    if not 2 <= folds <= min(len(positive), len(negative)):
        raise InputError(f"folds={folds}: need two or more, and at least so many texts on each side")
    if not c > 0:
        raise InputError(f"c={c}: must be positive; smaller is a stronger penalty")
    contrast.known_position(position)
    inputs.hooks(hook)
    where = {"position": position, "hook": hook, "batch": batch, "template": template, "plain": plain}
    act = contrast.activations(lm, [*positive, *negative], **where)
    labels = np.arange(act.shape[1]) < len(positive)
    fold = np.concatenate([np.arange(n) % folds for n in (len(positive), len(negative))])
    right = np.empty(act.shape[:2], bool)
    for k in range(folds):
        held = fold == k
        weights, bias = fit(act[:, ~held], labels[~held], c)
        right[:, held] = (np.einsum("lnd,ld->ln", act[:, held], weights) + bias[:, None] > 0) == labels[held]
    accuracy = right.mean(1)
    layer, share = int(np.argmax(accuracy)), labels.mean()
    return Probe(*fit(act, labels, c), accuracy, float(max(share, 1 - share)), layer, hook, position)


def fit(activations, labels, c: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(weights float32 [L, D], bias [L]) of activations [L, N, D] and labels bool [N], each layer for itself.

    Activations are standardised by their means and deviations, the bias is not penalised, and what is minimised is
    |weights|^2 / 2 + c * the sum of log losses, as in scikit-learn; weights and bias are of activations as they are.
    """
    found = [_layer(np.asarray(x, np.float64), np.asarray(labels, bool), c) for x in activations]
    weights, bias = zip(*found)
    return np.stack(weights).astype(np.float32), np.array(bias, np.float32)


def _layer(x, labels, c):
    """The optimum lies in the span of the samples, so it is looked for there: N numbers and not D."""
    from scipy.optimize import minimize

    mean, std = x.mean(0), x.std(0)
    std[std == 0] = 1.0
    u, size, axes = np.linalg.svd((x - mean) / std, full_matrices=False)
    z, sign = u * size, np.where(labels, 1.0, -1.0)

    def loss(w):
        margin = sign * (z @ w[:-1] + w[-1])
        pull = -c * sign / (1 + np.exp(np.minimum(margin, 500)))
        value = w[:-1] @ w[:-1] / 2 + c * np.logaddexp(0, -margin).sum()
        return value, np.append(w[:-1] + pull @ z, pull.sum())

    start = np.zeros(z.shape[1] + 1)
    w = minimize(loss, start, jac=True, method="L-BFGS-B", options={"gtol": 1e-8, "ftol": 1e-14, "maxiter": 2000}).x
    weights = (w[:-1] @ axes) / std
    return weights, w[-1] - mean @ weights
