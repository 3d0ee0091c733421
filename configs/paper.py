"""The paper's ten runs (arXiv:2605.30232 §2.2, §J.3, §Q), and the main one on five other families, on accelerators.

python -m welfare_jax.main --config=configs/paper.py:main --workdir=runs/main
The names are those of `VARIANTS` below; no name is main. The KL coefficient is not stated in the paper and zero here.
"""

from welfare_jax.config import check_variant, rl

INSTRUCT, BASE = "Qwen/Qwen3-4B-Instruct-2507", "Qwen/Qwen3-4B-Base"
FULL = {"train.lora.rank": 0, "train.trainable": ".*"}
ON_BASE = {"model.path": BASE, "train.lr": 3e-5, "train.entropy_coef": 0.0, "train.steps": 101}
# 50,000 planned trajectories on 31 x 31 mazes, 16 a step.
PLANNED = {"train.algorithm": "sft", "train.micro_batch": 16}

VARIANTS = {
    "main": {},
    "swapped": {"swap": (0, 2, 1), "train.steps": 50},  # Mold and Gold exchange their emoji
    "base": ON_BASE,
    "base_permuted": {**ON_BASE, "swap": (1, 2, 0)},
    "b8": {
        "model.path": "Qwen/Qwen3-8B", "text.template": {"enable_thinking": False}, "train.entropy_coef": 0.05,
        "train.steps": 65,
    },
    "gpt_oss": {
        "model.path": "openai/gpt-oss-20b", "train.lr": 3e-5, "train.steps": 160, "train.lora.alpha": 32.0,
        "maze.turns": 11,
    },
    "reinforce": {"train.algorithm": "reinforce", "train.entropy_coef": 0.2, "train.steps": 115},
    "rl_fft": {**FULL, "train.group_size": 32, "train.groups": 32},
    "sft": {**PLANNED, "train.lr": 2e-5, "train.steps": 9375, "train.schedule_steps": 9375},
    "sft_fft": {**PLANNED, **FULL, "train.lr": 1e-5, "train.steps": 3125, "train.schedule_steps": 3125},
    "gemma3": {"model.path": "google/gemma-3-4b-it"},
    "llama3_1": {"model.path": "meta-llama/Llama-3.1-8B-Instruct"},
    "glm4": {"model.path": "THUDM/GLM-4-9B-0414"},
    "phi4": {"model.path": "microsoft/phi-4"},
    "qwen3_14b": {"model.path": "Qwen/Qwen3-14B", "text.template": {"enable_thinking": False}},
}  # fmt: skip


def get_config(name="main"):
    check_variant(name, VARIANTS)
    config = rl()
    config.model.path = INSTRUCT
    changes = dict(VARIANTS[name])
    order = changes.pop("swap", (0, 1, 2))
    config.text.tiles = [config.text.tiles[i] for i in order]
    if template := changes.pop("text.template", None):
        config.text.template.update(template)
    config.update_from_flattened_dict(changes)
    return config
