"""What a run leaves on disk while it trains, and shows: the same for every kind of training."""

import contextlib
import pathlib

from tqdm import tqdm

from welfare_jax import hosts, runtime
from welfare_jax.errors import Unfinished
from welfare_jax.train import checkpoints, watch


class Record:
    """Settings, checkpoints, metrics, TensorBoard, Weights & Biases and a progress bar of a run in `folder`.

    Used as a context.

    It goes on from the newest checkpoint: `start` steps are done, `now` is the state after them and `data` where a
    data pipeline stood. cfg: `steps`, `checkpoint_every`, `keep` and `spike`.

    Where the run is asked to end (`watch.Notice`), what is done is saved after the step under way, and `Unfinished`
    raised, or `KeyboardInterrupt` after a Ctrl-C.

    Raises `InputError`, before anything is written, where the folder holds a run under other settings.
    """

    def __init__(self, folder, now, settings: dict, cfg, label: str = "training"):
        self.folder, self.now, self.settings, self.cfg, self.label = pathlib.Path(folder), now, settings, cfg, label
        self.position = None  # a function of no arguments: where a data pipeline stands

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.notice = stack.enter_context(watch.Notice())
            self.saved = stack.enter_context(checkpoints.Checkpoints(self.folder, self.cfg.keep))
            self.start, self.now, self.data = self.saved.restore(self.now, self.settings)
            self.done = self.start
            runtime.write_json(self.folder / "config.json", self.settings)
            self.log = stack.enter_context(checkpoints.MetricsLog(self.folder / "metrics.jsonl", self.start))
            self.board = stack.enter_context(contextlib.closing(watch.Board(self.folder / "tensorboard", self.start)))
            self.wandb = stack.enter_context(contextlib.closing(watch.Wandb(self.folder, self.settings)))
            self.guard = watch.Guard(self.cfg.spike, self.log.before)
            stack.push(self._after_all_steps)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        return self.stack.__exit__(*error)

    def __iter__(self):
        """The numbers of the steps to be done, with the progress bar."""
        shown = {"initial": self.start, "total": self.cfg.steps, "unit": "step", "disable": not hosts.first()}
        self.bar = self.stack.enter_context(tqdm(range(self.start, self.cfg.steps), self.label, **shown))
        for i in self.bar:
            if self.notice.reached(i):
                self._end()
            yield i

    def wait(self, tree):
        """Wait for a part of the step under way; where the run is asked to end meanwhile, this step is given up."""
        if not self.notice.ready(tree):
            self._end()

    def check(self, row: dict):
        """Stop here, with `InputError`, if the step's loss is no number, or leapt."""
        self.guard.check(row, self.saved.manager.latest_step())

    def write(self, row: dict, now, position=None, **shown):
        """The end of a step, and a checkpoint where one is due; position: a function of no arguments, where a data
        pipeline stands; shown: on the progress bar."""
        self.log.write(row)
        self.board.write(row)
        self.wandb.write(row)
        self.bar.set_postfix(shown)
        self.done, self.now, self.position = row["step"] + 1, now, position
        if self.done % self.cfg.checkpoint_every == 0 or self.done == self.cfg.steps:
            self._save()

    def _save(self):
        self.saved.save(self.done, self.now, self.settings, self.position() if self.position else None)

    def _end(self):
        """Save what is done, unless it is saved, and end the run."""
        if self.done and self.done not in self.saved.manager.all_steps():
            self._save()
        self.saved.wait()
        kept = f"checkpoint {self.done} is saved" if self.done else "nothing was trained yet"
        kind = KeyboardInterrupt if self.notice.by_hand else Unfinished
        raise kind(f"asked to end: {kept}; the same command continues from there")

    def _after_all_steps(self, error, *_):
        """A run that is asked to end in or after its last step does not go on with what follows."""
        if error is None and self.notice.reached(self.cfg.steps):
            self._end()
