"""Splitting parameters by path, and the optimiser against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers import tiny_model

from welfare_jax.errors import InputError
from welfare_jax.models.layers import Lora
from welfare_jax.rl.objectives import cosine
from welfare_jax.train import state
from welfare_jax.train.settings import Optimisation


@pytest.fixture(scope="module")
def params():
    return tiny_model("qwen3", lora=Lora(2, 4.0))[1]


@pytest.mark.parametrize("pattern", [r".*/lora_[ab]", r".*", r"embed|blocks/mlp/.*"])
def test_split_and_join(pattern, params):
    trainable, frozen = state.split(params, pattern)
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, state.join(trainable, frozen), params))
    assert not trainable.keys() & frozen.keys() and len(trainable) + len(frozen) == len(jax.tree.leaves(params))
    if "lora" in pattern:
        assert len(trainable) == 14 and all("lora" in k for k in trainable) and not any("lora" in k for k in frozen)


@pytest.mark.parametrize("pattern", ["lora_a", "blocks/attn/q", ".*/lora_c"])
def test_a_pattern_must_match_whole_paths(pattern, params):
    with pytest.raises(InputError) as error:
        state.split(params, pattern)
    assert "\n" not in str(error.value) and pattern in str(error.value) and "blocks/" in str(error.value)


def test_optimizer_equals_torch():
    """AdamW with decoupled decay, clipped by global norm, on the cosine: six steps, the last beyond the schedule."""
    cfg = Optimisation(lr=0.05, weight_decay=0.1, grad_clip=1.0, schedule_steps=5, adam_b1=0.8, adam_b2=0.95)
    rng = np.random.default_rng(0)
    start = {"a": rng.normal(size=(4, 3)).astype("f4"), "b": rng.normal(size=3).astype("f4")}
    ours, theirs = jax.tree.map(jnp.asarray, start), {k: torch.nn.Parameter(torch.tensor(v)) for k, v in start.items()}
    tx = state.optimizer(cfg)
    memory = tx.init(ours)
    adam = torch.optim.AdamW(theirs.values(), lr=cfg.lr, betas=(0.8, 0.95), weight_decay=0.1)
    for step, size in enumerate((5.0, 0.01, 3.0, 0.5, 2.0, 2.0)):  # above and below the clip
        grads = {k: (size * rng.normal(size=v.shape)).astype("f4") for k, v in start.items()}
        updates, memory = tx.update(jax.tree.map(jnp.asarray, grads), memory, ours, lr=cfg.lr * cosine(step, 5))
        ours = jax.tree.map(jnp.add, ours, updates)
        for k, p in theirs.items():
            p.grad = torch.tensor(grads[k])
        torch.nn.utils.clip_grad_norm_(theirs.values(), cfg.grad_clip)
        adam.param_groups[0]["lr"] = cfg.lr * float(cosine(step, 5))
        adam.step()
        for k in start:
            np.testing.assert_allclose(ours[k], theirs[k].detach(), atol=1e-5, err_msg=f"{k}, step {step}")
    assert np.abs(ours["a"] - start["a"]).max() > 0.05
