"""Makes the small decoder inside the package from generated text, on two CPU cores in under 20 minutes.

python -m welfare_jax.main --config=configs/tiny_pretrain.py --workdir=runs/tiny_pretrain
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict({
        "job": "pretrain",
        "seed": 0,
        "shape": {"layers": 4, "width": 128, "heads": 4, "kv_heads": 2, "head_dim": 32, "mlp": 384},
        "mixture": {"surroundings": 0.6, "stories": 0.4, "goals": 0.6, "free": 0.4},
        "steps": 1200,
        "short_steps": 300,  # short documents alone, in twice as many rows
        "short_rows": 24,
        "short_length": 160,
        "long_rows": 10,
        "long_length": 352,
        "lr": 3e-3,
        "warmup": 50,
        "weight_decay": 0.1,
        "told_weight": 0.2,  # loss weight of what the user says: tiles are random, there is little to learn
        "probe_every": 100,
    })  # fmt: skip
