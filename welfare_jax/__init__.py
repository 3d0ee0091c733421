"""Reward, welfare-relevant axes and steering in language models, in JAX (arXiv:2605.30232).

import welfare_jax as wj
lm = wj.load("DIR or hub name", dtype="bfloat16")
out = wj.forward(lm.graphdef, lm.params, tokens, interventions=wj.add(vector, layer=20, scale=2.0))
"""

import importlib

__version__ = "0.1.0"
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
    "encode": "models.chat",
    "assistant_tokens": "models.chat",
    "stop_ids": "models.stops",
    "stop_strings": "models.stops",
    "add": "models.interventions",
    "ablate": "models.interventions",
    "scale_neurons": "models.interventions",
    "combine": "models.interventions",
    "Interventions": "models.interventions",
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
