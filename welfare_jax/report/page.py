"""Assembles `report.html` and `tables/*.csv` from the files of a run and what an experiment shows of them."""

import json
import pathlib

from welfare_jax.report import data, markup, player, style
from welfare_jax.report import tables as tables_lib


def write(run: data.Run, tables: dict, sections) -> pathlib.Path:
    """Writes `report.html` and `tables/*.csv` into the run's folder; returns the report's path.

    tables: {name: {column: list}}. sections: (id, heading, draw) of each in the page's order; the settings follow.
    `draw(run, tables)` returns HTML, or "" where the section has no place on this page, or raises `Missing`.
    """
    built = tables_lib.kept(tables)
    tables_lib.write(built, run.folder / "tables")
    path = run.folder / "report.html"
    path.write_text(html(run, built, sections), encoding="utf-8", errors="replace")
    return path


def html(run: data.Run, built: dict, sections) -> str:
    """The whole report as one HTML document."""
    title = f"{run.name}: what the run showed"
    drawn = [(*about, markup.attempt(draw, run, built)) for *about, draw in (*sections, CONFIGURATION)]
    drawn = [part for part in drawn if part[-1]]
    links = "".join(f'<li><a href="#{name}">{name.replace("_", " ").capitalize()}</a></li>' for name, _, _ in drawn)
    body = "".join(
        f'<section id="{name}"><h2>{markup.esc(heading)}</h2>{content}</section>' for name, heading, content in drawn
    )
    body = f"<header><h1>{markup.esc(title)}</h1></header><nav><ul>{links}</ul></nav><main>{body}</main>"
    return markup.page(title, body, style.css() + player.css(), player.SCRIPT)


def _configuration(run: data.Run, tables: dict) -> str:
    """The resolved configuration, and the scalars of the summary."""
    if not run.config and not run.summary:
        raise markup.Missing("neither config.json nor summary.json is there")
    out = ""
    if run.summary:
        flat = {k: v for k, v in run.summary.items() if not isinstance(v, (dict, list))}
        if isinstance(run.summary.get("seconds"), dict):
            flat |= {f"seconds, {stage}": v for stage, v in run.summary["seconds"].items()}
        rows = [(markup.esc(k), markup.esc(v)) for k, v in flat.items()]
        out += markup.details("Summary", markup.table(("name", "value"), rows))
    if run.config:
        text = json.dumps(run.config, indent=2, ensure_ascii=False)
        out += markup.details("Resolved configuration", f"<pre>{markup.esc(text)}</pre>")
    return out


CONFIGURATION = ("config", "Configuration", _configuration)
