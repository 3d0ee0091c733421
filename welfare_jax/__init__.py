"""Reward, welfare-relevant axes and steering in language models, in JAX (arXiv:2605.30232).

import welfare_jax as wj
lm = wj.load("DIR or hub name", dtype="bfloat16")
out = wj.forward(lm.graphdef, lm.params, tokens, interventions=wj.add(vector, layer=20, scale=2.0))
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:  # what type checkers and editors see, and nobody runs
    from welfare_jax.errors import InputError as InputError
    from welfare_jax.interp.contrast import Direction as Direction
    from welfare_jax.interp.contrast import read_direction as read_direction
    from welfare_jax.interp.geometry import class_sums as class_sums
    from welfare_jax.interp.geometry import difference_in_means as difference_in_means
    from welfare_jax.interp.geometry import pca_axis as pca_axis
    from welfare_jax.interp.geometry import project as project
    from welfare_jax.interp.geometry import residualise as residualise
    from welfare_jax.interp.geometry import select_layer as select_layer
    from welfare_jax.interp.hub import push_to_hub as push_to_hub
    from welfare_jax.interp.lens import logit_lens as logit_lens
    from welfare_jax.interp.probe import Probe as Probe
    from welfare_jax.interp.probe import probe as probe
    from welfare_jax.models.chat import assistant_tokens as assistant_tokens
    from welfare_jax.models.chat import encode as encode
    from welfare_jax.models.decoder import empty_cache as empty_cache
    from welfare_jax.models.decoder import forward as forward
    from welfare_jax.models.decoder import init as init
    from welfare_jax.models.generate import chat as chat
    from welfare_jax.models.generate import generate as generate
    from welfare_jax.models.hf import LM as LM
    from welfare_jax.models.hf import load as load
    from welfare_jax.models.hf_save import save_hf as save_hf
    from welfare_jax.models.interventions import Interventions as Interventions
    from welfare_jax.models.interventions import ablate as ablate
    from welfare_jax.models.interventions import add as add
    from welfare_jax.models.interventions import combine as combine
    from welfare_jax.models.interventions import patch as patch
    from welfare_jax.models.interventions import scale_neurons as scale_neurons
    from welfare_jax.models.peft import load_peft as load_peft
    from welfare_jax.models.peft import save_peft as save_peft
    from welfare_jax.models.stops import stop_ids as stop_ids
    from welfare_jax.models.stops import stop_strings as stop_strings
    from welfare_jax.rl.environment import Environment as Environment
    from welfare_jax.train.rewarded import train_in_environment as train_in_environment
    from welfare_jax.train.rewarded import train_on_reward as train_on_reward
else:
    _HOME = {
        "load": "models.hf",
        "LM": "models.hf",
        "save_hf": "models.hf_save",
        "save_peft": "models.peft",
        "load_peft": "models.peft",
        "forward": "models.decoder",
        "init": "models.decoder",
        "empty_cache": "models.decoder",
        "generate": "models.generate",
        "chat": "models.generate",
        "encode": "models.chat",
        "assistant_tokens": "models.chat",
        "stop_ids": "models.stops",
        "stop_strings": "models.stops",
        "add": "models.interventions",
        "ablate": "models.interventions",
        "patch": "models.interventions",
        "scale_neurons": "models.interventions",
        "combine": "models.interventions",
        "Interventions": "models.interventions",
        "read_direction": "interp.contrast",
        "Direction": "interp.contrast",
        "probe": "interp.probe",
        "Probe": "interp.probe",
        "push_to_hub": "interp.hub",
        "train_on_reward": "train.rewarded",
        "train_in_environment": "train.rewarded",
        "Environment": "rl.environment",
        "class_sums": "interp.geometry",
        "difference_in_means": "interp.geometry",
        "select_layer": "interp.geometry",
        "project": "interp.geometry",
        "residualise": "interp.geometry",
        "pca_axis": "interp.geometry",
        "logit_lens": "interp.lens",
        "InputError": "errors",
    }
    __all__ = sorted(_HOME)

    def __getattr__(name):
        # Names are found when they are used: `import welfare_jax` costs nothing and starts no backend.
        if name not in _HOME:
            raise AttributeError(f"module 'welfare_jax' has no attribute {name!r}")
        return getattr(importlib.import_module(f"welfare_jax.{_HOME[name]}"), name)

    def __dir__():
        return __all__
