"""Imitation as inverse RL against maximum likelihood (arXiv:2409.01369). Nine minutes on two CPU cores.

python -m welfare_jax.main --config=configs/imitation.py --workdir=runs/imitation       minutes on two CPU cores
python -m welfare_jax.main --config=configs/imitation.py:full --workdir=runs/imitation --config.model.path=DIR
Over lambda and temperature. --config.imitation.tasks="('maze',)" takes one task alone.
"""

from welfare_jax.config import check_variant, imitation

VARIANTS = ("tiny", "full")


def get_config(variant="tiny"):
    check_variant(variant, VARIANTS)
    config = imitation()
    config.model.path = "tiny"
    config.train.lora.rank = 0
    config.train.trainable = ".*"
    config.train.update(steps=2000, schedule_steps=2000, warmup=50, lr=1e-5, micro_batch=8, checkpoint_every=100)
    config.sft.update(batch=64)
    config.curve.every = 0
    if variant == "full":
        return config
    config.model.dtype = "float32"
    config.maze.size = 31
    config.maze.turns = 5
    config.train.update(
        steps=150, schedule_steps=150, warmup=10, lr=1e-3, micro_batch=32, remat=False, checkpoint_every=25
    )
    config.sft.update(trajectories=2000, held_out=128, beams=32, batch=32)
    config.imitation.update(lambdas=(0.0, 0.01, 0.1), prompts=32, samples=8)
    config.imitation.arithmetic.update(demonstrations=4000, steps=500, batch=16, lr=3e-3)
    config.imitation.arithmetic.level.update(steps=1, largest=9, operations="+-")
    return config
