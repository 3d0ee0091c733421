"""The settings of a run, their defaults and what they mean: the paper's main run (arXiv:2605.30232 §2.2, §J.3, §Q).

Config files start from `rl()` and change a few lines.
"""

import dataclasses
import difflib
import pathlib

from ml_collections import ConfigDict

from welfare_jax import config_evals, textfiles
from welfare_jax.errors import InputError
from welfare_jax.settings import Setting, defaults, meanings
from welfare_jax.text.wording import Wording


def check_variant(variant: str, variants):
    """`InputError` where `variant` is none of the `variants` of a config file."""
    if variant not in variants:
        near = difflib.get_close_matches(variant, variants, 2)
        meant = f"did you mean {' or '.join(near)}?" if near else "choose another one."
        raise InputError(f"there is no variant {variant!r}; {meant} There are {', '.join(variants)}")


def rl() -> ConfigDict:
    """The main job; `axes` and `evals` take the same settings."""
    return ConfigDict(defaults(_rl()))


def _rl() -> dict:
    return {
        "job": "rl",
        "seed": 0,
        "plan": Setting(False, "only print what the run would need"),
        "topology": Setting("", "the machine to plan for: v5e-8, v5p-16, 8xH100, ...; empty: the common ones"),
        "model": {
            "path": Setting("", "a folder, a GGUF file or a hub name"),
            "revision": Setting("", "of a hub model: a branch, tag or commit"),
            "dtype": "bfloat16",
            "attention": Setting("plain", 'or "xla", "cudnn": see models/hf.py'),
        },
        "mesh": Setting({"data": 0, "fsdp": 1, "tensor": 1}, "devices along each axis; data=0: whatever is left"),
        "parallel": Setting("jit", 'a step over the mesh; or "pmap": whole parameters, own episodes on every device'),
        "distributed": Setting({
            "coordinator": Setting("", 'HOST:PORT of process 0, or "auto" on Cloud TPU, Slurm, Kubernetes, Open MPI'),
            "processes": Setting(1, "with HOST:PORT: how many there are"),
            "process": Setting(0, "with HOST:PORT: which one this is"),
            "timeout": Setting(100, "seconds after which a silent process counts as dead"),
        }, "a run over several processes, each started with the same settings but for `process`; see hosts.py"),
        "text": Setting({**dataclasses.asdict(Wording()), "template": {}}, "what players read; see text/wording.py"),
        "maze": Setting({
            "size": 100, "turns": 15, "order": "maze", "wind": 0.1, "wind_mode": "push", "melt": True, "whole": False,
            "gold_ratio": 0.2, "turn_reward": -0.1, "gold_reward": 20.0, "mold_reward": -10.0,
        }, "the rules; see Params in envs/maze.py"),
        "train": {
            "algorithm": Setting("dr_grpo", "one of train/algorithms.py"),
            "steps": 95,
            "groups": Setting(8, "mazes a step"),
            "group_size": Setting(64, "episodes a maze"),
            "micro_batch": Setting(32, "episodes a gradient pass"),
            "rollout_batch": Setting(0, "episodes played at a time; fewer need less memory for the cache. 0: all"),
            "epochs": Setting(1, "passes over the episodes of a step"),
            "minibatches": Setting(1, "optimiser steps a pass"),
            "temperature": 0.7,
            # Rates.
            "schedule_steps": Setting(500, "S: learning rate and entropy coefficient are zero from step S - 1 on"),
            "schedule": Setting("cosine", 'of the learning rate; or "linear", "constant"'),
            "schedule_rate": Setting(1.0, "f: how fast the annealing runs"),
            "warmup": 0,
            "lr": Setting(3e-6, "learning rate"),
            "value_lr": Setting(1e-2, "learning rate of PPO's value head"),
            # Objective.
            "entropy_coef": 0.01,
            "entropy": Setting("equalised", 'or "plain"'),
            "kl_coef": 0.0,
            "kl": Setting("exact", 'over the four actions; or "k3"'),
            "kl_in": Setting("loss", 'or "reward"'),
            "clip": 0.2,
            "dual_clip": 3.0,
            "z": 2048.0,
            "gamma": 1.0,
            "gae_lambda": 0.95,
            "value_clip": 0.2,
            "value_coef": 0.5,
            "reward_scale": Setting(1.0, "what rewards are multiplied by before advantages"),
            "keep_best": Setting(0, "learn only from this many best distinct episodes a maze (Expert Iteration)"),
            "soft_q": Setting(0.0, "lambda of inverse soft-Q"),
            # Optimiser.
            "optimizer": Setting("adamw", 'or "lion", "sgd"'),
            "grad_clip": Setting(1.0, "0: none"),
            "weight_decay": 0.01,
            "adam_b1": 0.9,
            "adam_b2": 0.999,
            "lora": {"rank": 32, "alpha": 64.0, "targets": r"attn/(q|k|v|o)|mlp/(experts/)?(gate|up|down)"},
            "trainable": Setting(r".*/lora_[ab]", "paths of the parameters that are trained, a regular expression"),
            "merge_lora": Setting(False, "fold adapters in for the rollout: less work, a second copy of the weights"),
            "remat": Setting(True, "compute a layer's inside again in the backward pass"),
            "remat_keeps": Setting("nothing", 'of it; or "dots", products with weights: faster, and more memory'),
            "checkpoint_every": Setting(5, "steps"),
            "keep": Setting(3, "checkpoints"),
            "eval_every": Setting(0, "steps between rollouts on held-out mazes, whose best is kept; 0: none"),
            "spike": Setting(20.0, "stop at a loss so many standard deviations off the last steps'; 0: never"),
            "intervene": Setting({
                "vectors": "", "vector": "gold/rest", "op": "ablate", "layer": -1, "scale": 1.0, "when": "both",
            }, "a vector file, its entry and what is done with it while training; see train/intervene.py"),
        },
        "organisms": Setting(
            {"seed": (), "tiles": (), "lr": (), "entropy_coef": ()},
            "N values make N adapters that are trained side by side; tiles are orders such as (0, 2, 1)",
        ),
        "sft": Setting({
            "trajectories": 50_000,
            "held_out": 512,
            "size": Setting(31, "of the mazes; 0: that of the maze"),
            "beams": 64,
            "batch": 16,
            "policy_samples": False,
        }, "planned trajectories, for algorithms that learn from them"),
        "curve": Setting({
            "every": Setting(5, "steps between points"),
            "per_length": Setting(4, "walks a class and length"),
            "axes": Setting("", "a vector file (a former run's vectors/axes_untrained.safetensors) to compare with"),
        }, "the live recruitment curve"),
        "extract": {
            "per_length": Setting(417, "walks a class and length: 5,004 a class enter the means at 15 turns"),
            "held_out": Setting(0.2, "share of the walks"),
            "batch": 64,
            "replicates": Setting(200, "half samples for the intervals"),
            "permutations": Setting(1000, "of the labels among walks of one letter and length, for what chance reads"),
            "store": Setting(False, "also keep every activation, under activations/"),
            "question": Setting("", 'asked after a walk ("How is it going?"), read where the answer would begin; '
                                "none: walks are read at their final letter"),
        },
        "outcome": Setting({
            "baseline": Setting("path", 'of cos(v_mold, v_gold); or "rest"'),
            "layers": Setting("signal", 'where both vectors are more signal than noise; or "last_third", "all"'),
            "least": Setting(0.1, "the smallest change of interest"),
            "shams": Setting(0, "adapters of the trained one's size in random directions, read beside it"),
        }, "what the run is held to, fixed before it begins; all else is secondary; see interp/outcome.py"),
        "axes": {
            "kinds": Setting("reviews,prompts,assent,emotions",
                             "what to compare with, empty for nothing; also success: accounts and walks under a goal"),
            # Files; where empty, the small samples of the package.
            "reviews": "", "prompts": "", "statements": "", "emotions": "", "topics": "", "dialogues": "",
            "limit": Setting(400, "at most so many texts; 0: all"),
            "emotions_limit": Setting(0, "at most so many words; 0: all"),
            "topics_limit": Setting(100, "at most so many topics; 0: all"),
            "stories": Setting(12, "of each emotion and topic"),
            "max_new_tokens": 200,
            "first_token": Setting(50, "stories are averaged from this token on"),
            "max_tokens": 512, "batch": 32,
        },
        "steer": {
            "prompts": ("How is it going?", "Tell me about your walk.", "How do you feel?", "What happened?"),
            "alphas": (-4.0, -2.0, 0.0, 2.0, 4.0),
            "max_new_tokens": 40,
            "temperature": 0.7,
        },
        "evals": config_evals.tree(),
    }  # fmt: skip


OPTIMISATION = (
    "steps", "micro_batch", "schedule_steps", "schedule", "schedule_rate", "warmup", "lr", "value_lr", "optimizer",
    "grad_clip", "weight_decay", "adam_b1", "adam_b2", "lora", "trainable", "remat", "checkpoint_every", "keep",
    "spike",
)  # fmt: skip


def evals() -> dict:
    """The section of that name alone."""
    return defaults(config_evals.tree())


def fitting(**changes) -> dict:
    """What supervised runs on a batch of anything share: model, mesh, and the settings of `rl` that optimise."""
    out = defaults(_fitting())
    return out | {"train": out["train"] | changes}


def _fitting() -> dict:
    base = _rl()
    out = {name: base[name] for name in ("seed", "model", "mesh")}
    return out | {"train": {name: base["train"][name] for name in OPTIMISATION} | {"batch": 64}}


def reward_model() -> ConfigDict:
    """Reward models on helpfulness, harmlessness and both (arXiv:2606.13209), in the size of published models."""
    config = ConfigDict(defaults(_reward_model()))
    # spike: the loss nears zero, where one pair ordered wrong is many standard deviations.
    config.train.update(steps=1000, schedule_steps=1000, lr=1e-5, value_lr=1e-4, micro_batch=8, spike=0.0)
    return config


def _reward_model() -> dict:
    return _fitting() | {
        "job": "reward_model",
        "pairs": {
            "a": Setting("helpful", "an objective that the package generates, or a JSONL file"),
            "b": Setting("harmless", "as `a`, another one"),
            "count": Setting(20_000, "training pairs of each; of a file at most so many, 0: all"),
            "held_out": 1000,
            "conflict": Setting(0.5, "of generated pairs: the share that the other objective orders the other way"),
            "max_tokens": Setting(512, "the last of a text"),
        },
        "neurons": {
            "percent": Setting(10.0, "of all neurons, that the sets are made of"),
            "sweep": (2.0, 5.0, 10.0, 15.0, 20.0, 30.0),
            "random": Setting(3, "draws of every random set"),
            "batch": Setting(32, "pairs looked at together: all their neurons are held at once"),
        },
    }  # fmt: skip


def imitation() -> ConfigDict:
    """Inverse soft-Q over lambda on planned mazes and arithmetic (arXiv:2409.01369); `train` and `sft` serve both."""
    return ConfigDict(defaults(_imitation()))


def _imitation() -> dict:
    return _rl() | {
        "job": "imitation",
        "imitation": {
            "tasks": ("arithmetic", "maze"),
            "lambdas": Setting((0.0, 0.001, 0.01, 0.1), "0 is maximum likelihood"),
            "temperatures": (0.4, 0.7, 1.0, 1.3),
            "prompts": Setting(64, "held-out problems, or mazes"),
            "samples": Setting(16, "of each: what Self-BLEU compares"),
            "batch": Setting(256, "problems' samples drawn, or looked at, together"),
            "arithmetic": {
                "demonstrations": 20_000,
                "level": {"steps": 2, "largest": 20, "operations": "+-*"},
                "max_new_tokens": Setting(0, "0: what the longest demonstration needs"),
                "steps": Setting(0, "0: as train.steps"),
                "batch": Setting(0, "examples a step; 0: as sft.batch"),
                "lr": Setting(0.0, "0: as train.lr"),
            },
        },
    }  # fmt: skip


def pretrain() -> ConfigDict:
    """A small decoder from scratch, by default on arithmetic in three solution formats."""
    return ConfigDict(defaults(_pretrain()))


def _pretrain() -> dict:
    return {
        "job": "pretrain",
        "seed": 0,
        "start": Setting("", "a model folder to go on from, with its tokenizer and shape; empty: from nothing"),
        "shape": {
            "layers": 2, "width": 128, "heads": 4, "kv_heads": 4, "head_dim": 32, "mlp": 384, "theta": 1e4,
        },
        "dtype": Setting("float32", "of the forward pass; what is trained is float32"),
        "saved": Setting("float32", "of the model folder"),
        "mesh": {"data": 0, "fsdp": 1, "tensor": 1},
        "tokenizer": {
            "path": Setting("", "a folder with a tokenizer; empty: one is made"),
            "kind": Setting("words", 'of one that is made: without merges; or "bpe"'),
            "vocab_size": 640,
            "documents": Setting(3000, "of which one is made"),
        },
        "sources": Setting({
            name: {"data": f"arithmetic/{name}", "weight": 1.0, "column": "text"}
            for name in ("words", "function", "script")
        }, "what each is (see sft/corpus.py) and its weight by number of documents"),
        "phases": Setting([], 'where not empty: weights of sources up to a step, [{"until": 100, "words": 1.0}, ...]'),
        "level": Setting({"steps": 1, "largest": 9, "operations": "+-"}, "of the arithmetic problems"),
        "told_weight": Setting(1.0, "loss weight of what users say in messages"),
        "steps": 400,
        "rows": Setting(32, "of a step"),
        "length": Setting(256, "tokens of a row"),
        "optimizer": Setting("muon", 'or "adamw"'),
        "lr": Setting(3e-3, "of Adam: everything, or beside Muon whatever is not a kernel"),
        "muon_lr": 1e-2,
        "warmup": 20,
        "weight_decay": 0.1,
        "probe_every": 50,
        "train": {"micro_batch": 32, "remat": False, "checkpoint_every": 100, "keep": 1, "spike": 0.0},
    }  # fmt: skip


def amplify() -> ConfigDict:
    """RL with a verified reward on arithmetic, from a base that is pretrained on a mixture of solution formats."""
    config = ConfigDict(defaults(_amplify()))
    # The base is to know all formats, and none of them perfectly.
    config.pretrain.steps = 160
    config.pretrain.level.update(steps=2, largest=20, operations="+-*")
    for name in ("merge_lora", "eval_every", "intervene"):
        del config.train[name]
    config.train.update(
        algorithm="grpo", steps=40, schedule_steps=40, schedule="constant", warmup=2, groups=32, group_size=8,
        lr=3e-4, trainable=".*", adam_b2=0.95, entropy_coef=0.0, entropy="plain", kl="k3", kl_coef=0.0, remat=False,
        checkpoint_every=10, keep=1,
    )  # fmt: skip
    config.train.lora.rank = 0
    return config


def _amplify() -> dict:
    return {
        "job": "amplify",
        "seed": 0,
        "model": {
            "path": Setting("", "empty: a base is pretrained first"),
            "revision": "", "dtype": "float32", "attention": "plain",
        },
        "pretrain": Setting(_pretrain(), "its seed, shape and weights follow from the settings below"),
        "shape": "tiny",
        "mixture": "even",
        "shapes": Setting({"tiny": {}}, "what of `pretrain.shape` each scale changes"),
        "mixtures": {"even": {"words": 1.0, "function": 1.0, "script": 1.0}},
        "mesh": {"data": 0, "fsdp": 1, "tensor": 1},
        "problems": Setting(4096, "to learn from"),
        "max_new_tokens": 40,
        "train": _rl()["train"],
        "measure": Setting(
            {"every": 10, "problems": 64, "samples": 16, "batch": 16, "ks": (1, 4, 16)},
            "greedy accuracy is over all held-out problems, the rest over so many samples of each, a batch at a time",
        ),
        "sweep": Setting(
            {"shape": (), "mixture": (), "kl_coef": (), "seed": ()}, "lists: every combination is a cell of its own"
        ),
    }  # fmt: skip


def words() -> ConfigDict:
    """The main job on small bases that did and did not read accounts of success, failure and feeling."""
    config = ConfigDict(defaults(_words()))
    kinds = ("questions", "choices", "steps", "stories", "verdicts")  # of text/tiny_world.py
    config.words.pretrain.sources = ConfigDict(
        {k: {"data": f"world/{k}", "weight": 1.0, "column": "text"} for k in kinds}
    )
    config.axes.kinds = "success"
    return config


def _words() -> dict:
    return _rl() | {
        "job": "words",
        "words": {
            "seeds": (0,),
            "arms": Setting({
                "with": {"questions": 0.15, "choices": 0.3, "steps": 0.1, "stories": 0.3, "verdicts": 0.15},
                "without": {"questions": 0.15, "choices": 0.3, "steps": 0.1},
            }, "what each reads at the end, after what all have read: weights of documents"),
            "steps": 150,
            "warmup": Setting(10, "of the steps"),
            "questions": Setting(
                ("", "How is it going?"), "after a walk: where it is read; the empty one is the final letter"
            ),
            "pretrain": Setting(_pretrain(), "what all have read"),
        },
    }  # fmt: skip


TREES = {
    "rl": _rl, "axes": _rl, "evals": _rl, "reward_model": _reward_model, "imitation": _imitation,
    "pretrain": _pretrain, "amplify": _amplify, "words": _words,
}  # fmt: skip


def documented(job: str) -> dict[str, str]:
    """What the settings and sections of a job mean, by dotted name in their order; empty where it is not said."""
    return meanings(TREES[job]()) if job in TREES else {}


def of_run(config) -> ConfigDict:
    """The settings with which the run in folder `config.run` was made; what is read and how comes from `config`."""
    path = pathlib.Path(config.run).expanduser() / "config.json"
    try:
        saved = textfiles.loads(textfiles.data(path), str(path))
        out, present = rl(), ("extract", "axes", "steer", "evals", "mesh", "distributed")
        out.update({k: v for k, v in saved.items() if k in out and k not in present})
    except (InputError, AttributeError, TypeError, KeyError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        advice = "name the --workdir of a run"
        raise InputError(f"run={config.run}: {path.name} cannot be read ({why}); {advice}") from None
    out.update({k: config[k] for k in present})
    return out
