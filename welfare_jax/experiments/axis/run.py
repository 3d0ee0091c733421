"""The main job: train, read the axis, steer with it; and the analysis alone (`read`)."""

import time

import jax
from ml_collections import ConfigDict

from welfare_jax import experiments, runtime, settings
from welfare_jax.envs import walks
from welfare_jax.errors import InputError
from welfare_jax.experiments.axis import analysis, plan, smoke
from welfare_jax.experiments.axis.settings import of_run
from welfare_jax.experiments.evals import run as evaluation
from welfare_jax.interp import extract, outcome, reading, vectors
from welfare_jax.models import hf
from welfare_jax.planning import estimate, evaluations, work
from welfare_jax.train import loop, organisms, shams, supervised
from welfare_jax.train.job import Job


def run(config, workdir):
    """Train, read the axis, steer with it; then the evaluations that `config.evals` names."""
    seconds, memory, begin = {}, {}, time.perf_counter()
    config = smoke.shortened(config) if config.smoke else config

    def lap(name):
        seconds[name] = round(time.perf_counter() - begin - sum(seconds.values()), 2)
        memory[name] = smoke.peak()

    def curve(setup):
        few = settings.typed(
            extract.WalkSettings, job.whole, "extract", per_length=job.curve.per_length, held_out=0.25
        )
        data, _ = extract.walk_data(setup.pieces, setup.maze, setup.mesh, few, walks.SEED)
        return reading.make_live(live, data, axes)

    job = Job.of(config)
    if config.evals.names:
        evaluation.ready(config)
        if job.organisms.given or config.distributed.coordinator:
            raise InputError("evals.names: for one model in one process; use configs/evals.py afterwards")
    job = estimate.ready(job)
    config = ConfigDict(job.whole)
    if config.evals.names:
        evaluations.confirm(config, workdir, work.opened(config.model)[0].spec.layers, after_training=True)
    setup = loop.build(job)
    axes = vectors.fitting(job.curve.axes, setup.lm.spec)[0] if job.curve.axes else None
    print(loop.describe(setup, job), flush=True)
    runs = loop.runs(setup, job)
    own = [setup]
    if runs.several:
        own = [organisms.own_setup(setup, c, organisms.take(runs.initial, i)) for i, c in enumerate(runs.jobs)]
    live = reading.live_program(setup.graphdef, setup.join)
    curves = [curve(s) for s in own] if job.curve.every else None
    supply = supervised.build(setup, job) if loop.ALGORITHMS[job.train.algorithm].planned else None
    analysis.axis_texts(setup, config)  # a file that cannot be read is refused before anything is trained
    outcome.Rule(**config.outcome)
    lap("build")
    collect = loop.collector(setup, job, runs.several)
    trained = loop.train(setup, job, workdir, collect, curves if runs.several or not curves else curves[0], supply)
    lap("train")
    facts = {"model": hf.named(config.model), "device": jax.devices()[0].device_kind}
    if not runs.several:
        found, _ = analysis.run(
            setup,
            trained,
            config,
            workdir,
            collect,
            join=setup.join,
            shams=draw_shams(config, setup.initial, trained),
        )
        if supply:
            key = jax.random.fold_in(jax.random.key(config.seed), 2)
            played, _ = collect(trained, setup.frozen, key, 0, job.train.temperature)
            found["imitation"] = supervised.findings(setup, job.train, supply, trained, played)
        lap("analysis")
        summary = loop.ends(workdir) | found | facts
    else:
        parts, grams, known = [], [], {}
        whole = organisms.rewarded(runs.jobs)
        for i, (mine, each) in enumerate(zip(own, runs.jobs)):
            cfg, folder = ConfigDict(each.whole), organisms.folder(workdir, i)
            look, ours = loop.collector(mine, each), organisms.take(trained, i)
            beside = draw_shams(config, mine.initial, ours, whole.index(i), len(whole)) if i in whole else []
            same = known if organisms.one_model(own[0].initial, mine.initial) else None
            found, read = analysis.run(mine, ours, cfg, folder, look, join=setup.join, shams=beside, known=same)
            parts.append(loop.ends(folder) | found | facts)
            grams.append(read)
            runtime.write_json(folder / "summary.json", parts[-1] | {"seconds": seconds})
            experiments.report(folder)
        _, training = analysis.outcomes(config, grams, [i not in whole for i in range(len(own))])
        runtime.write_json(workdir / "analysis.json", {"training": training})
        lap("analysis")
        summary = loop.ends(workdir) | facts | {"organisms": parts}
    runtime.write_json(workdir / "summary.json", summary | {"seconds": seconds})
    reward = [summary[f"reward_{end}"] for end in ("first", "last")]
    if reward[0] is None:  # no episodes were played to learn from
        reward = [summary[f"reward_held_out_{end}"] for end in ("untrained", "trained")]
    print(f"reward {reward[0]:.1f} -> {reward[1]:.1f}", flush=True)
    if config.evals.names:
        experiments.report(workdir)  # evaluations may take longer than all before: the rest can be read meanwhile
        evaluation.run(config, workdir)
        lap("evaluation")
    if config.smoke:
        rows = smoke.compare(config, workdir, plan.stages(config, workdir), seconds, memory)
        print("\n".join(smoke.lines(rows)), flush=True)
        runtime.write_json(workdir / "smoke.json", rows)


def draw_shams(config, initial, trained, first: int = 0, runs: int = 1) -> list:
    """Every `runs`-th of the `outcome.shams`, from number `first` on, with the norms of one trained run."""
    key = jax.random.fold_in(jax.random.key(config.seed), 3)
    return [shams.draw(initial, trained, jax.random.fold_in(key, i)) for i in range(first, config.outcome.shams, runs)]


def read(config, workdir):
    """The analysis alone: of a model as it is or, with `config.run`, also of what a finished run made of it."""
    begin, source = time.perf_counter(), config.run
    config = of_run(config) if source else config
    job = Job.of(config)
    setup = loop.build(job)
    trained = loop.restored(setup, job, source) if source else None
    beside = draw_shams(config, setup.initial, trained) if source else ()
    found, _ = analysis.run(setup, trained, config, workdir, loop.collector(setup, job), join=setup.join, shams=beside)
    runtime.write_json(workdir / "config.json", config.to_dict() | {"job": "axes", "run": source})
    seconds = {"analysis": round(time.perf_counter() - begin, 2)}
    facts = {"model": hf.named(config.model), "device": jax.devices()[0].device_kind, "seconds": seconds}
    runtime.write_json(workdir / "summary.json", found | facts)
