"""HTML from the templates beside this file. They escape everything but `Markup`, which what is made here is."""

import json
import math
import pathlib

import jinja2
from markupsafe import Markup

from welfare_jax.report import style

# Control characters are not allowed in HTML; a model may well sample them.
_CONTROLS = {c: "\N{REPLACEMENT CHARACTER}" for c in (*range(32), *range(0xD800, 0xE000)) if c not in (9, 10, 13)}
_SPACES = {" ": "\u2423", "\n": "\u23ce", "\t": "\u21e5", "\r": "\u240d"}


class Missing(Exception):
    """A section's data is not there; the message says what, in half a sentence."""


def attempt(draw, *args) -> Markup:
    """What `draw(*args)` returns, or a line that says why there is nothing.

    Data that are missing or malformed cost the reader this part and not what stands beside it.
    """
    try:
        return draw(*args)
    except Missing as error:
        why = str(error)
    except Exception as error:
        why = f"the data could not be shown ({type(error).__name__}: {error})"
    return missing(f"Left out: {why}.")


def need(tables: dict, name: str, otherwise: str) -> dict:
    """The table of that name; raises Missing, which says `otherwise`, where it is not there."""
    if name not in tables:
        raise Missing(otherwise)
    return tables[name]


def joined(parts) -> Markup:
    return Markup("").join(parts)


def visible(token: str) -> str:
    """A token as readable text: blanks, line ends and unprintable characters get a sign of their own."""
    signs = (_SPACES.get(c) or (c if c.isprintable() else f"\\u{ord(c):04x}") for c in str(token))
    return "".join(signs) or "(empty)"


def num(value, digits=2, sign=False) -> str:
    """A number for reading, with a true minus sign; an em dash for NaN."""
    if not isinstance(value, (int, float)) or math.isnan(value):
        return "\u2014"
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")  # no "-0.00"
    return text.replace("-", "\u2212")


def share(value) -> str:
    known = isinstance(value, (int, float)) and math.isfinite(value)
    return f"{num(100 * value, 0)}\N{NO-BREAK SPACE}%" if known else "\u2014"


def strength(alpha: float) -> str:
    return num(alpha, 0 if alpha == int(alpha) else 2, sign=True)


def interval(value, low, high, digits=2, sign=False) -> str:
    """A number with its 95 % interval; where that is not known, the number says so."""
    ends = [num(x, digits, sign) for x in (low, high)]
    known = all(isinstance(x, (int, float)) and math.isfinite(x) for x in (low, high))
    return (
        f"{num(value, digits, sign)} (95\N{NO-BREAK SPACE}% {ends[0]} to {ends[1]})"
        if known
        else (f"{num(value, digits, sign)}, without an interval")
    )


def embed_json(value) -> Markup:
    """JSON for a script element: no `<` can end the element early, and NaN, unknown to browsers, becomes null."""
    text = json.dumps(_without_nan(value))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _without_nan(value):
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(k): _without_nan(v) for k, v in value.items()}
    return [_without_nan(v) for v in value] if isinstance(value, (list, tuple)) else value


def render(template: str, **values) -> Markup:
    return Markup(_TEMPLATES.get_template(template).render(values).translate(_CONTROLS))


_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent / "templates"), autoescape=True, trim_blocks=True,
    lstrip_blocks=True, undefined=jinja2.StrictUndefined,
)  # fmt: skip
_TEMPLATES.globals |= {name: value for name, value in vars(style).items() if name.isupper()}
_TEMPLATES.filters["strength"] = strength
_PARTS = _TEMPLATES.get_template("parts.html").module
heading, paragraph, note, missing = _PARTS.heading, _PARTS.paragraph, _PARTS.note, _PARTS.missing
code, pre, pair, details = _PARTS.code, _PARTS.pre, _PARTS.pair, _PARTS.details
cards, figure, table, texts, answer = _PARTS.cards, _PARTS.figure, _PARTS.table, _PARTS.texts, _PARTS.answer
