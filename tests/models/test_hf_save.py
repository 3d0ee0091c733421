"""What is written beside the weights: where answers end, and a tokenizer that older readers load too."""

import dataclasses
import json
import shutil

import gguf_files
import pytest
from helpers import hf_model
from tokenizers import AddedToken
from transformers import AutoTokenizer, GenerationConfig

from welfare_jax.errors import InputError
from welfare_jax.models import hf, hf_save, stops

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
