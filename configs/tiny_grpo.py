"""The main job on the small decoder inside the package: no download, under five minutes on two CPU cores, 2.2 GB.

python -m welfare_jax.main --config=configs/tiny_grpo.py --workdir=runs/tiny          one run
python -m welfare_jax.main --config=configs/tiny_grpo.py:seeds --workdir=runs/seeds
    ten seeds, held against twenty adapters in random directions and five seeds whose rewards are shuffled

The maze, the objective and every stage are those of `gemma_grpo.py`; only sizes and the learning rate differ.
--config.model.path=DIR puts any other Hugging Face folder in its place.
"""

from welfare_jax.config import check_variant, rl

VARIANTS = ("one", "seeds")


def get_config(variant="one"):
    check_variant(variant, VARIANTS)
    config = rl()
    config.model.path = "tiny"
    config.model.dtype = "float32"
    config.train.steps = 30
    config.train.schedule_steps = 60
    config.train.groups = 8
    config.train.group_size = 16
    config.train.micro_batch = 32
    config.train.lr = 5e-4
    config.train.merge_lora = True
    config.train.remat = False
    config.train.checkpoint_every = 10
    config.curve.every = 3
    config.curve.per_length = 8
    config.extract.per_length = 30  # 360 walks a class, and 90 that are held out
    config.axes.limit = 48
    config.axes.topics_limit = 2
    config.axes.stories = 1
    config.axes.max_new_tokens = 24
    config.axes.first_token = 8
    if variant == "seeds":
        config.organisms.seed = (*range(10), *range(5))
        config.organisms.shuffle_rewards = (False,) * 10 + (True,) * 5
        config.outcome.shams = 20
        config.curve.every = 0
        config.axes.kinds = ""
    return config
