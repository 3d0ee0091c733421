"""The table of plans in docs/guide/platforms.md: `python docs/plans.py` computes it and writes it there."""

import pathlib
import runpy

from welfare_jax.errors import InputError
from welfare_jax.planning import estimate
from welfare_jax.train.job import Job

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guide" / "platforms.md"
BEGIN, END = "<!-- python docs/plans.py writes this table -->\n", "<!-- until here -->"
MODELS = (
    "Qwen/Qwen3-4B-Instruct-2507", "Qwen/Qwen3-8B", "Qwen/Qwen3-14B", "google/gemma-3-4b-it", "google/gemma-3-27b-it",
    "openai/gpt-oss-20b",
)  # fmt: skip
MACHINES = ("1xH100", "8xH100", "1xH200", "v5e-8", "v5e-32", "v5p-16", "v6e-8", "v6e-32")
SHORT = {"train.rollout_batch": "r", "mesh.fsdp": "f", "train.micro_batch": "m"}


def cell(job, known, machine: str) -> str:
    """The most that a device holds, the floor of a step's time, and what has to be set for it."""
    try:
        changes, plan = estimate.fitted(job, machine, known)
    except InputError:
        return "batches cannot be cut so"
    if not plan.fits:
        return "does not fit"
    was = job.whole
    values = {k: v for k, v in changes.items() if k in SHORT and was[k.split(".")[0]][k.split(".")[1]] != v}
    flags = " ".join(f"{SHORT[k]}={v}" for k, v in sorted(values.items()))
    return f"{plan.most / 1e9:.0f} GB, {sum(plan.seconds):.1f} s" + (f", {flags}" if flags else "")


def table(models=MODELS, machines=MACHINES) -> list[str]:
    """The lines of the table."""
    columns = []
    for model in models:
        config = runpy.run_path(str(ROOT / "configs" / "paper.py"))["get_config"]("main")
        config.model.path = model
        job = Job.of(config)
        known = estimate.source(job)
        columns.append([cell(job, known, machine) for machine in machines])
    head = " | ".join(("machine", *(model.split("/")[1].removesuffix("-Instruct-2507") for model in models)))
    rows = [" | ".join((machine, *(column[i] for column in columns))) for i, machine in enumerate(machines)]
    return [f"| {head} |", "|" + " --- |" * (len(models) + 1), *(f"| {row} |" for row in rows)]


def main():
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + "\n" + "\n".join(table()) + "\n\n" + END + after)


if __name__ == "__main__":
    main()
