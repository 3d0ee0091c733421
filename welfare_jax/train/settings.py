"""The settings of the trainer, their defaults and what they mean: the paper's main run (arXiv:2605.30232 §2.2, §J.3).

Nothing here imports JAX, because config files import it.
"""

from welfare_jax.settings import Setting

# What differs where answers are free text (`train.freeform`), whose actions are tokens of the whole vocabulary.
FREE_TEXT = {
    "algorithm": "grpo", "schedule": "constant", "warmup": 2, "adam_b2": 0.95, "entropy_coef": 0.0, "entropy": "plain",
    "kl": "k3", "remat": False,
}  # fmt: skip
MAZE_ONLY = ("merge_lora", "eval_every", "intervene", "shuffle_rewards")  # settings that only the maze's trainer reads


def tree() -> dict:
    return {
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
        "shuffle_rewards": Setting(False, "exchange what tiles are worth, anew for every maze: nothing to learn"),
        "intervene": Setting({
            "vectors": "", "vector": "gold/rest", "op": "ablate", "layer": -1, "scale": 1.0, "when": "both",
        }, "a vector file, its entry and what is done with it while training; see train/intervene.py"),
    }  # fmt: skip
