"""Folders that are wrong in one way each end in one line that names the fault; folders written here load anywhere."""

import dataclasses
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import FAMILIES, edit_config, from_transformers, hf_model, padded, params, run, save
from safetensors.numpy import load_file, save_file

from welfare_jax.errors import InputError
from welfare_jax.models import decoder, hf, hf_save

ONE = "model.safetensors"
KEY = "model.layers.1.mlp.up_proj.weight"


def retensor(folder, change):
    tensors = load_file(folder / ONE)
    change(tensors)
    save_file(tensors, folder / ONE, {"format": "pt"})


def reindex(folder, change):
    index = json.loads((folder / hf.INDEX).read_text())
    change(index)
    (folder / hf.INDEX).write_text(json.dumps(index))


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


def last_shard(folder):
    return sorted(folder.glob("*.safetensors"))[-1]


def duplicate(folder):
    """Two files without an index, of which neither is the one that holds a whole model."""
    (folder / ONE).rename(folder / "most.safetensors")
    save_file({KEY: load_file(folder / "most.safetensors")[KEY]}, folder / "more.safetensors")


def swap_two(folder):
    """The index sends a tensor to the first shard, which does not hold it."""

    def change(index):
        index["weight_map"]["model.norm.weight"] = min(index["weight_map"].values())

    reindex(folder, change)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
BROKEN = {  # name -> (what to break, what the message must name)
    "truncated": (lambda d: cut(d / ONE, 9000), [ONE, "truncated"]),
    "truncated_header": (lambda d: cut(d / ONE, 20), [ONE, "truncated"]),
    "empty_file": (lambda d: cut(d / ONE, 0), [ONE, "truncated"]),
    "missing_tensor": (lambda d: retensor(d, lambda t: t.pop(KEY)), ["missing", KEY]),
    "unknown_tensor": (lambda d: retensor(d, lambda t: t.update(extra=np.zeros(3, "f4"))), ["unknown", "extra"]),
    "unknown_layer": (
        lambda d: retensor(d, lambda t: t.update({KEY.replace("1", "9"): t[KEY]})),
        ["unknown", KEY.replace("1", "9")],
    ),
    "bias": (
        lambda d: retensor(d, lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": np.zeros(64, "f4")})),
        ["unknown", "q_proj.bias"],
    ),
    "wrong_shape": (lambda d: retensor(d, lambda t: t.update({KEY: t[KEY][:, :-1].copy()})), [KEY, "39", "40"]),
    "transposed": (lambda d: retensor(d, lambda t: t.update({KEY: t[KEY].T.copy()})), [KEY, "shape"]),
    "integers": (lambda d: retensor(d, lambda t: t.update({KEY: t[KEY].astype("i4")})), [KEY, "I32"]),
    "duplicate": (duplicate, [KEY, "most.safetensors", "more.safetensors"]),
    "two_spellings": (
        lambda d: retensor(d, lambda t: t.update({KEY.removeprefix("model."): t[KEY] + 1})),
        [KEY, KEY.removeprefix("model.")],
    ),
    "untied_without_a_head": (lambda d: retensor(d, lambda t: t.pop("lm_head.weight")), ["missing", "lm_head.weight"]),
    "other_file": (
        lambda d: edit_config(d, transformers_weights="other.safetensors"),
        ["config.json", "transformers_weights"],
    ),
    "adapter": (lambda d: (d / "adapter_config.json").write_text("{}"), ["adapter_config.json", "wj.load_peft"]),
    "no_weights": (lambda d: (d / ONE).unlink(), ["no *.safetensors"]),
    "unknown_model_type": (lambda d: edit_config(d, model_type="mamba"), ["config.json", "mamba", "qwen3"]),
    "no_model_type": (lambda d: edit_config(d, model_type=None), ["config.json", "model_type"]),
    "unhandled_attribute": (lambda d: edit_config(d, attention_chunk_size=8), ["config.json", "attention_chunk_size"]),
    "looks_ahead": (lambda d: edit_config(d, is_causal=False), ["config.json", "is_causal"]),
    "quantised": (lambda d: edit_config(d, quantization_config={"quant_method": "fp8"}), ["quantization_config"]),
    "other_activation": (lambda d: edit_config(d, hidden_act="relu"), ["hidden_act", "relu"]),
    "other_rope": (
        lambda d: edit_config(d, rope_parameters={"rope_type": "proportional", "factor": 4.0, "rope_theta": 1e4}),
        ["rope", "proportional"],
    ),
    "rope_setting": (
        lambda d: edit_config(
            d, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4, "beta_fast": 3.0}
        ),
        ["config.json", "beta_fast", "linear"],
    ),
    "attention_bias": (lambda d: edit_config(d, attention_bias=True), ["missing", "q_proj.bias"]),
    "heads": (lambda d: edit_config(d, num_key_value_heads=3), ["num_key_value_heads"]),
    **{
        f"{name}_{said}_{i}": (lambda d, said={name: value}: edit_config(d, **said), ["config.json", said])
        for name, said, values in (
            ("num_attention_heads", "num_attention_heads=", (0, -4)),
            ("head_dim", "head_dim", (0, 15)),
            ("hidden_size", "hidden_size=-1", (-1,)),
            ("vocab_size", "vocab_size=", (0, 10**400)),
            ("num_hidden_layers", "num_hidden_layers", (0, 10**9)),
            ("rms_norm_eps", "norm_eps=nan", (math.nan,)),
            ("rope_parameters", "'rope_theta'='x'", ({"rope_type": "default", "rope_theta": "x"},)),
            ("rope_parameters", "'factor'", ({"rope_type": "linear", "rope_theta": 1e4, "factor": "x"},)),
            ("rope_parameters", "'factor'=-1", ({"rope_type": "linear", "rope_theta": 1e4, "factor": -1},)),
            ("rope_parameters", "'rope_theta'=None", ({"rope_type": "default", "rope_theta": None},)),
        )
        for i, value in enumerate(values)
    },
    "more_rows_than_the_file": (lambda d: edit_config(d, vocab_size=2**31 - 1), ["embed_tokens", str(2**31 - 1)]),
    "pointer": (lambda d: (d / ONE).write_bytes(POINTER), [ONE, "git lfs pull"]),
    "pointer_to_a_tokenizer": (lambda d: (d / "tokenizer.json").write_bytes(POINTER), ["tokenizer.json", "git lfs"]),
    "wrong_type": (lambda d: edit_config(d, num_hidden_layers="three"), ["config.json", "num_hidden_layers"]),
    "config_cut": (lambda d: cut(d / "config.json", 40), ["config.json", "JSON"]),
    "config_is_a_list": (lambda d: (d / "config.json").write_text("[1]"), ["config.json"]),
    "no_config": (lambda d: (d / "config.json").unlink(), ["config.json"]),
    "no_folder": (shutil.rmtree, ["does not exist"]),
    "tokenizer_cut": (lambda d: cut(d / "tokenizer.json", 400), ["tokenizer"]),
}
BROKEN_SHARDS = {
    "missing_shard": (lambda d: last_shard(d).unlink(), ["missing", "model-000"]),
    "outside": (
        lambda d: reindex(d, lambda i: i["weight_map"].update({KEY: "../elsewhere.safetensors"})),
        ["../elsewhere.safetensors", "outside"],
    ),
    "absolute": (lambda d: reindex(d, lambda i: i["weight_map"].update({KEY: "/etc/passwd"})), ["/etc/passwd"]),
    "truncated_shard": (lambda d: cut(last_shard(d), 3000), ["truncated"]),
    "index_cut": (lambda d: cut(d / hf.INDEX, 300), [hf.INDEX]),
    "index_without_map": (lambda d: reindex(d, lambda i: i.pop("weight_map")), [hf.INDEX]),
    "missing_in_index": (lambda d: reindex(d, lambda i: i["weight_map"].pop(KEY)), [KEY]),
    "wrong_shard": (swap_two, ["model-00001-of", "model.norm.weight"]),
}


def one_line(error, *names):
    text = str(error.value)
    assert "\n" not in text and len(text) < 500, text
    for name in names:
        assert name in text, text


@pytest.mark.parametrize("case", [*BROKEN, *BROKEN_SHARDS])
def test_broken_folder(case, good, sharded, tmp_path):
    break_it, names = BROKEN.get(case) or BROKEN_SHARDS[case]
    folder = tmp_path / "model"
    shutil.copytree(good if case in BROKEN else sharded, folder)
    break_it(folder)
    with pytest.raises(InputError) as error:
        hf.load(folder)
    one_line(error, *names)


def test_the_same_folders_unbroken_load(good, sharded):
    a, b = (hf.load(str(d)) for d in (good, sharded))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, a.params, b.params))
    assert a.graphdef == b.graphdef and a.spec == b.spec
    assert a.tokenizer.encode("N") == b.tokenizer.encode("N")


def test_weights_without_a_tokenizer_are_a_model(good, tmp_path):
    shutil.copytree(good, tmp_path / "bare")
    for path in (tmp_path / "bare").glob("tokenizer*"):
        path.unlink()
    lm = hf.load(tmp_path / "bare")
    want = hf.load(good)
    tokens = np.arange(1, 9)[None]
    same = [decoder.forward(m.graphdef, m.params, tokens).logits for m in (lm, want)]
    np.testing.assert_array_equal(*same)
    again = hf.load(hf_save.save_hf(dataclasses.replace(lm, params=lm.params), tmp_path / "again"))
    for bare in (lm, again):
        with pytest.raises(InputError) as error:
            bare.tokenizer.encode("N")
        one_line(error, bare.path, "tokenizer.json")
    lm.tokenizer = want.tokenizer
    assert lm.tokenizer.encode("N") == want.tokenizer.encode("N")


def test_bad_dtype_is_refused(good):
    with pytest.raises(InputError) as error:
        hf.load(good, dtype="float16")
    one_line(error, "float16", "bfloat16")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtype_of_the_parameters(good, dtype):
    assert {x.dtype.name for x in jax.tree.leaves(hf.load(good, dtype).params)} == {dtype}


@pytest.mark.parametrize("name", ["nobody/nothing-7b", "nobody/nothing/7b", "./nothing", "nothing"])
def test_a_name_that_is_not_there(name):
    with pytest.raises(InputError) as error:
        hf.load(name)
    one_line(error, name)


def test_a_hub_name_in_the_local_cache(good, tmp_path, monkeypatch):
    """A hub name loads offline from the cache, and what was loaded by name can be written back."""
    import huggingface_hub

    cache = tmp_path / "models--nobody--small"
    shutil.copytree(good, cache / "snapshots" / "abc")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    fetch = huggingface_hub.snapshot_download
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: fetch(*a, **k, cache_dir=tmp_path))
    lm = hf.load("nobody/small")
    hf_save.save_hf(lm, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rms_norm_eps"] == lm.spec.norm_eps and config["max_position_embeddings"] == 256


def test_a_revision_of_a_hub_model(good, sharded, tmp_path, monkeypatch):
    """A branch, a tag or a commit chooses the snapshot; an unknown one is refused, and so is one of a folder."""
    import huggingface_hub

    cache, fetch = tmp_path / "models--nobody--small", huggingface_hub.snapshot_download
    first, later = ("ab" * 20, "cd" * 20)
    shutil.copytree(good, cache / "snapshots" / later)
    shutil.copytree(good, cache / "snapshots" / first)
    edit_config(cache / "snapshots" / first, rms_norm_eps=0.125)
    (cache / "refs").mkdir()
    for name, commit in (("main", later), ("step1000", first)):
        (cache / "refs" / name).write_text(commit)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: fetch(*a, **k, cache_dir=tmp_path))
    eps = lambda revision: hf.load("nobody/small", revision=revision).spec.norm_eps
    assert eps("step1000") == eps(first) == 0.125 and eps("") == eps("main") == eps(later) == 1e-6
    for path, revision, names in (
        ("nobody/small", "step2000", "nobody/small.*step2000"), (good, "main", "on disk"), ("tiny", "main", "on disk"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=names) as error:
            hf.resolve(str(path), revision=revision)
        one_line(error, str(path))


def test_unknown_safetensors_beside_an_index_is_not_read(sharded, tmp_path):
    """Only what the index names belongs to the model; an adapter in the same folder does not."""
    shutil.copytree(sharded, tmp_path / "model")
    save_file({"base_model.lora_A.weight": np.zeros((2, 2), "f4")}, tmp_path / "model" / "adapter_model.safetensors")
    hf.load(tmp_path / "model")


def same_as_transformers(folder, dtype="float32"):
    """The folder's spec, once both libraries give the same logits for it."""
    tokens, mask = padded()
    graphdef, weights, spec = hf.load_params(folder, dtype)
    got = np.asarray(run(graphdef, weights, tokens, mask=mask).logits)
    assert np.abs(from_transformers(folder, tokens, mask) - got)[mask].max() < 1e-4
    return spec


@pytest.mark.parametrize("other", ["consolidated", "model.fp16", "adapter_model", "training_args"])
def test_a_whole_file_goes_before_whatever_lies_beside_it(other, good, tmp_path):
    """As in transformers: the same weights in another program's format, halves, or something else altogether."""
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({name: 0 * x for name, x in tensors.items()}, tmp_path / f"{other}.safetensors")
    found, want = params(tmp_path)[1], params(good)[1]
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), found, want))


def test_a_whole_file_goes_before_an_older_index(sharded, tmp_path):
    shutil.copytree(sharded, tmp_path / "model")
    newer = save(hf_model("qwen3", rms_norm_eps=1e-6), tmp_path / "newer")
    retensor(newer, lambda t: t.update({KEY: 2 * t[KEY]}))
    shutil.copy(newer / ONE, tmp_path / "model" / ONE)
    same_as_transformers(tmp_path / "model")
    _, weights, _ = params(tmp_path / "model")
    assert jnp.array_equal(weights["blocks"]["mlp"]["up"]["kernel"][1].T, load_file(newer / ONE)[KEY])


@pytest.mark.parametrize("kind", ["qwen2", "gemma2", "gemma3", "phi3", "glm4", "gpt_oss"])
@pytest.mark.parametrize("shard", ["1GB", "20KB"])
def test_a_base_model_saved_alone(kind, shard, tmp_path):
    """Its names have no `model.` in front."""
    model = hf_model(kind, tie_word_embeddings=True)
    model.model.save_pretrained(tmp_path, max_shard_size=shard)
    assert not any(name.startswith("model.") for name in hf.files(tmp_path))
    same_as_transformers(tmp_path)


@pytest.mark.parametrize(
    ("kind", "part"),
    [("gemma3_vision", "model"), ("gemma3_vision", "model.language_model"), ("ministral3_vision", "model")],
)
def test_parts_of_a_multimodal_model_saved_alone(kind, part, tmp_path):
    """With its vision tower but without a head, or the text model without either: as the whole folder reads."""
    whole = hf_model(kind)
    save(whole, tmp_path / "whole")
    whole.get_submodule(part).save_pretrained(tmp_path / "part")
    (_, a, one), (_, b, other) = (params(tmp_path / name) for name in ("whole", "part"))
    assert one == other and jax.tree.all(jax.tree.map(jnp.array_equal, a, b))


HEADS = ("lm_head.weight", "model.lm_head.weight")


@pytest.mark.parametrize(("kind", "head"), [*((k, HEADS[0]) for k in FAMILIES), ("qwen2", HEADS[1]),
                                            ("gemma3_vision", "language_model.lm_head.weight")])  # fmt: skip
def test_a_tied_config_over_a_head_of_its_own(kind, head, tiny_tokenizer_dir, tmp_path):
    """A head that differs is kept and written back; an equal one is the embedding."""
    save(hf_model(kind, tie_word_embeddings=True), tmp_path / "in", tiny_tokenizer_dir)
    embed = next(v for k, v in load_file(tmp_path / "in" / ONE).items() if k.endswith("embed_tokens.weight"))
    retensor(tmp_path / "in", lambda t: t.update({head: embed.copy()}))
    assert same_as_transformers(tmp_path / "in").tied
    other = embed.copy()
    other[-1, -1] += 1
    retensor(tmp_path / "in", lambda t: t.update({head: other}))
    assert not same_as_transformers(tmp_path / "in").tied
    out = hf_save.save_hf(hf.load(tmp_path / "in"), tmp_path / "out")
    assert not json.loads((out / "config.json").read_text())["tie_word_embeddings"]
    assert not same_as_transformers(out).tied


def test_heads_are_compared_as_they_are_loaded(tmp_path):
    """Equal in bfloat16, and not in float32."""
    save(hf_model("qwen2", tie_word_embeddings=True), tmp_path)
    retensor(tmp_path, lambda t: t.update({HEADS[0]: t["model.embed_tokens.weight"] * np.float32(1 + 2**-20)}))
    assert hf.load_params(tmp_path, "bfloat16")[2].tied and not hf.load_params(tmp_path, "float32")[2].tied


def test_a_head_alone_is_the_embedding_too(tmp_path):
    save(hf_model("llama", tie_word_embeddings=True), tmp_path)
    retensor(tmp_path, lambda t: t.update({HEADS[0]: t.pop("model.embed_tokens.weight")}))
    assert same_as_transformers(tmp_path).tied


def test_a_head_of_another_shape_is_refused(tmp_path):
    save(hf_model("qwen2", tie_word_embeddings=True), tmp_path)
    retensor(tmp_path, lambda t: t.update({HEADS[0]: t["model.embed_tokens.weight"][:-1].copy()}))
    with pytest.raises(InputError) as error:
        params(tmp_path)
    one_line(error, HEADS[0], "shape")
