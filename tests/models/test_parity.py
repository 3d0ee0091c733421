"""The decoder against transformers: random weights, awkward shapes, padding on both sides, all spellings of rope."""

import copy
import json

import numpy as np
import pytest
import torch
from helpers import FAMILIES, edit_config, hf_model, padded, params, run, save, torch_run
from variants import CASES

from welfare_jax.models import hf

OLD_ROPE = {
    "llama": dict(rope_theta=5e5, rope_scaling=dict(
        rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=32)),
    "gpt_oss": dict(rope_theta=5e3, rope_scaling=dict(
        rope_type="yarn", factor=4.0, beta_fast=8.0, beta_slow=1.0, truncate=False,
        original_max_position_embeddings=32)),
    "glm4": dict(rope_theta=5e3, partial_rotary_factor=0.25),
    "phi3": dict(rope_theta=5e3, partial_rotary_factor=0.75, original_max_position_embeddings=128, rope_scaling=dict(
        type="longrope", short_factor=[1.0, 1.2, 1.4], long_factor=[2.0, 4.0, 6.0])),
    "qwen3": dict(rope_theta=5e5, rope_scaling=dict(type="linear", factor=4.0)),
    "gemma3": dict(rope_theta=1e5, rope_scaling=dict(rope_type="linear", factor=8.0), rope_local_base_freq=500.0),
}  # fmt: skip


def compare(model, folder, tokens, mask, atol=1e-4):
    graphdef, weights, spec = params(folder)
    read = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    out = run(graphdef, weights, tokens, mask=mask, read=read)
    with torch.no_grad():
        logits, stream, hidden = torch_run(model, tokens, mask)
    assert logits.std() > 0.1  # a model that says nothing would agree with anything
    assert np.abs(np.asarray(out.logits) - logits.numpy())[mask].max() < atol
    mine = np.asarray(out.residual)
    assert mine.shape == (spec.layers, *tokens.shape, spec.width)
    for layer in range(spec.layers):
        assert np.abs(mine[layer] - stream[layer].numpy())[mask].max() < atol, layer
        if layer + 1 < spec.layers:  # the last entry of transformers' hidden states comes after the final norm
            assert np.abs(mine[layer] - hidden[layer + 1].numpy())[mask].max() < atol, layer


@pytest.mark.parametrize("case", CASES)
def test_logits_and_residuals(case, tmp_path):
    kind, changes = CASES[case]
    model = hf_model(kind, **changes)
    compare(model, save(model, tmp_path), *padded())


DYNAMIC = dict(rope_parameters=dict(rope_type="dynamic", rope_theta=500.0, factor=6.0), max_position_embeddings=12)


@pytest.mark.parametrize(
    ("kind", "changes"), [("phi3", dict(original_max_position_embeddings=12)), ("internlm3", DYNAMIC)]
)
def test_frequencies_go_by_the_length_of_the_text(kind, changes, tmp_path):
    """As transformers does for one text: up to the original context they are others than beyond it."""
    model = hf_model(kind, **changes)
    graphdef, weights, spec = params(save(model, tmp_path))
    assert spec.ropes[0].by_length and spec.ropes[0].original == 12
    tokens, mask = padded((19, 12, 13), "-lr")
    got = np.asarray(run(graphdef, weights, tokens, mask=mask).logits)
    for row, on in enumerate(mask):
        with torch.no_grad():
            fresh = copy.deepcopy(model)  # transformers keeps the longest text so far in mind
            want = torch_run(fresh, tokens[row][on][None])[0].numpy()[0]
        assert np.abs(got[row][on] - want).max() < 1e-4, row


@pytest.mark.parametrize("kind", FAMILIES)
def test_bfloat16(kind, tmp_path, record_property):
    """bfloat16 weights and products stay as near to float32 as transformers' own do."""
    model = hf_model(kind)
    folder, (tokens, mask) = save(model, tmp_path), padded()
    with torch.no_grad():
        exact = torch_run(model, tokens, mask)[0].numpy()[mask]
        theirs = torch_run(copy.deepcopy(model).to(torch.bfloat16), tokens, mask)[0].float().numpy()[mask]
    graphdef, weights, _ = hf.load_params(folder, "bfloat16")
    mine = np.asarray(run(graphdef, weights, tokens, mask=mask).logits)[mask]
    errors = [float(np.sqrt(np.mean((x - exact) ** 2))) for x in (mine, theirs)]
    record_property("rms", errors)
    print(f"{kind}: rms error of bfloat16 logits {errors[0]:.4f}, transformers {errors[1]:.4f}, std {exact.std():.2f}")
    assert 0 < errors[0] < 1.5 * errors[1]


@pytest.mark.parametrize("kind", ["qwen3", "gemma3", "gemma3_vision", "phi3", "gpt_oss"])
def test_sharded_files(kind, tmp_path):
    model = hf_model(kind)
    save(model, tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    compare(model, tmp_path, *padded())


@pytest.mark.parametrize("kind", OLD_ROPE)
def test_old_spelling_of_rope(kind, tmp_path):
    """Files written before `rope_parameters`: transformers and this package read the same settings from them."""
    save(hf_model(kind), tmp_path)
    edit_config(tmp_path, rope_parameters=None, **OLD_ROPE[kind])
    graphdef, weights, spec = params(tmp_path)
    old = OLD_ROPE[kind]
    if kind != "phi3":
        assert spec.ropes[0].factor == old.get("rope_scaling", {"factor": 1.0})["factor"]
    assert [r.theta for r in spec.ropes] == [v for k, v in old.items() if "theta" in k or "base" in k]
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    compare(model, tmp_path, *padded())


def test_old_spelling_in_a_multimodal_folder(tmp_path):
    model = save(hf_model("gemma3_vision"), tmp_path)
    text = json.loads((tmp_path / "config.json").read_text())["text_config"]
    text = {k: v for k, v in text.items() if k not in ("rope_parameters", "layer_types")}
    edit_config(tmp_path, text_config=text | OLD_ROPE["gemma3"] | dict(sliding_window_pattern=2))
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(tmp_path, attn_implementation="eager").eval()
    compare(model, tmp_path, *padded())


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
@pytest.mark.parametrize(
    ("kind", "tied"), [("gemma3_vision", True), ("gemma3_vision", False), ("ministral3_vision", False)]
)
def test_both_layouts_of_multimodal_tensors(prefix, kind, tied, tmp_path):
    """Older folders put the decoder under `language_model.model.`, newer ones under `model.language_model.`."""
    from safetensors.numpy import load_file, save_file

    model = hf_model(kind, tie_word_embeddings=tied)
    save(model, tmp_path)
    old = prefix.startswith("language")
    tensors = {}
    for name, value in load_file(tmp_path / "model.safetensors").items():
        inner = name.split("model.", 2)[-1] if "language_model" in name else None
        if name.endswith("lm_head.weight"):
            name = "language_model.lm_head.weight" if old else "lm_head.weight"
        elif inner is not None:
            name = prefix + inner
        tensors[name] = value
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    compare(model, tmp_path, *padded())


def test_bfloat16_file_is_read_as_stored(tmp_path):
    model = hf_model("qwen3")
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.to(torch.bfloat16))
    save(copy.deepcopy(model).to(torch.bfloat16), tmp_path)
    compare(model, tmp_path, *padded())


def test_long_text_is_attended_in_blocks(tmp_path):
    """Beyond 128 tokens the queries are cut into blocks; padding in front moves every block's edge."""
    model = hf_model("gemma3", num_hidden_layers=3)
    compare(model, save(model, tmp_path), *padded((200, 150, 77), "-lr", 200))
