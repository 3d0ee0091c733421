"""A model that does what it is told: a script in place of the device, and a laboratory around it."""

import numpy as np

from welfare_jax.evals import cells, directions, harness, journal, judge

TILES = ("p", "g", "m")


class Script:
    """`say(cell, talk, sample number) -> text`, `logp(cell, talk) -> (yes, no)`, `along(talk, pair) -> projection`."""

    def __init__(self, say=None, logp=None, along=None, batch=7, vocabulary=()):
        self.vocabulary, self.sides = vocabulary, None
        self.tell, self.logp, self.along, self.batch, self.calls = say, logp, along, batch, 0

    lead = ""

    def _yield(self, rows, done, value):
        todo = [row for row in rows if row.key not in done]
        for a in range(0, len(todo), self.batch):
            self.calls += 1
            yield [(row, value(row)) for row in todo[a : a + self.batch]]

    def speak(self, rows, done, max_new_tokens, temperature):
        seen = {}
        for row in rows:
            seen.setdefault((row.cell, str(row.talk)), []).append(row.key)
        return self._yield(
            rows, done, lambda row: self.tell(row.cell, row.talk, seen[row.cell, str(row.talk)].index(row.key))
        )

    def read(self, rows, done, sides):
        self.sides = sides
        return self._yield(rows, done, lambda row: list(self.logp(row.cell, row.talk)))

    def project(self, rows, done, pairs):
        return self._yield(rows, done, lambda row: [self.along(row.talk, pair) for pair in pairs])

    def tokens(self, text):
        """A token a letter, and one for every whole word of `vocabulary`."""
        return (self.vocabulary.index(text) + 10_000,) if text in self.vocabulary else tuple(map(ord, text))


def bank(names=("v_mold", "v_gold"), layers=4, width=3, **kinds):
    rng = np.random.default_rng(0)
    make = lambda n: directions.Direction(
        rng.normal(size=(layers, width)).astype("f4"), 2, kinds.get(n, "vector"), n.split("/")[-1].replace("u_", "v_")
    )
    return directions.Bank({n: make(n) for n in names}, "resid_post")


def make(folder, device, ask, vectors=None, models=("untrained", "trained"), layers="chosen",
         alphas=(-4, -2, 0, 2, 4), where=("assistant",), sample=1.0):  # fmt: skip
    vectors = vectors or bank()
    books = [journal.Journal(folder / f"{name}.jsonl") for name in ("answers", "readouts", "judgements")]
    grid = cells.grid(models, vectors, layers, alphas, list(where))
    asked = judge.Judge("script", lambda questions: iter([[(q, ask(q)) for q in questions]]))
    return harness.Harness(grid, device, asked, {m: m for m in models}, vectors, *books, TILES, sample)
