"""Figures on the page: inline SVG in the report's look, in both themes, with a title, what it shows, and a caption."""

import io
import math
import re

import matplotlib
import numpy as np
from cycler import cycler
from markupsafe import Markup
from matplotlib.colors import to_hex
from matplotlib.transforms import ScaledTranslation

from welfare_jax.report import style
from welfare_jax.report.markup import figure, num

LOOK = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's own font
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=style.CYCLE),
    "grid.color": style.GRID,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
} | dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), style.TRAINED)
_NAMES = {light: name for name, (light, _) in style.VARIABLES.items()}


def embed(drawing, title: str, caption: str, csv: str) -> Markup:
    """What `drawing`, a function and its arguments, draws; csv: the table that holds its numbers."""
    return figure(Markup(svg(*drawing, title=title)), title, caption, csv)


def svg(draw, *columns, title: str = "", look=None) -> str:
    """What `draw(*columns)` draws, as inline SVG; title: what a reader is told who cannot see it, before `told`."""
    # The salt keeps the ids of two figures of one page apart, and the same from run to run.
    with matplotlib.rc_context(LOOK | (look or {}) | {"svg.hashsalt": draw.__name__ + title}):
        return _inline(draw(*columns), title)


def told(figure) -> str:
    """What a figure shows, in words for a reader who cannot see it: of each panel its title, axes, and where each
    named line begins and ends."""
    return " ".join(filter(None, map(_panel, figure.axes)))


def under(ax, **look):
    """The legend of one panel, below it and what is written there, so that it hides no data."""
    if ax.get_legend_handles_labels()[0]:
        points = ScaledTranslation(0, -32 / 72, ax.figure.dpi_scale_trans)
        ax.legend(loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=ax.transAxes + points, borderpad=0, **look)


def beneath(figure, columns: int = 4, **look):
    """One legend of all panels below the figure, each label once."""
    handles = {}
    for ax in figure.axes:
        handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True)) | handles
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, **look)


def _panel(ax) -> str:
    name = ax.get_title("left") or ax.get_title() or ax.get_ylabel()
    across, up = ax.get_xlabel(), ax.get_ylabel()
    parts = [f"{up or 'values'} against {across}" if across and ax.has_data() else ""]
    for line in ax.get_lines():
        y = [v for v in np.atleast_1d(np.asarray(line.get_ydata(), float)) if math.isfinite(v)]
        label = str(line.get_label())
        if len(y) > 1 and not label.startswith("_"):
            parts.append(f"{label} from {num(y[0])} to {num(y[-1])}")
    return f"{' '.join(name.split())}: {'; '.join(filter(None, parts))}." if name and any(parts) else ""


def _inline(figure, title) -> str:
    buffer = io.StringIO()
    blank = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=blank, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # "axes_1" of every figure would collide on one page
    text = re.sub(r"#[0-9a-f]{6}\b", lambda found: _themed(found.group()), text)
    head, tail = text.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head).group()
    says = Markup("<title>{}</title><desc>{}</desc>").format(title, told(figure))
    return f'<svg {box} role="img">{says}{tail}'


def _themed(colour: str) -> str:
    """A colour of the house as a variable of the page; any other as it is."""
    name = _NAMES.get(to_hex(colour))
    return f"var(--{name})" if name else colour
