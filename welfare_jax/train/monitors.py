"""What looks on while a run trains: the guard, the best parameters so far, TensorBoard."""

import concurrent.futures
import math
import os
import pathlib
import signal
import statistics
import threading
import time
import urllib.request
import uuid

import jax
from jax.experimental import multihost_utils

from welfare_jax import hosts, runtime
from welfare_jax.errors import InputError
from welfare_jax.train import checkpoints

WINDOW = 20  # steps that a loss is compared with


class SpikeGuard:
    """Stops a run whose loss is no number, or leaps, before anything of that step is saved."""

    def __init__(self, spike: float, rows):
        """`spike`: standard deviations of the last steps' losses that a loss may lie off, 0 for any; rows so far."""
        self.spike, self.past = spike, [row["loss"] for row in rows]

    def check(self, row, checkpoint):
        kept = f"checkpoint {checkpoint} is intact" if checkpoint else "nothing was saved yet"
        advice = f"{kept}; lower train.lr and run again in another --workdir"
        loss, norm = row["loss"], row["grad_norm"]
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise InputError(f"step {row['step']}: loss {loss}, gradient norm {norm}; {advice}")
        past = self.past[-WINDOW:]
        if self.spike and len(past) == WINDOW:
            mean, spread = statistics.mean(past), statistics.pstdev(past)
            if abs(loss - mean) > self.spike * max(spread, 1e-3 * abs(mean)):
                raise InputError(
                    f"step {row['step']}: loss {loss:.4g} after {mean:.4g} +- {spread:.2g} in the {WINDOW} steps "
                    f"before (train.spike={self.spike}); {advice}, or raise train.spike"
                )
        self.past.append(loss)


class BestParameters:
    """The parameters with the highest reward on held-out mazes, under `workdir/best/<step>/`."""

    def __init__(self, workdir, rows):
        self.saved = checkpoints.Checkpoints(workdir, 1, "best")
        self.reward = max((row["eval_reward"] for row in rows if "eval_reward" in row), default=-math.inf)

    def offer(self, step: int, reward: float, trainable, config: dict):
        if reward > self.reward:
            self.reward = reward
            if step not in self.saved.manager.all_steps():  # a killed run may have come this far before
                self.saved.save(step, trainable, config)
                self.saved.wait()  # on disk before any checkpoint from which this step would not be taken again

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.saved.__exit__(*error)

    def close(self):
        self.saved.close()


class TensorBoard:
    """TensorBoard beside `metrics.jsonl`: numbers as they are, a list as one curve a layer and their mean.

    Written by the thread that trains: tensorboardX's own would block it for ever once the disk is full.
    """

    def __init__(self, folder, start: int):
        from tensorboardX import event_file_writer, proto

        self.proto, folder = proto, pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.writer = event_file_writer.EventsWriter(str(folder / "events"))
        begun = proto.event_pb2.SessionLog(status=proto.event_pb2.SessionLog.START)
        self._add(start, session_log=begun)  # what a killed run wrote from there on is not shown

    def _add(self, step: int, **what):
        self.writer.write_event(self.proto.event_pb2.Event(wall_time=time.time(), step=step, **what))
        self.writer.flush()

    def write(self, row: dict):
        value = self.proto.summary_pb2.Summary.Value
        values = [value(tag=name, simple_value=number) for name, number in scalars(row)]
        self._add(row["step"], summary=self.proto.summary_pb2.Summary(value=values))

    def close(self):
        self.writer.close()


class WeightsAndBiases:
    """The same numbers for Weights & Biases, where the environment has `WANDB_MODE` or `WANDB_API_KEY`.

    A folder is one run there, by the name in its `wandb_id`: what was stopped goes on in the same place, also where
    the folder was copied to another machine. Nothing is sent in `WANDB_MODE=offline`.
    """

    def __init__(self, folder, settings: dict):
        self.run = None
        if not hosts.first() or not {"WANDB_MODE", "WANDB_API_KEY"} & os.environ.keys():
            return
        try:
            import wandb
        except ImportError:
            checkpoints.say("wandb is asked for by the environment and not installed: pip install wandb")
            return
        folder = pathlib.Path(folder).resolve()
        place = folder / "wandb_id"
        if not place.is_file():  # a path would be shared by machines that call their folders alike
            folder.mkdir(parents=True, exist_ok=True)
            runtime.write_whole(place, uuid.uuid4().hex[:16])
        name = place.read_text().strip()
        settings = {k: v for k, v in settings.items() if k != checkpoints.CONTENT}
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "welfare_jax"), name=folder.name, id=name, resume="allow",
            dir=str(folder), config=settings,
        )  # fmt: skip

    def write(self, row: dict):
        if self.run:
            self.run.log(dict(scalars(row)), step=row["step"])

    def close(self):
        if self.run:
            self.run.finish()


def scalars(row: dict, prefix: str = ""):
    """(name, number) pairs of a row of metrics."""
    for name, value in row.items():
        if name == "organisms":
            for i, own in enumerate(value):
                yield from scalars(own, f"organism_{i}/")
        elif isinstance(value, int | float):
            yield prefix + name, value
        elif isinstance(value, list) and value and isinstance(value[0], int | float):
            yield f"{prefix}{name}/mean", sum(value) / len(value)
            yield from ((f"{prefix}{name}/layer_{i:02d}", x) for i, x in enumerate(value))


# Google Cloud answers a request for this with TRUE shortly before it takes a machine away.
METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/preempted?wait_for_change=true"
VENDOR = pathlib.Path("/sys/class/dmi/id/product_name")


SIGNALS = (signal.SIGTERM, signal.SIGINT)
ONCE_MORE = b"\nending once this step is saved; Ctrl-C again ends at once\n"


class PreemptionNotice:
    """Whether the run was asked to end: by SIGTERM, by Ctrl-C (then it is `by_hand`), or by the platform's notice that
    the machine is to be taken away. A second Ctrl-C is what it always is.

    With several processes, JAX agrees on a step that all of them reach. Used as a context, in the main thread.
    """

    def __init__(self, url: str | None = None):
        on_google = VENDOR.is_file() and "Google" in VENDOR.read_text()
        self.url, self.asked, self.by_hand, self.old = url or (METADATA if on_google else None), False, False, {}
        self.pool = concurrent.futures.ThreadPoolExecutor(1)

    def __enter__(self):
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            # What is ignored, as SIGINT is in the background of a script, stays so.
            heard = [s for s in SIGNALS if signal.getsignal(s) is not signal.SIG_IGN]
            self.old = {s: signal.signal(s, self._ask) for s in heard}
        if self.url:
            threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *error):
        for number, old in self.old.items():
            signal.signal(number, old or signal.SIG_DFL)  # None: not from Python, and not to be had back
        self.pool.shutdown(wait=False)

    def _ask(self, number=signal.SIGTERM, *_):
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
            os.write(2, ONCE_MORE)  # where print may be interrupted, and must not be entered again
            self.by_hand = not self.asked
        self.asked = True

    def _listen(self):
        while not self.asked:
            try:
                request = urllib.request.Request(self.url, headers={"Metadata-Flavor": "Google"})
                with urllib.request.urlopen(request, timeout=3600) as answer:
                    if answer.read().strip() == b"TRUE":
                        return self._ask() if jax.process_count() == 1 else os.kill(os.getpid(), signal.SIGTERM)
            except OSError:
                time.sleep(60)

    def reached(self, step: int) -> bool:
        """Whether `step` is the one to stop before; to be asked once before every step."""
        return self.asked if jax.process_count() == 1 else multihost_utils.reached_preemption_sync_point(step)

    def ready(self, tree) -> bool:
        """Wait for `tree`; False where the run is asked to end first. A run of several processes waits it out."""
        done = self.pool.submit(jax.block_until_ready, tree)
        while not self.asked:
            if concurrent.futures.wait([done], 0.2).done:
                done.result()
                return True
        return False
