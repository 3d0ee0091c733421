"""Small pieces of HTML. Everything that comes from a run's files passes `esc`."""

import html
import json
import math

# Control characters are not allowed in HTML; a model may well sample them.
_CONTROLS = {c: "\N{REPLACEMENT CHARACTER}" for c in (*range(32), *range(0xD800, 0xE000)) if c not in (9, 10, 13)}
_SPACES = {" ": "\u2423", "\n": "\u23ce", "\t": "\u21e5", "\r": "\u240d"}


class Missing(Exception):
    """A section's data is not there; the message says what, in half a sentence."""


def attempt(draw, *args) -> str:
    """What `draw(*args)` returns, or a line that says why there is nothing.

    Data that are missing or malformed cost the reader this part and not what stands beside it.
    """
    try:
        return draw(*args)
    except Missing as missing:
        why = str(missing)
    except Exception as error:
        why = f"the data could not be shown ({type(error).__name__}: {error})"
    return f'<p class="missing">Left out: {esc(why)}.</p>'


def esc(value) -> str:
    """Any value as text that is safe in an element and in a quoted attribute."""
    return html.escape(str(value).translate(_CONTROLS))


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
    return (
        num(100 * value, 0) + "\N{NO-BREAK SPACE}%"
        if isinstance(value, (int, float)) and math.isfinite(value)
        else "\u2014"
    )


def table(headers, rows, numeric=(), css="") -> str:
    """A scrolling table; `rows` hold finished HTML, columns whose index is in `numeric` align right."""
    kind = [' class="n"' if i in numeric else "" for i in range(len(headers))]
    head = "".join(f"<th{k}>{esc(h)}</th>" for h, k in zip(headers, kind, strict=True))
    body = "".join("<tr>" + "".join(f"<td{k}>{c}</td>" for c, k in zip(r, kind, strict=True)) + "</tr>" for r in rows)
    return f'<div class="scroll {css}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def details(summary: str, body: str) -> str:
    return f"<details><summary>{esc(summary)}</summary>{body}</details>"


def embed_json(value) -> str:
    """JSON for a script element: no `<` can end the element early, and NaN, unknown to browsers, becomes null."""
    text = json.dumps(_without_nan(value))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _without_nan(value):
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(k): _without_nan(v) for k, v in value.items()}
    return [_without_nan(v) for v in value] if isinstance(value, (list, tuple)) else value


def page(title: str, body: str, css: str, script: str) -> str:
    """A whole HTML document that asks for nothing outside itself."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # An empty icon keeps browsers from asking a server for one.
        f'<link rel="icon" href="data:,"><title>{esc(title)}</title><style>{css}</style></head>\n'
        f"<body>{body}\n<script>{script}</script></body></html>\n"
    )
