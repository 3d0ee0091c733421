"""Markup: what a run says stays text wherever it stands, and what is made here stays markup."""

import json
import re

import pytest
from markupsafe import Markup

from welfare_jax.report import data, markup, page

EVIL = "<b>'\"&</script>"
SAFE = "&lt;b&gt;&#39;&#34;&amp;&lt;/script&gt;"


@pytest.mark.parametrize(
    "made",
    [
        markup.heading(EVIL), markup.note(EVIL), markup.paragraph(EVIL), markup.missing(EVIL), markup.pre(EVIL),
        markup.code(EVIL), markup.details(EVIL, ""), markup.details("", EVIL), markup.cards([("1", EVIL, "")]),
        markup.cards([("1", "", EVIL)]), markup.answer(EVIL, "", (), "", ""), markup.answer("", EVIL, (), "", ""),
        markup.answer("", "", [("a", EVIL)], "", ""), markup.figure(Markup("<svg>"), EVIL, "", "x"),
        markup.figure(Markup("<svg>"), "", EVIL, "x"), markup.table((EVIL,), ()), markup.table(("a",), [(EVIL,)]),
        markup.texts([0.0], [("gold", (EVIL,), [[""]])]), markup.texts([0.0], [("", (), [[EVIL]])]),
        markup.pair([EVIL]), markup.joined([EVIL]),
    ],
)  # fmt: skip
def test_text_is_escaped_once(made):
    assert SAFE in made and "<b>'" not in made and "&amp;lt;" not in made
    assert isinstance(made, Markup) and made in markup.details("", made)  # and what is made of it, too


def test_a_table_by_hand():
    rows = [("a", 1), (markup.code("b"), 2)]
    found = re.sub(r"\s*\n\s*", "", markup.table(("x", "n"), rows, numeric=(1,), css="tall"))
    assert found == (
        '<div class="scroll tall" tabindex="0" role="group" aria-label="table"><table><thead><tr>'
        '<th scope="col">x</th><th scope="col" class="n">n</th></tr></thead><tbody>'
        '<tr><td>a</td><td class="n">1</td></tr><tr><td><code>b</code></td><td class="n">2</td></tr>'
        "</tbody></table></div>"
    )


def test_sections_that_say_nothing_or_fail(tmp_path):
    """One without a place is neither on the page nor in its list; text that is no markup cannot become some."""

    def missing(run, tables):
        raise markup.Missing("there is nothing")

    sections = (
        ("absent", "Absent", lambda run, tables: ""), ("text", "Text", lambda run, tables: EVIL),
        ("missing", "Missing", missing), ("failing", "Failing", lambda run, tables: tables["none"]),
    )  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({"a": "\x00\x1b"}))
    html = page.write(data.load(tmp_path), {}, sections, missing).read_text()
    assert re.findall(r'<section id="(\w+)">', html) == ["text", "missing", "failing", "config"]
    assert re.findall(r'href="#(\w+)"', html) == ["text", "missing", "failing", "config"]
    assert "No answer: there is nothing." in html and not (tmp_path / "answer.png").exists()
    assert "Left out: there is nothing." in html and "Left out: the data could not be shown (KeyError" in html
    assert SAFE in html and "<b>'" not in html and not set(html) & set(map(chr, (0, 0x1B)))
