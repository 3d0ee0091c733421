"""The loop of every training, and what it leaves on disk and shows."""

import contextlib
import pathlib
import time

import jax
from tqdm import tqdm

from welfare_jax import hosts, runtime
from welfare_jax.errors import Unfinished
from welfare_jax.train import checkpoints, monitors
from welfare_jax.train.settings import Steps

LOSS = {"loss": ("loss", 3)}


def train(
    folder, now, settings: dict, cfg: Steps, advance, *, measure=None, finish=None, data=None, best=False, shown=LOSS,
    label="training",
):  # fmt: skip
    """Trains from the state `now`, or on from the newest checkpoint in `folder`; the state after `cfg.steps` steps.

    It leaves settings, checkpoints, metrics, TensorBoard and Weights & Biases, and gives the memory of `now` away.
    advance(i, now, wait) -> (state, metrics), step i; wait(tree)
    waits for a part of it and gives the step up where the run is asked to end meanwhile. measure(i, now, row) ->
    metrics to be added to its row, once its loss is found sound. finish(now) -> one more row behind those of the
    steps. data: a pipeline with `get_state` and `set_state`. best: keep the parameters with the highest eval_reward.
    shown: {name on the progress bar: (metric, digits)}.

    Where the run is asked to end (`monitors.PreemptionNotice`), what is done is saved after the step under way, and
    `Unfinished` raised, or `KeyboardInterrupt` after a Ctrl-C. Raises `InputError` where a loss is no number or leaps
    and, before anything is written, where the folder holds a run under other settings.
    """
    folder, first = pathlib.Path(folder), now
    with contextlib.ExitStack() as stack:
        notice = stack.enter_context(monitors.PreemptionNotice())
        saved = stack.enter_context(checkpoints.Checkpoints(folder, cfg.keep))
        done, now, position = saved.restore(now, settings)
        if done:  # what the caller holds is not to take memory beside what was read
            jax.tree.map(lambda a: a.delete(), first)
        if data is not None and position:
            data.set_state(position)
        runtime.write_json(folder / "config.json", settings)
        log = stack.enter_context(checkpoints.MetricsLog(folder / "metrics.jsonl", done))
        board = stack.enter_context(contextlib.closing(monitors.TensorBoard(folder / "tensorboard", done)))
        online = stack.enter_context(contextlib.closing(monitors.WeightsAndBiases(folder, settings)))
        guard = monitors.SpikeGuard(cfg.spike, log.before)
        kept = stack.enter_context(monitors.BestParameters(folder, log.before)) if best else None

        def save():
            saved.save(done, now, settings, data.get_state() if data is not None else None)

        def end():
            """Save what is done, unless it is saved, and end the run."""
            if done and done not in saved.manager.all_steps():
                save()
            saved.wait()
            kind = KeyboardInterrupt if notice.by_hand else Unfinished
            what = f"checkpoint {done} is saved" if done else "nothing was trained yet"
            raise kind(f"asked to end: {what}; the same command continues from there")

        def wait(tree):
            if not notice.ready(tree):
                end()

        steps = {"initial": done, "total": cfg.steps, "unit": "step", "disable": not hosts.first()}
        bar = stack.enter_context(tqdm(range(done, cfg.steps), label, **steps))
        for i in bar:
            if notice.reached(i):
                end()
            begin = time.perf_counter()
            now, metrics = advance(i, now, wait)
            row = {"step": i} | metrics | {"seconds": time.perf_counter() - begin}
            guard.check(row, saved.manager.latest_step())
            row |= measure(i, now, row) if measure else {}
            if kept and "eval_reward" in row:
                kept.offer(i + 1, row["eval_reward"], now.trainable, settings)
            log.write(row)
            board.write(row)
            online.write(row)
            bar.set_postfix({n: f"{row[k]:.{d}f}" for n, (k, d) in shown.items() if row.get(k) is not None})
            done = i + 1
            if done % cfg.checkpoint_every == 0 or done == cfg.steps:
                save()
        if finish:
            log.write({"step": cfg.steps} | finish(now))
        if notice.reached(cfg.steps):  # a run that is asked to end in its last step does not go on with what follows
            end()
    return now
