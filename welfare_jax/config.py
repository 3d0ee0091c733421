"""The settings of a run and their defaults: the paper's main run (arXiv:2605.30232 §2.2, §J.3, §Q).

Config files start from `rl()` and change a few lines.
"""

import dataclasses
import difflib
import pathlib

from ml_collections import ConfigDict

from welfare_jax import textfiles
from welfare_jax.errors import InputError
from welfare_jax.text.wording import Wording


def check_variant(variant: str, variants):
    """`InputError` where `variant` is none of the `variants` of a config file."""
    if variant not in variants:
        near = difflib.get_close_matches(variant, variants, 2)
        meant = f"did you mean {' or '.join(near)}?" if near else "choose another one."
        raise InputError(f"there is no variant {variant!r}; {meant} There are {', '.join(variants)}")


def rl() -> ConfigDict:
    return ConfigDict({
        "job": "rl",
        "seed": 0,
        "plan": False,  # only print what the run would need
        "topology": "",  # of which machine: v5e-8, v5p-16, 8xH100, ...; empty: of the common ones
        "model": {
            "path": "",  # a folder, a GGUF file or a hub name
            "revision": "",  # of a hub model: a branch, tag or commit
            "dtype": "bfloat16",
            "attention": "plain",  # or "xla", "cudnn": see models/hf.py
        },
        "mesh": {"data": 0, "fsdp": 1, "tensor": 1},  # data=0: whatever the others leave
        "parallel": "jit",  # of a step over the mesh; or "pmap": whole parameters and own episodes on every device
        # A run over several processes; see hosts.py. Each is started with the same settings but for `process`.
        "distributed": {
            "coordinator": "",  # HOST:PORT of process 0, or "auto" on Cloud TPU, Slurm, Kubernetes and Open MPI
            "processes": 1, "process": 0,  # with HOST:PORT: how many there are, and which this one is
            "timeout": 100,  # seconds after which a silent process counts as dead
        },
        "text": {**dataclasses.asdict(Wording()), "template": {}},
        "maze": {
            "size": 100, "turns": 15, "order": "maze", "wind": 0.1, "wind_mode": "push", "melt": True, "whole": False,
            "gold_ratio": 0.2, "turn_reward": -0.1, "gold_reward": 20.0, "mold_reward": -10.0,
        },
        "train": {
            "algorithm": "dr_grpo",  # one of train/algorithms.py
            "steps": 95,
            "groups": 8,
            "group_size": 64,
            "micro_batch": 32,  # episodes a gradient pass
            "rollout_batch": 0,  # episodes that play at a time; fewer need less memory for the cache. 0: all
            "epochs": 1,  # passes over the episodes of a step
            "minibatches": 1,  # optimiser steps a pass
            "temperature": 0.7,
            # Rates. S: learning rate and entropy coefficient are zero from step S - 1 on.
            "schedule_steps": 500,
            "schedule": "cosine",  # of the learning rate; or "linear", "constant"
            "schedule_rate": 1.0,  # f: how fast the annealing runs
            "warmup": 0,
            "lr": 3e-6,
            "value_lr": 1e-2,  # of PPO's value head
            # Objective.
            "entropy_coef": 0.01,
            "entropy": "equalised",  # or "plain"
            "kl_coef": 0.0,
            "kl": "exact",  # over the four actions; or "k3"
            "kl_in": "loss",  # or "reward"
            "clip": 0.2,
            "dual_clip": 3.0,
            "z": 2048.0,
            "gamma": 1.0,
            "gae_lambda": 0.95,
            "value_clip": 0.2,
            "value_coef": 0.5,
            "reward_scale": 1.0,  # what rewards are multiplied by before advantages
            "keep_best": 0,  # learn only from this many best distinct episodes of every maze (Expert Iteration)
            "soft_q": 0.0,  # lambda of inverse soft-Q
            # Optimiser.
            "optimizer": "adamw",  # or "lion", "sgd"
            "grad_clip": 1.0,  # 0: none
            "weight_decay": 0.01,
            "adam_b1": 0.9,
            "adam_b2": 0.999,
            "lora": {"rank": 32, "alpha": 64.0, "targets": r"attn/(q|k|v|o)|mlp/(experts/)?(gate|up|down)"},
            "trainable": r".*/lora_[ab]",
            "merge_lora": False,  # fold the adapters in for the rollout: less work, a second copy of the weights
            "remat": True,  # compute a layer's inside again in the backward pass
            "remat_keeps": "nothing",  # of it; or "dots", the products with weights: faster, and more memory
            "checkpoint_every": 5,
            "keep": 3,
            "eval_every": 0,  # steps between rollouts on held-out mazes, whose best parameters are kept; 0: none
            "spike": 20.0,  # stop where the loss lies this many standard deviations off the last steps'; 0: never
            # A vector file, the entry in it and what is done with it while training; see train/intervene.py.
            "intervene": {
                "vectors": "", "vector": "gold/rest", "op": "ablate", "layer": -1, "scale": 1.0, "when": "both",
            },
        },
        # N values make N organisms that are trained side by side; tiles are orders such as (0, 2, 1).
        "organisms": {"seed": (), "tiles": (), "lr": (), "entropy_coef": ()},
        # Planned trajectories, for algorithms that learn from them. size 0: that of the maze.
        "sft": {
            "trajectories": 50_000, "held_out": 512, "size": 31, "beams": 64, "batch": 16, "policy_samples": False,
        },
        # The live recruitment curve: steps between points, walks a class and length, and a vector file (such as a
        # former run's vectors/axes_untrained.safetensors) whose axes both vectors are compared with.
        "curve": {"every": 5, "per_length": 4, "axes": ""},
        "extract": {
            "per_length": 333, "held_out": 0.2, "batch": 64,
            "replicates": 200,  # half samples for the intervals
            "store": False,  # also keep every activation, under activations/
            # What is asked after a walk, for example "How is it going?": it is read where the answer would begin.
            "question": "",  # none: walks are read at their final letter
        },
        # What the run is held to, fixed before it begins; everything else in its report is secondary. See
        # interp/outcome.py.
        "outcome": {
            "baseline": "path",  # of cos(v_mold, v_gold); or "rest"
            "layers": "signal",  # those where both vectors are more signal than noise; or "last_third", "all"
            "least": 0.1,  # the smallest change of interest
            "shams": 0,  # adapters of the trained one's size in random directions, which are read beside it
        },
        "axes": {
            # What to compare with, empty for nothing; also success: of generated accounts and walks under a goal.
            "kinds": "reviews,prompts,assent,emotions",
            # Files; where empty, the small samples of the package.
            "reviews": "", "prompts": "", "statements": "", "emotions": "", "topics": "", "dialogues": "",
            "limit": 400, "emotions_limit": 0, "topics_limit": 100,  # at most so many texts, words, topics; 0: all
            "stories": 12,  # of each emotion and topic
            "max_new_tokens": 200, "first_token": 50,  # stories are averaged from this token on
            "max_tokens": 512, "batch": 32,
        },
        "steer": {
            "prompts": ("How is it going?", "Tell me about your walk.", "How do you feel?", "What happened?"),
            "alphas": (-4.0, -2.0, 0.0, 2.0, 4.0),
            "max_new_tokens": 40,
            "temperature": 0.7,
        },
        "evals": evals(),
    })  # fmt: skip


OPTIMISATION = (
    "steps", "micro_batch", "schedule_steps", "schedule", "schedule_rate", "warmup", "lr", "value_lr", "optimizer",
    "grad_clip", "weight_decay", "adam_b1", "adam_b2", "lora", "trainable", "remat", "checkpoint_every", "keep",
    "spike",
)  # fmt: skip


def fitting(**changes) -> dict:
    """What supervised runs on a batch of anything share: model, mesh, and the settings of `rl` that optimise."""
    base = rl()
    out = {name: base[name] for name in ("seed", "model", "mesh")}
    return out | {"train": {name: base.train[name] for name in OPTIMISATION} | {"batch": 64} | changes}


def reward_model() -> ConfigDict:
    """Reward models on helpfulness, harmlessness and both (arXiv:2606.13209), in the size of published models."""
    # spike: the loss nears zero, where one pair ordered wrong is many standard deviations.
    train = fitting(steps=1000, schedule_steps=1000, lr=1e-5, value_lr=1e-4, micro_batch=8, spike=0.0)
    return ConfigDict(train | {
        "job": "reward_model",
        "pairs": {
            "a": "helpful", "b": "harmless",  # objectives that the package generates, or JSONL files
            "count": 20_000,  # training pairs of each; of a file at most so many, 0: all
            "held_out": 1000,
            "conflict": 0.5,  # of generated pairs: the share that the other objective orders the opposite way
            "max_tokens": 512,  # the last of a text
        },
        "neurons": {
            "percent": 10.0,  # of all neurons, that the sets are made of
            "sweep": (2.0, 5.0, 10.0, 15.0, 20.0, 30.0),
            "random": 3,  # draws of every random set
            "batch": 32,  # pairs looked at together: all their neurons are held at once
        },
    })  # fmt: skip


def imitation() -> ConfigDict:
    """Inverse soft-Q over lambda on planned mazes and arithmetic (arXiv:2409.01369); `train` and `sft` serve both."""
    config = rl()
    config.job = "imitation"
    config.imitation = {
        "tasks": ("arithmetic", "maze"),
        "lambdas": (0.0, 0.001, 0.01, 0.1),  # 0 is maximum likelihood
        "temperatures": (0.4, 0.7, 1.0, 1.3),
        "prompts": 64,  # held-out problems, or mazes
        "samples": 16,  # of each: what Self-BLEU compares
        "batch": 256,  # problems' samples drawn, or looked at, together
        "arithmetic": {
            "demonstrations": 20_000,
            "level": {"steps": 2, "largest": 20, "operations": "+-*"},
            "max_new_tokens": 0,  # 0: what the longest demonstration needs
            # Its own length, examples a step and rate; 0: as train.steps, sft.batch, train.lr.
            "steps": 0,
            "batch": 0,
            "lr": 0.0,
        },
    }
    return config


def pretrain() -> ConfigDict:
    """A small decoder from scratch, by default on arithmetic in three solution formats."""
    return ConfigDict({
        "job": "pretrain",
        "seed": 0,
        "start": "",  # a model folder to go on from, with its own tokenizer and shape; empty: from nothing
        "shape": {
            "layers": 2, "width": 128, "heads": 4, "kv_heads": 4, "head_dim": 32, "mlp": 384, "theta": 1e4,
        },
        "dtype": "float32",  # of the forward pass; what is trained is float32
        "saved": "float32",  # of the model folder
        "mesh": {"data": 0, "fsdp": 1, "tensor": 1},
        # path: a folder with a tokenizer; empty: one made from so many documents, "words" (no merges) or "bpe".
        "tokenizer": {"path": "", "kind": "words", "vocab_size": 640, "documents": 3000},
        # What each source is (see sft/corpus.py) and its weight by number of documents.
        "sources": {
            name: {"data": f"arithmetic/{name}", "weight": 1.0, "column": "text"}
            for name in ("words", "function", "script")
        },
        # Where not empty: weights of sources up to a step, [{"until": 100, "words": 1.0}, ...].
        "phases": [],
        "level": {"steps": 1, "largest": 9, "operations": "+-"},  # of the arithmetic problems
        "told_weight": 1.0,  # loss weight of what users say in messages
        "steps": 400,
        "rows": 32,  # of a step
        "length": 256,  # tokens of a row
        "optimizer": "muon",  # or "adamw"
        "lr": 3e-3,  # of Adam: everything, or beside Muon whatever is not a kernel
        "muon_lr": 1e-2,
        "warmup": 20,
        "weight_decay": 0.1,
        "probe_every": 50,
        "train": {"micro_batch": 32, "remat": False, "checkpoint_every": 100, "keep": 1, "spike": 0.0},
    })  # fmt: skip


def amplify() -> ConfigDict:
    """RL with a verified reward on arithmetic, from a base that is pretrained on a mixture of solution formats."""
    config = ConfigDict({
        "job": "amplify",
        "seed": 0,
        # An empty path: a base is pretrained first.
        "model": {"path": "", "revision": "", "dtype": "float32", "attention": "plain"},
        "pretrain": pretrain(),  # its seed, shape and weights follow from the three lines below
        "shape": "tiny",
        "mixture": "even",
        "shapes": {"tiny": {}},  # what of `pretrain.shape` each scale changes
        "mixtures": {"even": {"words": 1.0, "function": 1.0, "script": 1.0}},
        "mesh": {"data": 0, "fsdp": 1, "tensor": 1},
        "problems": 4096,  # to learn from
        "max_new_tokens": 40,
        "train": rl().train,
        # Greedy accuracy is over all held-out problems; the rest over so many samples of each, a batch at a time.
        "measure": {"every": 10, "problems": 64, "samples": 16, "batch": 16, "ks": (1, 4, 16)},
        # Lists: every combination becomes a cell of its own.
        "sweep": {"shape": (), "mixture": (), "kl_coef": (), "seed": ()},
    })  # fmt: skip
    # The base is to know all formats, and none of them perfectly.
    config.pretrain.steps = 160
    config.pretrain.level.update(steps=2, largest=20, operations="+-*")
    for name in ("merge_lora", "eval_every", "intervene"):
        del config.train[name]
    config.train.update(
        algorithm="grpo", steps=40, schedule_steps=40, schedule="constant", warmup=2, groups=32, group_size=8,
        lr=3e-4, trainable=".*", adam_b2=0.95, entropy_coef=0.0, entropy="plain", kl="k3", kl_coef=0.0, remat=False,
        checkpoint_every=10, keep=1,
    )  # fmt: skip
    config.train.lora.rank = 0
    return config


def words() -> ConfigDict:
    """The main job on small bases that did and did not read accounts of success, failure and feeling."""
    config = rl()
    config.job = "words"
    base = pretrain()
    kinds = ("questions", "choices", "steps", "stories", "verdicts")  # of text/tiny_world.py
    base.sources = ConfigDict({k: {"data": f"world/{k}", "weight": 1.0, "column": "text"} for k in kinds})
    config.words = {
        "seeds": (0,),
        "arms": {  # what each reads at the end, after what all have read: weights of documents
            "with": {"questions": 0.15, "choices": 0.3, "steps": 0.1, "stories": 0.3, "verdicts": 0.15},
            "without": {"questions": 0.15, "choices": 0.3, "steps": 0.1},
        },
        "steps": 150,
        "warmup": 10,  # of that
        "questions": ("", "How is it going?"),  # after a walk: where it is read; the empty one is the final letter
        "pretrain": base,  # what all have read
    }
    config.axes.kinds = "success"
    return config


def of_run(config) -> ConfigDict:
    """The settings with which the run in folder `config.run` was made; what is read and how comes from `config`."""
    path = pathlib.Path(config.run).expanduser() / "config.json"
    try:
        saved = textfiles.loads(textfiles.data(path), str(path))
        out, present = rl(), ("extract", "axes", "steer", "evals", "mesh", "distributed")
        out.update({k: v for k, v in saved.items() if k in out and k not in present})
    except (InputError, AttributeError, TypeError, KeyError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        advice = "name the --workdir of a run"
        raise InputError(f"run={config.run}: {path.name} cannot be read ({why}); {advice}") from None
    out.update({k: config[k] for k in present})
    return out


def evals() -> dict:
    """The behavioural evaluations, in the paper's numbers but on the package's own small sets; none runs unnamed."""
    sampled = {"max_new_tokens": 256, "temperature": 0.7, "judge_prompt": ""}
    good = "good great fine well happy glad calm relaxed proud grateful hopeful optimistic excited inspired positive"
    good += " confident content satisfied pleased cheerful refreshed thankful alive comfortable lucky"
    bad = "bad sad terrible awful sick unhappy anxious nervous worried afraid guilty ashamed frustrated negative"
    bad += " stressed overwhelmed disappointed miserable lonely tired exhausted angry lost hopeless uncomfortable"
    own = {
        "max_new_tokens": 64,
        "ask": "",
        "true": ("True", " True"),
        "false": ("False", " False"),
        "grade": "match",
        "judge_prompt": "",
    }
    return {
        # Of sentiment, backtracking, refusal (judged); confidence, sentiment_logodds, refusal_logodds, goal_tracking,
        # samples (no judge needed).
        "names": (),
        "trained": "",  # a model, or the folder of a run; empty: this folder's newest checkpoint, if it has one
        "vectors": (),  # run folders, vector files, "maze", "stories"; empty: this folder's vectors, or else "maze"
        "baseline": "rest",  # of the class vectors; or "path"
        "layers": "chosen",  # each vector's own; "all" (the layer sweep); or "12,17"
        "alphas": (-4.0, -2.0, 0.0, 2.0, 4.0),
        "where": ("assistant",),  # and any of generation, readout, prompt
        "random": 0,  # norm-matched random directions beside every vector
        "orthogonal": 0,  # and orthogonal ones
        "sample": 1.0,  # share of every prompt category, for a quick look
        "batch": 64,
        "buckets": 4,  # widths that prompts are padded to, each one compilation
        "judge": {
            "kind": "model",  # or "endpoint", "recorded" (a file of judgements), "words" (counts words, no model)
            "path": "Qwen/Qwen3-8B", "dtype": "bfloat16", "batch": 64,
            "second": "",  # judgements of another judge, or of a person, whose agreement the report shows
            "thinking": True, "thinking_tokens": 2048,  # only where an evaluation asks for it
            "max_new_tokens": 32,
            # An OpenAI-compatible endpoint: its key is read from the environment variable `key_env`.
            "url": "", "model": "", "key_env": "OPENAI_API_KEY", "retries": 5, "wait": 1.0, "timeout": 60.0,
            # Fields of the request, a JSON object: they are added or replace "temperature" and "max_tokens", and null
            # leaves one out, for example {"max_tokens": null, "max_completion_tokens": 64}.
            "body": "",
            "per_minute": 300.0, "parallel": 8,
            "price_in": 0.0, "price_out": 0.0, "max_cost": 0.0,  # dollars a million tokens; refuse above (0: never)
        },
        "sentiment": {"prompts": ("sentiment",), "samples": 20, **sampled},
        "backtracking": {"prompts": ("maths",), "samples": 10, **sampled | {"max_new_tokens": 1024}},
        "refusal": {"prompts": ("refusal",), "samples": 5, **sampled},
        "sentiment_logodds": {
            "prompts": ("feelings",), "begin": "I feel very", "good": tuple(good.split()), "bad": tuple(bad.split()),
        },
        "refusal_logodds": {
            "prompts": ("requests",), "begin": "",
            "refusal": ("I'm sorry", "I am sorry", "Sorry", "I cannot", "I can't", "I apologize", "Unfortunately"),
            "answer": ("Sure", "Of course", "Certainly", "Yes", "Here", "To", "The", "A", "There", "You", "In", "When",
                       "First", "One", "If", "Start", "Dear", "1"),
        },
        "samples": {"prompts": ("openers",), "samples": 1, "max_new_tokens": 48, "temperature": 0.7},
        "confidence": {"prompts": ("facts",), **own},
        "goal_tracking": {"prompts": ("maths", "facts"), "feedback": "", **own | {"max_new_tokens": 1024}},
    }  # fmt: skip
