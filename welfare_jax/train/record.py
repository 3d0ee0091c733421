"""What a run leaves on disk while it trains, and shows: the same for every kind of training."""

import contextlib
import pathlib

from tqdm import tqdm

from welfare_jax import hosts, runtime
from welfare_jax.train import checkpoints, watch


class Record:
    """Settings, checkpoints, metrics, TensorBoard and a progress bar of a run in `folder`. Used as a context.

    It goes on from the newest checkpoint: `start` steps are done, `now` is the state after them and `data` where a
    data pipeline stood. cfg: `steps`, `checkpoint_every`, `keep` and `spike`.

    Raises `InputError`, before anything is written, where the folder holds a run under other settings.
    """

    def __init__(self, folder, now, settings: dict, cfg, label: str = "training"):
        self.folder, self.now, self.settings, self.cfg, self.label = pathlib.Path(folder), now, settings, cfg, label

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.saved = stack.enter_context(checkpoints.Checkpoints(self.folder, self.cfg.keep))
            self.start, self.now, self.data = self.saved.restore(self.now, self.settings)
            runtime.write_json(self.folder / "config.json", self.settings)
            self.log = stack.enter_context(checkpoints.MetricsLog(self.folder / "metrics.jsonl", self.start))
            self.board = stack.enter_context(contextlib.closing(watch.Board(self.folder / "tensorboard", self.start)))
            self.guard = watch.Guard(self.cfg.spike, self.log.before)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        return self.stack.__exit__(*error)

    def __iter__(self):
        """The numbers of the steps to be done, with the progress bar."""
        shown = {"initial": self.start, "total": self.cfg.steps, "unit": "step", "disable": not hosts.first()}
        self.bar = self.stack.enter_context(tqdm(range(self.start, self.cfg.steps), self.label, **shown))
        return iter(self.bar)

    def check(self, row: dict):
        """Stop here, with `InputError`, if the step's loss is no number, or leapt."""
        self.guard.check(row, self.saved.manager.latest_step())

    def write(self, row: dict, now, data=None, **shown):
        """The end of a step, and a checkpoint where one is due; data: a function of no arguments, where a data
        pipeline stands; shown: on the progress bar."""
        self.log.write(row)
        self.board.write(row)
        self.bar.set_postfix(shown)
        done = row["step"] + 1
        if done % self.cfg.checkpoint_every == 0 or done == self.cfg.steps:
            self.save(done, now, data)

    def save(self, done: int, now, data=None):
        self.saved.save(done, now, self.settings, data() if data else None)
