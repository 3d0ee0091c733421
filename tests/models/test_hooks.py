"""Every hook point read at every layer, against what forward hooks catch in transformers."""

import jax
import numpy as np
import pytest
import torch
from helpers import hf_model, padded, params, save, tiny_model, torch_run

from welfare_jax.errors import InputError
from welfare_jax.interp import contrast
from welfare_jax.models import decoder, interventions
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


@pytest.mark.parametrize("kind", ["gemma2", "gpt_oss", "ministral3", "olmo2"])
def test_attention_patterns_equal_transformers(kind, tmp_path):
    """Soft caps and windows, sinks, growing queries, normed heads; read at positions, and averaged."""
    model = hf_model(kind)
    graphdef, weights, spec = params(save(model, tmp_path))
    tokens, mask = padded()
    given = {name: torch.as_tensor(a.astype("i8")) for name, a in (("input_ids", tokens), ("attention_mask", mask))}
    given["position_ids"] = (given["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        theirs = model(**given, output_attentions=True, use_cache=False).attentions
    want = np.stack([a.numpy() for a in theirs]).swapaxes(2, 3)  # [L, B, T, H, S]
    read = np.array([[18, 9], [18, 10], [6, 0]])
    weights_of = (mask * np.random.default_rng(0).random(mask.shape)).astype("f4")[:, None]

    @jax.jit
    def ours(p, read, weights_of):
        bound = decoder.bind(graphdef, p)
        at = decoder.backbone(bound, tokens, mask, read=read, everywhere=False, hook=("z", "pattern"))[1][1]
        return at, decoder.backbone(bound, tokens, mask, read=weights_of, hook="pattern")[1]

    at, mean = ours(weights, read, weights_of)
    assert at.shape == (spec.layers, 3, 2, spec.heads, 19)
    np.testing.assert_allclose(at, want[:, np.arange(3)[:, None], read], atol=1e-5)
    np.testing.assert_allclose(mean, np.einsum("bpt,lbths->lbphs", weights_of, want), atol=2e-5)
    assert np.allclose(at.sum(-1), 1.0, atol=1e-5) == (kind != "gpt_oss")  # sinks take weight and are no slot


def test_patterns_through_a_cache_are_those_of_the_whole():
    graphdef, weights = tiny_model("gemma3")
    tokens, whole = padded((19, 19), "--")[0], decoder.static(graphdef)[0]
    want = decoder.forward(graphdef, weights, tokens, read=np.array([[18], [12]]), hook="pattern").residual
    cache = decoder.empty_cache(whole, 2, 19, "float32")
    first = decoder.forward(graphdef, weights, tokens[:, :11], cache=cache)
    later = decoder.forward(
        graphdef, weights, tokens[:, 11:], cache=first.cache, read=np.array([[7], [1]]), hook="pattern"
    )
    seen = np.asarray(later.residual)  # the cache's 19 slots, then the 8 new ones
    assert seen.shape[-1] == 27 and not seen[..., 11:19].any()
    np.testing.assert_allclose(np.delete(seen, range(11, 19), -1), want, atol=1e-5)


def test_patterns_are_read_and_not_steered():
    with pytest.raises(InputError, match="'pattern' is unknown"):
        interventions.add(np.ones(24), 0, at="pattern")
    with pytest.raises(InputError, match="'pattern' is unknown"):
        contrast.read_direction(None, ["a", "b"], ["c", "d"], folds=2, hook="pattern")
