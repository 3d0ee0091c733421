"""The probe of the maze world, on models whose answers are known."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny_model

from welfare_jax.sft import probe


def test_a_model_that_knows_nothing(tiny_tokenizer):
    """Equal logits: entropy log 4, goals followed at chance."""
    graphdef, params = tiny_model(vocab=len(tiny_tokenizer))
    params["embed"] = jnp.zeros_like(params["embed"])
    if "unembed" in params:
        params["unembed"] = jnp.zeros_like(params["unembed"])
    found = probe.Probe(graphdef, tiny_tokenizer, 0, n=2)(params)
    for name in ("choices", "goals", "free"):
        assert found[f"{name}_entropy"] == pytest.approx(np.log(4), rel=1e-5)
    for name in ("choices", "goals"):
        assert found[f"{name}_followed"] == pytest.approx(found[f"{name}_chance"], rel=1e-5)
    assert found["questions_accuracy"] == found["stories_accuracy"] == 0.0
