"""Which of the solution formats in its pretraining does RL amplify? (arXiv:2504.07912) Four minutes on two CPU cores.

python -m welfare_jax.main --config=configs/amplification.py --workdir=runs/grpo      # pretrains its base, then GRPO
python -m welfare_jax.main --config=configs/amplification.py:ppo --workdir=runs/ppo   # or :expert_iteration
python -m welfare_jax.main --config=configs/amplification.py:seeds --workdir=runs/seeds      # three seeds
python -m welfare_jax.main --config=configs/amplification.py:sweep --workdir=runs/sweep      # scale, mixture, KL

--config.model.path=DIR starts from any Hugging Face folder that answers these questions, for example a run of
configs/pretrain.py:150m. `:published` has the paper's RL settings where it names them; batches are prompts x samples.
"""

from welfare_jax.config import amplify, check_variant

VARIANTS = {
    "grpo": {},
    "ppo": {"algorithm": "ppo", "kl_in": "reward", "value_lr": 3e-3, "reward_scale": 1.0},
    # Each step is a round: many samples, the right and distinct ones kept, the base fine-tuned on them afresh.
    "expert_iteration": {
        "algorithm": "expert_iteration", "steps": 10, "schedule_steps": 10, "groups": 64, "group_size": 16,
        "keep_best": 4, "epochs": 2, "minibatches": 4, "warmup": 0,
    },
    "seeds": {},
    "sweep": {},
    "published": {
        "algorithm": "ppo", "kl_in": "reward", "kl_coef": 1e-3, "groups": 64, "group_size": 8, "lr": 1e-6,
        "value_lr": 7e-6, "value_clip": 0.2, "gae_lambda": 0.95, "steps": 1000, "schedule_steps": 1000,
    },
}  # fmt: skip


def get_config(name="grpo"):
    check_variant(name, VARIANTS)
    config = amplify()
    config.shapes.small = {"layers": 2, "width": 64, "heads": 2, "kv_heads": 2, "head_dim": 32, "mlp": 192}
    config.mixtures.update({
        "more_words": {"words": 2.0, "function": 1.0, "script": 1.0},
        "more_function": {"words": 1.0, "function": 2.0, "script": 1.0},
        "more_script": {"words": 1.0, "function": 1.0, "script": 2.0},
    })  # fmt: skip
    config.train.update(VARIANTS[name])
    if name == "seeds":
        config.sweep.seed = (0, 1, 2)
    if name == "sweep":
        config.sweep.update(
            shape=("tiny", "small"), mixture=("even", "more_words", "more_function"), kl_coef=(0.0, 1e-2)
        )
    if name == "published":
        config.measure.update(problems=512, samples=64, ks=(1, 16, 64), every=20)
    return config
