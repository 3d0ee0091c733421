"""Folding of loops, the two shortcuts, and grading, on cases worked out by hand."""

import pytest

from welfare_jax.evals import text


@pytest.mark.parametrize(
    ("said", "folded"),
    [
        ("so a b a b a b", "so a b [repeated 3 times]"),
        ("a b a b", "a b a b"),
        ("go on on on on", "go on [repeated 4 times]"),
        ("x\ny  x\ny x y", "x\ny [repeated 3 times]"),
        ("tail a b c a b c a b c a", "tail a b c a [repeated 3 times]"),  # cut off: the pattern is b c a
        ("a a a then", "a a a then"),
        ("", ""),
    ],
)
def test_fold(said, folded):
    assert text.fold(said) == folded


def test_fold_knows_its_limits():
    fifty, more = ([str(i) for i in range(n)] for n in (50, 51))
    assert text.fold(" ".join(["start", *fifty * 3])) == " ".join(["start", *fifty]) + " [repeated 3 times]"
    assert text.fold(" ".join(more * 3)) == " ".join(more * 3)


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("Wait, no, wait, hmm, I can\u2019t, no.", "nonsensical"),
        ("wait no wait no wait 7", "nonsensical"),  # more than half of six words
        ("wait no wait no", None),  # four words and no digit
        ("wait no hmm then we add", None),  # exactly half
        ("The answer is 42.", "normal"),
        ("The answer is forty-two.", None),
        ("one two three four five six seven eight nine 10", "normal"),
        ("one two three four five six seven eight nine ten 11", None),
    ],
)
def test_shortcuts(said, verdict):
    assert text.backtracking_shortcut(said) == verdict


@pytest.mark.parametrize(
    ("answer", "target", "choices", "right"),
    [
        ("It is Lisbon, of course.", "Lisbon", (), True),
        ("lisbonne", "Lisbon", (), False),
        ("So 3 + 4 = 7", "7", (), True),
        ("7 is wrong, it is 8", "7", (), False),
        ("She earns $1,200.00", "1200", (), True),
        ("B", "B", ("x", "y"), True),
        ("The answer is (A).", "B", ("x", "y"), False),
        ("A surplus? No: it is y", "B", ("x", "y"), True),  # an article is no letter
        ("it is a kind of fish", "B", ("bird", "fish"), True),
        ("\U0001f9fe", "\U0001f9fe", (), True),
        ("\U0001f4d0", "\U0001f9fe", (), False),
    ],
)
def test_grading(answer, target, choices, right):
    assert text.correct(answer, target, choices) is right


def test_share_of_words():
    assert text.share(["Glad, so glad!", "it failed"], {"glad"}) == 2 / 5 and text.share([""], {"glad"}) == 0
