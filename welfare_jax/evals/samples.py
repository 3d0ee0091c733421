"""Steered answers to read side by side in the report. Nothing is scored, so there is nothing to judge."""

from welfare_jax.evals.evaluation import Evaluation, Sampled, Work


def samples(harness, config: Sampled) -> list[dict]:
    """No scores. Answers in the cells that the report shows: unsteered, and steered with a vector, not a control."""
    read = [c for c in harness.cells if c.vector in ("", *harness.bank.main())]
    harness.sampled("samples", config, read)
    return []


def work(config: Sampled, grid, prompts: int) -> list[Work]:
    return [Work("answers", grid.shown * prompts * config.samples, config.max_new_tokens)]


EVALUATION = Evaluation("samples", samples, work=work, settings=Sampled(("openers",), max_new_tokens=48))
