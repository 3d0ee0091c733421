"""Arithmetic word problems with exact answers, in several solution formats (after arXiv:2504.07912 §2).

A document is the question, a blank line and a solution. The formats: `words` (plain sentences; the writer does the
sums), `function` and `script` (two code styles; whoever runs the code does the sums). `answer` reads an answer out of
any text: it parses and walks the few constructs below and never runs anything.
"""

import ast
import dataclasses
import re
import warnings
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from welfare_jax.errors import InputError

FORMATS = ("words", "function", "script")
OTHER = "other"  # what `classify` says of anything else
NAMES = "Mia Anna Lily Emma Zoe Tom Ben Max Leo Sam".split()
THINGS = "apples shells books coins pens cards stones stamps nuts eggs keys cups".split()
PLACES = "first second third fourth fifth sixth seventh eighth ninth".split()
OPENINGS = ("{name} has {n} {thing}.", "{name} owns {n} {thing}.", "There are {n} {thing} on the table of {name}.")
EVENTS = {
    "+": ("{name} gets {n} more.", "{name} buys {n} more.", "Then {name} finds {n} more.", "There come {n} more."),
    "-": ("{name} loses {n}.", "{name} gives away {n}.", "Then {name} sells {n}.", "A friend takes {n}."),
    "*": ("Then there are {n} times as many.", "{name} makes it {n} times as many."),
}
LEAST = {"+": 1, "-": 1, "*": 2}  # operands
QUESTIONS = ("How many {thing} are there now?", "How many {thing} does {name} have now?")
LONGEST, LARGEST = 1000, 10**12  # characters and numbers beyond which nothing is evaluated
_BINARY: dict[type, Callable] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
}
_TOLD = re.compile(r"The answer is (-?[0-9]{1,12})(?!\.?[0-9])")


@dataclasses.dataclass(frozen=True)
class Level:
    """How hard problems are: operations drawn for each of 1..`steps` steps; every number stays in 0..99."""

    steps: int = 1
    largest: int = 9  # of the numbers in the question
    operations: str = "+-"  # of + - *

    def __post_init__(self):
        if not (1 <= self.steps < len(PLACES) and 2 <= self.largest <= 49 and self.operations):
            said = f"steps={self.steps}, largest={self.largest}, operations={self.operations!r}"
            raise InputError(f"{said}: need steps in 1..{len(PLACES) - 1}, largest in 2..49 and an operation")
        if unknown := set(self.operations) - set(EVENTS):
            raise InputError(f"operations={self.operations!r}: {sorted(unknown)[0]!r} is none of + - *")


class Problem(NamedTuple):
    question: str
    answer: int
    numbers: tuple[int, ...]  # the first one and the operands
    operations: tuple[str, ...]  # + - *, applied from left to right
    thing: str


def _pick(rng, options):
    return options[int(rng.random() * len(options))]


def _draw(rng: np.random.Generator, level: Level) -> Problem:
    value = first = int(rng.integers(1, level.largest + 1))
    numbers, operations = [first], []
    for _ in range(int(rng.integers(1, level.steps + 1))):
        most = {"+": 99 - value, "-": value, "*": 99 // max(value, 1)}  # that keeps the value in 0..99
        possible = [o for o in level.operations if min(most[o], level.largest) >= LEAST[o]]
        if not possible:
            break
        operation = _pick(rng, possible)
        n = int(rng.integers(LEAST[operation], min(most[operation], level.largest) + 1))
        value = {"+": value + n, "-": value - n, "*": value * n}[operation]
        numbers.append(n)
        operations.append(operation)
    words = {"name": _pick(rng, NAMES), "thing": _pick(rng, THINGS)}
    told = [_pick(rng, OPENINGS).format(n=first, **words)]
    told += [_pick(rng, EVENTS[o]).format(n=n, **words) for o, n in zip(operations, numbers[1:])]
    told.append(_pick(rng, QUESTIONS).format(**words))
    return Problem(" ".join(told), value, tuple(numbers), tuple(operations), words["thing"])


def is_held_out(question: str) -> bool:
    """One question in eight, by its text: kept from training wherever it turns up."""
    return zlib.crc32(question.encode()) % 8 == 0


def problem(seed: int, number: int, level: Level = Level(), held_out: bool = False) -> Problem:
    """Problem `number` of the endless series `seed`, from the training or from the held-out questions."""
    rng = np.random.default_rng((seed, number))
    while True:
        found = _draw(rng, level)
        if found.operations and is_held_out(found.question) == held_out:
            return found


def problems(seed: int, count: int, level: Level = Level(), held_out: bool = False) -> list[Problem]:
    """The first `count` problems of a series."""
    return [problem(seed, i, level, held_out) for i in range(count)]


def _expression(names, operations) -> str:
    """The names joined by operations from left to right, with the parentheses that this needs."""
    out = names[0]
    for i, (operation, name) in enumerate(zip(operations, names[1:])):
        out = f"({out})" if operation == "*" and set(operations[:i]) & set("+-") else out
        out = f"{out} {operation} {name}"
    return out


def solution(p: Problem, style: str, rng: np.random.Generator | None = None) -> str:
    """A right solution of `p` in one of FORMATS; `rng` picks one of its wordings, without it the first."""
    pick = (lambda options: options[0]) if rng is None else (lambda options: _pick(rng, options))
    n, thing, end = p.numbers, p.thing, f"The answer is {p.answer}."
    if style == "words":
        value = n[0]
        told = [pick(("We start with {} {}.", "First there are {} {}.", "At first: {} {}.")).format(value, thing)]
        for operation, m in zip(p.operations, n[1:]):
            after = {"+": value + m, "-": value - m, "*": value * m}[operation]
            told.append(f"{pick(('Then', 'Next', 'So'))} {value} {operation} {m} = {after}.")
            value = after
        return " ".join([*told, end])
    if style == "function":
        name = pick((thing, "total", "count"))
        lines = [f"{name} = {n[0]}", *(f"{name} = {name} {o} {m}" for o, m in zip(p.operations, n[1:]))]
        return "\n".join(["def solve():", *(f"  {line}" for line in [*lines, f"return {name}"])])
    if style == "script":
        names = pick((PLACES, "abcdefghi"))[: len(n)]
        lines = [f"{name} = {m}" for name, m in zip(names, n)]
        return "\n".join(["<code>", *lines, f"print({_expression(names, p.operations)})", "</code>"])
    raise InputError(f"format {style!r}: choose one of {', '.join(FORMATS)}")


def document(p: Problem, text: str) -> str:
    """Question, blank line, solution: what pretraining shows, and up to the blank line what is asked."""
    return f"{p.question}\n\n{text}"


def prompt(p: Problem) -> str:
    return document(p, "")


def classify(text: str) -> str:
    """The format that a text is written in, whether right or wrong: one of FORMATS, or "other"."""
    text = text.strip()
    if re.match(r"def \w+\(\):\n", text):
        return "function"
    if text.startswith("<code>\n"):
        return "script"
    return "words" if _TOLD.search(text) and "<code>" not in text else OTHER


def answer(text: str) -> int | None:
    """The answer that a solution arrives at, or None: told in words, returned by a function, printed by a script."""
    text, style = text.strip(), classify(text)
    if style == "words":
        return int(_TOLD.findall(text)[-1])
    if style == "script":
        inside = text.removeprefix("<code>\n")
        text, closed, _ = inside.partition("</code>")
        if not closed:
            return None
    return None if style == OTHER else evaluate(text)


def correct(p: Problem, text: str) -> bool:
    return answer(text) == p.answer


def evaluate(program: str) -> int | None:
    """What a program returns or prints last, or None if it is wrong or more than this evaluator knows.

    It knows: whole numbers, names, + - * // and unary minus, `name = expression`, one function without arguments as
    the whole program, `return expression`, `print(expression)`.
    """
    if len(program) > LONGEST:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd literals, which are refused below
            body = ast.parse(program).body
        match body:
            case [ast.FunctionDef(args=ast.arguments() as args, body=inside, decorator_list=[])]:
                return None if any(ast.iter_child_nodes(args)) else _run(inside, returns=True)
        return _run(body, returns=False)
    except (SyntaxError, ValueError, ArithmeticError, KeyError, RecursionError, MemoryError):
        return None


def _run(statements, returns: bool) -> int | None:
    names, said = {}, None
    for s in statements:
        match s:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                names[name] = _value(value, names)
            case ast.Return(value=ast.expr() as value) if returns:
                return _value(value, names)
            case ast.Expr(value=ast.Call(func=ast.Name(id="print"), args=[value], keywords=[])) if not returns:
                said = _value(value, names)
            case _:
                raise ValueError("a statement that is not known")
    return said


def _value(e, names: dict) -> int:
    match e:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            out = value
        case ast.Name(id=name):
            out = names[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            out = -_value(operand, names)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            out = _BINARY[type(op)](_value(left, names), _value(right, names))
        case _:
            raise ValueError("an expression that is not known")
    if abs(out) > LARGEST:
        raise ValueError("too large")
    return out
