"""What training under every lambda and sampling from it would take."""

from welfare_jax.experiments.imitation import run as imitation
from welfare_jax.planning import estimate, work
from welfare_jax.settings import Renting, typed
from welfare_jax.train.job import Job

PROBLEM, SOLUTION = 40, 40  # tokens of a problem and of its solution, roughly


def run(config, workdir):
    imitation.check(config)
    model, note = work.opened(config.model)
    yield f"{config.model.path}: {len(config.imitation.lambdas)} lambdas" + (f" ({note})" if note else "")
    yield from work.report(typed(Renting, config), stages(config, model))


def stages(config, model) -> list[work.Stage]:
    cfg, out = config.imitation, []
    own, several = cfg.arithmetic, len(cfg.lambdas)
    answers = several * len(cfg.temperatures) * cfg.prompts * cfg.samples
    looked = several**2 * cfg.prompts * cfg.samples  # every lambda's model over the samples of all
    if "arithmetic" in cfg.tasks:
        steps, batch = own.steps or config.train.steps, own.batch or config.sft.batch
        new = own.max_new_tokens or SOLUTION
        length = PROBLEM + new
        train = model.read(several * steps * batch, length, work.passes(config.train.remat))
        out += [
            train._replace(name="arithmetic", what=f"{several} models, {steps:,} steps of {batch} solutions"),
            work.total(
                "its samples", f"{answers:,} answers", model.write(answers, PROBLEM, new, cfg.batch),
                model.read(answers + looked, length),
            ),
        ]  # fmt: skip
    if "maze" in cfg.tasks:
        slots = estimate.source(Job.of(config)).pieces.slots(config.maze.turns, not config.maze.wind)
        steps, batch = config.train.steps, config.sft.batch
        train = model.read(several * steps * batch, slots, work.passes(config.train.remat))
        out += [
            train._replace(name="maze", what=f"{several} models, {steps:,} steps of {batch} planned trajectories"),
            model.read(answers + looked, slots)._replace(name="its samples", what=f"{answers:,} episodes"),
        ]
    return out
