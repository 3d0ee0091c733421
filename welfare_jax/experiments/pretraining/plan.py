"""What a pretraining would take."""

from welfare_jax.models.spec import small
from welfare_jax.planning import work
from welfare_jax.settings import Renting, typed


def run(config, workdir):
    stage, model = stages(config)
    yield f"a decoder of {model.weights // SIZE[config.dtype]:,} parameters"
    yield from work.report(typed(Renting, config), [stage])


SIZE = {"float32": 4, "bfloat16": 2}


def stages(config) -> tuple[work.Stage, work.Model]:
    """The stage of a pretraining, and the model that it makes."""
    if config.start:
        model, _ = work.opened({"path": config.start, "dtype": config.dtype})
    else:
        model = work.Model.of(small(config.tokenizer.vocab_size, **config.shape), config.dtype)
    rows = config.steps * config.rows
    step = model.read(rows, config.length, work.passes(config.train.remat))
    head = work.passes(config.train.remat) * step.tokens * 2 * model.spec.width * model.spec.vocab
    what = f"{config.steps:,} steps of {config.rows} rows of {config.length} tokens"
    return step._replace(name="pretraining", what=what, flops=step.flops + head), model
