"""SmolLM2-135M-Instruct, a real language model: forty minutes on two CPU cores, quick ten and 6.5 GB.

python -m welfare_jax.main --config=configs/smollm2.py --workdir=runs/smollm2        forty minutes
python -m welfare_jax.main --config=configs/smollm2.py:quick --workdir=runs/quick    ten minutes, every stage once

`bash launchers/model.sh smollm2` fetches it. `:full` takes some five hours, `:sft` imitates planned walks, `:swapped`
exchanges the emoji of Gold and Mold, `:seeds` trains three seeds side by side. The same command resumes each. `:quick`
claims nothing about learning. The paper's maze but for its size (31 x 31) and length (five turns).
"""

from welfare_jax.config import check_variant, rl

VARIANTS = ("learn", "quick", "full", "sft", "swapped", "seeds")


def quick(config):
    """Every stage once, as small as it can be read."""
    config.train.update(steps=3, schedule_steps=3, groups=2, checkpoint_every=2)
    config.curve.update(every=2, per_length=2)
    config.extract.update(per_length=8, replicates=50)
    config.axes.update(limit=24, topics_limit=2, emotions_limit=6, max_new_tokens=32, first_token=8)
    config.steer.update(prompts=("How is it going?", "How do you feel?"), max_new_tokens=24)
    config.evals.names = ("sentiment_logodds", "refusal_logodds")
    config.evals.update(alphas=(-4.0, 0.0, 4.0), random=2, orthogonal=2, sample=0.3, buckets=1)


def get_config(variant="learn"):
    check_variant(variant, VARIANTS)
    config = rl()
    config.model.path = "models/smollm2"
    config.model.dtype = "float32"
    config.maze.size = 31
    config.maze.turns = 5
    # The letter stands behind its tile, where a small model looks for what follows something.
    config.text.neighbour = "{tile}{Direction}\n"
    config.text.directions = ("N", "E", "S", "W")
    if variant == "swapped":
        config.text.tiles = [config.text.tiles[i] for i in (0, 2, 1)]
    train = config.train
    train.lora.update(rank=16, alpha=32.0)
    train.update(
        algorithm="all_actions", steps=40, schedule_steps=40, groups=8, group_size=4, micro_batch=16, lr=3e-4,
        warmup=4, temperature=1.0, reward_scale=0.1, z=5.0, entropy_coef=0.1, merge_lora=True, remat=False,
        checkpoint_every=5, eval_every=10,
    )  # fmt: skip
    config.curve.update(every=5, per_length=8)
    config.extract.update(per_length=40)
    config.axes.update(stories=1, topics_limit=4, max_new_tokens=80, first_token=20)
    if variant == "quick":
        quick(config)
    elif variant == "full":
        train.update(steps=200, schedule_steps=200, groups=16)
        config.extract.update(per_length=100)
    elif variant == "sft":
        train.update(algorithm="sft", micro_batch=16)
        config.sft.update(trajectories=4000, held_out=128, batch=64)
    elif variant == "seeds":
        # The policy is greedy from step 14 on; the comparison axes are a job of their own (configs/axes.py).
        config.organisms.seed = (0, 1, 2)
        train.update(steps=20, schedule_steps=20)
        config.curve.every = 10
        config.extract.per_length = 60
        config.axes.kinds = ""
        config.outcome.shams = 3
    return config
