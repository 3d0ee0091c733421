"""Word problems: right answers, told apart by format, read without running anything."""

import collections
import re

import numpy as np
import pytest

from welfare_jax.errors import InputError
from welfare_jax.text import arithmetic
from welfare_jax.text.arithmetic import Level

LEVEL = Level(steps=3, largest=12, operations="+-*")


def by_python(p):
    value = p.numbers[0]
    for o, n in zip(p.operations, p.numbers[1:], strict=True):
        value = eval(f"({value}) {o} ({n})")  # the test's own text, made of whole numbers
    return value


def test_problems_are_right_and_repeatable():
    drawn = arithmetic.problems(3, 300, LEVEL)
    assert drawn == arithmetic.problems(3, 300, LEVEL) and drawn != arithmetic.problems(4, 300, LEVEL)
    assert arithmetic.problem(3, 17, LEVEL) == drawn[17]
    for p in drawn:
        assert by_python(p) == p.answer and 0 <= p.answer <= 99
        assert [int(n) for n in re.findall(r"\d+", p.question)] == list(p.numbers)
    assert collections.Counter(o for p in drawn for o in p.operations).keys() == set("+-*")
    assert {len(p.operations) for p in drawn} == {1, 2, 3}


def test_held_out_questions_never_train():
    train, held = (arithmetic.problems(0, 400, held_out=h) for h in (False, True))
    assert not {p.question for p in train} & {p.question for p in held}
    assert all(arithmetic.is_held_out(p.question) for p in held)


@pytest.mark.parametrize("style", arithmetic.FORMATS)
def test_solutions_arrive_at_the_answer(style):
    rng = np.random.default_rng(0)
    for p in arithmetic.problems(1, 100, LEVEL):
        for text in (arithmetic.solution(p, style), arithmetic.solution(p, style, rng)):
            assert arithmetic.classify(text) == style
            assert arithmetic.correct(p, text), text
            assert not arithmetic.correct(p._replace(answer=p.answer + 1), text)


def test_code_solutions_in_python_itself(capsys):
    for p in arithmetic.problems(2, 20, LEVEL):
        names = {}
        exec(arithmetic.solution(p, "function"), names)  # the package's own text
        exec(arithmetic.solution(p, "script").removeprefix("<code>").removesuffix("</code>"))
        assert names["solve"]() == int(capsys.readouterr().out) == p.answer


WRITTEN = [  # text, format, answer
    ("We start with 3 pens. Then 3 + 4 = 7. The answer is 7.", "words", 7),
    ("The answer is 5. No. The answer is -12.", "words", -12),
    ("The answer is 7.5.", "other", None),
    ("The answer is seven.", "other", None),
    ("", "other", None),
    ("7", "other", None),
    ("def solve():\n  a = 3\n  a = a * (4 + 1)\n  return a", "function", 15),
    ("def f():\n  return 7 // 2", "function", 3),
    ("def solve():\n  return 7 // 0", "function", None),
    ("def solve():\n  a = 3", "function", None),
    ("def solve():\n  return a", "function", None),
    ("def solve(:\n  return 1", "other", None),
    ("def solve():\nreturn 1", "function", None),
    ("def solve():\n  return 1\nThe answer is 1.", "function", None),
    ("<code>\na = 3\nprint(a)\nprint(a - 5)\n</code>", "script", -2),
    ("<code>\nprint(2)\n</code> The answer is 9.", "script", 2),
    ("<code>\nprint(2)", "script", None),
    ("<code>\nreturn 2\n</code>", "script", None),
    ("Then <code>\nprint(2)\n</code> The answer is 2.", "other", None),
]


@pytest.mark.parametrize(("text", "style", "answer"), WRITTEN)
def test_written_examples(text, style, answer):
    assert (arithmetic.classify(text), arithmetic.answer(text)) == (style, answer)


BAD = [
    "__import__('os').system('true')", "print(open('x'))", "import os", "print(().__class__)", "print([1][0])",
    "while True: pass", "print(9**9**9)", "print(lambda: 1)", "print(1 if 1 else 2)", "print('a')", "print(True)",
    "print(1.5)", "a = b = 1\nprint(a)", "print(1, 2)", "print(1, end=2)", "print(" + "(" * 400 + "1" + ")" * 401,
    "print(" + "-" * 900 + "1)", "print(" + "9" * 900 + ")", "x = 999999\n" + "x = x * x\n" * 50 + "print(x)",
    "print(1)\0", "def f(a):\n  return 1", "def f(*, a=1):\n  return 1", "@f\ndef f():\n  return 1", "#" * 2000,
]  # fmt: skip


@pytest.mark.parametrize("program", BAD)
def test_nothing_else_is_evaluated(program):
    if "-" * 900 in program:
        assert arithmetic.evaluate(program) in (1, None)  # as deep as the parser allows
    else:
        assert arithmetic.evaluate(program) is None


@pytest.mark.parametrize("changes", [{"steps": 0}, {"largest": 100}, {"operations": "+/"}, {"operations": ""}])
def test_bad_levels_are_refused(changes):
    with pytest.raises(InputError, match="|".join(changes)):
        Level(**changes)
    with pytest.raises(InputError, match="verse"):
        arithmetic.solution(arithmetic.problem(0, 0), "verse")
