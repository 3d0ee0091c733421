"""What is written beside the weights: where answers end, and a tokenizer that older readers load too."""

import dataclasses
import json
import shutil

import gguf_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import FAMILIES, MULTIMODAL, VOCAB, from_transformers, hf_model, padded, params, run, save, tiny_spec
from tokenizers import AddedToken
from transformers import AutoTokenizer, GenerationConfig

from welfare_jax.errors import InputError
from welfare_jax.models import decoder, hf, hf_save, lora, stops
from welfare_jax.models.layers import Lora
from welfare_jax.models.spec import Rope

CONFIG = "tokenizer_config.json"


def copy(folder, to, **changes):
    """A folder with other settings of its tokenizer; None takes one out."""
    shutil.copytree(folder, to)
    edit(to / CONFIG, **changes)
    return to


def edit(file, **changes):
    said = (json.loads(file.read_text()) if file.is_file() else {}) | changes
    file.write_text(json.dumps({k: v for k, v in said.items() if v is not None}))


def read(folder, name=CONFIG):
    return json.loads((folder / name).read_text())


@pytest.mark.parametrize("said", [
    {"eos_token_id": [7, 9], "pad_token_id": 0, "temperature": 0.7, "do_sample": True}, {"eos_token_id": 5}, {},
])  # fmt: skip
def test_generation_settings_go_along(said, one_layer_dir, tmp_path):
    folder = copy(one_layer_dir, tmp_path / "in")
    edit(folder / "config.json", eos_token_id=7)
    (folder / stops.GENERATION).write_text(json.dumps(said))
    out = hf_save.save_hf(hf.load(folder), tmp_path / "out")
    assert (out / stops.GENERATION).read_bytes() == (folder / stops.GENERATION).read_bytes()
    before, after = (GenerationConfig.from_pretrained(f).to_dict() for f in (folder, out))
    assert before == after
    assert stops.stop_ids(hf.load(out).tokenizer) == stops.stop_ids(hf.load(folder).tokenizer)
    again = hf_save.save_hf(dataclasses.replace(hf.load(out)), out)  # over itself
    assert read(again, stops.GENERATION) == said


def test_generation_settings_of_another_model_do_not_stay(one_layer_dir, tmp_path):
    folder = copy(one_layer_dir, tmp_path / "in")
    (folder / stops.GENERATION).unlink(missing_ok=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / stops.GENERATION).write_text('{"eos_token_id": 9}')
    assert not (hf_save.save_hf(hf.load(folder), tmp_path / "out") / stops.GENERATION).exists()


def test_files_of_another_tokenizer_do_not_become_this_models(one_layer_dir, tmp_path):
    """A model without one is not written beside them; one with one replaces them all."""
    lm, bare = hf.load(one_layer_dir), tmp_path / "bare"
    shutil.copytree(one_layer_dir, bare, ignore=shutil.ignore_patterns("*token*", "*.jinja"))
    hf_save.save_hf(lm, tmp_path / "out")
    with pytest.raises(InputError, match="without a tokenizer"):
        hf_save.save_hf(hf.load(bare), tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    hf_save.save_hf(hf.load(bare), tmp_path / "new")
    (tmp_path / "out" / "merges.txt").write_text("a b")
    hf_save.save_hf(lm, tmp_path / "out")
    assert not (tmp_path / "out" / "merges.txt").exists()
    assert hf.load(tmp_path / "out").tokenizer.chat_template == lm.tokenizer.chat_template


def test_ends_out_of_a_gguf_file(tmp_path, tiny_tokenizer_dir):
    """Its metadata name three ids that end an answer, config.json has room for one; unused and -1 are none."""
    values = gguf_files.tokenizer_metadata(tiny_tokenizer_dir, "smollm")
    eos, rows = values["tokenizer.ggml.eos_token_id"], len(values["tokenizer.ggml.tokens"])
    values |= {"tokenizer.ggml.eot_token_id": 300, "tokenizer.ggml.eom_token_id": 2**32 - 1}
    model = hf_model("llama", vocab_size=rows, rope_parameters=None, num_hidden_layers=1)
    lm = hf.load(gguf_files.write(tmp_path / "m.gguf", model, values))
    assert stops.listed(lm.tokenizer) == tuple(sorted((eos, 300)))
    out = hf_save.save_hf(lm, tmp_path / "out")
    assert (
        read(out, stops.GENERATION)["eos_token_id"] == [eos, 300] and read(out, "config.json")["eos_token_id"] == eos
    )
    assert stops.stop_ids(hf.load(out).tokenizer) == stops.stop_ids(lm.tokenizer)
    assert read(out)["tokenizer_class"] == "PreTrainedTokenizerFast"


@pytest.mark.parametrize(("given", "written"), [
    ("PreTrainedTokenizerFast", "PreTrainedTokenizerFast"), ("TokenizersBackend", "PreTrainedTokenizerFast"),
    (None, "Qwen2Tokenizer"), ("SomebodysTokenizer", "PreTrainedTokenizerFast"),
])  # fmt: skip
def test_the_class_of_a_tokenizer_is_one_that_older_readers_know(given, written, one_layer_dir, tmp_path):
    folder = copy(one_layer_dir, tmp_path / "in", tokenizer_class=given)
    lm = hf.load(folder)
    out = hf_save.save_hf(lm, tmp_path / "out")
    assert read(out)["tokenizer_class"] == written
    hf_save.save_hf(hf.load(out), out)  # over itself
    assert read(out)["tokenizer_class"] == written
    assert hf.load_tokenizer(out).get_vocab() == lm.tokenizer.get_vocab()


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "llama3_1", "gptoss"])
def test_released_tokenizers_keep_their_class(name, shared_tokenizer, tmp_path):
    tokenizer = shared_tokenizer(name)
    hf_save.save_tokenizer(tokenizer, tmp_path)
    said = read(tmp_path)
    assert said["tokenizer_class"].startswith({"qwen3": "Qwen2Tok", "gemma3": "GemmaTok"}.get(name, "PreTrainedTok"))
    assert not isinstance(said.get("extra_special_tokens", {}), list)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.all_special_tokens == tokenizer.all_special_tokens and again.chat_template == tokenizer.chat_template
    assert again.encode("Hi <|im_end|> 12\n\n 🗂") == tokenizer.encode("Hi <|im_end|> 12\n\n 🗂")


def test_special_tokens_have_the_names_of_older_readers(one_layer_dir, tmp_path):
    """A list is `additional_special_tokens` there, and `extra_special_tokens` are tokens with names."""
    tokenizer = hf.load_tokenizer(one_layer_dir)
    tokenizer.add_special_tokens({"extra_special_tokens": [AddedToken("<one>", special=True), "<two>"]})
    hf_save.save_tokenizer(tokenizer, tmp_path / "list")
    said = read(tmp_path / "list")
    assert said["additional_special_tokens"] == ["<one>", "<two>"] and "extra_special_tokens" not in said
    assert AutoTokenizer.from_pretrained(tmp_path / "list").extra_special_tokens == ["<one>", "<two>"]
    names = {"image_token": "<one>"}
    edit(tmp_path / "list" / CONFIG, extra_special_tokens=names, additional_special_tokens=["<two>"])
    named = hf.load_tokenizer(tmp_path / "list")
    assert named.image_token == "<one>" and named.extra_special_tokens == ["<two>"]
    hf_save.save_tokenizer(named, tmp_path / "named")
    said = read(tmp_path / "named")
    assert said["extra_special_tokens"] == names and said["additional_special_tokens"] == ["<two>"]
    again = AutoTokenizer.from_pretrained(tmp_path / "named")
    assert again.image_token == "<one>" and again.extra_special_tokens == ["<two>"]


SAVED = [(kind, 1 << 30) for kind in (*FAMILIES, *MULTIMODAL)] + [("qwen3", 20_000), ("gpt_oss", 40_000)]


@pytest.mark.parametrize(("kind", "shard_bytes"), SAVED)
def test_save_hf_round_trip(kind, shard_bytes, tiny_tokenizer_dir, tmp_path, monkeypatch):
    """What is written loads in transformers and here; of a multimodal model, the decoder alone."""
    monkeypatch.setattr(hf_save, "SHARD_BYTES", shard_bytes)
    lm = hf.load(save(hf_model(kind), tmp_path / "in", tiny_tokenizer_dir))
    changed = jax.tree.map(lambda x: 0.9 * x, lm.params)  # so that copying the old folder would not pass
    lm = dataclasses.replace(lm, params=changed)
    out = hf_save.save_hf(lm, tmp_path / "out")
    assert (len(list(out.glob("*.safetensors"))) > 1) == (shard_bytes < 1 << 30)
    tokens, mask = padded()
    want = np.asarray(run(lm.graphdef, changed, tokens, mask=mask).logits)
    assert np.abs(from_transformers(out, tokens, mask) - want)[mask].max() < 1e-4
    again = hf.load(out)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, again.params, changed))
    assert again.spec == lm.spec
    assert again.tokenizer.get_vocab() == lm.tokenizer.get_vocab()


def test_save_hf_of_a_model_made_here(tiny_tokenizer, tmp_path):
    spec = tiny_spec(norm_eps=1e-5, tied=False, ropes=(Rope(500.0, 8, "linear", 4.0),))
    graphdef, weights = decoder.init(spec, jax.random.key(0))
    out = hf_save.save_hf(hf.LM(graphdef, weights, spec, tiny_tokenizer, "nowhere"), tmp_path)
    tokens, mask = padded()
    want = np.asarray(run(graphdef, weights, tokens, mask=mask).logits)
    assert np.abs(from_transformers(out, tokens, mask) - want)[mask].max() < 1e-4


def test_save_hf_merges_adapters_or_leaves_them_out(good, tmp_path):
    lm = hf.load(good)
    graphdef, weights = lora.attach(lm.graphdef, lm.params, Lora(3, 6.0), jax.random.key(0))
    weights = jax.tree_util.tree_map_with_path(lambda p, x: x + 0.1 if p[-1].key == "lora_b" else x, weights)
    adapted = dataclasses.replace(lm, graphdef=graphdef, params=weights)
    tokens, mask = padded()
    want = np.asarray(run(graphdef, weights, tokens, mask=mask).logits)
    out = hf_save.save_hf(adapted, tmp_path / "merged")
    assert np.abs(from_transformers(out, tokens, mask) - want)[mask].max() < 1e-4
    plain = hf.load(hf_save.save_hf(adapted, tmp_path / "plain", merge_lora=False))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, plain.params, lm.params))


def test_save_hf_in_bfloat16_halves_the_file(good, tmp_path):
    out = hf_save.save_hf(hf.load(good), tmp_path, "bfloat16")
    assert (out / "model.safetensors").stat().st_size < 0.6 * (good / "model.safetensors").stat().st_size
    _, weights, _ = params(out)
    _, exact, _ = params(good)
    assert weights["embed"].shape == (VOCAB, 40)
    assert jnp.array_equal(weights["embed"], exact["embed"].astype(jnp.bfloat16).astype(jnp.float32))


def test_save_hf_over_an_older_sharded_export(sharded, good, tmp_path):
    """Old shards and their index must not be what the next load reads."""
    shutil.copytree(sharded, tmp_path / "out")
    lm = hf.load(good)
    lm = dataclasses.replace(lm, params=jax.tree.map(lambda x: 2 * x, lm.params))
    try:
        hf_save.save_hf(lm, tmp_path / "out")
    except InputError as error:
        assert str(tmp_path / "out") in str(error)  # refusing is fine too, as long as the folder is what it was
        assert jnp.array_equal(hf.load(tmp_path / "out").params["embed"], lm.params["embed"] / 2)
    else:
        assert jnp.array_equal(hf.load(tmp_path / "out").params["embed"], lm.params["embed"])
