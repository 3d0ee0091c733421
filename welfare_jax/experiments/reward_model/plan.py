"""What the three reward models and what is read of them would take, with texts at their longest."""

from welfare_jax.experiments.reward_model import run as reward_model
from welfare_jax.planning import work
from welfare_jax.settings import Renting, typed

MODELS, OBJECTIVES = 3, 2


def run(config, workdir):
    reward_model.check(config)
    model, note = work.opened(config.model)
    yield f"{config.model.path}: {MODELS} reward models" + (f" ({note})" if note else "")
    yield from work.report(typed(Renting, config), stages(config, model))


def stages(config, model) -> list[work.Stage]:
    cfg, pairs, neurons = config.train, config.pairs, config.neurons
    train = model.read(MODELS * cfg.steps * cfg.batch * 2, pairs.max_tokens, work.passes(cfg.remat))
    scored = (MODELS + 1) * pairs.held_out * 2
    # Of each of the two scores: four plain sets and their parts, as many random ones, and the sweep.
    sets = 2 * (5 + 3 * neurons.random + len(neurons.sweep)) + len(neurons.sweep) * neurons.random
    looked = MODELS * OBJECTIVES * (2 + sets) * pairs.held_out * 2
    return [
        train._replace(name="training", what=f"{MODELS} models, {cfg.steps:,} steps of {cfg.batch} pairs"),
        model.read(2 * scored, pairs.max_tokens)._replace(name="neurons", what=f"{scored:,} texts in two models"),
        model.read(looked, pairs.max_tokens)._replace(
            name="ablations", what=f"about {sets} sets, {MODELS} models, {OBJECTIVES} objectives: {looked:,} texts"
        ),
    ]
