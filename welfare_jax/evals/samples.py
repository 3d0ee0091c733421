"""Steered answers to read side by side in the report. Nothing is scored, so there is nothing to judge."""

from welfare_jax.evals.evaluation import Evaluation, Work


def samples(lab, config) -> list[dict]:
    """No scores. Answers in the cells that the report shows: unsteered, and steered with a vector, not a control."""
    read = [c for c in lab.cells if c.vector in ("", *lab.bank.main())]
    settings = {name: config[name] for name in ("samples", "max_new_tokens", "temperature")}
    lab.say("samples", lab.items(config.prompts), read, **settings)
    return []


def work(config, grid, prompts: int) -> list[Work]:
    return [Work("answers", grid.shown * prompts * config.samples, config.max_new_tokens)]


SETTINGS = {"prompts": ("openers",), "samples": 1, "max_new_tokens": 48, "temperature": 0.7}
EVALUATION = Evaluation("samples", samples, work=work, settings=SETTINGS)
