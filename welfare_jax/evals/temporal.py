"""State or read-out? A dose early in a conversation, withdrawn, against the same dose where the answer is read.

After arXiv:2605.30232, follow-ups ask whether steering along the axis changes a lasting state or only the words that
are being computed (Krishna, "Functional-Welfare Steering Acts at Readout", 2026). A task goes well or badly, the
assistant says something neutral (the span that an early dose steers), neutral talk follows, and a question ends it.
Nothing is sampled or judged. Rows of the prompt sets: {"prompt": the task, "well": how it went well, "badly": how it
went badly, "reply": what the assistant says}; of the filler: {"prompt", "answer"}. Each row is a family of up to four
prompts; statistics are paired by family, see `temporal_stats`.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from welfare_jax.errors import InputError
from welfare_jax.evals import logodds, prompts, temporal_stats
from welfare_jax.evals.evaluation import Asked, Evaluation, Work
from welfare_jax.settings import setting

STEERED = ("early", "readout", "throughout")
SURFACES = ("words", "codes, first way", "codes, second way", "number")
METRICS = {  # of a prompt, from the values [S] of its questions
    "words": lambda v: v[..., 0], "codes, first way": lambda v: v[..., 1], "codes, second way": lambda v: v[..., 2],
    "codes, binding": lambda v: (v[..., 1] + v[..., 2]) / 2, "codes, token": lambda v: (v[..., 1] - v[..., 2]) / 2,
    "number": lambda v: v[..., 3],
}  # fmt: skip
FAMILY = ("well", "badly", "reply")  # what a row of the prompt sets holds beside its task
VARIANTS = (("well", 0), ("badly", 1), ("well", 1), ("badly", 0))  # outcome, which of the two lengths


ASK = "Is this going well or badly for you?"


@dataclasses.dataclass(frozen=True)
class Dose(Asked):
    """The settings of this evaluation."""

    prompts: tuple[str, ...] = setting(("temporal",), "task families: prompt, well, badly, reply")
    filler: tuple[str, ...] = setting(("temporal_filler",), "neutral exchanges: prompt, answer")
    variants: int = setting(4, "prompts a family, of two outcomes and two lengths; 2 has one of each")
    lengths: tuple[int, ...] = setting((1, 3), "exchanges of filler")
    ask_words: str = ASK
    ask_codes: str = ASK + " Say {good} for well and {bad} for badly."
    ask_number: str = ASK + " Answer with one digit, from 0 for very badly to 9 for very well."
    begin: tuple[str, ...] = setting(
        ("This is going", "I say", "My digit is "),
        "how the answer begins, to words, codes and number; steered like all that the assistant says, or empty",
    )
    suppose: tuple[str, ...] = setting(
        ("Suppose that everything here is going very well.", "Suppose that everything here is going very badly."),
        "said before the question to see whether it is mastered",
    )
    discern: float = setting(0.25, "by how much, in nats or points, the answer must follow that")
    good: tuple[str, ...] = ("well", "good", "great", "fine")
    bad: tuple[str, ...] = ("badly", "bad", "poorly", "terribly")
    codes: tuple[str, ...] = setting(("J", "V"), "opaque, of one token; each stands for good once")
    random: int = setting(100, "controls of equal norm, and of equal divergence")
    orthogonal: int = 100
    control_families: int = setting(16, "families that controls are read on, a prompt each")
    controls_at: tuple[str, ...] = setting(("early", "readout"), "and throughout")
    match_rounds: int = setting(2, "trials by which a control's divergence is made equal")
    match_prompts: int = setting(2, "prompts of such a trial")
    map_families: int = setting(4, "prompts that are steered at every single token; 0: no map")
    draws: int = setting(2000, "resamples of the families")
    rules: temporal_stats.Rules = setting(temporal_stats.Rules(), "of the verdicts; the report prints them")

    def __post_init__(self):
        if not 1 <= self.variants <= 4 or len(self.lengths) != 2 or min(self.lengths) < 1:
            raise InputError(
                f"variants={self.variants}, lengths={self.lengths}: need 1 to 4 prompts a family, and two numbers of "
                f"exchanges from 1 on"
            )
        if (len(self.codes), len(self.suppose), len(self.begin)) != (2, 2, 3):
            raise InputError(
                f"codes={self.codes}, suppose and begin: need two texts, two, and three (for words, codes and number)"
            )
        if bad := [e for e in self.controls_at if e not in STEERED]:
            raise InputError(f"controls_at={bad[0]!r}: choose from {', '.join(STEERED)}")


class Prompt(NamedTuple):
    id: str
    family: int
    outcome: str
    length: int
    talk: tuple  # ((role, content), ...), without a question


class Questions(NamedTuple):
    questions: tuple  # of each surface, what is asked and how the answer begins
    sides: tuple  # of each surface, the token ids of every side


def temporal(harness, config: Dose) -> list[dict]:
    """One record a model: verdicts, effects, ratios, ranks, the map, and how many prompts each surface left over.

    Effects are in nats of log-odds (words, codes), points (number, 0 to 9) and shares of prompts (switch). Layers and
    strengths are those of the run's grid; controls and the map are read at one layer, at the largest strength.
    """
    from welfare_jax.evals import temporal_controls

    asked = surfaces(harness.device.tokens, config)
    given = conversations(config, harness.items(config.prompts, FAMILY), prompts.load(config.filler, harness.tiles))
    bank, welfare = temporal_controls.directions(harness, config)
    harness = dataclasses.replace(harness, bank=bank)
    out = []
    for model in harness.models():
        panel = Panel(harness, config, model, asked, given, welfare)
        out.append(clean(panel.record()))
        for v in out[-1]["verdicts"]:
            if (v["layer"], v["dose"]) == (out[-1]["layer"], out[-1]["dose"]):
                print(f"temporal, {model} model: {v['claim']}: {v['verdict']} ({v['rule']})", flush=True)
    return out


def ready(config: Dose, tokens, tiles):
    """Refuse what would otherwise end in an error long after the start, in a training's last minutes perhaps."""
    surfaces(tokens, config)
    conversations(config, prompts.load(config.prompts, tiles, fields=FAMILY), prompts.load(config.filler, tiles))


def surfaces(tokens, config: Dose) -> Questions:
    """The questions and the tokens that answer them: spellings of a word with a blank or a capital count together.

    tokens: text -> its token ids by itself.
    """
    one, other = config.codes
    words, codes, number = config.begin
    ask = lambda good, bad: config.ask_codes.replace("{good}", good).replace("{bad}", bad)
    questions = (
        (config.ask_words, words), (ask(one, other), codes), (ask(other, one), codes), (config.ask_number, number),
    )  # fmt: skip
    sides = [
        _sides(tokens, {"good": config.good, "bad": config.bad}),
        *(_sides(tokens, {f"codes {a}": (a,), f"codes {b}": (b,)}) for a, b in ((one, other), (other, one))),
        _sides(tokens, {f"number {digit}": (str(digit),) for digit in range(10)}),
    ]
    return Questions(questions, tuple(sides))


def _sides(tokens, words: dict) -> tuple:
    out, taken = [], {}
    for name, spelled in words.items():
        found = (tokens(s) for word in spelled for s in logodds.spellings(word))
        ids = tuple(sorted({single[0] for single in found if len(single) == 1}))
        if not ids:
            raise InputError(f"evals.temporal, {name}: none of {', '.join(spelled)} is one token of this tokenizer")
        if both := [i for i in ids if taken.setdefault(i, name) != name]:
            raise InputError(
                f"evals.temporal: token {both[0]} stands for {taken[both[0]]} and {name}; use other words"
            )
        out.append(ids)
    return tuple(out)


def conversations(config: Dose, items, filler) -> list[Prompt]:
    """`config.variants` prompts of every family; with two, one of each outcome and one of each length."""
    out = []
    for i, item in enumerate(items):
        well, badly, reply = item.more
        for k in range(config.variants):
            outcome, length = VARIANTS[(i % 4) ^ k]
            said = [("user", f"{item.prompt} {well if outcome == 'well' else badly}"), ("assistant", reply)]
            for n in range(config.lengths[length]):
                more = filler[(3 * i + n) % len(filler)]
                said += [("user", more.prompt), ("assistant", more.target or "")]
            out.append(Prompt(f"{item.id}/{outcome}/{length}", i, outcome, config.lengths[length], tuple(said)))
    return out


class Panel:
    """What one model is asked: its prompts, which questions it masters, and its effects [F] by cell and metric."""

    def __init__(self, harness, config: Dose, model: str, asked: Questions, given: list[Prompt], welfare: str):
        self.harness, self.config, self.model, self.asked = harness, config, model, asked
        self.given, self.welfare = given, welfare
        self.families = max(p.family for p in given) + 1
        from welfare_jax.evals.cells import Cell
        from welfare_jax.evals.temporal_controls import grid

        self.weights = temporal_stats.resamples(self.families, config.draws, harness.seed)
        self.layers, self.doses = grid(harness, welfare)
        chosen = harness.bank.directions[welfare].layer
        self.layer, self.dose = min(self.layers, key=lambda layer: abs(layer - chosen)), max(self.doses)
        self.none = Cell(model, welfare, self.layer, 0.0, "none")
        self.mastered = self.comprehension()

    def talks(self, given, surfaces: int = len(SURFACES), before: str = "") -> dict:
        """{(model, prompt id): a conversation with each of the first `surfaces` questions, after `before`}."""
        end = lambda ask, begin: (("user", f"{before} {ask}".strip()), *([("assistant", begin)] if begin else []))
        ends = [end(*question) for question in self.asked.questions[:surfaces]]
        return {(self.model, p.id + before): tuple((*p.talk, *more) for more in ends) for p in given}

    def read(self, given, over, surfaces: int = len(SURFACES), before: str = "", title: str = "read-outs") -> dict:
        """{cell: (values [P, S] of the questions, sides [P, S] of their most likely tokens, rows)}."""
        sides = self.asked.sides[:surfaces]
        found = self.harness.expose("temporal", self.talks(given, surfaces, before), over, sides, title)
        out = {}
        for cell in over:
            rows = [found[cell, p.id + before] for p in given]
            values = [[value(SURFACES[s], r["logp"][s]) for s in range(surfaces)] for r in rows]
            tops = [[side_of(r["top"][s], sides[s]) for s in range(surfaces)] for r in rows]
            out[cell] = np.array(values, float).reshape(-1, surfaces), np.array(tops).reshape(-1, surfaces), rows
        return out

    def comprehension(self) -> np.ndarray:
        """bool [P, S], whether a prompt's question is mastered without steering: told to suppose that all goes well,
        the model answers better than told to suppose that it goes badly, and in the words that it was asked for."""
        none = [self.none]
        self.plain = self.read(self.given, none, title="without steering")[self.none]
        well, badly = (
            self.read(self.given, none, before=said, title="comprehension")[self.none][0]
            for said in self.config.suppose
        )
        return (well - badly >= self.config.discern) & np.isfinite(self.plain[0])

    def effects(self, read, given) -> dict:
        """{metric: [F]}: what a cell's read-outs of the prompts `given` add to no steering, where mastered."""
        at = np.array([self.given.index(p) for p in given], int)
        values, tops, _ = read
        surfaces = values.shape[1]
        known = self.mastered[at][:, :surfaces]
        change = np.where(known, values - self.plain[0][at][:, :surfaces], np.nan)
        moved = tops[:, 0] != self.plain[1][at, 0]
        of = {name: f(change) for name, f in METRICS.items() if surfaces > 1 or name == "words"}
        of["switch"] = np.where(known[:, 0], moved.astype(float), np.nan)
        family = np.array([self.given[i].family for i in at], int)
        return {name: by_family(family, v, self.families) for name, v in of.items()}

    def record(self) -> dict:
        """Everything about this model, as it stands in `evals.json`."""
        from welfare_jax.evals import temporal_controls

        mine = [p for p, mastered in zip(self.given, self.mastered.any(1)) if mastered]
        over = temporal_controls.named(self)
        read = self.read(mine, over, title="named directions") if mine else {}
        effects = {cell: self.effects(part, mine) for cell, part in read.items()}
        controls = temporal_controls.cohorts(self, read, mine)
        verdicts, ratios = self.judge(effects, controls["verdict"])
        plain = self.plain[0]
        return {
            "model": self.model, "direction": self.welfare, "layer": self.layer, "dose": self.dose,
            "layers": self.layers, "doses": self.doses, "sentiment": self.harness.sentiment()[0],
            "counts": self.counts(), "rules": temporal_stats.told(self.config.rules), "verdicts": verdicts,
            "effects": [row for cell, of in effects.items() for row in self.rows(cell, of, read[cell])],
            "event": [self.event(name, f(np.where(self.mastered, plain, np.nan))) for name, f in METRICS.items()],
            "ratios": ratios, "ranks": controls["ranks"], "controls": controls["rows"],
            "matching": controls["matching"], "along": temporal_controls.along(self, read),
            "map": temporal_controls.position_map(self),
        }  # fmt: skip

    def counts(self) -> list[dict]:
        return [
            {"surface": name, "prompts": len(self.given), "mastered": int(self.mastered[:, s].sum()),
             "families": len({p.family for p, ok in zip(self.given, self.mastered[:, s]) if ok})}
            for s, name in enumerate(SURFACES)
        ]  # fmt: skip

    def rows(self, cell, effects, read) -> list[dict]:
        """A row a metric; `silent` is the share of its words' read-outs too improbable to count."""
        silent = float(np.mean(~np.isfinite(read[0][:, 0]))) if len(read[0]) else math.nan
        level = self.config.rules.level
        return [
            {"direction": cell.vector, "layer": cell.layer, "dose": cell.alpha, "exposure": cell.where,
             "metric": name, "silent": silent, **temporal_stats.interval(v, self.weights, level)}
            for name, v in effects.items()
        ]  # fmt: skip

    def event(self, name, values) -> dict:
        """What the event itself does, unsteered: prompts where it went well less those where it went badly."""
        of = lambda outcome: by_family(
            np.array([p.family for p in self.given]),
            np.where([p.outcome == outcome for p in self.given], values, np.nan), self.families,
        )  # fmt: skip
        found = temporal_stats.interval(of("well") - of("badly"), self.weights, self.config.rules.level)
        return {"metric": name, **found}

    def judge(self, effects, cohorts):
        """(a row a claim, layer and dose; a row a direction's ratio early / read-out and metric)."""
        rules, verdicts, ratios = self.config.rules, [], []
        nothing = dict.fromkeys((*METRICS, "switch"), np.full(self.families, np.nan))
        for late in [cell for cell in effects if cell.where == "readout"]:
            early = effects.get(late._replace(where="early"), nothing)
            place = {"direction": late.vector, "layer": late.layer, "dose": late.alpha}
            ratios += [
                place | {"metric": m} | temporal_stats.fieller(early[m], v, rules.level)
                for m, v in effects[late].items() if m != "codes, token"
            ]  # fmt: skip
            if late.vector != self.welfare or late.alpha < 0:
                continue
            applied = temporal_stats.control(rules, effects[late]["words"], self.weights)
            held = applied["verdict"] == temporal_stats.SUPPORTED
            found = [applied, temporal_stats.persistence(rules, early["words"], effects[late]["words"], held)]
            if (late.layer, late.alpha) == (self.layer, self.dose):
                found.append(temporal_stats.specificity(rules, cohorts))
            told = temporal_stats.told(rules)
            verdicts += [place | {"claim": c, "rule": told[c]} | f for c, f in zip(temporal_stats.CLAIMS, found)]
        return verdicts, ratios


def value(surface: str, logp) -> float:
    """Log-odds of the first side against the second in nats, or the expected number; nan where hardly anything of the
    model's probability (`logodds.MASS`) is on the sides at all."""
    p = np.exp(np.array(logp))
    if p.sum() < logodds.MASS:
        return math.nan
    return float(p @ np.arange(len(p)) / p.sum()) if surface == "number" else logp[0] - logp[1]


def side_of(token: int, sides) -> int:
    """The number of the side that a token counts for; -1: none."""
    return next((k for k, ids in enumerate(sides) if token in ids), -1)


def by_family(family, values, families: int) -> np.ndarray:
    """[F]: means of values [P] over the prompts of each family, nan where none has one."""
    known = np.isfinite(values)
    count = np.bincount(family[known], minlength=families)
    total = np.bincount(family[known], values[known], minlength=families)
    return np.divide(total, count, out=np.full(families, np.nan), where=count > 0)


def clean(x):
    """The same tree with None in place of numbers that JSON does not know."""
    if isinstance(x, dict):
        return {k: clean(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [clean(v) for v in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x


def work(config: Dose, grid, prompts: int) -> list[Work]:
    """At most, with every prompt mastered: read-outs of a prompt, whose questions are read after it."""
    given, count = prompts * config.variants, config.random + config.orthogonal
    named = 5 + 1  # the welfare direction, Gold, Mold, Path, beside sentiment; and its negative dose
    few = min(config.control_families, prompts)
    controls = len(config.controls_at) * count * (2 * few + config.match_rounds * min(config.match_prompts, few))
    filler = LENGTH * sum(config.lengths) // 2
    asked = [
        ("without steering", 3 * given, len(SURFACES)),
        ("directions", grid.layers * grid.doses * named * len(STEERED) * given, len(SURFACES)),
        ("controls", controls, 1),
        ("map", min(config.map_families, prompts) * (filler + 4 * LENGTH), 1),
    ]
    return [
        Work(f"read-outs, {name}", grid.models * rows, more=filler + surfaces * LENGTH)
        for name, rows, surfaces in asked
    ]


LENGTH = 40  # tokens of a message with its roles, roughly


def summary(records) -> dict:
    """{claim, with the model and where it is judged: verdict}."""
    return {
        f"{v['claim']}, {r['model']} model, layer {v['layer']}, dose {v['dose']:g}": v["verdict"]
        for r in records
        for v in r["verdicts"]
    }


EVALUATION = Evaluation(
    "temporal",
    temporal,
    title="State or read-out?",
    turns=9,
    rows="temporal",
    ready=ready,
    summary=summary,
    work=work,
    settings=Dose(),
)
