"""PEFT folders both ways: adapters written here run in `peft`, and adapters made by `peft` run here."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import peft as peft_lib
import pytest
import torch
from helpers import hf_model, padded, run, save, torch_run
from safetensors.numpy import load_file, save_file

from welfare_jax.errors import InputError
from welfare_jax.models import hf, lora, peft
from welfare_jax.models.layers import Lora

TOKENS, MASK = padded()
KINDS = ("qwen2", "qwen3", "gemma3", "gemma3_vision", "glm4", "phi3")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_tokenizer_dir):
    """`folders(kind)`: a random checkpoint, made once."""
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = save(hf_model(kind), tmp_path_factory.mktemp(kind), tiny_tokenizer_dir)
        return made[kind]

    return get


def base(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()


def torch_logits(model):
    with torch.no_grad():
        return torch_run(model, TOKENS, MASK)[0].numpy()[MASK]


def logits(lm):
    return np.asarray(run(lm.graphdef, lm.params, TOKENS, mask=MASK).logits)[MASK]


def adapted(lm, **changes):
    """`lm` with adapters as after some training."""
    graphdef, params = lora.attach(
        lm.graphdef, lm.params, Lora(**dict(rank=3, alpha=6.0) | changes), jax.random.key(0)
    )
    rng = np.random.default_rng(0)

    def move(path, x):
        return x + 0.2 * rng.normal(size=x.shape).astype("f4") if path[-1].key == "lora_b" else x

    return dataclasses.replace(lm, graphdef=graphdef, params=jax.tree_util.tree_map_with_path(move, params))


CASES = [(kind, {}) for kind in KINDS] + [
    ("phi3", dict(targets="attn/(q|v)|mlp/up")),
    ("gpt_oss", dict(targets="attn/.*", alpha=5.0)),
]


@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_written_adapters_run_in_peft_and_come_back(kind, changes, folders, tmp_path):
    lm = hf.load(folders(kind))
    mine = adapted(lm, **changes)
    peft.save_peft(mine, tmp_path)
    want = logits(mine)
    assert np.abs(want - logits(lm)).max() > 0.1
    theirs = peft_lib.PeftModel.from_pretrained(base(folders(kind)), tmp_path)
    assert np.abs(torch_logits(theirs.base_model.model) - want).max() < 1e-4
    again = peft.load_peft(lm, tmp_path)
    np.testing.assert_allclose(logits(again), want, atol=1e-4)
    flat, back = (dict(jax.tree.leaves_with_path(m.params)) for m in (mine, again))
    assert flat.keys() == back.keys()  # fused adapters are taken apart into what they were made of
    for path, x in flat.items():
        np.testing.assert_allclose(back[path], x, atol=1e-6, err_msg=jax.tree_util.keystr(path))


THEIRS = {
    "qwen3": dict(r=4, lora_alpha=6, target_modules="all-linear"),
    "patterns": dict(
        r=2, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"], rank_pattern={"down_proj": 5},
        alpha_pattern={"mlp.down_proj": 3}, use_rslora=True,
    ),
    "phi3": dict(r=4, lora_alpha=8, target_modules=["qkv_proj", "down_proj", "gate_up_proj"]),
    "gemma3_vision": dict(r=4, lora_alpha=6, target_modules=r".*language_model.*\.(q_proj|up_proj)"),
}  # fmt: skip


@pytest.mark.parametrize("case", THEIRS)
def test_adapters_made_by_peft_run_here(case, folders, tmp_path):
    folder = folders("qwen3" if case == "patterns" else case)
    model = peft_lib.get_peft_model(base(folder), peft_lib.LoraConfig(task_type="CAUSAL_LM", **THEIRS[case]))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    model.save_pretrained(tmp_path)
    lm = hf.load(folder)
    got, want = logits(peft.load_peft(lm, tmp_path)), torch_logits(model.base_model.model)
    assert np.abs(want - logits(lm)).max() > 0.1
    assert np.abs(got - want).max() < 1e-4


def rewrite(folder, change):
    tensors = load_file(folder / peft.WEIGHTS)
    change(tensors)
    save_file(tensors, folder / peft.WEIGHTS)


def settings(folder, **changes):
    path = folder / peft.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


KEY = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"
BROKEN = {
    "no_config": (lambda d: (d / peft.CONFIG).unlink(), [peft.CONFIG]),
    "no_weights": (lambda d: (d / peft.WEIGHTS).unlink(), [peft.WEIGHTS]),
    "other_kind": (lambda d: settings(d, peft_type="IA3"), ["peft_type", "IA3"]),
    "dora": (lambda d: settings(d, use_dora=True), ["use_dora"]),
    "bias": (lambda d: settings(d, bias="all"), ["bias", "all"]),
    "head": (lambda d: settings(d, modules_to_save=["lm_head"]), ["modules_to_save"]),
    "unknown": (lambda d: rewrite(d, lambda t: t.update(extra=np.zeros(3, "f4"))), ["extra"]),
    "missing": (lambda d: rewrite(d, lambda t: t.pop(KEY)), ["layer 1", "mlp.up_proj"]),
    "wrong_shape": (lambda d: rewrite(d, lambda t: t.update({KEY: t[KEY][:2].copy()})), ["layer 1", "rank"]),
    "other_model": (
        lambda d: rewrite(d, lambda t: t.update({k: np.ones((3, 9), "f4") for k in t if "up_proj.lora_A" in k})),
        ["blocks/mlp/up/lora_a", "9"],
    ),
}


@pytest.fixture(scope="module")
def written(folders, tmp_path_factory):
    return peft.save_peft(adapted(hf.load(folders("qwen3"))), tmp_path_factory.mktemp("adapter"))


@pytest.mark.parametrize("case", BROKEN)
def test_broken_adapters_are_refused(case, written, folders, tmp_path):
    break_it, names = BROKEN[case]
    shutil.copytree(written, tmp_path / "adapter")
    break_it(tmp_path / "adapter")
    with pytest.raises(InputError) as error:
        peft.load_peft(hf.load(folders("qwen3")), tmp_path / "adapter")
    assert "\n" not in str(error.value)
    for name in names:
        assert name in str(error.value)


def test_what_has_no_peft_form_is_refused(folders, tmp_path):
    lm = hf.load(folders("gpt_oss"))
    for model, names in ((lm, ["no LoRA"]), (adapted(lm), ["experts", "save_hf"])):
        with pytest.raises(InputError) as error:
            peft.save_peft(model, tmp_path / "out")
        assert all(n in str(error.value) for n in names) and not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="already"):
        peft.load_peft(adapted(lm), tmp_path)
