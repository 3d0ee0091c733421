"""The settings of the evaluations alone: the main job's, whose section `evals` says what is evaluated and how."""

from welfare_jax.experiments.axis import settings as axis


def tree() -> dict:
    return axis.tree() | {"job": "evals"}
