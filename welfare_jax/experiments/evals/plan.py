"""What the evaluations would ask and take."""

import pathlib

from welfare_jax.planning import evaluations, work
from welfare_jax.settings import Renting, typed
from welfare_jax.train.job import Job


def run(config, workdir):
    Job.of(config)  # refuses here what the run would refuse
    model, note = work.opened(config.model)
    found = evaluations.grid(config, workdir, model.spec.layers)
    yield f"{config.model.path}: {found.cells:,} cells, {found.models} model(s)" + (f" ({note})" if note else "")
    if not (pathlib.Path(workdir) / "checkpoints").is_dir() and not config.evals.trained:
        yield "(of the untrained model alone: name the folder of a finished run with --workdir for both)"
    yield from work.report(typed(Renting, config), evaluations.stages(config, workdir, model))
