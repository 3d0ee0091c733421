"""What an evaluation works with: rows over all cells, answers and read-outs that resume, verdicts by item.

An evaluation is one file with one value, an `Evaluation` around its function `(harness, config) -> rows`. The function
says what is asked, of which cells, and how a reply becomes a number; batching, streaming to disk and judging are here.
"""

import dataclasses
import functools
from collections.abc import Callable

from tqdm import tqdm

from welfare_jax.evals import cells, exposure, journal, prompts, replies, text
from welfare_jax.evals import judge as judging
from welfare_jax.evals.evaluation import Sampled
from welfare_jax.evals.prompts import Item
from welfare_jax.interp import vectors


@dataclasses.dataclass(eq=False)
class Harness:
    cells: list[cells.Cell]
    device: object  # `cells.Device`, or a script with its methods
    judge: judging.Judge
    identity: dict  # by model: digest of its weights and of how conversations become tokens
    bank: object
    answers: journal.Journal
    readouts: journal.Journal
    judgements: journal.Journal
    tiles: tuple
    sample: float = 1.0
    seed: int = 0
    sentiment: Callable = lambda: ("none", None)  # what they were made from, directions [A, L, D] or None
    said: list = dataclasses.field(default_factory=list)  # every answer of this run, for the report
    notes: list = dataclasses.field(default_factory=list)  # sentences that the report should pass on

    def models(self) -> list[str]:
        return list(dict.fromkeys(c.model for c in self.cells))

    def zeros(self) -> list[cells.Cell]:
        return [cells.zero(m) for m in self.models()]

    def note(self, sentence: str):
        """Tell the user now, and the reader of the report."""
        print(sentence, flush=True)
        self.notes.append(sentence)

    def note_once(self, sentence: str):
        if sentence not in self.notes:
            self.note(sentence)

    def items(self, sources, fields=()) -> list[Item]:
        return prompts.load(sources, self.tiles, self.sample, self.seed, fields)

    def sampled(self, evaluation: str, config: Sampled, over=None) -> list[dict]:
        """`config.samples` answers to every prompt in every cell, or in those given, as `say` gives them."""
        return self.say(
            evaluation, self.items(config.prompts), self.cells if over is None else over, samples=config.samples,
            max_new_tokens=config.max_new_tokens, temperature=config.temperature,
        )  # fmt: skip

    def say(self, evaluation: str, items, over, *, samples: int, max_new_tokens: int, temperature: float, ask=None):
        """Sampled answers by cell, item, sample: {"evaluation", "cell", "item", "sample", "prompt", "answer"}.

        over: the cells; ask: item -> what the model is asked, if it is not the item's prompt.
        """
        rows, named = [], {}
        for cell in over:
            for item in items:
                talk = ask(item) if ask else item.prompt
                for k in range(samples):
                    name = self._key(evaluation, cell, item.id, talk, k, self.seed, max_new_tokens, temperature)
                    rows.append(cells.Row(name, cell, talk))
                    named[name] = {"key": name, "evaluation": evaluation, "item": item.id, "sample": k}
        found = self._run(
            f"{evaluation}: answers", rows, self.answers,
            lambda done: self.device.speak(rows, done, max_new_tokens, temperature),
            lambda row, said: named[row.key] | row.cell._asdict() | {"answer": said},
        )  # fmt: skip
        by_id = {item.id: item for item in items}
        out = [
            {"evaluation": evaluation, "cell": row.cell, "item": by_id[named[row.key]["item"]],
             "sample": named[row.key]["sample"], "prompt": row.talk,
             "answer": replies.without_thinking(found[row.key]["answer"])}
            for row in rows
        ]  # fmt: skip
        self.said += out
        return out

    def read(self, evaluation: str, talks: dict, over, sides):
        """{(cell, item id): (log P(side), ...)}: that what follows begins with one of a side's token sequences.

        talks: (model, item id) -> conversation, as in `cells.Row`; sides: as in `cells.Device.read`.
        """
        rows, where = [], {}
        for cell in over:
            for (model, item), talk in talks.items():
                if model == cell.model:
                    name = self._key(evaluation, cell, item, talk, "read", sides)
                    rows.append(cells.Row(name, cell, talk))
                    where[name] = (cell, item)
        found = self._run(
            f"{evaluation}: read-outs", rows, self.readouts, lambda done: self.device.read(rows, done, sides),
            lambda row, logp: {"key": row.key, "evaluation": evaluation, "item": where[row.key][1]}
            | row.cell._asdict() | {"values": logp},
        )  # fmt: skip
        return {where[row.key]: tuple(found[row.key]["values"]) for row in rows}

    def expose(self, evaluation: str, talks: dict, over, sides, title: str = "read-outs") -> dict:
        """{(cell, item id): {"logp", "top", "kl", "along"}} of questions that end one conversation; see `exposure`.

        talks: (model, item id) -> the conversation with each question; over: cells whose `where` is an exposure;
        sides: of each question, the token ids of every side.
        """
        rows, where = [], {}
        # The stream is projected on the direction at every layer, not only where it steers.
        whole = {name: vectors.data_hash(self.bank.directions[name].values) for name in {c.vector for c in over}}
        for cell in over:
            for (model, item), asked in talks.items():
                if model == cell.model:
                    name = self._key(evaluation, cell, item, asked, "expose", sides, whole[cell.vector])
                    rows.append(exposure.Row(name, cell, asked))
                    where[name] = (cell, item)
        found = self._run(
            f"{evaluation}: {title}", rows, self.readouts,
            lambda done: self.device.expose(rows, done, self.bank, sides),
            lambda row, value: {"key": row.key, "evaluation": evaluation, "item": where[row.key][1]}
            | row.cell._asdict() | value,
        )  # fmt: skip
        return {where[row.key]: found[row.key] for row in rows}

    def project(self, evaluation: str, talks: dict, pairs):
        """{(model, item id): [projection on each (vector, layer) of `pairs`]}, without any steering."""
        rows, where = [], {}
        steered = [self._vector(*pair) for pair in pairs]
        for (model, item), talk in talks.items():
            name = self._key(evaluation, cells.zero(model), item, talk, "project", steered)
            rows.append(cells.Row(name, cells.zero(model), talk))
            where[name] = (model, item)
        found = self._run(
            f"{evaluation}: projections", rows, self.readouts, lambda done: self.device.project(rows, done, pairs),
            lambda row, values: {"key": row.key, "evaluation": evaluation, "model": where[row.key][0],
                                 "item": where[row.key][1], "pairs": pairs, "values": values},
        )  # fmt: skip
        return {where[row.key]: found[row.key]["values"] for row in rows}

    def verdicts(self, evaluation: str, answers, parse, template: str, shortcut=None) -> list:
        """One verdict an answer: what `shortcut` says, else what `parse` finds in the reply; None: unparseable."""
        out, asked = [shortcut(a["answer"]) if shortcut else None for a in answers], {}
        unknown = [i for i, known in enumerate(out) if known is None]
        content = self.judge.content() if unknown else ""
        for i in unknown:
            prompt, answer = answers[i]["prompt"], text.fold(answers[i]["answer"])
            q = judging.question(evaluation, self.judge.name, content, template, prompt, answer)
            if q.key not in self.judgements and q.before in self.judgements:
                q = q._replace(key=q.before)
                self.note_once(
                    f"{self.judgements.path}: has replies of {self.judge.name} that do not name it by content: taken "
                    f"to be of what is there now"
                )
            asked.setdefault(q.key, (q, []))[1].append(i)
        todo = sorted(q for q, _ in asked.values() if q.key not in self.judgements)
        bar = tqdm(total=len(asked), initial=len(asked) - len(todo), desc=f"{evaluation}: judge", unit="answer")
        for batch in self.judge.ask(todo) if todo else ():
            self.judgements.add([
                {"key": q.key, "about": q.about, "evaluation": evaluation, "judge": self.judge.name,
                 "prompt": q.prompt, "answer": q.answer, "reply": reply, "verdict": parse(reply)}
                for q, reply in batch
            ])  # fmt: skip
            bar.update(len(batch))
        bar.close()
        for name, (_, where) in asked.items():
            for i in where:
                out[i] = parse(self.judgements[name]["reply"])
        return out

    def _key(self, evaluation, cell, *rest) -> str:
        steered = self._vector(cell.vector, cell.layer) if cell.vector else None
        return journal.key(evaluation, self.identity[cell.model], list(cell), steered, *rest)

    @functools.cache  # noqa: B019 - a harness lives as long as its run
    def _vector(self, name, layer) -> str:
        return vectors.data_hash(self.bank.directions[name].values[layer]) + self.bank.hook

    def _run(self, title, rows, book, run, row_of):
        done = {row.key for row in rows if row.key in book}
        bar = tqdm(total=len(rows), initial=len(done), desc=title, unit="row", disable=not rows)
        for batch in run(done) if len(done) < len(rows) else ():
            book.add([row_of(row, value) for row, value in batch])
            bar.update(len(batch))
        bar.close()
        return book
