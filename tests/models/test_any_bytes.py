"""Whatever lies in a model's files is read as transformers reads it, or refused in one line; nothing is half read."""

import json
import math
import warnings

import gguf_files
import jax
import numpy as np
import pytest
import torch
from flax import traverse_util
from helpers import FAMILIES, MULTIMODAL, hf_model, save
from hypothesis import assume, given
from mutations import bytes_like, changed, few, one_line, text
from reference import check

from welfare_jax.models import gguf, hf, peft, stops

# What changes no output and makes transformers fail; and what it has no default for where the file says null.
LEFT_ALONE = ("pad_token_id", "resid_pdrop", "vision_config")
NO_DEFAULT = ("head_dim", "num_key_value_heads")


@pytest.mark.parametrize("kind", (*FAMILIES, *MULTIMODAL))
def test_any_config(kind, tmp_path):
    """A config with something changed: another reading than transformers' is no reading."""
    hf_model(kind).config.save_pretrained(tmp_path)
    good = json.loads((tmp_path / "config.json").read_text())

    @few(20)
    @given(changed(good, without=LEFT_ALONE))
    def run(config):
        inner = config.get("text_config", config)
        assume(not isinstance(inner, dict) or all(inner.get(name, 1) is not None for name in NO_DEFAULT))
        (tmp_path / "config.json").write_text(text(config))
        if one_line(lambda: hf.read_config(tmp_path), "config.json"):
            check(tmp_path)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_tokenizer, tiny_tokenizer_dir):
    """A folder of a model with its tokenizer, of one layer."""
    model = hf_model("qwen3", vocab_size=len(tiny_tokenizer), num_hidden_layers=1)
    model.generation_config.eos_token_id = [2, 3]
    return save(model, tmp_path_factory.mktemp("whole"), tiny_tokenizer_dir)


def linked(whole, folder, *own):
    """A folder with all files of `whole`, of which those named in `own` are left out."""
    for path in whole.iterdir():
        if path.name not in own:
            (folder / path.name).symlink_to(path)
    return folder


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", stops.GENERATION, hf.INDEX, hf.SINGLE])
def test_any_bytes(name, whole, tmp_path):
    """In one file of a folder that is otherwise in order."""
    good = (whole / name).read_bytes() if (whole / name).is_file() else b'{"weight_map": {"a": "b"}}'
    linked(whole, tmp_path, name, *[hf.SINGLE] * (name == hf.INDEX))

    @few(12)
    @given(bytes_like(good))
    def run(data):
        (tmp_path / name).write_bytes(data)
        if lm := one_line(lambda: hf.load(tmp_path)):
            ends(lm.tokenizer)
            assert set(lm.tokenizer.listed_ends) <= {*range(lm.spec.vocab)}

    run()


def ends(tokenizer):
    one_line(lambda: stops.stop_ids(tokenizer))
    one_line(lambda: stops.stop_strings(tokenizer, ["end"]))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", stops.GENERATION])
def test_any_json(name, whole, tmp_path):
    good = json.loads((whole / name).read_text())
    linked(whole, tmp_path, name)

    @few(40)
    @given(changed(good))
    def run(value):
        (tmp_path / name).write_text(text(value))
        if tokenizer := one_line(lambda: hf.load_tokenizer(tmp_path)):
            ends(tokenizer)

    run()


def test_any_index(tmp_path):
    """Which file holds which tensor: as it is, or refused."""
    save(hf_model("qwen3", num_hidden_layers=1), tmp_path, max_shard_size="20KB")
    good, want = json.loads((tmp_path / hf.INDEX).read_text()), hf.load_params(tmp_path)[1]

    @few(30)
    @given(changed(good, without=["metadata"]))
    def run(index):
        (tmp_path / hf.INDEX).write_text(text(index))
        if found := one_line(lambda: hf.load_params(tmp_path)):
            assert jax.tree.all(jax.tree.map(np.array_equal, found[1], want))

    run()


def test_any_safetensors_header(whole, tmp_path):
    """The numbers are those of the file, or it is refused; no memory is taken for what it does not hold."""
    linked(whole, tmp_path, hf.SINGLE)
    data = (whole / hf.SINGLE).read_bytes()
    size = 8 + int.from_bytes(data[:8], "little")
    good, want = json.loads(data[8:size]), hf.load_params(whole)[1]

    @few(60)
    @given(changed(good, without=["__metadata__"]))
    def run(header):
        head = text(header).encode()
        (tmp_path / hf.SINGLE).write_bytes(len(head).to_bytes(8, "little") + head + data[size:])
        if found := one_line(lambda: hf.load_params(tmp_path), hf.SINGLE.split(".")[0]):
            assert jax.tree.all(jax.tree.map(np.array_equal, found[1], want))

    run()


@pytest.fixture(scope="module")
def adapter(whole, tmp_path_factory):
    """(the base's folder, a folder that PEFT wrote) with ranks, scales and layers of their own."""
    import peft as peft_lib

    base = save(hf_model("qwen3"), tmp_path_factory.mktemp("base"))
    made = peft_lib.LoraConfig(
        task_type="CAUSAL_LM", r=3, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"],
        rank_pattern={"down_proj": 5}, alpha_pattern={"mlp.down_proj": 3}, layers_to_transform=[0, 2],
        layers_pattern="layers", exclude_modules=["layers.2.mlp.down_proj"],
    )  # fmt: skip
    model = peft_lib.get_peft_model(hf_model("qwen3"), made)
    with torch.no_grad():
        for i, p in enumerate(p for name, p in model.named_parameters() if "lora_B" in name):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    model.save_pretrained(tmp_path_factory.mktemp("adapter"))
    return base, tmp_path_factory.getbasetemp() / "adapter0"


def ours(lm) -> dict:
    """{module of a layer: what its adapter adds to the kernel}, where that is anything."""
    flat, out = traverse_util.flatten_dict(lm.params, sep="/"), {}
    lora = hf.decoder.static(lm.graphdef)[1]
    for path in (p.removesuffix("lora_a") for p in flat if p.endswith("lora_a")):
        for i, (a, b) in enumerate(zip(flat[path + "lora_a"], flat[path + "lora_b"])):
            out[f"{i}/{path}"] = lora.alpha / lora.rank * np.asarray(a) @ np.asarray(b)
    return {name: added for name, added in out.items() if added.any()}


def theirs(folder) -> dict:
    import peft as peft_lib

    model, out = peft_lib.PeftModel.from_pretrained(hf_model("qwen3"), folder), {}
    for name, module in model.named_modules():
        if getattr(module, "lora_A", None) is not None and "default" in module.lora_A:
            layer, where = name.split("layers.")[1].split(".", 1)
            where = where.replace("self_attn", "attn").replace("_proj", "").replace(".", "/")
            added = module.lora_B["default"].weight @ module.lora_A["default"].weight
            out[f"{layer}/blocks/{where}/"] = module.scaling["default"] * added.detach().numpy().T
    return {name: added for name, added in out.items() if added.any()}


# What PEFT itself fails at, and what changes no output: null or nonsense where there is nothing to say.
NOTHING = ("task_type", "lora_dropout", "bias", "trainable_token_indices", "arrow_config", "layers_pattern")


@pytest.mark.filterwarnings("ignore")
def test_any_adapter_config(adapter, tmp_path):
    """The same adapters as PEFT makes of the same file, or a line."""
    base, folder = adapter
    lm, good = hf.load(base), json.loads((folder / peft.CONFIG).read_text())
    linked(folder, tmp_path, peft.CONFIG)

    @few(60)
    @given(changed(good, without=NOTHING))
    def run(config):
        (tmp_path / peft.CONFIG).write_text(text(config))
        if not (found := one_line(lambda: peft.load_peft(lm, tmp_path), peft.CONFIG)):
            return
        try:
            want = theirs(tmp_path)
        except (TypeError, ValueError, AttributeError, KeyError):
            return
        got = ours(found)
        assert got.keys() == want.keys()
        for name, added in want.items():
            np.testing.assert_allclose(got[name], added, rtol=1e-4, atol=1e-5 * abs(added).max())

    run()


@pytest.mark.parametrize("name", [peft.CONFIG, peft.WEIGHTS])
def test_any_bytes_in_an_adapter(name, adapter, tmp_path):
    base, folder = adapter
    lm = hf.load(base)
    linked(folder, tmp_path, name)

    @few(40)
    @given(bytes_like((folder / name).read_bytes()))
    def run(data):
        (tmp_path / name).write_bytes(data)
        one_line(lambda: peft.load_peft(lm, tmp_path), str(tmp_path))

    run()


METADATA = (
    True, False, -1, 0, 1, 7, 3.5, 2**31 - 1, 2**63 - 1, math.inf, math.nan, "x", "", [], ["x"], np.array([1, 2]),
    np.array([1.5]), np.array([], "u1"),
)  # fmt: skip


@pytest.fixture(scope="module")
def gguf_file(tiny_tokenizer_dir, tmp_path_factory):
    """`gguf_file(kind)`: a model of one layer in one file, with its tokenizer, made once."""
    tokenizer, made = gguf_files.tokenizer_metadata(tiny_tokenizer_dir, "default"), {}
    size = dict(vocab_size=len(tokenizer["tokenizer.ggml.tokens"]), num_hidden_layers=1)

    def get(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            made[kind] = gguf_files.write(folder / "m.gguf", hf_model(kind, **size), tokenizer)
        return made[kind]

    return get


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"])
def test_any_gguf_metadata(kind, gguf_file, tmp_path, monkeypatch):
    """What a file says of its architecture and its tokenizer."""
    good = gguf.read(gguf_file(kind))

    @few(40)
    @given(changed(good.values, METADATA))
    def run(values):
        monkeypatch.setattr(gguf, "read", lambda file: good._replace(values=values))
        if one_line(lambda: hf.read_config(good.file), "m.gguf"):
            (tmp_path / "config.json").write_text(text(gguf.config(gguf.read(good.file))))
            check(tmp_path)
        if tokenizer := one_line(lambda: hf.load_tokenizer(good.file), "m.gguf"):
            ends(tokenizer)

    run()


def test_any_bytes_in_a_gguf_file(gguf_file, tmp_path):
    """Most of the file is its header: a vocabulary."""
    good = gguf_file("qwen3").read_bytes()

    @few(40)
    @given(bytes_like(good))
    def run(data):
        (tmp_path / "m.gguf").write_bytes(data)
        if lm := one_line(lambda: hf.load(tmp_path / "m.gguf"), "m.gguf"):
            one_line(lambda: ends(lm.tokenizer))

    run()
