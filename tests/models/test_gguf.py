"""GGUF files that are written here: every architecture and block type, and all that is refused in one line."""

import itertools
import json

import gguf as package
import gguf_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers import hf_model, padded, run, torch_run

from welfare_jax.errors import InputError
from welfare_jax.models import gguf, hf, hf_save, stops, tensor_files
from welfare_jax.text import tiny_tokenizer, tiny_world
from welfare_jax.text.wording import Wording

TOKENS, MASK = padded()
MIXTURE = tiny_world.Mixture(1, 1, 1, 1)
GEMMA = dict(query_pre_attn_scalar=16)  # what the file cannot say follows from the width of a head
CASES = {
    "llama": ("llama", dict(rope_parameters=None)),
    "llama_biases_untied": ("llama", dict(attention_bias=True, tie_word_embeddings=False, rope_parameters=None)),
    "llama_bands": ("llama", dict(tie_word_embeddings=True)),
    "llama_linear": ("llama", dict(rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=500.0))),
    "qwen2": ("qwen2", dict(head_dim=8, tie_word_embeddings=True)),
    "qwen2_yarn": ("qwen2", dict(rope_parameters=dict(
        rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=64))),
    "qwen3": ("qwen3", {}),
    "qwen3_tied": ("qwen3", dict(tie_word_embeddings=True, num_key_value_heads=1, head_dim=6)),
    "gemma2": ("gemma2", GEMMA),
    "gemma3": ("gemma3", GEMMA | dict(num_hidden_layers=7, sliding_window_pattern=6)),
    "gemma3_scaled_untied": ("gemma3", GEMMA | dict(
        sliding_window_pattern=6, tie_word_embeddings=False, rope_parameters=dict(
            full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e5),
            sliding_attention=dict(rope_type="default", rope_theta=1e4)))),
    "phi3": ("phi3", {}),
    "phi3_short_original": ("phi3", dict(original_max_position_embeddings=12)),
    "phi3_plain": ("phi3", dict(
        rope_parameters=None, num_attention_heads=4, num_key_value_heads=2, sliding_window=None)),
}  # fmt: skip


def spread(got, want, mask=MASK) -> float:
    """The largest difference, in standard deviations of what it should be."""
    return float(np.abs(np.asarray(got) - want)[mask].max() / want[mask].std())


def logits(graphdef, weights):
    return np.asarray(run(graphdef, weights, TOKENS, mask=MASK).logits)


@pytest.fixture(scope="module")
def bpe_dir(tmp_path_factory):
    """A byte-level tokenizer with merges, whose rule is that of SmolLM."""
    folder, wording = tmp_path_factory.mktemp("bpe"), Wording()
    texts = [tiny_world.render(d) for d in itertools.islice(tiny_world.documents(0, MIXTURE, wording), 200)]
    tiny_tokenizer.save(tiny_tokenizer.train_bpe(texts, 500), folder)
    return folder


@pytest.fixture(scope="module")
def tiny(bpe_dir):
    return gguf_files.tokenizer_metadata(bpe_dir, "smollm")


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """A file with everything in it, and its model."""
    model = hf_model("llama", vocab_size=len(tiny["tokenizer.ggml.tokens"]), rope_parameters=None)
    return gguf_files.write(tmp_path_factory.mktemp("whole") / "whole.gguf", model, tiny), model


@pytest.mark.parametrize("case", CASES)
def test_parity(case, tmp_path):
    """Against the model that was written: transformers' own loader drops head widths, windows and rotary factors."""
    kind, changes = CASES[case]
    model = hf_model(kind, **changes)
    file = gguf_files.write(tmp_path / "m.gguf", model)
    graphdef, weights, spec = hf.load_params(file)
    rows = [(TOKENS, MASK)]
    if case == "phi3_short_original":  # transformers takes the longest text of a batch for all of it
        rows = [(TOKENS[i][on][None], np.ones((1, on.sum()), bool)) for i, on in enumerate(MASK)]
    for tokens, mask in rows:
        with torch.no_grad():
            want, residual, _ = torch_run(model, tokens, mask)
        read = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
        out = run(graphdef, weights, tokens, mask=mask, read=read)
        assert spread(out.logits, want.numpy(), mask) < 1e-4
        for layer in range(spec.layers):
            assert spread(out.residual[layer], residual[layer].numpy(), mask) < 1e-4, layer
    assert spec.tied == model.config.tie_word_embeddings and spec.norm_eps == model.config.rms_norm_eps


@pytest.mark.parametrize("case", ["llama_biases_untied", "llama_bands", "gemma3", "phi3"])
def test_what_was_loaded_is_written_as_a_folder(case, tiny, tmp_path):
    """With the config that the metadata stand for; transformers loads it and agrees. Servers go by its class."""
    from transformers import AutoModelForCausalLM

    kind, changes = CASES[case]
    vocabulary = dict(vocab_size=len(tiny["tokenizer.ggml.tokens"]))
    model = hf_model(kind, **changes | vocabulary)
    lm = hf.load(gguf_files.write(tmp_path / "m.gguf", model, tiny))
    folder = hf_save.save_hf(lm, tmp_path / "out")
    assert json.loads((folder / "config.json").read_text())["architectures"] == [type(model).__name__]
    theirs = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        want = torch_run(theirs, TOKENS, MASK)[0].numpy()
    assert spread(logits(lm.graphdef, lm.params), want) < 1e-4
    again = hf.load(folder)
    assert again.spec == lm.spec and again.tokenizer.get_vocab() == lm.tokenizer.get_vocab()
    assert jax.tree.all(jax.tree.map(jnp.array_equal, again.params, lm.params))


SCALES = {  # type -> the bytes of a block at which its float16 scales lie
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip


def random_blocks(kind: str, rows: int, width: int, seed: int):
    """Bytes [rows, ...] of random blocks whose numbers spread by about 1 / sqrt(width)."""
    code = package.GGMLQuantizationType[kind]
    block, size = package.GGML_QUANT_SIZES[code]
    out = np.random.default_rng(seed).integers(0, 256, (rows * width // block, size), dtype=np.uint8)
    scale = 1.0
    for _ in range(2):  # first at a scale of one, to see how far they spread
        for at in SCALES[kind]:
            out[:, at : at + 2] = np.full(len(out), scale, np.float16)[:, None].view(np.uint8)
        scale = width**-0.5 / package.dequantize(out, code).std()
    return out.reshape(rows, -1)


@pytest.mark.parametrize("kind", ["F16", "BF16", *tensor_files.BLOCKS])
def test_types(kind, tmp_path):
    """Against transformers' loader; the types without a writer as random blocks."""
    from transformers import AutoModelForCausalLM

    shape = dict(hidden_size=256, intermediate_size=256, num_hidden_layers=1, rope_parameters=None)
    model = hf_model("llama", **shape, head_dim=64)
    blocks, write = {}, kind if kind not in SCALES else "F32"
    if kind in SCALES:
        code = package.GGMLQuantizationType[kind]
        names = [n for n, a in gguf_files.tensors(model).items() if a.ndim == 2]
        rows = {n: len(gguf_files.tensors(model)[n]) for n in names}
        blocks = {n: (random_blocks(kind, rows[n], 256, i), code) for i, n in enumerate(names)}
    file = gguf_files.write(tmp_path / "m.gguf", model, kind=write, arrays=blocks)
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=file.name, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        want = torch_run(theirs.eval(), TOKENS, MASK)[0].numpy()
        exact = torch_run(model, TOKENS, MASK)[0].numpy()
    graphdef, weights, _ = hf.load_params(file)
    assert spread(logits(graphdef, weights), want) < 1e-4
    if kind not in SCALES:  # and not far from the numbers before they were rounded
        assert 1e-4 < spread(want, exact) < (0.1 if "F16" in kind else 3)


@pytest.mark.parametrize("kind", SCALES)
def test_blocks_mean_what_another_reader_reads(kind, tmp_path):
    """The gguf package's NumPy and the torch code of transformers were written apart."""
    from transformers.integrations.gguf import dequant

    raw = random_blocks(kind, 300, 512, 0)
    (tmp_path / "blocks").write_bytes(b"head" + raw.tobytes())
    source = tensor_files.Source(tmp_path / "blocks", "x", kind, (300, 512), 4)
    code = int(package.GGMLQuantizationType[kind])
    want = dequant.dequantize(torch.from_numpy(raw.reshape(-1)), code).reshape(300, 512).numpy()
    np.testing.assert_allclose(tensor_files.read(source, 7, 290), want[7:290], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_float16_file_in_the_runs_type(dtype, tiny, tmp_path):
    model = hf_model("gemma2", vocab_size=len(tiny["tokenizer.ggml.tokens"]), **GEMMA)
    lm = hf.load(gguf_files.write(tmp_path / "m.gguf", model, tiny, kind="F16"), dtype)
    assert {x.dtype.name for x in jax.tree.leaves(lm.params)} == {dtype}
    want = model.model.layers[1].self_attn.q_proj.weight.detach().numpy().astype(np.float16).T
    assert jnp.array_equal(lm.params["blocks"]["attn"]["q"]["kernel"][1], jnp.asarray(want).astype(dtype))


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 (virtual) devices")
def test_over_a_mesh(whole):
    from welfare_jax import mesh as mesh_lib

    lm, one = hf.load(whole[0], mesh=mesh_lib.make(2, 2, 2)), hf.load(whole[0])
    assert any(x.sharding.shard_shape(x.shape) != x.shape for x in jax.tree.leaves(lm.params))
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), lm.params, one.params))


def test_whole_file(whole, bpe_dir):
    """Architecture, weights, tokenizer, template and what ends an answer, from the path alone or from its folder."""
    file, model = whole
    lm, original = hf.load(str(file)), hf.load_tokenizer(bpe_dir)
    assert lm.path == str(file) and hf.load(file.parent).path == str(file)
    assert hf.has_tokenizer(file) and hf.resolve(str(file)) == file
    text = "The wind blows you North. 🏜️ 42 is 4 2\n\n<|end|> and on"
    assert lm.tokenizer.encode(text) == original.encode(text)
    said = [{"role": "user", "content": "Which way?"}]
    ours, theirs = (t.apply_chat_template(said, add_generation_prompt=True) for t in (lm.tokenizer, original))
    assert ours == theirs and stops.stop_ids(lm.tokenizer) == stops.stop_ids(original) != ()
    with torch.no_grad():
        want = torch_run(model, TOKENS, MASK)[0].numpy()
    assert spread(logits(lm.graphdef, lm.params), want) < 1e-4


def one_line(error, *names):
    text = str(error.value)
    assert "\n" not in text and len(text) < 500, text
    for name in names:
        assert name in text, text


def cut(keep):
    return lambda file: file.write_bytes(file.read_bytes()[:keep])


def put(at, new):
    def change(file):
        data = bytearray(file.read_bytes())
        data[at : at + len(new)] = new
        file.write_bytes(data)

    return change


def retype(file):
    """The number of the first tensor's type becomes one that nobody has given."""
    data = file.read_bytes()
    name = b"token_embd.weight"
    put(data.index(name) + len(name) + 4 + 16, (999).to_bytes(4, "little"))(file)


DAMAGE = {  # name -> (what is done to the file, what the line must name)
    "magic": (put(0, b"GGML"), ["not a GGUF file"]),
    "empty": (cut(0), ["truncated"]),
    "header_cut": (cut(100), ["truncated"]),
    "vocabulary_cut": (cut(5000), ["truncated"]),
    "data_cut": (cut(-10), ["truncated"]),
    "version": (put(4, (1).to_bytes(4, "little")), ["version 1"]),
    "big_endian": (put(4, (3).to_bytes(4, "big")), ["version", "little-endian"]),
    "count": (put(8, (1 << 40).to_bytes(8, "little")), ["truncated"]),
    "huge_string": (put(24, (1 << 62).to_bytes(8, "little")), ["truncated"]),
    "type_number": (retype, ["token_embd.weight", "type 999"]),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_file(case, whole, tmp_path):
    change, names = DAMAGE[case]
    file = tmp_path / "m.gguf"
    file.write_bytes(whole[0].read_bytes())
    change(file)
    with pytest.raises(InputError) as error:
        hf.load(file)
    one_line(error, "m.gguf", *names)


UP = "blk.1.ffn_up.weight"
WRONG = {  # name -> (what is written otherwise, what the line must name)
    "architecture": (dict(architecture="mamba"), ["mamba", "qwen3"]),
    "experts": (dict(values={"llama.expert_count": 8}), ["expert_count=8"]),
    "metadata": (dict(values={"llama.attention.scale": 0.5}), ["attention.scale"]),
    "no_width": (dict(values={"llama.embedding_length": None}), ["embedding_length", "missing"]),
    "per_layer": (
        dict(values={"llama.feed_forward_length": [56, 56, 56]}),
        ["feed_forward_length'=[56, 56, 56]", "whole number"],
    ),
    "rope": (dict(values={"llama.rope.scaling.type": "su"}), ["su"]),
    "rope_width": (dict(values={"llama.rope.dimension_count": 8}), ["rope.dimension_count=8"]),
    "missing": (dict(arrays={UP: None}), ["missing", UP]),
    "unknown": (dict(arrays={"blk.0.extra.weight": np.zeros(3, "f4")}), ["unknown", "blk.0.extra.weight"]),
    "bias": (dict(arrays={"blk.0.ffn_up.bias": np.zeros(56, "f4")}), ["unknown", "blk.0.ffn_up.bias"]),
    "shape": (dict(arrays={UP: np.zeros((55, 40), "f4")}), [UP, "55"]),
    "integers": (dict(arrays={UP: np.zeros((56, 40), "i4")}), ["I32"]),
    "tokenizer_model": (dict(values={"tokenizer.ggml.model": "bert"}), ["bert", "gpt2"]),
    "pre": (dict(values={"tokenizer.ggml.pre": "martian"}), ["martian", "smollm"]),
    "no_pre": (dict(values={"tokenizer.ggml.pre": None}), ["tokenizer.ggml.pre"]),
    "merges": (dict(values={"tokenizer.ggml.merges": ["Ġ ☃"]}), ["merges"]),
    "twice": (dict(values={"tokenizer.ggml.tokens": ["a", "a"], "tokenizer.ggml.token_type": [1, 1]}), ["twice"]),
    "types": (dict(values={"tokenizer.ggml.token_type": [1, 1]}), ["token_type", "2 entries"]),
    "eos": (dict(values={"tokenizer.ggml.eos_token_id": 10**6}), ["eos_token_id"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_contents(case, whole, tiny, tmp_path):
    changes, names = WRONG[case]
    file = gguf_files.write(tmp_path / "m.gguf", whole[1], **{"tokenizer": tiny} | changes)
    with pytest.raises(InputError) as error:
        hf.load(file)
    one_line(error, *names)


def test_a_file_without_a_tokenizer_is_a_model(whole, tmp_path):
    lm = hf.load(gguf_files.write(tmp_path / "m.gguf", whole[1], tokenizer={}))
    with pytest.raises(InputError) as error:
        lm.tokenizer  # noqa: B018
    one_line(error, "m.gguf", "no tokenizer")


def test_a_type_that_is_not_read(whole, tmp_path):
    """One that the gguf package knows, and this package does not."""
    file = tmp_path / "m.gguf"
    model = hf_model("llama", hidden_size=256, rope_parameters=None)
    blocks = np.zeros((56, 66), np.uint8), package.GGMLQuantizationType.IQ2_XXS
    gguf_files.write(file, model, arrays={UP: blocks})
    with pytest.raises(InputError) as error:
        hf.load_params(file)
    one_line(error, UP, "IQ2_XXS", "Q4_K")


def test_no_chat_template(whole, tiny, tmp_path):
    plain = {k: v for k, v in tiny.items() if "template" not in k}
    lm = hf.load(gguf_files.write(tmp_path / "m.gguf", whole[1], plain))
    assert lm.tokenizer.chat_template is None


def test_paths_that_are_no_model(whole, tmp_path):
    file = tmp_path / "m-00001-of-00002.gguf"
    file.write_bytes(whole[0].read_bytes())
    with pytest.raises(InputError) as error:
        hf.load(file)
    one_line(error, "split", "--merge")
    (tmp_path / "other.gguf").write_bytes(b"")
    with pytest.raises(InputError) as error:
        hf.load(tmp_path)
    one_line(error, "other.gguf", file.name)
    with pytest.raises(InputError) as error:
        hf.load(tmp_path / "none.gguf")
    one_line(error, "none.gguf", "does not exist")
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(InputError) as error:
        hf.load(tmp_path / "weights.bin")
    one_line(error, "weights.bin", "not a *.gguf file")


def test_a_folder_with_a_config_is_a_folder(whole, tmp_path):
    """A GGUF file beside config.json is not taken for the weights that are missing there."""
    (tmp_path / "m.gguf").write_bytes(whole[0].read_bytes())
    whole[1].config.save_pretrained(tmp_path)
    with pytest.raises(InputError) as error:
        hf.load(tmp_path)
    one_line(error, "no *.safetensors", "m.gguf")


def test_older_and_rarer_metadata(whole, tmp_path):
    """The scale of 27B models follows from the number of layers; a Gemma 3 may list which layers are local."""
    config = dict(num_hidden_layers=46, num_attention_heads=5, head_dim=4)
    file = gguf_files.write(tmp_path / "a.gguf", hf_model("gemma2", **config))
    assert hf.raw_config(file)["query_pre_attn_scalar"] == 8
    local = [True, False, True, True]
    values = {"gemma3.attention.sliding_window_pattern": local, "gemma3.rope.freq_base_swa": 500.0}
    file = gguf_files.write(tmp_path / "b.gguf", hf_model("gemma3", **GEMMA), values=values)
    spec, _ = hf.read_config(file)
    assert spec.windows == (5, 0, 5, 5) and spec.ropes[1].theta == 500.0


def test_header_is_what_the_package_reads(whole):
    ours, theirs = gguf.read(whole[0]), package.GGUFReader(whole[0])
    names = [k for k in theirs.fields if not k.startswith("GGUF.")]
    assert list(ours.values) == names
    for name in names:
        value = ours.values[name]
        value = value.tolist() if isinstance(value, np.ndarray) else value
        assert value == pytest.approx(theirs.fields[name].contents()), name
    assert [(s.name, s.start) for s in ours.tensors.values()] == [(t.name, t.data_offset) for t in theirs.tensors]
