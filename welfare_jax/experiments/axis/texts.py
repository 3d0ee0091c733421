"""The sections of the main job's report that show tokens and texts: the logit lens, steered samples."""

import itertools

from markupsafe import Markup

from welfare_jax.experiments.axis.tables import MODELS, VECTORS
from welfare_jax.report.data import Run, finite, number
from welfare_jax.report.markup import details, heading, joined, need, note, num, pair, table, texts, visible


def lens(run: Run, tables: dict) -> Markup:
    """Tokens that the vectors promote and suppress, trained and untrained side by side."""
    columns = need(tables, "lens", "analysis.json has no logit lens")
    folded, plain = (_lens_pairs(columns.where(norm=norm)) for norm in ("folded", "plain"))
    out = note(
        "The vector alone, read through the unembedding: the tokens it makes likelier and less likely. \u2423 is a "
        "blank, \u23ce a line end. \u2194: also on the other vector's opposite list; =: also on its same list."
    )
    return out + folded + (details("Without the final norm's weight folded in", plain) if plain else Markup())


def _lens_pairs(columns) -> Markup:
    out = []
    for vector in VECTORS:
        parts = []
        for model in MODELS:
            if mine := columns.rows(vector=vector, model=model):
                layer = f", layer {mine[0]['layer']}" if mine[0]["layer"] is not None else ""
                parts.append(heading(f"v_{vector}, {model}{layer}") + _lens_table(mine))
        out += [pair(parts)] if parts else []
    return joined(out)


def _lens_table(rows) -> Markup:
    sides = [[r for r in rows if r["side"] == side] for side in ("promoted", "suppressed")]
    lines = []
    token = Markup('<span class="token">{}</span>{}')
    for i, both in enumerate(itertools.zip_longest(*sides), start=1):
        shown = lambda r: (token.format(visible(r["token"]), _mark(r)), num(r["value"], sign=True)) if r else ("", "")
        lines.append((i, *itertools.chain.from_iterable(map(shown, both))))
    return table(("", "promoted", "logit", "suppressed", "logit"), lines, numeric=(0, 2, 4))


def _mark(row) -> str:
    """Whether another vector lists the token too, on the same side or on the other."""
    sides = [where.split()[-1] for where in str(row["also"]).split(", ") if where]
    same, opposite = row["side"] in sides, set(sides) - {row["side"]}
    return (" =" if same else "") + (" \u2194" if opposite else "")


def samples(run: Run, tables: dict) -> Markup:
    """Steered continuations: one table per prompt, one column per strength."""
    columns = need(tables, "samples", "analysis.json has no steered samples")
    alphas = sorted(finite({number(alpha) for alpha in columns["alpha"]}))
    about = "\u03b1 times the vector is added to the residual stream at the layer named; \u03b1 = 0 (grey) is"
    out = [note(f"{about} the model left alone.")]
    for i, prompt in enumerate(dict.fromkeys(map(str, columns["prompt"]))):
        body = _texts([r for r in columns.rows() if str(r["prompt"]) == prompt], alphas)
        title = f"\u201c{prompt}\u201d"
        out.append(heading(title) + body if i < 3 else details(title, body))
    return joined(out)


def _texts(rows, alphas) -> Markup:
    lines, name = [], lambda r: (str(r["vector"]), str(r["model"]), str(r["layer"]))
    for key in sorted(dict.fromkeys(map(name, rows)), key=lambda k: (k[0] != "mold", k[1] != "untrained", k[2])):
        vector, model, layer = key
        mine = [r for r in rows if name(r) == key]
        cells = [[r["text"] for r in mine if number(r["alpha"]) == alpha] for alpha in alphas]
        mark = vector if vector in VECTORS else ""
        lines.append((mark, (f"v_{vector}", model, f"layer {layer}"), cells))
    return texts(alphas, lines)
