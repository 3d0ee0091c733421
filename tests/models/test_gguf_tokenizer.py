"""Tokenizers out of GGUF files give the ids that the tokenizers gave from which the files were written."""

import gguf_files
import numpy as np
import pytest
from helpers import hf_model
from published import SHARED
from tokenizers import Tokenizer, decoders, models, normalizers, trainers

from welfare_jax.models import gguf, gguf_tokenizer, stops

WORDS = (
    "the quick fox n't we'll IT'S don't Straße naïve cafe\u0301 Ångström Привет мир こんにちは 世界 你好 안녕하세요 "
    "مرحبا שלום नमस्ते ไทย Ελληνικά 0 7 42 1234567 3.14 1,000 ²³ ½ x=1; def f(x): {} <b> </b> "
    "<think> </think> <|im_end|> <start_of_turn> <|eot_id|> <eos> 🏜️ 🟦 👩‍👩‍👧 🇯🇵 e\u0301 \u00a0 \u200b ▁ ▁▁ "
    "\ufffd \x07 [PAD151670] _ -- ... ?!"
).split(" ")
GLUE = (
    " ",
    " ",
    " ",
    "",
    "  ",
    "\n",
    "\n\n",
    "\n\n\n\n",
    "\t",
    "\t\t",
    "       ",
    " \n ",
    "\r\n",
    " " * 40,
    "\n" * 35,
)


def texts(count=1000, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        parts = (w for _ in range(rng.integers(1, 14)) for w in (rng.choice(WORDS), rng.choice(GLUE)))
        yield "".join(parts)


def rebuilt(values, path):
    """The tokenizer of a file with these metadata."""
    return gguf_tokenizer.build(gguf.read(gguf_files.write(path, hf_model("llama", rope_parameters=None), values)))


CASES = {"qwen3": ("qwen2", "gpt2"), "llama3_1": ("llama-bpe", "gpt2"), "gptoss": ("gpt-4o", "gpt2"),
         "gemma3": ("default", "llama")}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_ids_of_released_tokenizers(name, shared_tokenizer, tmp_path):
    """Words of several alphabets, digits, emoji, marks and runs of spaces; also what the rest of the package asks."""
    original, (pre, model) = shared_tokenizer(name), CASES[name]
    extra = {"tokenizer.ggml.add_space_prefix": False} if model == "llama" else {}
    values = gguf_files.tokenizer_metadata(SHARED / "tokenizers" / name, pre, model, rows=len(original) + 3)
    ours = rebuilt(values | extra, tmp_path / "m.gguf")
    assert len(ours) == len(original) and ours.get_vocab() == original.get_vocab()
    for text in texts():
        ids = original.encode(text)
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == original.decode(ids)
    assert stops.stop_ids(ours) == stops.stop_ids(original) and ours.bos_token == original.bos_token
    if original.chat_template:
        said = [{"role": "user", "content": "Hi 42"}, {"role": "assistant", "content": "Ho"}]
        assert ours.apply_chat_template(said) == original.apply_chat_template(said)


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece(prefix, tmp_path):
    """Llama 2's kind: merges recovered from the order of the pieces, bytes for what is unknown, a space in front."""
    original = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spaces = normalizers.Replace(" ", "▁")
    original.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    original.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    marks = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=marks, limit_alphabet=40, show_progress=False)
    some = [t.replace("<", " ") for t in texts(300)]
    original.train_from_iterator([w for t in some for w in t.split()], trainer)
    tokens = [original.id_to_token(i) for i in range(original.get_vocab_size())]
    kinds = [gguf_files.UNKNOWN, *[gguf_files.CONTROL] * 2, *[gguf_files.BYTE] * 256]
    values = {"model": "llama", "tokens": tokens, "token_type": kinds + [1] * (len(tokens) - len(kinds))}
    values |= {"scores": [-float(i) for i in range(len(tokens))], "bos_token_id": 1, "eos_token_id": 2}
    values |= {"unknown_token_id": 0, "add_space_prefix": prefix}
    ours = rebuilt({f"tokenizer.ggml.{k}": v for k, v in values.items()}, tmp_path / "m.gguf")
    for text in some:
        assert ours.encode(text) == [1, *original.encode(text).ids]
        assert ours.decode(ours.encode(text, add_special_tokens=False)) == text.replace("▁", " ")
    assert len(ours.encode("the quick fox")) < 8


def test_phi3_marks_swallow_spaces(tmp_path):
    """In files of Phi-3 as in its tokenizer.json; unknown to the format, which llama.cpp goes about by name."""
    tokens = ["<unk>", "<s>", "<|end|>", "▁", "a", "\n"]
    values = {"model": "llama", "tokens": tokens, "token_type": [2, 3, 3, 1, 1, 1], "scores": [0.0] * 6}
    values |= {"unknown_token_id": 0, "bos_token_id": 1, "add_space_prefix": False}
    values = {f"tokenizer.ggml.{k}": v for k, v in values.items()}
    file = gguf_files.write(tmp_path / "m.gguf", hf_model("phi3"), values)
    assert gguf_tokenizer.build(gguf.read(file)).encode("<|end|> \na") == [1, 2, 4]


BEGINS = [("llama-bpe", None, True), ("llama-bpe", False, False), ("qwen2", None, False), ("qwen2", True, True)]


@pytest.mark.parametrize(("pre", "flag", "begins"), BEGINS)
def test_whether_texts_begin_with_bos(pre, flag, begins, tiny_tokenizer_dir, tmp_path):
    values = gguf_files.tokenizer_metadata(tiny_tokenizer_dir, pre) | {"tokenizer.ggml.bos_token_id": 1}
    ours = rebuilt(values | {"tokenizer.ggml.add_bos_token": flag}, tmp_path / "m.gguf")
    assert (ours.encode("N")[0] == 1) == begins and ours.encode("N", add_special_tokens=False)[0] != 1
    ours.save_pretrained(tmp_path / "out")
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(tmp_path / "out").encode("N 12") == ours.encode("N 12")
