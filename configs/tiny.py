"""A tiny twin of every algorithm, on the small decoder inside the package: minutes on two CPU cores, no download.

--config=configs/tiny.py:NAME with one of the names below; no name is dr_grpo. Mazes are 31 x 31 and episodes five
turns; learning rates are those of a model of one million parameters. The job with the paper's maze is `tiny_grpo.py`.
"""

from welfare_jax.config import check_variant, rl

VARIANTS = {
    "dr_grpo": {},
    "grpo": {"algorithm": "grpo", "kl": "k3", "kl_coef": 1e-3, "entropy_coef": 0.0},
    "reinforce": {"algorithm": "reinforce"},
    "all_actions": {"algorithm": "all_actions", "reward_scale": 0.1},
    "ppo": {"algorithm": "ppo", "epochs": 2, "minibatches": 2, "reward_scale": 0.05, "entropy": "plain"},
    "expert_iteration": {
        "algorithm": "expert_iteration", "keep_best": 2, "groups": 16, "epochs": 4, "minibatches": 4, "lr": 4e-3,
    },
    "rl_fft": {"lora.rank": 0, "trainable": ".*", "lr": 2e-4},
    "sft": {"algorithm": "sft", "steps": 60, "schedule_steps": 60, "lr": 2e-3},
    "sft_fft": {
        "algorithm": "sft", "steps": 60, "schedule_steps": 60, "lr": 1e-3, "lora.rank": 0, "trainable": ".*",
    },
    "inverse_soft_q": {"algorithm": "inverse_soft_q", "soft_q": 0.01, "steps": 60, "schedule_steps": 60, "lr": 2e-3},
    "organisms": {},
}  # fmt: skip


def get_config(name="dr_grpo"):
    check_variant(name, VARIANTS)
    config = rl()
    config.model.path = "tiny"
    config.model.dtype = "float32"
    config.maze.size = 31
    config.maze.turns = 5
    config.train.update(
        steps=20, schedule_steps=40, groups=8, group_size=8, micro_batch=32, lr=2e-3, remat=False, merge_lora=True,
        checkpoint_every=10, eval_every=10,
    )  # fmt: skip
    config.train.update_from_flattened_dict(VARIANTS[name])
    config.sft.update(trajectories=2000, held_out=256, beams=32, batch=32)
    config.curve.per_length = 8
    config.extract.update(per_length=16, held_out=0.5)
    if name == "organisms":  # the paper's controls: two seeds, two orders of the tiles
        config.organisms.update(seed=[0, 1, 0, 1], tiles=[[0, 1, 2], [0, 1, 2], [0, 2, 1], [1, 2, 0]])
    return config
