"""Makes the small decoder inside the package from generated text, on two CPU cores in under 20 minutes.

python -m welfare_jax.main --config=configs/tiny_pretrain.py --workdir=runs/tiny_pretrain
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict({
        "job": "pretrain",
        "seed": 0,
        "shape": {"layers": 4, "width": 128, "heads": 4, "kv_heads": 2, "head_dim": 32, "mlp": 384, "theta": 1e4},
        "steps": 1200,
        # Weights of the kinds of documents, up to a step. What lies where comes first, conversations last.
        "phases": [
            ConfigDict({"until": 250, "questions": 1.0}),
            ConfigDict({"until": 600, "questions": 0.3, "choices": 0.55, "stories": 0.15}),
            ConfigDict({"until": 1200, "questions": 0.2, "choices": 0.4, "stories": 0.4, "goals": 0.7, "free": 0.3}),
        ],
        "short_rows": 32,
        "short_length": 176,
        "long_rows": 8,
        "long_length": 352,
        "muon_lr": 1e-2,
        "adam_lr": 3e-3,
        "warmup": 50,
        "weight_decay": 0.1,
        "told_weight": 0.2,  # loss weight of what the user says: tiles are random, there is little to learn
        "probe_every": 50,
    })  # fmt: skip
