"""The configs of released models, as their folders spell them: read as transformers reads them, or refused in a line.

`released.jsonl` has one model a line, with every key of its config.json.
"""

import json
import pathlib
import runpy

import numpy as np
import pytest
import torch
import transformers
from flax import traverse_util

from welfare_jax.errors import InputError
from welfare_jax.models import decoder, hf

LINES = (pathlib.Path(__file__).parent / "released.jsonl").read_text().splitlines()
RELEASED = {line["name"]: line["config"] for line in map(json.loads, LINES)}
SHIPPED = (  # their configs lie in the package
    "Qwen/Qwen3-4B-Instruct-2507",
    "Qwen/Qwen3-4B-Base",
    "Qwen/Qwen3-8B",
    "Qwen/Qwen3-14B",
    "openai/gpt-oss-20b",
    "google/gemma-3-4b-it",
    "meta-llama/Llama-3.1-8B-Instruct",
    "THUDM/GLM-4-9B-0414",
    "microsoft/phi-4",
)
REFUSED = {  # and why
    "Qwen/Qwen3-32B-FP8": "quant_method='fp8'.* bfloat16",
    "Qwen/Qwen3-30B-A3B-FP8": "quant_method='fp8'.* bfloat16",
    "ibm-granite/granite-3.3-8b-instruct-FP8": "quant_method='compressed-tensors'.* bfloat16",
    "mistralai/Devstral-2-123B-Instruct-2512": "quant_method='fp8'.* bfloat16",
    "mistralai/Devstral-Small-2-24B-Instruct-2512": "quant_method='fp8'.* bfloat16",
    "mistralai/Mixtral-8x7B-v0.1": "model_type='mixtral' is not supported",
    "XiaomiMiMo/MiMo-7B-Base": "model_type='mimo' is not supported",
}
IGNORED = {  # attributes that these folders have, and that no code of transformers asks for
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": "transformers.js_config",
    "HuggingFaceTB/SmolLM3-3B-Base": "pretraining_tp",
    "Infinigence/Megrez-3B-Instruct": "max_sequence_length",
    "Qwen/Qwen2.5-3B": "use_mrope",
    "Qwen/Qwen2.5-7B": "use_mrope",
    "Qwen/Qwen3-Coder-480B-A35B-Instruct": "qkv_bias, shared_expert_intermediate_size, use_qk_norm",
    "dicta-il/dictalm2.0-instruct": "document_attention",
    "humain-ai/ALLaM-7B-Instruct-preview": "internal_version",
}


def reference(folder):
    """(config of the decoder, the decoder without numbers, whether it is tied) by transformers."""
    whole = transformers.AutoConfig.from_pretrained(folder)
    text = whole.get_text_config()
    with torch.device("meta"):
        return text, transformers.AutoModelForCausalLM.from_config(text), whole.tie_word_embeddings


def turning(text, model, layer):
    """(inverse frequencies, factor of cosine and sine) of a layer; frequencies that turn nothing are zero."""
    embedding = type(model.model.rotary_emb)(config=text)
    of = f"{text.layer_types[layer]}_" if hasattr(embedding, "full_attention_inv_freq") else ""
    turns = getattr(text, "no_rope_layers", None) or [1] * text.num_hidden_layers
    factor = getattr(embedding, f"{of}attention_scaling")
    return turns[layer] * getattr(embedding, f"{of}inv_freq").numpy(), factor


def window(text, attention):
    """How far a layer sees: where modules do not say it, transformers gives all of them the config's."""
    span = attention.sliding_window if hasattr(attention, "sliding_window") else getattr(text, "sliding_window", None)
    return span or 0


def check(folder):
    spec, family = hf.read_config(folder)
    assert hf.family_of(spec) is family
    text, model, tied = reference(folder)
    blocks = model.model.layers
    first, norm = blocks[0].self_attn, model.model.norm
    assert (spec.vocab, spec.width, spec.layers) == (text.vocab_size, text.hidden_size, len(blocks))
    assert (spec.heads, spec.kv_heads) == (text.num_attention_heads, text.num_key_value_heads)
    assert (spec.head_dim, spec.scale) == (first.head_dim, pytest.approx(first.scaling))
    assert spec.norm_eps == getattr(norm, "variance_epsilon", getattr(norm, "eps", None)) and spec.tied == tied
    assert spec.windows == tuple(window(text, block.self_attn) for block in blocks)
    assert (spec.experts, spec.active) == (
        (text.num_local_experts, text.num_experts_per_tok) if hasattr(text, "num_local_experts") else (0, 0)
    )
    if text.model_type == "granite":
        scales = spec.embed_scale, spec.residual_scale, 1 / spec.logit_scale
        assert scales == (text.embedding_multiplier, text.residual_multiplier, pytest.approx(text.logits_scaling))
    assert spec.query_growth == (text.rope_parameters.get("llama_4_scaling_beta") or 0)
    assert spec.attn_cap == (getattr(text, "attn_logit_softcapping", 0) or 0)
    assert spec.logit_cap == (getattr(text, "final_logit_softcapping", 0) or 0)
    for layer in (0, *{spec.rope_of.index(i) for i in spec.rope_of}, spec.layers - 1):
        rope, (frequencies, factor) = spec.ropes[spec.rope_of[layer]], turning(text, model, layer)
        np.testing.assert_allclose(rope.inv_freq(), frequencies, rtol=1e-5)
        assert rope.attention == pytest.approx(factor)
    # Every tensor of the reference has its place here, in the same shape: widths, biases, norms, experts.
    theirs = {name: tuple(x.shape) for name, x in model.state_dict().items() if not (tied and name == hf.HEAD)}
    ours = traverse_util.flatten_dict(decoder.structure(spec)[1], sep="/")
    for t in hf.plan(spec, family, theirs).values():
        for at in hf.places(spec, t):
            assert theirs[hf.stored(t, at)[0]] == hf.raw_shape(t, ours[t.path].shape[len(at) :]), t


@pytest.mark.parametrize("name", [name for name in RELEASED if name not in REFUSED])
def test_released_config(name, tmp_path, recwarn):
    (tmp_path / "config.json").write_text(json.dumps(RELEASED[name]))
    check(tmp_path)
    said = [str(w.message) for w in recwarn if "transformers does not know" in str(w.message)]
    where, names = tmp_path / "config.json", IGNORED.get(name)
    assert said == ([f"{where}: transformers does not know {names}: ignored"] if names else [])


@pytest.mark.parametrize("name", REFUSED)
def test_refused_config(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(RELEASED[name]))
    with pytest.raises(InputError, match=f"^{tmp_path}/config.json: .*{REFUSED[name]}") as error:
        hf.read_config(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("name", [name for name, why in REFUSED.items() if "quant" in why])
def test_nothing_but_the_packing_is_refused(name, tmp_path):
    """As the config would be of the same model in bfloat16; of the multimodal one, the decoder."""
    config = {k: v for k, v in RELEASED[name].items() if k != "quantization_config"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    check(tmp_path)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_config(name):
    check(hf.PUBLISHED / name)


def test_every_family_has_a_released_model():
    read = [config for name, config in RELEASED.items() if name not in REFUSED]
    read += [hf.raw_config(hf.PUBLISHED / name) for name in SHIPPED]
    kinds = {config.get("text_config", config)["model_type"] for config in read}
    for family in hf.FAMILIES:
        assert kinds & set(family.MODEL_TYPES), family.__name__


def test_every_model_of_the_papers_runs_is_shipped(monkeypatch):
    """Without a network, and without one of them in the hub's cache, they can be planned for."""
    assert {str(p.parent.relative_to(hf.PUBLISHED)) for p in hf.PUBLISHED.rglob("config.json")} == set(SHIPPED)
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    found = runpy.run_path(str(pathlib.Path(__file__).parents[2] / "configs" / "paper.py"))
    paths = {found["get_config"](name).model.path for name in found["VARIANTS"]}
    assert paths == set(SHIPPED)
    with pytest.raises(hf.InputError):
        hf.resolve("Qwen/Qwen3-8B")
    assert all((hf.resolve(path, weights=False) / "config.json").is_file() for path in paths)
