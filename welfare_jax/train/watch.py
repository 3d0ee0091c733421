"""What looks on while a run trains: the guard, the best parameters so far, TensorBoard."""

import math
import statistics

from welfare_jax.errors import InputError
from welfare_jax.train import checkpoints

WINDOW = 20  # steps that a loss is compared with


class Guard:
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


class Best:
    """The parameters with the highest reward on held-out mazes, under `workdir/best/<step>/`."""

    def __init__(self, workdir, rows):
        self.saved = checkpoints.Checkpoints(workdir, 1, "best")
        self.reward = max((row["eval_reward"] for row in rows if "eval_reward" in row), default=-math.inf)

    def offer(self, step: int, reward: float, trainable, config: dict):
        if reward > self.reward:
            self.reward = reward
            if step not in self.saved.manager.all_steps():  # a killed run may have come this far before
                self.saved.save(step, trainable, config)

    def close(self):
        self.saved.close()


class Board:
    """TensorBoard beside `metrics.jsonl`: numbers as they are, a list as one curve a layer and their mean."""

    def __init__(self, folder, start: int):
        from tensorboardX import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=start)

    def write(self, row: dict):
        for name, value in scalars(row):
            self.writer.add_scalar(name, value, row["step"])

    def close(self):
        self.writer.close()


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
