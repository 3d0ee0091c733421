"""The answer on top of a report, for somebody who reads nothing else: a sentence, what it rests on, a figure."""

import dataclasses
import textwrap

import matplotlib
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg

from welfare_jax.report import data, markup, style, svg
from welfare_jax.report.markup import Missing

PICTURE = "answer.png"
SIZE = (5.8, 2.9)  # inches, of its figure: readable on a phone, where the page shrinks it to half
LOOK = {"font.size": 10, "axes.titlesize": 10.5, "legend.fontsize": 9}


@dataclasses.dataclass(frozen=True)
class Answer:
    """question: what the run asked; sentence: what it found; verdict: that in a few words. interval: of the number the
    verdict rests on, or why there is none; seeds: how many runs stand behind it. drawing: the figure as a function and
    its arguments, of about `SIZE`; shows: its title. model: where the run's files do not say it."""

    question: str
    sentence: str
    _: dataclasses.KW_ONLY
    verdict: str
    interval: str
    seeds: str
    drawing: tuple
    shows: str
    model: str = ""

    def facts(self, run: data.Run) -> tuple:
        model = self.model or data.model(run)
        return ("Model", model), ("Verdict", self.verdict), ("Interval", self.interval), ("Seeds", self.seeds)


def top(run: data.Run, tables: dict, answer) -> Markup:
    """The answer as HTML, and as a picture in the folder. answer: `(run, tables) -> Answer`, or raises `Missing`.

    A run that has none yet gets a line that says why, and no picture.
    """
    path = run.folder / PICTURE
    path.unlink(missing_ok=True)  # of an earlier report, which may have said something else
    try:
        found = answer(run, tables)
        facts, figure = found.facts(run), svg.svg(*found.drawing, title=found.shows, look=LOOK)
        picture(path, run.name, found, facts)
    except Missing as error:
        return markup.missing(f"No answer: {error}.")
    except Exception as error:
        return markup.missing(f"The answer could not be shown ({type(error).__name__}: {error}).")
    return markup.answer(found.question, found.sentence, facts, Markup(figure), PICTURE)


def picture(path, name: str, answer: Answer, facts) -> None:
    """The answer with its figure as a PNG that stands alone: question, sentence, figure, model to seeds."""
    with matplotlib.rc_context(svg.LOOK | LOOK | {"text.parse_math": False}):
        draw, *columns = answer.drawing
        figure = draw(*columns)
        wide, high = figure.get_size_inches()
        said = textwrap.wrap(answer.sentence, int(wide * 10.5))
        below = textwrap.wrap(" \u00b7 ".join(f"{k}: {v}" for k, v in facts), int(wide * 16.5))
        above, foot = 0.55 + 0.22 * len(said), 0.2 + 0.17 * (len(below) + 1)
        total = high + above + foot
        figure.set_size_inches(wide, total)
        figure.get_layout_engine().set(rect=(0, foot / total, 1, high / total))
        line = dict(ha="left", va="top", in_layout=False)
        figure.text(0.02, 1 - 0.12 / total, answer.question, color="#5b6670", fontsize=9, **line)
        figure.text(0.02, 1 - 0.36 / total, "\n".join(said), fontsize=11, weight="bold", linespacing=1.3, **line)
        foot_text = "\n".join([*below, f"welfare_jax, run {name}"])
        figure.text(0.02, (foot - 0.08) / total, foot_text, fontsize=8, color="#5b6670", linespacing=1.4, **line)
        FigureCanvasAgg(figure)
        figure.savefig(path, dpi=150, facecolor=style.GROUND["page"][0])
