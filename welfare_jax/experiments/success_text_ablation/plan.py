"""What every arm and seed would take: its bases, training in the maze, what is read."""

from ml_collections import ConfigDict

from welfare_jax.envs import walks
from welfare_jax.experiments.pretraining import plan as pretraining
from welfare_jax.experiments.success_text_ablation import run as ablation
from welfare_jax.planning import work
from welfare_jax.settings import Renting, typed

SLOTS = 25  # tokens of a turn in the maze, with the words of a base's own tokenizer


def run(config, workdir):
    ablation.check(config)
    yield f"{len(config.words.arms)} arms, {len(config.words.seeds)} seed(s), {len(ablation.TILES)} organisms each"
    yield from work.report(typed(Renting, config), stages(config))


def stages(config) -> list[work.Stage]:
    cfg, seeds, bases = config.words, len(config.words.seeds), len(config.words.arms) * len(config.words.seeds)
    common, model = pretraining.stages(cfg.pretrain)
    own, _ = pretraining.stages(ConfigDict(cfg.pretrain.to_dict() | {"steps": cfg.steps}))
    train, turns = config.train, config.maze.turns
    each, slots = bases * len(ablation.TILES), SLOTS * turns
    rows = train.groups * train.group_size
    step = model.read(rows, slots), model.read(rows, slots, work.passes(train.remat))
    points = -(-train.steps // config.curve.every) if config.curve.every else 0
    read = walks.ROLES * turns * (2 * config.extract.per_length + points * config.curve.per_length)
    read *= len(cfg.questions) * each
    texts = 2 * config.axes.limit * len(cfg.questions) * each
    return [
        common.times(seeds)._replace(name="pretraining", what=f"{seeds} common base(s): {common.what}"),
        own.times(bases)._replace(name="arms", what=f"{bases} of them: {own.what}"),
        work.total("training", f"{each} organisms, {train.steps} steps of {rows} episodes",
                   *(s.times(train.steps * each) for s in step)),
        work.total("reading", f"{read:,} walks and {texts:,} texts", model.read(read, slots / 2),
                   model.read(texts, 50)),
    ]  # fmt: skip
