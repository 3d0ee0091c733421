"""The settings of pretraining."""

from ml_collections import ConfigDict

from welfare_jax.settings import MESH, RENTING, Setting, defaults


def pretrain() -> ConfigDict:
    """A small decoder from scratch, by default on arithmetic in three solution formats."""
    return ConfigDict(defaults(tree()))


def tree() -> dict:
    return {"job": "pretrain", **RENTING, **part()}


def part() -> dict:
    """Of a pretraining that another experiment begins with."""
    return {
        "job": "pretrain",
        "seed": 0,
        "start": Setting("", "a model folder to go on from, with its tokenizer and shape; empty: from nothing"),
        "shape": {
            "layers": 2, "width": 128, "heads": 4, "kv_heads": 4, "head_dim": 32, "mlp": 384, "theta": 1e4,
        },
        "dtype": Setting("float32", "of the forward pass; what is trained is float32"),
        "saved": Setting("float32", "of the model folder"),
        "mesh": MESH,
        "tokenizer": {
            "path": Setting("", "a folder with a tokenizer; empty: one is made"),
            "kind": Setting("words", 'of one that is made: without merges; or "bpe"'),
            "vocab_size": 640,
            "documents": Setting(3000, "of which one is made"),
        },
        "sources": Setting({
            name: {"data": f"arithmetic/{name}", "weight": 1.0, "column": "text"}
            for name in ("words", "function", "script")
        }, "what each is (see sft/corpus.py) and its weight by number of documents"),
        "phases": Setting([], 'where not empty: weights of sources up to a step, [{"until": 100, "words": 1.0}, ...]'),
        "level": Setting({"steps": 1, "largest": 9, "operations": "+-"}, "of the arithmetic problems"),
        "told_weight": Setting(1.0, "loss weight of what users say in messages"),
        "steps": 400,
        "rows": Setting(32, "of a step"),
        "length": Setting(256, "tokens of a row"),
        "optimizer": Setting("muon", 'or "adamw"'),
        "lr": Setting(3e-3, "of Adam: everything, or beside Muon whatever is not a kernel"),
        "muon_lr": 1e-2,
        "warmup": 20,
        "weight_decay": 0.1,
        "probe_every": 50,
        "train": {"micro_batch": 32, "remat": False, "checkpoint_every": 100, "keep": 1, "spike": 0.0},
    }  # fmt: skip
