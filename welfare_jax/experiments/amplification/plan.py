"""What every cell would take: its base, its training, its measurements."""

from welfare_jax.experiments.amplification import run as amplification
from welfare_jax.experiments.pretraining import plan as pretraining
from welfare_jax.planning import work
from welfare_jax.settings import Renting, typed

PROMPT = 40  # tokens of a problem, roughly


def run(config, workdir):
    amplification.check(config)
    every = amplification.cells(config)
    yield f"{len(every)} cell(s)"
    yield from work.report(typed(Renting, config), stages(every))


def stages(every: dict) -> list[work.Stage]:
    bases, training, measuring = {}, [], []
    for config in every.values():
        made, model = pretraining.stages(config.pretrain)
        if config.model.path:
            model, _ = work.opened(config.model)
        else:
            bases[config.shape, config.mixture, config.seed] = made
        cfg, measure, new = config.train, config.measure, config.max_new_tokens
        rows = cfg.groups * cfg.group_size
        learnt = cfg.epochs * cfg.groups * min(cfg.keep_best or cfg.group_size, cfg.group_size)
        training += [
            model.write(rows, PROMPT, new, rows).times(cfg.steps),
            model.read(learnt, PROMPT + new, work.passes(cfg.remat)).times(cfg.steps),
        ]
        times, each = -(-cfg.steps // measure.every) + 1, measure.problems * (measure.samples + 1)
        measuring += [
            model.write(each, PROMPT, new, measure.batch * measure.samples).times(times),
            model.read(2 * each, PROMPT + new).times(times),
        ]
    found = [
        work.total("training", f"{len(every)} x {cfg.steps} steps of {rows} answers", *training),
        work.total("measuring", f"{len(every)} x {times} times {each:,} answers", *measuring),
    ]
    return ([work.total("pretraining", f"{len(bases)} base(s)", *bases.values())] if bases else []) + found
