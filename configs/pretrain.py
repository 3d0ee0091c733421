"""A small decoder from scratch, as a Hugging Face folder. tiny_base: some sixteen minutes on two CPU cores.

python -m welfare_jax.main --config=configs/pretrain.py --workdir=runs/base            # arithmetic
python -m welfare_jax.main --config=configs/pretrain.py:tiny_base --workdir=runs/tiny  # as the decoder in the package
python -m welfare_jax.main --config=configs/pretrain.py:150m --workdir=runs/150m --config.sources.web.data=FILE.jsonl

Mixture of documents, tokenizer, packing, Muon or AdamW. A source's data is `world/KIND`, `arithmetic/FORMAT`,
`hub/OWNER/NAME`, or a .jsonl or .txt file; `weight` is by number of documents. `150m` and `1b` have the shapes of
arXiv:2504.07912 (widths 768 and 2048, depths 12 and 16, tied embeddings here) and a web corpus beside the arithmetic;
the rest of their settings is a start, not a published value.
"""

from ml_collections import ConfigDict

from welfare_jax.config import check_variant, pretrain

WORLD = ("questions", "choices", "stories", "goals", "free")
# Weights of the maze world's kinds up to a step. What lies where comes first, conversations last.
CURRICULUM = [
    {"until": 250, "questions": 1.0},
    {"until": 600, "questions": 0.3, "choices": 0.55, "stories": 0.15},
    {"until": 1200, "questions": 0.17, "choices": 0.34, "stories": 0.34, "goals": 0.105, "free": 0.045},
]
SHAPES = {
    "tiny": {},
    "small": {"layers": 4, "width": 256, "heads": 4, "kv_heads": 4, "head_dim": 64, "mlp": 768},
    "150m": {"layers": 12, "width": 768, "heads": 12, "kv_heads": 12, "head_dim": 64, "mlp": 3072},
    "1b": {"layers": 16, "width": 2048, "heads": 16, "kv_heads": 16, "head_dim": 128, "mlp": 8192},
}
VARIANTS = (*SHAPES, "tiny_base")


def tiny_base(config):
    """The decoder that ships with the package."""
    config.shape.update(layers=4, width=128, heads=4, kv_heads=2, head_dim=32, mlp=384, theta=1e4)
    config.sources = ConfigDict({k: {"data": f"world/{k}", "weight": 1.0, "column": "text"} for k in WORLD})
    config.phases = CURRICULUM
    config.tokenizer.vocab_size = 768
    config.told_weight = 0.2  # tiles are random, there is little to learn in what the user says
    config.update(steps=1200, rows=24, length=352, warmup=50, saved="bfloat16")
    config.train.micro_batch = 24


def published(config):
    """A million tokens a step of web text with a little arithmetic."""
    config.sources.web = ConfigDict({"data": "hub/HuggingFaceFW/fineweb-edu", "weight": 0.97, "column": "text"})
    for name in ("words", "function", "script"):
        config.sources[name].weight = 0.01
    config.tokenizer.update(kind="bpe", vocab_size=50_304, documents=200_000)
    config.update(
        dtype="bfloat16", saved="bfloat16", optimizer="adamw", lr=1e-3, warmup=5000, steps=50_000, rows=512,
        length=2048, probe_every=1000,
    )  # fmt: skip
    config.train.update(micro_batch=16, remat=True, checkpoint_every=1000, spike=20.0)


def get_config(name="tiny"):
    check_variant(name, VARIANTS)
    config = pretrain()
    if name == "tiny_base":
        tiny_base(config)
        return config
    config.shape.update(SHAPES[name])
    if name in ("150m", "1b"):
        published(config)
    return config
