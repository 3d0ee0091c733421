"""PEFT folders both ways: adapters written here run in `peft`, and adapters made by `peft` run here."""

import dataclasses
import json
import math
import shutil

import jax
import numpy as np
import peft as peft_lib
import pytest
import torch
from helpers import FAMILIES, MULTIMODAL, hf_model, padded, run, save, torch_run
from safetensors.numpy import load_file, save_file

from welfare_jax.errors import InputError
from welfare_jax.models import hf, lora, peft
from welfare_jax.models.layers import Lora

TOKENS, MASK = padded()
EXPERTS = ("gpt_oss", "qwen3_moe")  # PEFT has adapters for their attention only
KINDS = (*FAMILIES, *MULTIMODAL)


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
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    auto = AutoModelForImageTextToText if "text_config" in hf.raw_config(folder) else AutoModelForCausalLM
    return auto.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()


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


CASES = [(kind, {}) for kind in KINDS if kind not in EXPERTS] + [
    ("phi3", dict(targets="attn/(q|v)|mlp/up")),
    *((kind, dict(targets="attn/.*", alpha=5.0)) for kind in EXPERTS),
]


@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_written_adapters_run_in_peft_and_come_back(kind, changes, folders, tmp_path):
    lm = hf.load(folders(kind))
    mine = adapted(lm, **changes)
    first = [path for path, _ in jax.tree.leaves_with_path(mine.params) if path[-1].key == "lora_a"]
    assert changes or len(first) == len(lora.linear(mine.params)) == 7  # every linear layer has one
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


ALPHAS = (  # by layer, by a pattern, by a whole name, and what fits nothing because it begins or ends inside a name
    {"layers.0.self_attn.q_proj": 64},
    {r".*\.layers\.2\..*(q_proj|v_proj)$": 64, "v_proj": 1},
    {"^model.layers.1.mlp.down_proj": 1, "q_proj": 3},
    {"self_attn.q_proj": 5, "down_pro": 9, "attn.v_proj": 9, "odel.layers.0.mlp.down_proj": 9, r"layers\.\d\.mlp": 9},
)
QVD = ["q_proj", "v_proj", "down_proj"]
ALL = dict(r=4, lora_alpha=6, target_modules="all-linear")
THEIRS = {
    **{kind: ALL for kind in FAMILIES if kind not in (*EXPERTS, "phi3")},
    **{kind: ALL | dict(target_modules=r".*language_model.*\.(q_proj|up_proj)") for kind in MULTIMODAL},
    "patterns": dict(
        r=2, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"], rank_pattern={"down_proj": 5},
        alpha_pattern={"mlp.down_proj": 3}, use_rslora=True,
    ),
    **{f"alphas{i}": dict(r=4, lora_alpha=12, target_modules=QVD, alpha_pattern=a) for i, a in enumerate(ALPHAS)},
    "ranks_by_layer": dict(
        r=2, target_modules=QVD, rank_pattern={"layers.0.self_attn.q_proj": 5, r"model\.layers\.1\..*": 3},
        alpha_pattern={r".*\.1\.mlp\.down_proj": 9},
    ),
    "some_layers": dict(target_modules=QVD, layers_to_transform=[0, 2]),
    "one_layer": dict(target_modules=QVD, layers_to_transform=1, layers_pattern="layers"),
    "whole_names": dict(target_modules=["model.layers.1.mlp.up_proj", "layers.2.self_attn.o_proj"]),
    "regex": dict(target_modules=r"model\.layers\.[02]\..*_proj", exclude_modules=r".*\.o_proj"),
    "excluded": dict(target_modules="all-linear", exclude_modules=["lm_head", "layers.1.mlp.gate_proj", "k_proj"]),
    "no_alpha": dict(target_modules=QVD, lora_alpha=0, alpha_pattern={"q_proj": 4}),
    "gemma3_vision_patterns": dict(
        r=4, target_modules=r".*language_model.*\.(q_proj|up_proj)", alpha_pattern={
            "model.layers.0.self_attn.q_proj": 60, "^model.language_model.layers.1.self_attn.q_proj": 60,
            r"language_model\.layers\.2\.mlp\.up_proj": 60}),
    "phi3_patterns": dict(
        r=4, target_modules=["qkv_proj", "down_proj", "gate_up_proj"],
        alpha_pattern={"layers.1.self_attn.qkv_proj": 40}, rank_pattern={"layers.0.mlp.gate_up_proj": 2}),
    "gpt_oss": dict(r=3, lora_alpha=8, target_modules=["q_proj", "o_proj", "down_proj"]),
    "qwen3_moe": dict(r=3, lora_alpha=8, target_modules=["q_proj", "o_proj"]),
    "phi3": dict(r=4, lora_alpha=8, target_modules=["qkv_proj", "down_proj", "gate_up_proj"]),
}  # fmt: skip


@pytest.mark.parametrize("case", THEIRS)
def test_adapters_made_by_peft_run_here(case, folders, tmp_path):
    kind = max((k for k in KINDS if case.startswith(k)), key=len, default="qwen3")
    folder = folders(kind)
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
    assert np.abs(got - want).max() < 1e-4 * max(1, want.std())


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
    "twice": (
        lambda d: rewrite(d, lambda t: t.update({KEY.replace(".weight", ".default.weight"): t[KEY] + 1})),
        ["twice", "up_proj.lora_A"],
    ),
    "not_a_target": (lambda d: settings(d, target_modules=["q_proj"]), ["target_modules", "mlp"]),
    "layers_of_a_pattern": (
        lambda d: settings(d, target_modules=".*_proj", layers_to_transform=[0]),
        ["layers_to_transform", "pattern"],
    ),
    "no_finite_alpha": (lambda d: settings(d, alpha_pattern={"up_proj": math.inf}), [peft.CONFIG, "alpha=inf"]),
    "no_targets": (lambda d: settings(d, target_modules=None), [peft.CONFIG]),
    "layer_left_out": (lambda d: settings(d, layers_to_transform=[0, 1]), ["layers.2.", "target_modules"]),
    "other_rank": (lambda d: settings(d, r=2), ["rank 2", peft.CONFIG]),
    "rank_of_a_layer": (lambda d: settings(d, rank_pattern={"layers.1.mlp.up_proj": 7}), ["layer 1", "rank 7"]),
    "no_number": (lambda d: settings(d, lora_alpha="much"), [peft.CONFIG]),
    "no_regex": (lambda d: settings(d, alpha_pattern={"(": 3}), [peft.CONFIG]),
    "no_dictionary": (lambda d: settings(d, rank_pattern=["q_proj"]), [peft.CONFIG]),
    "rank_zero": (lambda d: settings(d, r=0), [peft.CONFIG, "rank=0"]),
    **{
        name: (lambda d, name=name: settings(d, init_lora_weights=name), ["init_lora_weights", name, "merge"])
        for name in ("pissa", "pissa_niter_4", "olora", "loftq", "corda", "lora_ga", "of_tomorrow")
    },
    **{
        name: (lambda d, name=name, value=value: settings(d, **{name: value}), [name])
        for name, value in {
            "trainable_token_indices": [1, 2],
            "target_parameters": ["experts.down_proj"],
            "lora_bias": True,
            "layer_replication": [[0, 2], [1, 3]],
            "megatron_config": {"a": 1},
            "alora_invocation_tokens": [4],
            "use_qalora": True,
            "kasa_config": {"beta": 1e-4},
            "of_tomorrow": 1,
        }.items()
    },
    "blocks": (
        lambda d: save_file(load_file(d / peft.WEIGHTS), d / peft.WEIGHTS, {peft.BLOCKS: '{"mlp.up_proj": ["x"]}'}),
        [peft.BLOCKS, "mlp.up_proj"],
    ),
    "no_blocks": (
        lambda d: save_file(load_file(d / peft.WEIGHTS), d / peft.WEIGHTS, {peft.BLOCKS: "[1]"}),
        [peft.BLOCKS],
    ),
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


PLAIN = dict(r=4, lora_alpha=6, target_modules=QVD)
LEFT_ALONE = {  # what changes nothing, set in the file after training
    "gaussian": {"init_lora_weights": "gaussian"}, "orthogonal": {"init_lora_weights": "orthogonal"},
    "random": {"init_lora_weights": False}, "mica": {"init_lora_weights": "mica"},
    "eva": {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}}, "corda": {"corda_config": {"verbose": False}},
    "loftq": {"loftq_config": {"loftq_bits": 4}}, "turned": {"fan_in_fan_out": True},
    "tied": {"ensure_weight_tying": True},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", [*LEFT_ALONE, "pissa", "olora"])
def test_settings_that_change_nothing_are_those_that_change_nothing_in_peft(case, folders, tmp_path):
    """PiSSA and OLoRA take their first product off the weights, at every load: those are refused."""
    folder = folders("qwen3")
    model = peft_lib.get_peft_model(base(folder), peft_lib.LoraConfig(task_type="CAUSAL_LM", **PLAIN))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    model.save_pretrained(tmp_path)
    plain = torch_logits(model.base_model.model)
    settings(tmp_path, **LEFT_ALONE.get(case, {"init_lora_weights": case}))
    theirs = torch_logits(peft_lib.PeftModel.from_pretrained(base(folder), tmp_path).base_model.model)
    if case in LEFT_ALONE:
        assert np.abs(theirs - plain).max() < 1e-5
        assert np.abs(logits(peft.load_peft(hf.load(folder), tmp_path)) - theirs).max() < 1e-4
    else:
        assert np.abs(theirs - plain).max() > 0.1
        with pytest.raises(InputError, match=case):
            peft.load_peft(hf.load(folder), tmp_path)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
def test_adapters_of_peft_on_experts_are_refused(targets, folders, tmp_path):
    """PEFT puts them on the experts' parameters, where it would on linear layers in other families."""
    config = peft_lib.LoraConfig(task_type="CAUSAL_LM", target_modules=targets)
    peft_lib.get_peft_model(base(folders("qwen3_moe")), config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"{peft.CONFIG}: target_parameters=.*down_proj"):
        peft.load_peft(hf.load(folders("qwen3_moe")), tmp_path)


@pytest.mark.parametrize("kind", EXPERTS)
def test_what_has_no_peft_form_is_refused(kind, folders, tmp_path):
    lm = hf.load(folders(kind))
    for model, names in ((lm, ["no LoRA"]), (adapted(lm), ["experts", "save_hf"])):
        with pytest.raises(InputError) as error:
            peft.save_peft(model, tmp_path / "out")
        assert all(n in str(error.value) for n in names) and not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="already"):
        peft.load_peft(adapted(lm), tmp_path)
