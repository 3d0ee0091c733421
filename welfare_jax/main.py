"""python -m welfare_jax.main --config=FILE[:variant] --workdir=DIR [--config.field=value ...]"""

import contextlib
import os
import pathlib
import re
import sys
import traceback

from absl import flags, logging
from ml_collections import config_flags

from welfare_jax import commands, experiments, runtime
from welfare_jax.errors import InputError, Unfinished
from welfare_jax.settings import Distributed, typed

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
    if not WORKDIR.value and not experiments.planning(config):
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


AGAIN = 75  # EX_TEMPFAIL: everything is saved, the same command continues
BY_HAND = 130  # after a Ctrl-C: it would continue too, but no launcher starts it again


def start(config, workdir):
    """Run the job that `config` names, where `distributed.coordinator` says so as one of several processes."""
    experiment = experiments.find(config.get("job"))
    if experiments.planning(config):
        for line in experiment.planned(config, workdir):
            say(line)
        return
    several = bool(config.get("distributed") and config.distributed.coordinator)
    if several and not experiment.shared:
        raise InputError(f"config.job={config.job!r}: runs in one process; leave distributed.coordinator empty")
    if several:
        from welfare_jax import hosts

        hosts.join(typed(Distributed, config, "distributed"))
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--workdir={workdir}: cannot be made ({error.strerror})") from None
    if several:
        workdir = hosts.folder(workdir)
    with contextlib.nullcontext() if several else runtime.asked_to_end():  # of several, JAX hears the signal
        experiment.run(config, workdir)
    say(f"report: {experiments.report(workdir)}")
    if several:
        hosts.barrier("end")


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
    if _joined():
        sys.modules["welfare_jax.hosts"].leave(status)
    if status in (AGAIN, BY_HAND):
        os._exit(status)
    sys.exit(status)


def command():
    """The program `welfare-jax`."""
    leave(main(sys.argv))


if __name__ == "__main__":
    command()
