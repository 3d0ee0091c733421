"""The settings of the main job, their defaults and what they mean: the paper's main run (arXiv:2605.30232 §2.2, §J.3,
§Q). Other experiments take over what they share."""

import dataclasses
import pathlib

from ml_collections import ConfigDict

from welfare_jax import textfiles
from welfare_jax.errors import InputError
from welfare_jax.evals import settings as evals
from welfare_jax.interp.axes.settings import AxesSettings
from welfare_jax.settings import MESH, MODEL, RENTING, Distributed, Setting, defaults
from welfare_jax.settings import tree as settings_of
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
        "model": MODEL,
        "mesh": Setting(MESH, "devices along each axis; data=0: whatever is left"),
        "parallel": Setting("jit", 'a step over the mesh; or "pmap": whole parameters, own episodes on every device'),
        "distributed": Setting(
            settings_of(Distributed),
            "a run over several processes, each started with the same settings but for `process`; see hosts.py",
        ),
        "text": Setting({**dataclasses.asdict(Wording()), "template": {}}, "what players read; see text/wording.py"),
        "maze": Setting({
            "size": 100, "turns": 15, "order": "maze", "wind": 0.1, "wind_mode": "push", "melt": True, "whole": False,
            "gold_ratio": 0.2, "turn_reward": -0.1, "gold_reward": 20.0, "mold_reward": -10.0,
        }, "the rules; see Params in envs/maze.py"),
        "train": settings_of(train.MazeTraining),
        "organisms": Setting(
            settings_of(train.Organisms),
            "N values make N adapters that are trained side by side; tiles are orders such as (0, 2, 1)",
        ),
        "sft": Setting(
            settings_of(train.Planned), "planned trajectories, for algorithms that learn from them"
        ),
        "curve": Setting(settings_of(train.Curve), "the live recruitment curve"),
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
        "axes": settings_of(AxesSettings),
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
