"""Interventions that are active while a model is trained, from the settings `train.intervene`."""

from welfare_jax.errors import InputError
from welfare_jax.interp import vectors
from welfare_jax.interp.names import Vector
from welfare_jax.models import interventions
from welfare_jax.train.settings import Intervene


def build(config: Intervene, spec):
    """(interventions of the rollout, of the update), None where there are none.

    `vectors` names a vector file, `vector` one of its entries (such as gold/rest) and `layer` the row (-1: the
    steering layer that the file chose for its class). "add" adds `scale` times it at that layer; "ablate" projects it
    out at every layer. Where only one of the two programs sees it, the ratio of the first update is not one: that is
    the importance sampling that was asked for.
    """
    if not config.vectors:
        return None, None
    arrays, facts = vectors.fitting(config.vectors, spec, (config.vector,))
    rows = arrays[config.vector]
    chosen = vectors.chosen(config.vectors, facts)
    layer = config.layer if config.layer >= 0 else chosen.get(Vector.of_entry(config.vector).of)
    if layer is None or not 0 <= layer < spec.layers:
        raise InputError(f"train.intervene.layer={config.layer}: name one of the {spec.layers} layers")
    if config.op == "add":
        iv = interventions.add(rows[layer], layer, config.scale, at=facts["hook"])
    else:
        iv = interventions.ablate(rows[layer], at=facts["hook"])
    return (iv if config.when != "update" else None), (iv if config.when != "rollout" else None)


def describe(config: Intervene) -> str:
    """One line, empty without an intervention."""
    if not config.vectors:
        return ""
    where = {"rollout": "the rollout alone", "update": "the update alone", "both": "rollout and update"}[config.when]
    weighed = "" if config.when == "both" else "; the two policies differ, so ratios start away from one"
    return f"{config.op} {config.vector} of {config.vectors} in {where}{weighed}"
