"""python -m welfare_jax.main --config=FILE[:variant] --workdir=DIR [--config.field=value ...]"""

import os
import pathlib
import re
import sys
import time
import traceback

from absl import flags, logging
from ml_collections import config_flags

from welfare_jax import commands, runtime
from welfare_jax.errors import InputError, Unfinished

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Experiment: a Python file with get_config().", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; the same folder again resumes it.")


def parse(argv):
    """(config, workdir), or `InputError` in one line."""
    config, _ = settings(argv)
    if address := re.match(r"([a-z][a-z0-9+.-]*)://", WORKDIR.value or "", re.IGNORECASE):
        advice = "mount the bucket, for example with gcsfuse, and name the folder"
        if address[1].lower() == "file":
            advice = "name the folder without file://"
        raise InputError(f"--workdir={WORKDIR.value}: runs are written to folders, not to addresses; {advice}")
    if not WORKDIR.value and not config.get("plan"):
        raise InputError("--workdir is missing: name the folder that this run may fill")
    return config, pathlib.Path(WORKDIR.value or ".").expanduser()


def settings(argv):
    """(config, the PATH[:variant] that it came from), or `InputError` in one line."""
    if "--config" in argv[:-1]:
        i = argv.index("--config")
        argv = [*argv[:i], f"--config={argv[i + 1]}", *argv[i + 2 :]]
    named = next((a.split("=", 1)[1] for a in argv if a.startswith("--config=")), None)
    if named is None:
        if argv[1:] and not argv[1].startswith("-"):
            raise InputError(f"argument {argv[1]!r} is not understood: there are list, show and --help")
        raise InputError("--config is missing: name an experiment, for example --config=tiny_grpo")
    found = commands.locate(named)
    argv = [f"--config={found}" if a == f"--config={named}" else a for a in argv]
    try:
        rest = flags.FLAGS(argv)
        config = CONFIG.value
        config.get("job")  # a file that failed to load only says so when it is used
    except Exception as error:  # absl and ml_collections raise their own kinds, and the file may raise anything
        raise InputError(_explain(error, argv, named, found)) from None
    if len(rest) > 1:
        raise InputError(f"argument {rest[1]!r} is not understood: settings are --config.field=value")
    return config, found


def _explain(error, argv, named, found) -> str:
    """One line that names the argument at fault."""
    said = str(error)
    if isinstance(error, (KeyError, AttributeError)) and (line := commands.unknown(argv, found)):
        return line
    if isinstance(error, flags.Error) and "Traceback" not in said:
        return " ".join(said.split())
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    if isinstance(error, InputError):
        return f"--config={named}: {error}"
    if isinstance(error, TypeError) and "get_config() takes 0 positional arguments" in str(error):
        return f"--config={named}: this config has no variants; leave :{named.partition(':')[2]} out"
    return f"--config={named}: " + " ".join(f"{type(error).__name__} {error}".split())


def pretrain(config, workdir):
    from welfare_jax import report
    from welfare_jax.train import pretrain as job

    summary = job.run(config, workdir)
    print(f"model: {workdir / 'model'}  sha256 {summary['sha256'][:16]}; report: {report.write(workdir)}")


def amplify(config, workdir):
    """Formats of solutions before and after RL with a verified reward."""
    from welfare_jax import report
    from welfare_jax.train import amplify as job

    summary = job.run(config, workdir)
    for name, cell in summary.get("cells", {"": summary}).items():
        told = []
        for what in ("share", "accuracy"):
            before, after = (cell[when][f"{what}_{cell['winner']}"] or 0.0 for when in ("before", "after"))
            told.append(f"{what} {before:.2f} -> {after:.2f}")
        print(f"{name + ': ' * bool(name)}{cell['winner']} won: {', '.join(told)}")
    print(f"report: {report.write(workdir)}")


def experiment(config, workdir):
    """The main job: train, read the axis, steer with it, report; then the evaluations that `config.evals` names."""
    import jax

    from welfare_jax import report
    from welfare_jax.evals import stage as evaluation
    from welfare_jax.interp import outcome, stage, vectors
    from welfare_jax.models import hf
    from welfare_jax.train import loop, organisms, supervised

    seconds, begin = {}, time.perf_counter()

    def lap(name):
        seconds[name] = round(time.perf_counter() - begin - sum(seconds.values()), 2)

    def finish(folder, summary):
        runtime.write_json(folder / "summary.json", summary | {"seconds": seconds})
        page = report.write(folder)
        lap("report")
        runtime.write_json(folder / "summary.json", summary | {"seconds": seconds})
        return page

    def curve(setup):
        data, _ = stage.walk_data(
            setup.pieces, setup.maze, setup.mesh, config.curve.per_length, 0.25, config.extract.batch,
            stage.walks_lib.SEED, config.extract.question,
        )  # fmt: skip
        return stage.make_live(live, data, axes)

    if config.evals.names:
        evaluation.ready(config)
        if any(len(v) for v in config.organisms.values()) or config.distributed.coordinator:
            raise InputError("evals.names: for one model in one process; use configs/evals.py afterwards")
    setup = loop.build(config)
    axes = vectors.fitting(config.curve.axes, setup.lm.spec)[0] if config.curve.axes else None
    print(loop.describe(setup, config), flush=True)
    runs = loop.runs(setup, config)
    own = [setup]
    if runs.several:
        own = [organisms.own_setup(setup, c, organisms.take(runs.initial, i)) for i, c in enumerate(runs.configs)]
    live = stage.live_program(setup.graphdef, setup.join)
    curves = [curve(s) for s in own] if config.curve.every else None
    supply = supervised.build(setup, config) if loop.ALGORITHMS[config.train.algorithm].planned else None
    stage.axis_texts(setup, config)  # a file that cannot be read is refused before anything is trained
    outcome.Rule(**config.outcome)
    lap("build")
    collect = loop.side_by_side(setup, config) if runs.several else loop.collector(setup, config)
    trained = loop.train(setup, config, workdir, collect, curves if runs.several or not curves else curves[0], supply)
    lap("train")
    facts = {"model": hf.named(config.model), "device": jax.devices()[0].device_kind}
    if not runs.several:
        found, _ = stage.run(
            setup, trained, config, workdir, collect, setup.join, shams(config, setup.initial, trained)
        )
        if supply:
            key = jax.random.fold_in(jax.random.key(config.seed), 2)
            played, _ = collect(trained, setup.frozen, key, 0, config.train.temperature)
            found["imitation"] = supervised.findings(setup, config, supply, trained, played)
        lap("analysis")
        summary = loop.ends(workdir) | found | facts
    else:
        parts, grams, known = [], [], {}
        for i, (mine, cfg) in enumerate(zip(own, runs.configs)):
            folder, look, ours = organisms.folder(workdir, i), loop.collector(mine, cfg), organisms.take(trained, i)
            beside = shams(config, mine.initial, ours, i, len(own))
            same = known if organisms.one_model(own[0].initial, mine.initial) else None
            found, read = stage.run(mine, ours, cfg, folder, look, setup.join, beside, known=same)
            parts.append(loop.ends(folder) | found | facts)
            grams.append(read)
            finish(folder, parts[-1])
        _, training = stage.outcomes(config, grams)
        runtime.write_json(workdir / "analysis.json", {"training": training})
        lap("analysis")
        summary = loop.ends(workdir) | facts | {"organisms": parts}
    page = finish(workdir, summary)
    reward = [summary[f"reward_{end}"] for end in ("first", "last")]
    if reward[0] is None:  # no episodes were played to learn from
        reward = [summary[f"reward_held_out_{end}"] for end in ("untrained", "trained")]
    print(f"reward {reward[0]:.1f} -> {reward[1]:.1f}; report: {page}")
    if config.evals.names:
        evals(config, workdir)


def shams(config, initial, trained, first: int = 0, runs: int = 1) -> list:
    """Every `runs`-th of the `outcome.shams`, from number `first` on, with the norms of one trained run."""
    import jax

    from welfare_jax.train import shams

    key = jax.random.fold_in(jax.random.key(config.seed), 3)
    return [shams.draw(initial, trained, jax.random.fold_in(key, i)) for i in range(first, config.outcome.shams, runs)]


def axes(config, workdir):
    """The analysis alone: of a model as it is or, with `config.run`, also of what a finished run made of it."""
    import jax

    from welfare_jax import report
    from welfare_jax.config import of_run
    from welfare_jax.interp import stage
    from welfare_jax.models import hf
    from welfare_jax.train import loop

    begin, run = time.perf_counter(), config.run
    config = of_run(config) if run else config
    setup = loop.build(config)
    trained = loop.restored(setup, config, run) if run else None
    beside = shams(config, setup.initial, trained) if run else ()
    found, _ = stage.run(setup, trained, config, workdir, loop.collector(setup, config), setup.join, beside)
    runtime.write_json(workdir / "config.json", config.to_dict() | {"job": "axes", "run": run})
    about = {"model": hf.named(config.model), "device": jax.devices()[0].device_kind}
    runtime.write_json(
        workdir / "summary.json", found | about | {"seconds": {"analysis": round(time.perf_counter() - begin, 2)}}
    )
    print(f"report: {report.write(workdir)}")


def evals(config, workdir):
    """Behavioural evaluations: of a model, or in the folder of a finished run."""
    from welfare_jax import report, textfiles
    from welfare_jax.evals import stage

    begin = time.perf_counter()
    found = stage.run(config, workdir)
    read = lambda path: textfiles.loads(textfiles.data(path), str(path)) if path.is_file() else {}
    summary, settings = read(workdir / "summary.json"), read(workdir / "config.json")
    if settings.get("job", "evals") == "evals":
        runtime.write_json(workdir / "config.json", config.to_dict())
    seconds = round(time.perf_counter() - begin, 2)
    runtime.write_json(workdir / "summary.json", summary | {"evals": found | {"seconds": seconds}})
    print(f"report: {report.write(workdir)}")


def plan(config):
    """What the main job would need of every device; loads no weights and writes nothing."""
    from welfare_jax.train import plan as planner

    if config.job != "rl":
        raise InputError(f"config.plan: job {config.job!r} cannot be planned, only 'rl'")
    print(planner.report(config))


def reward_model(config, workdir):
    """Reward models under two objectives and both, and the neurons that they rest on."""
    from welfare_jax import report
    from welfare_jax.train import reward_model as job

    summary = job.run(config, workdir)
    for name, accuracy in summary["accuracy"].items():
        print(f"accuracy of {name}: {accuracy:.3f}")
    print(f"report: {report.write(workdir)}")


def imitation(config, workdir):
    """Imitation over lambda: what the task gains, what diversity costs, what the implied rewards are worth."""
    from welfare_jax import report
    from welfare_jax.train import imitation as job

    summary = job.run(config, workdir)
    for name, value in summary["rank_correlation"].items():
        print(f"{name}: implied rewards, rank correlation " + ("none" if value is None else f"{value:+.2f}"))
    print(f"report: {report.write(workdir)}")


def words(config, workdir):
    """The main job on bases with and without accounts of success, failure and feeling."""
    from welfare_jax import report
    from welfare_jax.train import words as job

    summary = job.run(config, workdir)
    for name, found in summary["cells"].items():
        print(f"{name}: reward {found['reward_first']:.1f} -> {found['reward_last']:.1f}")
    print(f"report: {report.write(workdir)}")


JOBS = {
    "rl": experiment, "pretrain": pretrain, "axes": axes, "evals": evals, "amplify": amplify,
    "reward_model": reward_model, "imitation": imitation, "words": words,
}  # fmt: skip
AGAIN = 75  # EX_TEMPFAIL: everything is saved, the same command continues
BY_HAND = 130  # after a Ctrl-C: it would continue too, but no launcher starts it again
SHARED = ("rl",)  # those that several processes can run together


def start(config, workdir):
    """Run the job that `config` names, where `distributed.coordinator` says so as one of several processes."""
    job = JOBS.get(config.get("job"))
    if job is None:
        raise InputError(f"config.job={config.get('job')!r}: choose one of {', '.join(JOBS)}")
    if config.get("plan"):
        return plan(config)
    several = bool(config.get("distributed") and config.distributed.coordinator)
    if several and config.job not in SHARED:
        raise InputError(f"config.job={config.job!r}: runs in one process; leave distributed.coordinator empty")
    if several:
        from welfare_jax import hosts

        hosts.join(config.distributed)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--workdir={workdir}: cannot be made ({error.strerror})") from None
    if several:
        workdir = hosts.folder(workdir)
    job(config, workdir)


def explain(error) -> tuple[str, int] | None:
    """The line that says what an error means to the user, and the exit status; None for a mistake of the program."""
    if isinstance(error, InputError):
        return f"error: {error}", 2
    if isinstance(error, Unfinished):
        return str(error), AGAIN
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "stopped; the same command again continues from the newest checkpoint", BY_HAND
    if isinstance(error, OSError) and (why := runtime.no_room(error)):
        at = f"{error.filename}: " if error.filename else ""
        return f"error: {at}{why}; what was saved is intact, make room and give the same command again", 2
    if _joined() and (why := sys.modules["welfare_jax.hosts"].lost(error)):
        return f"{why}; the same command on every host continues from the newest checkpoint", AGAIN
    return None


def _joined() -> bool:
    """Whether this process is one of several; without waking jax to find out."""
    return "welfare_jax.hosts" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def say(text: str):
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv) -> int:
    runtime.quiet()
    runtime.keep_heap()
    runtime.claim_gpu()
    logging.set_verbosity(logging.FATAL)  # what Orbax logs at length when a disk is full, it raises too
    try:
        if text := commands.answer(argv[1:]):
            say(text)
        elif argv[1:2] == ["show"]:
            named = [f"--config={word}" for word in argv[2:3] if not word.startswith("-")]
            config, found = settings([argv[0], *named, *argv[2 + len(named) :]])
            say(commands.show(found, config))
        else:
            start(*parse(argv))
    except (Exception, KeyboardInterrupt) as error:
        found = explain(error)
        if found is None and not _joined():
            raise
        print(found[0] if found else traceback.format_exc(), file=sys.stderr)
        return found[1] if found else 1
    return 0


def leave(status: int):
    """End this process. After a failure nothing is waited for: neither a computation nor another process."""
    sys.stdout.flush()
    sys.stderr.flush()
    if status and _joined():
        if sys.modules["welfare_jax.hosts"].first():
            time.sleep(2)  # it serves the others, who would abort before they have said why they end
        os._exit(status)
    if status in (AGAIN, BY_HAND):
        os._exit(status)
    sys.exit(status)


def command():
    """The program `welfare-jax`."""
    leave(main(sys.argv))


if __name__ == "__main__":
    command()
