"""The configs of released models, as their folders spell them: read as transformers reads them, or refused in a line.

`released.jsonl` has one model a line, with every key of its config.json.
"""

import json
import pathlib
import runpy

import pytest
from reference import check

from welfare_jax.errors import InputError
from welfare_jax.models import hf

LINES = (pathlib.Path(__file__).parent / "released.jsonl").read_text().splitlines()
RELEASED = {line["name"]: line["config"] for line in map(json.loads, LINES)}
SHIPPED = (  # their configs lie in the package
    "Qwen/Qwen3-4B-Instruct-2507",
    "Qwen/Qwen3-4B-Base",
    "Qwen/Qwen3-8B",
    "Qwen/Qwen3-14B",
    "Qwen/Qwen3-32B",
    "openai/gpt-oss-20b",
    "openai/gpt-oss-120b",
    "google/gemma-3-4b-it",
    "google/gemma-3-12b-it",
    "google/gemma-3-27b-it",
    "meta-llama/Llama-3.2-3B-Instruct",
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
    assert paths <= set(SHIPPED)
    with pytest.raises(hf.InputError):
        hf.resolve("Qwen/Qwen3-8B")  # with its weights
    assert all((hf.resolve(path, weights=False) / "config.json").is_file() for path in paths)
