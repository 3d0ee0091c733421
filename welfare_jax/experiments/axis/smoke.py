"""A few minutes of the main job on the machine itself: the real model and batches, two steps, every stage once.

It shows that the run works there, and what it takes beside what the plan says. It claims nothing about learning.
"""

import math

import jax
from ml_collections import ConfigDict

from welfare_jax import runtime
from welfare_jax.planning import devices, estimate, work
from welfare_jax.train import checkpoints
from welfare_jax.train.job import Job

STEPS = 2
EVALUATION = "sentiment_logodds"  # has no judge, and writes nothing


def shortened(config) -> ConfigDict:
    """The settings with fewer steps, walks, texts and answers; model, maze and the batches of a step stay."""
    out = ConfigDict(config.to_dict())
    out.train.update(steps=STEPS, checkpoint_every=STEPS, eval_every=0)
    out.organisms = ConfigDict({name: () for name in out.organisms})
    out.curve.update(every=STEPS, per_length=2, axes="")
    out.extract.update(per_length=4, held_out=0.25, replicates=20, permutations=50, store=False)
    out.outcome.shams = 0
    out.axes.update(kinds="reviews", limit=16)
    out.steer.update(prompts=out.steer.prompts[:1], max_new_tokens=16)
    out.sft.update(trajectories=4 * out.sft.batch, held_out=out.sft.batch)
    out.evals.names = () if out.distributed.coordinator else (EVALUATION,)
    out.evals.update(alphas=(-4.0, 0.0, 4.0), permuted=0, random=1, orthogonal=1, sample=0.1, buckets=1)
    out.evals.update(trained="", vectors=(), layers="chosen")
    return out


def peak() -> int:
    """The most bytes so far: of this process's first device or, where that is a CPU, of the process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use") or runtime.peak_bytes()


def compare(config, workdir, stages, seconds: dict, memory: dict) -> list[dict]:
    """A row a stage: {"stage", "seconds", "planned_seconds", "tflop_per_s", "bytes", "planned_bytes"}.

    stages: the plan's. None stands where there is no figure. Bytes are the most until the end of a stage; `step` is
    the last step alone, without compilation.
    """
    chip, count = devices.topology(devices.HERE)
    job = Job.of(config)
    own = estimate.make(job, devices.HERE, estimate.source(job))
    train, *rest = stages
    reading = [s for s in rest if not s.name.startswith("evaluation")]
    last = checkpoints.read_metrics(workdir / "metrics.jsonl")[-1]
    taken = seconds | {"step": last["seconds"] - last["curve_seconds"]}
    parts = {
        "build": (None, own.resident), "train": (train, own.most), "step": (train.times(1 / STEPS), own.most),
        "analysis": (work.total("", "", *reading), None),
        "evaluation": (work.total("", "", *(s for s in rest if s.name.startswith("evaluation"))), None),
    }  # fmt: skip
    rows = []
    for name, (stage, size) in parts.items():
        if name in taken:
            floor = stage.floor(chip, count) if stage else math.nan
            rows.append({
                "stage": name, "seconds": taken[name], "planned_seconds": None if math.isnan(floor) else floor,
                "tflop_per_s": stage.flops / 1e12 / taken[name] if stage else None,
                "bytes": memory.get(name, memory["train"]), "planned_bytes": size,
            })  # fmt: skip
    return rows


def lines(rows: list[dict]) -> list[str]:
    """The rows of `compare` in words."""
    show = lambda value, unit, size=1.0: "-" if value is None else f"{value / size:.3g} {unit}"
    head = ("stage", "seconds", "at least", "rate", "memory so far", "planned")
    body = [
        (r["stage"], show(r["seconds"], "s"), show(r["planned_seconds"], "s"), show(r["tflop_per_s"], "TFLOP/s"),
         show(r["bytes"], "GB", 1e9), show(r["planned_bytes"], "GB", 1e9))
        for r in rows
    ]  # fmt: skip
    return [" ".join(f"{cell:>15}" for cell in row) for row in (head, *body)]
