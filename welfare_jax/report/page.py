"""Assembles `report.html` and `tables/*.csv` from the files of a run."""

import pathlib

from welfare_jax.report import data, markup, player, style, tables
from welfare_jax.report.sections import SECTIONS

OWN = {
    "evals": "evals",
    "reward_model": "reward_models",
    "imitation": "imitation",
    "pretrain": "pretraining",
    "amplify": "amplification",
    "words": "words",
}  # jobs whose report is one section of their own


def write(workdir) -> pathlib.Path:
    """Writes `report.html` and `tables/*.csv` into `workdir` from what the run left there; returns the report's path.

    Reads `config.json`, `metrics.jsonl`, `summary.json` and `analysis.json`. What is missing is left out of the
    report, which says so. Raises InputError if `workdir` is not a folder.
    """
    run = data.load(workdir)
    built = tables.build(run)
    folder = pathlib.Path(workdir)
    tables.write(built, folder / "tables")
    path = folder / "report.html"
    path.write_text(html(run, built), encoding="utf-8", errors="replace")
    return path


def html(run: data.Run, built: dict) -> str:
    """The whole report as one HTML document."""
    title = f"{run.name}: what the run showed"
    own = OWN.get(run.config.get("job"))
    hidden = {*OWN.values()} - ({"evals"} if run.evals else set())
    sections = [s for s in SECTIONS if (s[0] in (own, "config") if own else s[0] not in hidden)]
    links = "".join(f'<li><a href="#{name}">{name.replace("_", " ").capitalize()}</a></li>' for name, _, _ in sections)
    parts = [_section(name, heading, draw, run, built) for name, heading, draw in sections]
    body = f"<header><h1>{markup.esc(title)}</h1>{_notes(run)}</header><nav><ul>{links}</ul></nav>"
    return markup.page(title, f"{body}<main>{''.join(parts)}</main>", style.css() + player.css(), player.SCRIPT)


def _section(name, heading, draw, run, built) -> str:
    content = markup.attempt(draw, run, built)
    return f'<section id="{name}"><h2>{markup.esc(heading)}</h2>{content}</section>'


def _notes(run) -> str:
    if not run.notes or run.config.get("job") in OWN:
        return ""
    return f'<p class="missing">The run is not complete: {markup.esc("; ".join(run.notes))}.</p>'
