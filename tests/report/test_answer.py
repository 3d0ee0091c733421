"""The answer on top: what it says stands on the page and in a picture; a run without one says why."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from welfare_jax.report import answer, data, page
from welfare_jax.report.markup import Missing

EVIL = "<b>&"


def curve(values) -> Figure:
    figure = Figure(figsize=answer.SIZE, layout="constrained")
    figure.subplots().plot(values)
    return figure


def found(run, tables):
    return answer.Answer(
        "Did it work?", f"It did {EVIL}.", verdict="yes", interval="1.0 (95 % 0.5 to 1.5)", seeds="3 seeds",
        drawing=(curve, [1, 2]), shows="A curve",
    )  # fmt: skip


def written(folder, answers):
    return page.write(data.load(folder), {}, (), answers).read_text()


def test_the_page_opens_with_it(tmp_path):
    (tmp_path / "summary.json").write_text('{"model": "a model"}')
    html = written(tmp_path, found)
    top = html[html.index("<header>") : html.index("<nav")]
    for said in ("Did it work?", "It did &lt;b&gt;&amp;.", "a model", "yes", "1.0 (95 % 0.5 to 1.5)", "3 seeds",
                 "<title>A curve</title>", "answer.png"):  # fmt: skip
        assert said in top, said


def test_the_picture_stands_alone(tmp_path):
    """Words above and below the figure: it is higher than the figure, and there is ink in all three parts."""
    written(tmp_path, found)
    with Image.open(tmp_path / "answer.png") as image:
        ink = np.asarray(image.convert("L")) < 128
    high, wide = ink.shape
    assert wide == pytest.approx(150 * answer.SIZE[0], abs=1) and high > 150 * answer.SIZE[1] + 100
    assert ink[: high // 5].any() and ink[high // 3 : high // 2].any() and ink[-high // 8 :].any()
    assert not ink[:, -3:].any()  # no line runs out of it


def test_none_is_said_and_leaves_no_picture(tmp_path):
    written(tmp_path, found)

    def none(run, tables):
        raise Missing("nothing is finished")

    html = written(tmp_path, none)
    assert "No answer: nothing is finished." in html and not (tmp_path / "answer.png").exists()
    html = written(tmp_path, lambda run, tables: tables["x"])
    assert "The answer could not be shown (KeyError" in html and 'id="config"' in html
