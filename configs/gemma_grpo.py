"""Gemma 3 4B with the paper's main settings (arXiv:2605.30232 §2.2, §J.3), on an accelerator: 95 steps of 8 x 64.

python -m welfare_jax.main --config=configs/gemma_grpo.py --workdir=runs/gemma
The weights are gated: `hf auth login` first, or --config.model.path=DIR for a local folder.
"""

from welfare_jax.config import rl


def get_config():
    config = rl()
    config.model.path = "google/gemma-3-4b-it"
    return config
