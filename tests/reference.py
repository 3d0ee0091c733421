"""transformers' own reading of a config.json, and this package's beside it."""

import numpy as np
import pytest
import torch
import transformers
from flax import traverse_util

from welfare_jax.models import decoder, hf


def reference(folder):
    """(config of the decoder, the decoder without numbers, whether it is tied) by transformers."""
    whole = transformers.AutoConfig.from_pretrained(folder)
    text = whole.get_text_config()
    with torch.device("meta"):
        return text, transformers.AutoModelForCausalLM.from_config(text), whole.tie_word_embeddings


def turning(text, model, layer):
    """(inverse frequencies, factor of cosine and sine) of a layer; frequencies that turn nothing are zero."""
    embedding = type(model.model.rotary_emb)(config=text)
    of = f"{text.layer_types[layer]}_" if getattr(text, "layer_types", None) else ""
    of = of if hasattr(embedding, f"{of}inv_freq") else ""
    turns = getattr(text, "no_rope_layers", None) or [1] * text.num_hidden_layers
    factor = getattr(embedding, f"{of}attention_scaling")
    return turns[layer] * getattr(embedding, f"{of}inv_freq").numpy(), factor


def window(text, attention):
    """How far a layer sees: where modules do not say it, transformers gives all of them the config's."""
    span = attention.sliding_window if hasattr(attention, "sliding_window") else getattr(text, "sliding_window", None)
    return span or 0


def check(folder):
    """That both readings of a folder's config.json make the same decoder: constants, frequencies, every shape."""
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
    if text.model_type == "gpt_oss":
        assert (spec.swiglu_alpha, spec.swiglu_limit) == (text.swiglu_alpha, text.swiglu_limit)
    if text.model_type == "qwen3_moe":
        assert spec.weights_of_all == (not text.norm_topk_prob)
    assert spec.query_growth == (text.rope_parameters.get("llama_4_scaling_beta") or 0)
    capped = text.model_type == "gemma2"  # Gemma 3's config has the attribute, and its attention does not
    assert spec.attn_cap == (text.attn_logit_softcapping or 0 if capped else 0)
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
