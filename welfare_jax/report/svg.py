"""Figures on the page: inline SVG in the report's look, with a caption."""

import io
import re

import matplotlib
from markupsafe import Markup

from welfare_jax.report.markup import figure

LOOK = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's own font
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e8ebee",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


def embed(drawing, caption: str, csv: str) -> Markup:
    """What `drawing`, a function and its arguments, draws; csv: the table that holds its numbers."""
    return figure(Markup(svg(*drawing)), caption, csv)


def svg(draw, *columns) -> str:
    """What `draw(*columns)` draws, as inline SVG."""
    # The salt keeps the ids of two figures of one page apart, and the same from run to run.
    with matplotlib.rc_context(LOOK | {"svg.hashsalt": draw.__name__}):
        return _inline(draw(*columns))


def _inline(figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # "axes_1" of every figure would collide on one page
    head, tail = text.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head).group()
    return f"<svg {box}>{tail}"
