"""The configs of released models, as their folders spell them: read without a complaint, and as large as published."""

import json
import math
import pathlib
import runpy

import jax
import pytest

from welfare_jax.models import decoder, hf

SHIPPED = {  # billions of parameters, of the text decoder; their configs lie in the package
    "Qwen/Qwen3-4B-Instruct-2507": 4.02,
    "Qwen/Qwen3-4B-Base": 4.02,
    "Qwen/Qwen3-8B": 8.19,
    "Qwen/Qwen3-14B": 14.77,
    "openai/gpt-oss-20b": 20.91,
    "google/gemma-3-4b-it": 3.88,
    "meta-llama/Llama-3.1-8B-Instruct": 8.03,
    "THUDM/GLM-4-9B-0414": 9.4,
    "microsoft/phi-4": 14.66,
}
RELEASED = {  # name -> (billions of parameters, what config.json says of the architecture)
    "Qwen2.5-7B": (
        7.62,
        {
            "hidden_act": "silu",
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "max_position_embeddings": 32768,
            "max_window_layers": 28,
            "model_type": "qwen2",
            "num_attention_heads": 28,
            "num_hidden_layers": 28,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0,
            "sliding_window": 131072,
            "tie_word_embeddings": False,
            "use_sliding_window": False,
            "vocab_size": 152064,
        },
    ),
    "gemma-2-9b-it": (
        9.24,
        {
            "attention_bias": False,
            "attn_logit_softcapping": 50.0,
            "cache_implementation": "hybrid",
            "final_logit_softcapping": 30.0,
            "head_dim": 256,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 3584,
            "intermediate_size": 14336,
            "max_position_embeddings": 8192,
            "model_type": "gemma2",
            "num_attention_heads": 16,
            "num_hidden_layers": 42,
            "num_key_value_heads": 8,
            "query_pre_attn_scalar": 256,
            "rms_norm_eps": 1e-06,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
            "sliding_window_size": 4096,
            "vocab_size": 256000,
        },
    ),
    "gemma-3-1b-it": (
        1.0,
        {
            "attention_bias": False,
            "attn_logit_softcapping": None,
            "cache_implementation": "hybrid",
            "final_logit_softcapping": None,
            "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 1152,
            "intermediate_size": 6912,
            "max_position_embeddings": 32768,
            "model_type": "gemma3_text",
            "num_attention_heads": 4,
            "num_hidden_layers": 26,
            "num_key_value_heads": 1,
            "query_pre_attn_scalar": 256,
            "rms_norm_eps": 1e-06,
            "rope_local_base_freq": 10000,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": 512,
            "sliding_window_pattern": 6,
            "vocab_size": 262144,
        },
    ),
    "Phi-3.5-mini": (
        3.82,
        {
            "attention_bias": False,
            "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
            "embd_pdrop": 0.0,
            "hidden_act": "silu",
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "max_position_embeddings": 131072,
            "model_type": "phi3",
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 32,
            "original_max_position_embeddings": 4096,
            "resid_pdrop": 0.0,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {"long_factor": [1.5] * 48, "short_factor": [1.0] * 48, "type": "longrope"},
            "rope_theta": 10000.0,
            "sliding_window": 262144,
            "tie_word_embeddings": False,
            "vocab_size": 32064,
        },
    ),
    "Phi-4-mini": (
        3.84,
        {
            "attention_bias": False,
            "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
            "embd_pdrop": 0.0,
            "full_attn_mod": 1,
            "hidden_act": "silu",
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "interpolate_factor": 1,
            "lm_head_bias": False,
            "max_position_embeddings": 131072,
            "mlp_bias": False,
            "model_type": "phi3",
            "num_attention_heads": 24,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "original_max_position_embeddings": 4096,
            "partial_rotary_factor": 0.75,
            "resid_pdrop": 0.0,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {"long_factor": [1.5] * 48, "short_factor": [1.0] * 48, "type": "longrope"},
            "rope_theta": 10000.0,
            "sliding_window": 262144,
            "tie_word_embeddings": True,
            "vocab_size": 200064,
        },
    ),
}


def check(folder, billions):
    spec, family = hf.read_config(folder)
    sizes = [math.prod(x.shape) for x in jax.tree.leaves(decoder.structure(spec)[1])]
    assert sum(sizes) / 1e9 == pytest.approx(billions, abs=0.01)
    assert hf.family_of(spec) is family


@pytest.mark.parametrize("name", RELEASED)
def test_released_config(name, tmp_path):
    billions, config = RELEASED[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    check(tmp_path, billions)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_config(name):
    check(hf.PUBLISHED / name, SHIPPED[name])


def test_every_model_of_the_papers_runs_is_shipped(monkeypatch):
    """Without a network, and without one of them in the hub's cache, they can be planned for."""
    assert {str(p.parent.relative_to(hf.PUBLISHED)) for p in hf.PUBLISHED.rglob("config.json")} == set(SHIPPED)
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    found = runpy.run_path(str(pathlib.Path(__file__).parents[2] / "configs" / "paper.py"))
    paths = {found["get_config"](name).model.path for name in found["RUNS"]}
    assert paths == set(SHIPPED)
    with pytest.raises(hf.InputError):
        hf.resolve("Qwen/Qwen3-8B")
    assert all((hf.resolve(path, weights=False) / "config.json").is_file() for path in paths)
