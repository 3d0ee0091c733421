"""Does RL need the words for success? Six minutes on two CPU cores; the result, :seeds, forty a seed.

python -m welfare_jax.main --config=configs/words.py --workdir=runs/words          # 6 minutes: how it works, no more
python -m welfare_jax.main --config=configs/words.py:one --workdir=runs/one        # a seed at the size of the result
python -m welfare_jax.main --config=configs/words.py:seeds --workdir=runs/seeds    # three; what is done stays done

A base goes on reading with and without accounts of success, then learns the maze. Every base becomes three organisms,
in which each tile plays each role once (see welfare_jax/experiments/success_text_ablation/run.py).
"""

from welfare_jax.config import check_variant, words

VARIANTS = {"small": (0,), "one": (0,), "seeds": (0, 1, 2)}


def get_config(name="small"):
    check_variant(name, VARIANTS)
    config = words()
    config.model.dtype = "float32"
    config.words.seeds = VARIANTS[name]
    base = config.words.pretrain
    base.shape.update(layers=4, width=128, heads=4, kv_heads=2, head_dim=32, mlp=384)
    base.tokenizer.vocab_size = 768
    base.phases = [
        {"until": 250, "questions": 1.0},
        {"until": 700, "questions": 0.25, "choices": 0.55, "steps": 0.2},
    ]
    base.told_weight = 0.2  # tiles are random, there is little to learn in what the user says
    base.update(steps=700, rows=16, length=352, warmup=50, probe_every=50)
    base.train.micro_batch = 16
    config.maze.size = 31
    config.maze.turns = 5
    config.train.update(
        steps=30, schedule_steps=60, groups=8, group_size=8, micro_batch=32, lr=2e-3, remat=False, checkpoint_every=10,
    )  # fmt: skip
    config.curve.update(every=3, per_length=8)
    config.extract.update(per_length=256, held_out=0.25)
    config.axes.limit = 384
    if name == "small":  # learns neither the choices nor much of the maze
        base.shape.update(layers=2, width=64, heads=2, kv_heads=2, mlp=192)
        base.phases[0]["until"], base.phases[1]["until"], base.steps = 60, 150, 150
        config.words.update(steps=40, warmup=5)
        config.train.update(steps=8, groups=4)
        config.extract.per_length = 64
    return config
