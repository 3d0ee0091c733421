"""What the main job, and the analysis alone, would need: memory on every device, then hours and cost."""

from welfare_jax import experiments
from welfare_jax.envs import walks
from welfare_jax.experiments.axis import smoke
from welfare_jax.experiments.axis.settings import of_run
from welfare_jax.interp.axes import texts
from welfare_jax.interp.axes.settings import AxesSettings
from welfare_jax.planning import compiled, estimate, evaluations, work
from welfare_jax.settings import Renting, typed
from welfare_jax.train import organisms
from welfare_jax.train.algorithms import ALGORITHMS
from welfare_jax.train.job import Job

TEXT = 100  # tokens of a review, statement or dialogue, roughly
REQUEST = 40  # tokens of a request for a story, roughly
COMPARED = {"reviews": 1, "prompts": 2, "assent": 1, "success": 1}  # texts of a kind for each of `axes.limit`


def run(config, workdir):
    if experiments.planning(config) == "compile":
        yield compiled.report(Job.of(config))
        return
    config = smoke.shortened(config) if config.smoke else config
    plan = yield from estimate.lines(Job.of(config))
    yield from work.report(typed(Renting, config), stages(config, workdir, plan))


def read(config, workdir):
    config = of_run(config) if config.run else config
    model, note = work.opened(config.model)
    yield f"{config.model.path}: the analysis alone, {models_of(config)} model(s)" + (f" ({note})" if note else "")
    yield from work.report(typed(Renting, config), analysis(config, model))


def models_of(config) -> int:
    return 2 if config.get("run") or config.job != "axes" else 1


def stages(config, workdir, plan=None) -> list[work.Stage]:
    """Training, analysis and evaluations of a main job. plan: of a named machine, which knows its step."""
    model, _ = work.opened(config.model)
    out = [training(Job.of(config), model), *analysis(config, model)]
    if plan:
        out[0] = out[0]._replace(seconds=config.train.steps * sum(plan.seconds))
    if config.evals.names:
        out += evaluations.stages(config, workdir, model, after_training=True)
    return out


def training(job: Job, model) -> work.Stage:
    cfg, several = job.train, len(organisms.jobs(job))
    slots = estimate.source(job).pieces.slots(job.maze.turns, not job.maze.wind)
    if ALGORITHMS[cfg.algorithm].planned:
        step = model.read(job.sft.batch, slots, work.passes(cfg.remat))
        what = f"{cfg.steps} steps of {job.sft.batch} planned trajectories"
    else:
        episodes = cfg.groups * cfg.group_size
        update = model.read(cfg.epochs * cfg.learnt, slots, work.passes(cfg.remat))
        step = work.total("", "", model.read(episodes, slots), update._replace(tokens=0))
        what = f"{cfg.steps} steps of {episodes} episodes"
    if several > 1:
        what += f", {several} adapters"
    return step.times(cfg.steps * several)._replace(name="training", what=what)


def analysis(config, model) -> list[work.Stage]:
    """Walks, comparison axes and steered text of every model that is read, and the live curve."""
    job = Job.of(config)
    several, turns, cfg = len(organisms.jobs(job)), job.maze.turns, job.extract
    models = models_of(config) * several
    slots = sum(estimate.source(job).pieces.slots(t, calm=True) for t in range(1, turns + 1)) / turns
    count = walks.ROLES * turns * cfg.per_length
    shams = config.outcome.shams if models_of(config) > 1 else 0
    out = [model.read((models + shams) * count, slots)._replace(
        name="walks", what=f"{models} model(s) and {shams} shams over {count:,} walks"
    )]  # fmt: skip
    if config.job == "rl" and job.curve.every:
        points, few = -(-job.train.steps // job.curve.every), walks.ROLES * turns * job.curve.per_length
        out.append(model.read(points * few * several, slots)._replace(
            name="live curve", what=f"{points} points over {few:,} walks"
        ))  # fmt: skip
    out += axes(typed(AxesSettings, config, "axes"), model, models)
    steer = config.steer
    rows = 2 * len(steer.alphas) * len(steer.prompts) * models
    out.append(model.write(rows, TEXT / 2, steer.max_new_tokens, rows // models)._replace(
        name="steered text", what=f"{rows} answers"
    ))  # fmt: skip
    return out


def axes(cfg: AxesSettings, model, models: int) -> list[work.Stage]:
    kinds, out = cfg.asked, []
    count = sum(COMPARED.get(kind, 0) for kind in kinds) * (cfg.limit or 1000) * models
    if count:
        out.append(model.read(count, TEXT)._replace(name="comparison texts", what=f"at most {count:,}"))
    if "emotions" in kinds:
        words = len(texts.spread(texts.lines(cfg.emotions, "emotions.txt"), cfg.emotions_limit))
        topics = len(texts.spread(texts.lines(cfg.topics, "topics.txt"), cfg.topics_limit))
        told = words * topics * cfg.stories * models
        length = REQUEST + cfg.max_new_tokens
        out.append(work.total(
            "stories", f"{words} emotions x {topics} topics x {cfg.stories}, {models} model(s): {told:,}",
            model.write(told, REQUEST, cfg.max_new_tokens, cfg.batch), model.read(told, length),
        ))  # fmt: skip
    return out
