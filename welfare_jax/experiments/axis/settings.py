"""The settings of the main job, their defaults and what they mean: the paper's main run (arXiv:2605.30232 §2.2, §J.3,
§Q). Other experiments take over what they share."""

import dataclasses
import pathlib

from ml_collections import ConfigDict

from welfare_jax import textfiles
from welfare_jax.errors import InputError
from welfare_jax.evals import settings as evals
from welfare_jax.settings import RENTING, Setting, defaults
from welfare_jax.text.wording import Wording


def rl() -> ConfigDict:
    """The main job; `axes` and `evals` take the same settings."""
    return ConfigDict(defaults(tree()))


def tree() -> dict:
    return {
        "job": "rl",
        "seed": 0,
        **RENTING,
        "smoke": Setting(False, "two steps, a small analysis and one evaluation, beside what the plan says of them"),
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
        "evals": evals.tree(),
    }  # fmt: skip


def of_run(config) -> ConfigDict:
    """The settings with which the run in folder `config.run` was made; what is read and how comes from `config`."""
    path = pathlib.Path(config.run).expanduser() / "config.json"
    try:
        saved = textfiles.loads(textfiles.data(path), str(path))
        out, present = rl(), ("extract", "axes", "steer", "evals", "mesh", "distributed", *RENTING)
        out.update({k: v for k, v in saved.items() if k in out and k not in present})
    except (InputError, AttributeError, TypeError, KeyError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        advice = "name the --workdir of a run"
        raise InputError(f"run={config.run}: {path.name} cannot be read ({why}); {advice}") from None
    out.update({k: config[k] for k in present})
    return out
