"""Every family through the cache, by the other attention, packed, deep: what parity at one forward leaves open."""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import FAMILIES, VOCAB, edit_config, hf_model, padded, params, run, save, tiny_spec, torch_run
from safetensors.numpy import load_file, save_file

from welfare_jax.errors import InputError
from welfare_jax.models import decoder, hf, hf_save
from welfare_jax.models.families import common
from welfare_jax.models.spec import small

TOKENS, MASK = padded()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """`loaded(kind)`: (graphdef, params, spec) of a random checkpoint, made once."""
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = params(save(hf_model(kind), tmp_path_factory.mktemp(kind)))
        return made[kind]

    return get


@pytest.mark.parametrize("kind", FAMILIES)
def test_cached_equals_uncached(kind, loaded):
    """A chunk and single tokens through a cache, rows padded at either side."""
    graphdef, weights, spec = loaded(kind)
    want = np.asarray(run(graphdef, weights, TOKENS, mask=MASK).logits)
    cache, got = decoder.empty_cache(spec, 3, 19, jnp.float32), []
    for a, b in ((0, 9), (9, 18), (18, 19)):
        out = run(graphdef, weights, TOKENS[:, a:b], mask=MASK[:, a:b], cache=cache)
        cache = out.cache
        got.append(np.asarray(out.logits))
    assert np.abs(np.concatenate(got, 1) - want)[MASK].max() < 1e-4


@pytest.mark.parametrize("kind", FAMILIES)
def test_both_attentions_agree_where_the_library_covers_the_family(kind, loaded):
    """Values, gradients and the cached forward; soft caps and sinks are refused by name."""
    graphdef, weights, spec = loaded(kind)
    if kind in ("gemma2", "gpt_oss"):
        with pytest.raises(InputError, match=f"attention='xla'.*{kind}.*plain"):
            dataclasses.replace(spec, attention="xla")
        return
    other, _ = decoder.structure(dataclasses.replace(spec, attention="xla"))
    cache = decoder.empty_cache(spec, 3, 19, jnp.float32)

    @jax.jit
    def both(weights):
        out = []
        for g in (graphdef, other):

            def loss(weights, g=g):
                logits = decoder.forward(g, weights, TOKENS, mask=MASK).logits
                return jnp.sum(jnp.where(MASK[..., None], jnp.sin(logits), 0.0)), logits

            grads, logits = jax.grad(loss, has_aux=True)(weights)
            cached = decoder.forward(g, weights, TOKENS, mask=MASK, cache=cache).logits
            out.append((logits, cached, grads["blocks"]["attn"]))
        return out

    (a, cached_a, grad_a), (b, cached_b, grad_b) = both(weights)
    assert np.abs(a - b)[MASK].max() < 1e-4 and np.abs(cached_a - cached_b)[MASK].max() < 1e-4
    for x, y in zip(jax.tree.leaves(grad_a), jax.tree.leaves(grad_b)):
        np.testing.assert_allclose(x, y, atol=1e-4 * max(1.0, np.abs(x).max()))


def test_attention_is_chosen_when_loading(tmp_path, tiny_tokenizer_dir):
    save(hf_model("qwen3"), tmp_path, tiny_tokenizer_dir)
    assert hf.load(tmp_path).spec.attention == "plain" and hf.load(tmp_path, attention="xla").spec.attention == "xla"
    for attention, names in (("flash", "plain, xla, cudnn"), ("cudnn", "GPU")):
        with pytest.raises(InputError, match=names):
            hf.load(tmp_path, attention=attention)


DYNAMIC = dict(rope_parameters=dict(rope_type="dynamic", rope_theta=500.0, factor=6.0), max_position_embeddings=18)


@pytest.mark.parametrize(
    ("kind", "changes"), [("phi3", dict(original_max_position_embeddings=18)), ("internlm3", DYNAMIC)]
)
def test_frequencies_by_length_refuse_a_cache_that_they_cannot_follow(kind, changes, tmp_path):
    graphdef, weights, spec = params(save(hf_model(kind, **changes), tmp_path))
    with pytest.raises(InputError, match="19 slots.*18 tokens"):
        run(graphdef, weights, TOKENS, mask=MASK, cache=decoder.empty_cache(spec, 3, 19, jnp.float32))


@pytest.mark.skipif(jax.device_count() != 8, reason="needs 8 (virtual) devices")
@pytest.mark.parametrize("kind", ["gpt_oss", "phi3"])
def test_loaded_over_a_mesh(kind, loaded, tmp_path, tiny_tokenizer_dir):
    """Parameters are spread as they are read, and experts, sinks and fused projections change no number."""
    from welfare_jax import mesh as mesh_lib

    lm = hf.load(save(hf_model(kind), tmp_path, tiny_tokenizer_dir), mesh=mesh_lib.make(2, 2, 2))
    spread = jax.tree.leaves(lm.params["blocks"]["mlp"])
    assert any(x.sharding.shard_shape(x.shape) != x.shape for x in spread)
    tokens, mask = np.tile(TOKENS, (2, 1))[:4], np.tile(MASK, (2, 1))[:4]
    over = [jax.device_put(x, mesh_lib.rows(mesh_lib.make(2, 2, 2))) for x in (tokens, mask)]
    graphdef, weights, _ = loaded(kind)
    got, want = run(lm.graphdef, lm.params, over[0], mask=over[1]), run(graphdef, weights, tokens, mask=mask)
    assert np.abs(np.asarray(got.logits) - np.asarray(want.logits))[mask].max() < 1e-4


def pack(tensors, rng):
    """Replace the experts' matrices by random MXFP4 ones: what they stand for is returned, in NumPy."""
    exact, values = {}, np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    for name in [n for n in tensors if n.endswith(("gate_up_proj", "down_proj"))]:
        experts, n_in, n_out = tensors.pop(name).shape
        codes = rng.integers(0, 16, (experts, n_out, n_in))
        scales = rng.integers(120, 128, (experts, n_out, n_in // 32))
        numbers = np.where(codes > 7, -1.0, 1.0) * values[codes % 8]
        exact[name] = (numbers * 2.0 ** np.repeat(scales - 127, 32, -1)).swapaxes(1, 2)
        halves = codes.reshape(experts, n_out, n_in // 32, 16, 2)
        tensors[name + "_blocks"] = (halves[..., 0] + 16 * halves[..., 1]).astype(np.uint8)
        tensors[name + "_scales"] = scales.astype(np.uint8)
    return exact


def test_packed_experts(tmp_path):
    """MXFP4 blocks and scales, unpacked here, by transformers' own function, and by the published layout."""
    import torch
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    shape = dict(hidden_size=64, intermediate_size=32, num_hidden_layers=2)
    model = hf_model("gpt_oss", **shape)
    save(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    exact = pack(tensors, np.random.default_rng(0))
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    edit_config(tmp_path, quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})
    own = dict(model.named_parameters())
    for name, value in exact.items():
        parts = (torch.as_tensor(tensors[name + end]) for end in ("_blocks", "_scales"))
        theirs = convert_moe_packed_tensors(*parts, dtype=torch.float32).numpy()
        np.testing.assert_array_equal(theirs, value)
        with torch.no_grad():
            own[name].copy_(torch.as_tensor(value))
    graphdef, weights, _ = params(tmp_path)
    with torch.no_grad():
        want = torch_run(model, TOKENS, MASK)[0].numpy()
    assert np.abs(np.asarray(run(graphdef, weights, TOKENS, mask=MASK).logits) - want)[MASK].max() < 1e-4
    tensors["model.layers.0.mlp.experts.down_proj_scales"] = np.zeros((6, 64, 2), np.uint8)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="down_proj_scales has shape"):
        params(tmp_path)


def test_other_packing_is_refused(tmp_path):
    save(hf_model("gpt_oss"), tmp_path)
    edit_config(tmp_path, quantization_config={"quant_method": "fp8"})
    with pytest.raises(InputError, match="fp8"):
        params(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, dict(experts=4, active=2, sinks=True)], ids=["dense", "experts"])
def test_deep_models_compile_as_fast_as_shallow_ones(changes):
    def seconds(layers):
        spec = tiny_spec(
            "gemma3", layers=layers, rope_of=(0, 1) * (layers // 2), windows=(0, 4) * (layers // 2), **changes
        )
        graphdef, shapes = decoder.structure(spec)
        tokens = jax.ShapeDtypeStruct((2, 32), jnp.int32)
        lowered = jax.jit(lambda p, t: decoder.forward(graphdef, p, t).logits).lower(shapes, tokens)
        begin = time.perf_counter()
        lowered.compile()
        return time.perf_counter() - begin

    seconds(4)
    assert min(seconds(64) for _ in range(3)) < 1.5 * min(seconds(8) for _ in range(3))


MEASURE = """
import pathlib, sys, jax
from welfare_jax import runtime
from welfare_jax.models import hf
peak = lambda: runtime.peak_bytes() / 2**20
hf.load_params(hf.TINY)
before = peak()
_, params, _ = hf.load_params(pathlib.Path(sys.argv[1]), "bfloat16")
sizes = [x.nbytes / 2**20 for x in jax.tree.leaves(params)]
print(peak() - before, sum(sizes), max(sizes))
"""


@pytest.mark.slow
def test_loading_holds_little_beside_the_parameters(tmp_path):
    """Resident memory grows by no more than the parameters, the largest stacked one, and a little."""
    shape = small(30_000, layers=8, width=768, heads=12, kv_heads=4, mlp=2304)
    hf_save.write_random(tmp_path, shape, hf.load_tokenizer(hf.TINY), "bfloat16", 16 << 20)
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True)
    grown, total, largest = map(float, done.stdout.split())
    assert len(list(tmp_path.glob("*.safetensors"))) > 5 and total > 120
    assert 0.5 * total < grown < total + largest + 40, done.stdout


def test_attributes_are_refused_by_name(tmp_path):
    """What a family's code reads but does not do."""
    for i, (kind, name, value) in enumerate((
        ("llama", "mlp_bias", True), ("qwen2", "attention_chunk_size", 8), ("gemma2", "attention_bias", True),
        ("gemma2", "use_bidirectional_attention", True), ("gemma2", "attn_logit_softcapping", 0.0),
        ("glm4", "is_causal", False), ("granite", "logits_scaling", 0), ("mistral", "sliding_window", 0),
        ("phi3", "full_attn_mod", 2), ("phi3", "original_max_position_embeddings", 1),
    )):  # fmt: skip
        folder = tmp_path / str(i)
        save(hf_model(kind), folder)
        edit_config(folder, **{name: value})
        with pytest.raises(InputError) as error:
            params(folder)
        assert name in str(error.value) and "\n" not in str(error.value)


PARTIAL = ("glm", "glm4", "phi3")  # families that can rotate a share of each head


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_share_of_each_head_is_rotated_only_where_transformers_does(kind, tmp_path):
    """The code of other families there ignores what their configs say of it."""
    save(hf_model(kind), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    ropes = config["rope_parameters"]
    for inside in [ropes, *(r for r in ropes.values() if isinstance(r, dict))] if kind not in PARTIAL else []:
        had = inside.get("partial_rotary_factor")
        inside["partial_rotary_factor"] = 0.5
        edit_config(tmp_path, **config)
        with pytest.raises(InputError, match="partial_rotary_factor") as error:
            hf.read_config(tmp_path)
        assert "\n" not in str(error.value)
        inside.pop("partial_rotary_factor")
        assert had is None
    edit_config(tmp_path, **config)
    spec = hf.read_config(tmp_path)[0]
    assert (max(r.dim for r in spec.ropes) < spec.head_dim) == (kind in PARTIAL)


def test_what_gemma3_says_of_capped_scores_is_refused_and_gemma2_caps_them(tmp_path):
    for kind in ("gemma2", "gemma3"):
        save(hf_model(kind), tmp_path / kind)
        edit_config(tmp_path / kind, attn_logit_softcapping=5.0)
    assert hf.read_config(tmp_path / "gemma2")[0].attn_cap == 5.0
    with pytest.raises(InputError, match="attn_logit_softcapping=5.0 is not supported"):
        hf.read_config(tmp_path / "gemma3")


def test_both_names_of_one_activation(tmp_path):
    save(hf_model("llama"), tmp_path)
    before = hf.read_config(tmp_path)[0]
    edit_config(tmp_path, hidden_act="swish")
    assert hf.read_config(tmp_path)[0] == before


INNER = {  # what is wrong inside or around a decoder's config, and what the message names
    "none": (lambda c: c.pop("text_config"), ["mistral3", "without a text_config"]),
    "a_list": (lambda c: c.update(text_config=[1]), ["mistral3", "without a text_config"]),
    "another": (lambda c: c["text_config"].update(model_type="mixtral"), ["text_config", "'mixtral'", "ministral3"]),
    "attribute": (lambda c: c["text_config"].update(hidden_act="relu"), ["hidden_act", "relu"]),
    "packed": (lambda c: c.update(quantization_config={"quant_method": "awq"}), ["quantization_config", "awq"]),
    "packed_oddly": (lambda c: c.update(quantization_config="awq"), ["transformers refuses it"]),
}


@pytest.mark.parametrize("case", INNER)
def test_multimodal_configs_are_refused_by_name(case, tmp_path):
    break_it, names = INNER[case]
    save(hf_model("ministral3_vision"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    break_it(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError) as error:
        params(tmp_path)
    assert all(n in str(error.value) for n in ("config.json", *names)) and "\n" not in str(error.value)


SMOLLM2 = {  # what its config.json says beside the architecture
    "_model_name_or_path": "a/folder", "unk_token_id": 0, "is_llama_config": True, "rope_interleaved": False,
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
}  # fmt: skip


@pytest.mark.parametrize("kind", FAMILIES)
def test_attributes_that_transformers_does_not_know_change_nothing(kind, tmp_path, monkeypatch):
    """Refused as soon as the config class declares one of them."""
    model = hf_model(kind)
    save(model, tmp_path)
    before = params(tmp_path)[2]
    edit_config(tmp_path, **SMOLLM2)
    with pytest.warns(UserWarning, match="_model_name_or_path.*is_llama_config.*transformers.js_config"):
        assert params(tmp_path)[2] == before
    common.declared.cache_clear()
    monkeypatch.setattr(type(model.config), "rope_interleaved", True, raising=False)
    with pytest.raises(InputError, match="rope_interleaved"):
        params(tmp_path)
    common.declared.cache_clear()


@pytest.mark.parametrize("kind", FAMILIES)
def test_what_transformers_reads_undeclared_is_read_here(kind, tmp_path, monkeypatch):
    """Its code asks configs for a few names that their classes do not declare: each must be known here."""
    model, read, call = hf_model(kind), set(), common.Fields.__call__
    modules = [type(model).__module__, "transformers.masking_utils", "transformers.modeling_rope_utils"]
    text = "".join(pathlib.Path(sys.modules[m].__file__).read_text() for m in modules).replace("config.json", "")
    asked = {*re.findall(r'config, "(\w+)"', text), *re.findall(r"config\.([a-z]\w*)\b(?!\()", text)}
    assert {"head_dim", "is_causal", "vocab_size"} <= asked

    def note(self, name, default=None):
        read.add(name)
        return call(self, name, default)

    save(model, tmp_path)
    monkeypatch.setattr(common.Fields, "__call__", note)
    params(tmp_path)
    known = {n for n in asked if common.declared(model.config.model_type, n) or common.declared("gemma3", n)}
    assert not asked - known - read


def test_old_configs_without_layer_types(tmp_path):
    """transformers fills in which layers are local; so does this package where it is not told."""
    for kind in ("gemma2", "gpt_oss"):
        folder = save(hf_model(kind), tmp_path / kind)
        before = params(folder)[2]
        config = json.loads((folder / "config.json").read_text())
        del config["layer_types"]
        (folder / "config.json").write_text(json.dumps(config))
        assert params(folder)[2] == before and before.windows == (5, 0, 5) and before.vocab == VOCAB
