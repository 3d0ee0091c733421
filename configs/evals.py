"""What a vector does to behaviour (arXiv:2605.30232 §4). The small decoder: minutes on two CPU cores.

python -m welfare_jax.main --config=configs/evals.py --workdir=runs/evals          the small decoder, minutes
python -m welfare_jax.main --config=configs/evals.py --workdir=runs/tiny           a finished run: its model, vectors
python -m welfare_jax.main --config=configs/evals.py:smollm2 --workdir=runs/smol   SmolLM2-135M, without any judge
python -m welfare_jax.main --config=configs/evals.py:temporal --workdir=runs/smol  the same model: state or read-out?
python -m welfare_jax.main --config=configs/evals.py:paper --workdir=runs/gemma    the paper's numbers
Sentiment, backtracking, confidence, refusal, goal tracking. A quick look: --config.evals.sample=0.05.
The layer sweep: --config.evals.layers=all.
"""

from welfare_jax.config import check_variant, rl

VARIANTS = ("tiny", "smollm2", "temporal", "paper")
ALL = ("sentiment", "backtracking", "confidence", "refusal", "goal_tracking")
UNJUDGED = ("confidence", "sentiment_logodds", "refusal_logodds", "samples")


def get_config(variant="tiny"):
    check_variant(variant, VARIANTS)
    config = rl()
    config.job = "evals"
    config.evals.names = ALL
    if variant == "paper":  # its prompt files, published with the paper, by path: --config.evals.sentiment.prompts=...
        config.model.path = "Qwen/Qwen3-4B-Instruct-2507"
        config.evals.permuted = config.evals.random = config.evals.orthogonal = 100
        return config
    if variant == "smollm2":
        return smollm2(config)
    if variant == "temporal":
        return temporal(config)
    config.model.path = "tiny"
    config.model.dtype = "float32"
    config.extract.per_length = 16
    config.extract.held_out = 0.5
    config.evals.judge.kind = "words"  # so small a model cannot judge itself
    config.evals.permuted = 20  # so that p = 0.048 can come
    config.evals.random = config.evals.orthogonal = 5
    config.evals.batch = 256
    config.evals.buckets = 1
    for name, samples, tokens in (("sentiment", 20, 40), ("backtracking", 4, 40), ("refusal", 2, 40)):
        config.evals[name].samples = samples
        config.evals[name].max_new_tokens = tokens
    config.evals.sentiment.prompts = ("tiny_stories",)
    config.evals.backtracking.prompts = ("tiny_questions",)
    for name in ("confidence", "goal_tracking"):
        config.evals[name].prompts = ("tiny_questions",)
        config.evals[name].max_new_tokens = 8
        config.evals[name].ask = "ask_tiny"  # in words that it knows
        config.evals[name].true = (" yes", "yes")
        config.evals[name].false = (" no", "no")
    return config


def smollm2(config):
    """SmolLM2-135M-Instruct, from `models/smollm2`, a folder with its .gguf; nothing is judged.

    In the folder of a finished run there are 2 models x (1 + 64 directions x 2 strengths) = 258 cells; 240 of them are
    the 60 controls', thirty beside each vector; from the twenty of permuted labels p = 0.048 can come. A cell reads 10
    prompts of 80 or 112 tokens (confidence), 10 of 48 or 64 (sentiment), 10 of 48 and after each 5 openings of 2
    tokens (refusal): some 2,000 tokens, 520,000 in all or, at 0.25 GFLOP each, 130 TFLOP: nine minutes on two cores
    that do 250 GFLOP/s, a quarter of an hour on slower ones. Alone, it is one model, half of that, and 90 walks to
    make the vectors from. `evals.sample=1` reads all 40 prompts.
    """
    config.model.path = "models/smollm2"
    config.model.dtype = "float32"
    config.extract.update(per_length=2, held_out=0.5)
    config.evals.names = UNJUDGED
    config.evals.alphas = (-4.0, 0.0, 4.0)
    config.evals.permuted = 20
    config.evals.random = config.evals.orthogonal = 5
    config.evals.sample = 0.25
    config.evals.buckets = 2
    config.evals.confidence.max_new_tokens = 8
    config.evals.samples.max_new_tokens = 24
    return config


def temporal(config):
    """SmolLM2-135M-Instruct: a dose early and withdrawn, at the read-out, throughout, and at every single token."""
    config.model.path = "models/smollm2"
    config.model.dtype = "float32"
    config.extract.update(per_length=2, held_out=0.5)
    config.evals.names = ("temporal",)
    config.evals.alphas = (-4.0, 0.0, 4.0)
    config.evals.batch = 32
    config.evals.buckets = 2
    config.evals.temporal.update(variants=2, lengths=(1, 2), control_families=8, map_families=2)
    return config
