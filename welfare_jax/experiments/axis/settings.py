"""The settings of the main job, their defaults and what they mean: the paper's main run (arXiv:2605.30232 §2.2, §J.3,
§Q). Other experiments take over what they share."""

import dataclasses
import pathlib

from ml_collections import ConfigDict

from welfare_jax import textfiles
from welfare_jax.errors import InputError
from welfare_jax.evals import settings as evals
from welfare_jax.settings import RENTING, Setting, defaults
from welfare_jax.text.wording import Wording
from welfare_jax.train import settings as train


def rl() -> ConfigDict:
    """The main job; `axes` and `evals` take the same settings."""
    return ConfigDict(defaults(tree()))


def tree() -> dict:
    return {
        "job": "rl",
        "seed": 0,
        **RENTING,
        "smoke": Setting(False, "two steps, a small analysis and one evaluation, beside what the plan says of them"),
        "model": {
            "path": Setting("", "a folder, a GGUF file or a hub name"),
            "revision": Setting("", "of a hub model: a branch, tag or commit"),
            "dtype": "bfloat16",
            "attention": Setting("plain", 'or "xla", "cudnn": see models/hf.py'),
        },
        "mesh": Setting({"data": 0, "fsdp": 1, "tensor": 1}, "devices along each axis; data=0: whatever is left"),
        "parallel": Setting("jit", 'a step over the mesh; or "pmap": whole parameters, own episodes on every device'),
        "distributed": Setting({
            "coordinator": Setting("", 'HOST:PORT of process 0, or "auto" on Cloud TPU, Slurm, Kubernetes, Open MPI'),
            "processes": Setting(1, "with HOST:PORT: how many there are"),
            "process": Setting(0, "with HOST:PORT: which one this is"),
            "timeout": Setting(100, "seconds after which a silent process counts as dead"),
        }, "a run over several processes, each started with the same settings but for `process`; see hosts.py"),
        "text": Setting({**dataclasses.asdict(Wording()), "template": {}}, "what players read; see text/wording.py"),
        "maze": Setting({
            "size": 100, "turns": 15, "order": "maze", "wind": 0.1, "wind_mode": "push", "melt": True, "whole": False,
            "gold_ratio": 0.2, "turn_reward": -0.1, "gold_reward": 20.0, "mold_reward": -10.0,
        }, "the rules; see Params in envs/maze.py"),
        "train": train.tree(),
        "organisms": Setting(
            {"seed": (), "tiles": (), "lr": (), "entropy_coef": (), "shuffle_rewards": ()},
            "N values make N adapters that are trained side by side; tiles are orders such as (0, 2, 1)",
        ),
        "sft": Setting({
            "trajectories": 50_000,
            "held_out": 512,
            "size": Setting(31, "of the mazes; 0: that of the maze"),
            "beams": 64,
            "batch": 16,
            "policy_samples": False,
        }, "planned trajectories, for algorithms that learn from them"),
        "curve": Setting({
            "every": Setting(5, "steps between points"),
            "per_length": Setting(4, "walks a class and length"),
            "axes": Setting("", "a vector file (a former run's vectors/axes_untrained.safetensors) to compare with"),
        }, "the live recruitment curve"),
        "extract": {
            "per_length": Setting(417, "walks a class and length: 5,004 a class enter the means at 15 turns"),
            "held_out": Setting(0.2, "share of the walks"),
            "batch": 64,
            "replicates": Setting(200, "half samples for the intervals"),
            "permutations": Setting(1000, "of the labels among walks of one letter and length, for what chance reads"),
            "store": Setting(False, "also keep every activation, under activations/"),
            "question": Setting("", 'asked after a walk ("How is it going?"), read where the answer would begin; '
                                "none: walks are read at their final letter"),
        },
        "outcome": Setting({
            "baseline": Setting("path", 'of cos(v_mold, v_gold); or "rest"'),
            "layers": Setting("signal", 'where both vectors are more signal than noise; or "last_third", "all"'),
            "least": Setting(0.1, "the smallest change of interest"),
            "shams": Setting(0, "adapters of the trained one's size in random directions, read beside it"),
        }, "what the run is held to, fixed before it begins; all else is secondary; see interp/outcome.py"),
        "axes": {
            "kinds": Setting("reviews,prompts,assent,emotions",
                             "what to compare with, empty for nothing; also success: accounts and walks under a goal"),
            # Files; where empty, the small samples of the package.
            "reviews": "", "prompts": "", "statements": "", "emotions": "", "topics": "", "dialogues": "",
            "limit": Setting(400, "at most so many texts; 0: all"),
            "emotions_limit": Setting(0, "at most so many words; 0: all"),
            "topics_limit": Setting(100, "at most so many topics; 0: all"),
            "stories": Setting(12, "of each emotion and topic"),
            "max_new_tokens": 200,
            "first_token": Setting(50, "stories are averaged from this token on"),
            "max_tokens": 512, "batch": 32,
        },
        "steer": {
            "prompts": ("How is it going?", "Tell me about your walk.", "How do you feel?", "What happened?"),
            "alphas": (-4.0, -2.0, 0.0, 2.0, 4.0),
            "max_new_tokens": 40,
            "temperature": 0.7,
        },
        "evals": evals.tree(),
    }  # fmt: skip


def of_run(config) -> ConfigDict:
    """The settings with which the run in folder `config.run` was made; what is read and how comes from `config`."""
    path = pathlib.Path(config.run).expanduser() / "config.json"
    try:
        saved = textfiles.loads(textfiles.data(path), str(path))
        out, present = rl(), ("extract", "axes", "steer", "evals", "mesh", "distributed", *RENTING)
        out.update({k: v for k, v in saved.items() if k in out and k not in present})
    except (InputError, AttributeError, TypeError, KeyError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        advice = "name the --workdir of a run"
        raise InputError(f"run={config.run}: {path.name} cannot be read ({why}); {advice}") from None
    out.update({k: config[k] for k in present})
    return out
