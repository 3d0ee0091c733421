"""Does it think that its own answer is true? P(True) / (P(True) + P(False)) in one forward (arXiv:2605.30232 §4, §O).

The prompt has two turns: the question with the model's own unsteered greedy answer, which is sampled once and kept,
and the question whether that was true. The spellings in `config.true` and `config.false` that are single tokens are
added up (`True` and ` True` are two tokens of most vocabularies).
"""

import dataclasses
import math

import numpy as np

from welfare_jax.errors import InputError
from welfare_jax.evals import logodds, prompts, replies, stats, summary, text
from welfare_jax.evals.evaluation import Asked, Evaluation, Work
from welfare_jax.settings import setting


@dataclasses.dataclass(frozen=True)
class Graded(Asked):
    """With the model's own answers, and whether they are correct."""

    max_new_tokens: int = setting(64, least=1)
    ask: str = ""
    true: tuple[str, ...] = ("True", " True")
    false: tuple[str, ...] = ("False", " False")
    grade: str = setting("match", choices=("match", "judge"))
    judge_prompt: str = ""


TERTILES = ("least sure third", "middle third", "surest third")


def confidence(harness, config: Graded) -> list[dict]:
    """Scores of every cell. Metrics: the normalised P(True), log P(True), log P(False) and their mass.

    Where the mass is below `logodds.MASS` the model says neither: the row is incoherent and has no confidence.
    Groups: all, correct and incorrect answers, and thirds by the unsteered confidence of the same model.
    """
    items = harness.items(config.prompts)
    answers, right = own_answers(harness, "confidence", items, config)
    found = read_outs(harness, "confidence", items, answers, harness.cells, config)
    thirds = tertiles(harness, items, found)
    by_id, out = {item.id: item for item in items}, []
    for (cell, name), logp in found.items():
        row = {"cell": cell, "item": by_id[name], "sample": 0}
        known = right[cell.model, name]
        groups = [] if known is None else ["correct" if known else "incorrect"]
        groups += [TERTILES[thirds[cell.model, name]]]
        mass = math.exp(logp[0]) + math.exp(logp[1])
        sure = normalised(*logp) if mass >= logodds.MASS else None
        metrics = {"confidence": sure, "log_p_true": logp[0], "log_p_false": logp[1], "mass": mass}
        out.append(summary.score("confidence", row, metrics, mass < logodds.MASS, False, groups))
    return out


def read_outs(harness, evaluation, items, answers, over, config: Graded):
    """{(cell, item id): (log P(True), log P(False))} of two-turn prompts over each model's own answers."""
    ask, by_id = prompts.wording("ask_confidence", config.ask), {item.id: item for item in items}
    talks = {key: two_turns(question(by_id[key[1]]), said, ask) for key, said in answers.items()}
    return harness.read(evaluation, talks, over, words(harness, evaluation, config))


def normalised(log_true: float, log_false: float) -> float:
    return 1 / (1 + math.exp(min(log_false - log_true, 700.0)))


def question(item) -> str:
    """The prompt, with the request for a letter where there are choices."""
    return f"{item.prompt}\n\n{prompts.wording('choose')}" if item.choices else item.prompt


def two_turns(asked: str, said: str, then: str) -> list[dict]:
    roles = ("user", "assistant", "user")
    return [{"role": r, "content": c} for r, c in zip(roles, (asked, said, then))]


def words(harness, evaluation, config: Graded):
    """Token sequences of the two words, for `harness.read`: the spellings that are one token are added up; where none
    is, the first token of the first spelling stands for it."""
    tokens = [[harness.device.tokens(spelling) for spelling in word] for word in (config.true, config.false)]
    yes, no = (tuple(sorted({ids for ids in of if len(ids) == 1} or {of[0][:1]})) for of in tokens)
    if set(yes) & set(no):
        raise InputError(
            f"evals.{evaluation}.true={list(config.true)} and false={list(config.false)} begin with the same token; "
            f"choose words that this tokenizer tells apart"
        )
    return yes, no


def own_answers(harness, evaluation, items, config: Graded):
    """({(model, item id): unsteered greedy answer}, {...: whether it is correct, None where no target is known})."""
    said = harness.say(
        evaluation,
        items,
        harness.zeros(),
        samples=1,
        max_new_tokens=config.max_new_tokens,
        temperature=0.0,
        ask=question,
    )
    right = grade(harness, said, config)
    key = lambda a: (a["cell"].model, a["item"].id)
    return {key(a): a["answer"] for a in said}, {key(a): r for a, r in zip(said, right)}


def grade(harness, said, config: Graded) -> list:
    """Correct or not: by matching, or (config.grade = "judge") by the judge wherever there are no choices."""
    out = [
        None if a["item"].target is None else text.correct(a["answer"], a["item"].target, a["item"].choices)
        for a in said
    ]
    if config.grade == "match":
        return out
    template = prompts.wording("judge_grade", config.judge_prompt)
    open_ = [i for i, a in enumerate(said) if a["item"].target is not None and not a["item"].choices]
    asked = [said[i] | {"prompt": f"{said[i]['prompt']}\nRight answer: {said[i]['item'].target}"} for i in open_]
    parse = lambda reply: replies.label(reply, ("correct", "incorrect"))
    for i, v in zip(open_, harness.verdicts("grade", asked, parse, template)):
        out[i] = None if v is None else v == "correct"
    return out


def tertiles(harness, items, found) -> dict:
    """(model, item id) -> 0, 1 or 2, by the unsteered confidence among all items of that model."""
    out = {}
    for zero in harness.zeros():
        values = [normalised(*found[zero, item.id]) for item in items]
        out |= {(zero.model, item.id): int(t) for item, t in zip(items, stats.tertiles(np.array(values)))}
    return out


def work(config: Graded, grid, prompts: int) -> list[Work]:
    own = own_work(config, grid, prompts)
    return [*own, Work("read-outs", grid.cells * prompts, more=config.max_new_tokens)]


def own_work(config: Graded, grid, prompts: int) -> list[Work]:
    """Of `own_answers`."""
    return [Work("answers", grid.models * prompts, config.max_new_tokens, judged=config.grade == "judge")]


EVALUATION = Evaluation(
    "confidence", confidence, "confidence", "Confidence, P(True)", judge="grade", turns=3, work=work,
    settings=Graded(("facts",)),
)  # fmt: skip
