"""Every hook point read at every layer, against what forward hooks catch in transformers."""

import jax
import numpy as np
import pytest
import torch
from helpers import hf_model, padded, params, save, torch_run

from welfare_jax.models import decoder
from welfare_jax.models.interventions import HOOKS


@pytest.mark.parametrize("kind", ["qwen3", "gemma3"])
def test_every_hook_point_equals_transformers(kind, tmp_path):
    """At single positions, where the last layer does only their work, and averaged over tokens."""
    model = hf_model(kind)
    graphdef, weights, _ = params(save(model, tmp_path))
    tokens, mask = padded()
    seen = {at: [] for at in HOOKS}

    def keep(at):
        return lambda layer, x: seen[at].append(x.numpy()) or x

    with torch.no_grad():
        torch_run(model, tokens, mask, [(at, keep(at)) for at in HOOKS])
    read = np.array([[18, 9], [11, 3], [6, 0]])
    read[1] += 19 - 12 if not mask[1, 0] else 0
    weights_of = (mask * np.random.default_rng(0).random(mask.shape)).astype("f4")[:, None]

    @jax.jit
    def ours(p, read, weights_of):
        bound = decoder.bind(graphdef, p)
        at = decoder.backbone(bound, tokens, mask, read=read, everywhere=False, hook=HOOKS)[1]
        return at, decoder.backbone(bound, tokens, mask, read=weights_of, hook=HOOKS)[1]

    for name, one, mean in zip(HOOKS, *ours(weights, read, weights_of)):
        want = np.stack(seen[name])
        assert want.std() > 0.1
        np.testing.assert_allclose(one, want[:, np.arange(3)[:, None], read], atol=1e-4, err_msg=name)
        want = np.einsum("bpt,lbtd->lbpd", weights_of, np.where(mask[..., None], want, 0))
        np.testing.assert_allclose(mean, want, atol=2e-4, err_msg=name)
