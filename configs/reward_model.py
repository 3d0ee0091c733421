"""Reward models under two conflicting objectives (arXiv:2606.13209). Seven minutes on two CPU cores.

python -m welfare_jax.main --config=configs/reward_model.py --workdir=runs/reward_model     minutes on two CPU cores
python -m welfare_jax.main --config=configs/reward_model.py:paper --workdir=runs/rm --config.model.path=DIR \
    --config.pairs.a=helpful.jsonl --config.pairs.b=harmless.jsonl
And the neurons that the models rest on. Lines of the files: {"prompt"?, "chosen", "rejected"};
`welfare_jax/text/preferences.py` says what they may hold.
"""

from welfare_jax.config import check_variant, reward_model

VARIANTS = ("tiny", "paper")


def get_config(variant="tiny"):
    check_variant(variant, VARIANTS)
    config = reward_model()
    if variant == "paper":
        return config
    config.model.path = "tiny"
    config.model.dtype = "float32"
    config.pairs.update(count=4096, held_out=256)
    config.train.update(
        steps=400, schedule_steps=500, batch=32, micro_batch=32, lr=5e-4, value_lr=2e-3, warmup=10, remat=False,
        checkpoint_every=50,
    )  # fmt: skip
    config.train.lora.rank = 0
    config.train.trainable = ".*"
    # A tenth of so few neurons, silenced, costs these models nothing.
    config.neurons.update(batch=64, random=2, percent=30.0, sweep=(10.0, 20.0, 30.0, 50.0, 70.0))
    return config
