"""Assembles `report.html` and `tables/*.csv` from the files of a run and what an experiment shows of them."""

import json
import pathlib

from markupsafe import Markup

from welfare_jax.report import answer as answer_lib
from welfare_jax.report import data
from welfare_jax.report import tables as tables_lib
from welfare_jax.report.markup import Missing, attempt, details, joined, pre, render, table


def write(run: data.Run, tables: dict, sections, answer) -> pathlib.Path:
    """Writes `report.html`, `tables/*.csv` and the picture of the answer into the run's folder; the report's path.

    tables: {name: {column: list}}. sections: (id, heading, draw) of each in the page's order; the settings follow.
    `draw(run, tables)` returns `Markup`, or "" where the section has no place on this page, or raises `Missing`.
    `answer(run, tables)` returns what stands on top (see answer.py), or raises `Missing`.
    """
    built = tables_lib.kept(tables)
    tables_lib.write(built, run.folder / "tables")
    drawn = [(*about, attempt(draw, run, built)) for *about, draw in (*sections, CONFIGURATION)]
    html = render(
        "report.html", title=f"{run.name}: what the run showed", sections=[s for s in drawn if s[-1]],
        answer=answer_lib.top(run, built, answer),
    )  # fmt: skip
    path = run.folder / "report.html"
    path.write_text(html, encoding="utf-8", errors="replace")
    return path


def _configuration(run: data.Run, tables: dict) -> Markup:
    """The resolved configuration, and the scalars of the summary."""
    if not run.config and not run.summary:
        raise Missing("neither config.json nor summary.json is there")
    parts = []
    if run.summary:
        flat = {k: v for k, v in run.summary.items() if not isinstance(v, (dict, list))}
        if isinstance(run.summary.get("seconds"), dict):
            flat |= {f"seconds, {part}": v for part, v in run.summary["seconds"].items()}
        parts.append(details("Summary", table(("name", "value"), flat.items())))
    if run.config:
        text = json.dumps(run.config, indent=2, ensure_ascii=False)
        parts.append(details("Resolved configuration", pre(text)))
    return joined(parts)


CONFIGURATION = ("config", "Configuration", _configuration)
