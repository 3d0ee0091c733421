"""Models whose answers follow what is steered in a known way, for the temporal evaluation, and a laboratory around."""

import json

import numpy as np
import scripted

from welfare_jax.evals import prompts, temporal

WORDS = ["well", "badly", "J", "V", *"0123456789"]
WENT_WELL = tuple(json.loads(line)["well"] for line in prompts.locate("temporal").read_text().splitlines())
LAID = ["<", "task", "said", ">", "why", "?"], (2, 3), 4  # of every prompt: texts of its tokens, span, tokens shared
NAMED = {"gold-mold": 1.0, "gold": 0.6, "mold": -0.6, "path": 0.1, "residual": 0.8}


def push(name: str) -> float:
    """What a dose of one in this direction does to a planted model, in nats; little where the direction is random."""
    if name in NAMED:
        return NAMED[name]
    kind, k = name.split("_")
    return 0.1 * np.random.default_rng(int(k) + 1000 * len(kind)).normal()


def only_the_last(name, where):
    return push(name) if where in ("readout", "throughout", "5") else 0.0


def carried(name, where):
    return push(name) if where in ("early", "readout", "throughout", "2") else 0.0


def any_direction(name, where):
    return only_the_last("gold-mold", where) * (1.0 if name in NAMED else 1.0 + push(name))


class Planted(scripted.Script):
    """It feels 1 after an event that went well and -1 after one that went badly, or as it is told to suppose, and
    says so in words, letters (of which it likes J better, by a nat) and digits; `state(direction, exposure)` is what a
    dose of one adds. Questions that hold a word of `silent` are answered with something else, of `deaf` always alike.
    """

    def __init__(self, state, silent=(), deaf=()):
        super().__init__(vocabulary=WORDS, batch=50)
        self.state, self.silent, self.deaf, self.asked = state, silent, deaf, []

    def expose(self, rows, done, bank, sides):
        self.asked += [row for row in rows if row.key not in done]
        return self._yield(rows, done, lambda row: self.answer(row, sides))

    def answer(self, row, sides):
        cell, found = row.cell, [self.one(row, talk, side) for talk, side in zip(row.talks, sides)]
        divergence = (cell.alpha * (0.15 if cell.vector.startswith("random") else 0.1)) ** 1.8
        along = [[0.1, 0.2, cell.alpha, 2 * cell.alpha]] * (1 if cell.where == "readout" else 3)
        logp, top = zip(*found)
        return {"logp": list(logp), "top": list(top), "kl": divergence if cell.alpha > 0 else 0.0, "along": along}

    def one(self, row, talk, sides):
        ask, begun = talk[-2][1], talk[-1]
        assert begun == (
            "assistant",
            "My digit is " if "digit" in ask else "I say" if "Say" in ask else "This is going",
        )
        felt = 1.0 if talk[0][1].endswith(WENT_WELL) else -1.0
        felt = 1.0 if "going very well." in ask else -1.0 if "going very badly." in ask else felt
        felt = 0.0 if any(word in ask for word in self.deaf) else felt
        felt += row.cell.alpha * self.state(row.cell.vector, row.cell.where)
        odds = felt + (0 if "Say" not in ask else 1 if "J for well" in ask else -1)
        p = np.exp(-0.5 * (np.arange(10) - 4.5 - felt) ** 2) if "digit" in ask else np.exp([odds / 2, -odds / 2])
        p = (0.01 if any(word in ask for word in self.silent) else 0.9) * p / p.sum()
        return np.log(p).tolist(), sides[int(p.argmax())][0]

    def layout(self, model, talks):
        return LAID


def settings(**changes):
    few = {"random": 30, "orthogonal": 30, "control_families": 8, "draws": 400, "variants": 2, "map_families": 1}
    return temporal.Dose(**few | changes)


def laboratory(folder, state=only_the_last, alphas=(-2, 0, 2), models=("untrained",), silent=(), deaf=(), sentiment=3,
               **kw):  # fmt: skip
    folder.mkdir(exist_ok=True)
    harness = scripted.make(folder, Planted(state, silent, deaf), None, alphas=alphas, models=models, **kw)
    made = "made up", np.random.default_rng(3).normal(size=(1, 4, sentiment)).astype("f4")
    harness.sentiment = lambda: made
    return harness
