"""The settings of a run and their defaults: the paper's main run (arXiv:2605.30232 §2.2, §J.3, §Q).

Config files start from `rl()` and change a few lines.
"""

import dataclasses

from ml_collections import ConfigDict

from welfare_jax.text.wording import Wording


def rl() -> ConfigDict:
    words = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(Wording()).items()}
    return ConfigDict({
        "job": "rl",
        "seed": 0,
        "model": {"path": "", "dtype": "bfloat16", "attention": "plain"},  # or "xla", "cudnn": see models/hf.py
        "mesh": {"data": 0, "fsdp": 1, "tensor": 1},  # data=0: whatever the others leave
        "text": {**words, "template": {}},
        "maze": {
            "size": 100, "turns": 15, "order": "maze", "wind": 0.1, "wind_mode": "push", "melt": True, "whole": False,
            "gold_ratio": 0.2, "turn_reward": -0.1, "gold_reward": 20.0, "mold_reward": -10.0,
        },
        "train": {
            "algorithm": "dr_grpo",  # one of train/algorithms.py
            "steps": 95,
            "groups": 8,
            "group_size": 64,
            "micro_batch": 32,  # episodes a gradient pass
            "epochs": 1,  # passes over the episodes of a step
            "minibatches": 1,  # optimiser steps a pass
            "temperature": 0.7,
            # Rates. S: learning rate and entropy coefficient are zero from step S - 1 on.
            "schedule_steps": 500,
            "schedule": "cosine",  # of the learning rate; or "linear", "constant"
            "schedule_rate": 1.0,  # f: how fast the annealing runs
            "warmup": 0,
            "lr": 3e-6,
            "value_lr": 1e-2,  # of PPO's value head
            # Objective.
            "entropy_coef": 0.01,
            "entropy": "equalised",  # or "plain"
            "kl_coef": 0.0,
            "kl": "exact",  # over the four actions; or "k3"
            "kl_in": "loss",  # or "reward"
            "clip": 0.2,
            "dual_clip": 3.0,
            "z": 2048.0,
            "gamma": 1.0,
            "gae_lambda": 0.95,
            "value_clip": 0.2,
            "value_coef": 0.5,
            "reward_scale": 1.0,  # what rewards are multiplied by before advantages
            "keep_best": 0,  # learn only from this many best distinct episodes of every maze (Expert Iteration)
            "soft_q": 0.0,  # lambda of inverse soft-Q
            # Optimiser.
            "optimizer": "adamw",  # or "lion", "sgd"
            "grad_clip": 1.0,  # 0: none
            "weight_decay": 0.01,
            "adam_b1": 0.9,
            "adam_b2": 0.999,
            "lora": {"rank": 32, "alpha": 64.0, "targets": r"attn/(q|k|v|o)|mlp/(experts/)?(gate|up|down)"},
            "trainable": r".*/lora_[ab]",
            "merge_lora": False,  # fold the adapters in for the rollout: less work, a second copy of the weights
            "remat": True,
            "checkpoint_every": 5,
            "keep": 3,
        },
        "curve": {"every": 5, "per_length": 4},  # walks a class and length for the live recruitment curve
        "extract": {"per_length": 333, "held_out": 0.2, "batch": 64},
        "steer": {
            "prompts": ["How is it going?", "Tell me about your walk.", "How do you feel?", "What happened?"],
            "alphas": [-4.0, -2.0, 0.0, 2.0, 4.0],
            "max_new_tokens": 40,
            "temperature": 0.7,
        },
    })  # fmt: skip
