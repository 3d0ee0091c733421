"""State or read-out, in the report: verdicts with their rules, effects by exposure, the map of positions, tables."""

import math
import re

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from welfare_jax.report import style
from welfare_jax.report.data import dicts, number
from welfare_jax.report.markup import code, details, heading, joined, note, num, share, table, visible
from welfare_jax.report.svg import beneath, embed
from welfare_jax.report.tables import Table

COLUMNS = {
    "effects": ("direction", "layer", "dose", "exposure", "metric", "mean", "low", "high", "families", "silent"),
    "ratios": ("direction", "layer", "dose", "metric", "ratio", "low", "high"),
    "verdicts": ("direction", "layer", "dose", "claim", "verdict", "value", "low", "high", "rule"),
    "ranks": ("exposure", "matching", "kind", "effect", "share", "low", "high", "n"),
    "controls": ("exposure", "matching", "direction", "kind", "dose", "divergence", "effect"),
    "matching": ("exposure", "matching", "own", "low", "median", "high"),
    "counts": ("surface", "prompts", "mastered", "families"),
    "event": ("metric", "mean", "low", "high", "families"),
    "along": ("exposure", "site", "layer", "moved"),
    "map": ("prompt", "position", "token", "part", "effect"),
}
NEEDED = ("evals_temporal_counts",)
EXPOSURES = {"early": "early,\nwithdrawn", "readout": "at the\nread-out", "throughout": "throughout"}
PANELS = {
    "words": "Words: log-odds, nats", "codes, binding": "Codes, both ways: log-odds, nats",
    "number": "Number: points of 9", "switch": "Another answer: share",
}  # fmt: skip
EDGE = "#333333"  # on the map's own colours, which are light in both themes
BANDS = {"norm": {"alpha": 0.35}, "divergence": {"alpha": 0.2, "hatch": "////"}}
LOOKS = {"gold": style.GOLD, "mold": style.MOLD, "path": style.PATH_BASELINE, "residual": style.REST}


def tables(records) -> dict:
    """`evals.json`'s records as tables {"evals_temporal_<part>": {column: list}}, a column for the model in each."""
    out = {}
    for part, names in COLUMNS.items():
        rows = [(record, row) for record in dicts(records) for row in dicts(record.get(part))]
        if rows:
            out[f"evals_temporal_{part}"] = Table.of_dicts(
                [{"model": record.get("model")} | row for record, row in rows], ("model", *names)
            )
    return out


def place(verdicts: dict, model: str) -> dict:
    """The direction, layer and dose at which a model's three claims are judged."""
    rows = verdicts.rows(model=model)
    last = next((r for r in reversed(rows) if r["claim"] == "specificity"), rows[-1])
    return {name: last[name] for name in ("direction", "layer", "dose")}


def exposures(effects: dict, verdicts: dict, controls: dict | None, panels=PANELS, legend: int = 4) -> Figure:
    """A row a model, a panel a surface: each direction's effect by exposure, and its controls as grey bands."""
    models = list(dict.fromkeys(effects["model"]))
    figure = Figure(figsize=(9, 3.3 * len(models)), layout="constrained")
    axes = figure.subplots(len(models), len(panels), squeeze=False)
    for line, model in zip(axes, models):
        at = place(verdicts, model)
        for ax, (metric, title) in zip(line, panels.items()):
            rows = [
                r for r in effects.rows(model=model, metric=metric, layer=at["layer"])
                if abs(r["dose"]) == at["dose"]
            ]  # fmt: skip
            if controls and metric == "words":
                _bands(ax, controls.rows(model=model))
            _points(ax, rows, at)
            if not any(math.isfinite(number(r["mean"])) for r in rows):
                ax.text(0.5, 0.6, "no prompt's question\nis mastered", transform=ax.transAxes, ha="center", fontsize=8)
                ax.set_yticks([])
            ax.axhline(0, color=style.TRAINED, linewidth=0.7)
            ax.set_title(f"{title}\n{model} model, layer {at['layer']}", fontsize=8.5)
            ax.set_xticks(range(len(EXPOSURES)), EXPOSURES.values(), fontsize=7.5)
            ax.set_xlim(-0.5, len(EXPOSURES) - 0.5)
    beneath(figure, legend, fontsize=8)
    return figure


def _points(ax, rows, at):
    names = list(dict.fromkeys((r["direction"], r["dose"] < 0) for r in rows))
    for i, (name, negative) in enumerate(names):
        mine = {r["exposure"]: r for r in rows if (r["direction"], r["dose"] < 0) == (name, negative)}
        shown = [(k, mine[e]) for k, e in enumerate(EXPOSURES) if e in mine]
        x = [k + (i - (len(names) - 1) / 2) * 0.11 for k, _ in shown]
        y = np.array([[number(r[end]) for _, r in shown] for end in ("mean", "low", "high")])
        main = name == at["direction"]
        look = {"color": LOOKS.get(name, style.TRAINED), "markersize": 6 if main else 4}
        if negative:
            look |= {"markerfacecolor": "white"}
        ax.errorbar(x, y[0], np.abs(y[1:] - y[0]), fmt="o", elinewidth=1.2, label=f"{name}, negative dose" if negative
                    else name, **look)  # fmt: skip


def _bands(ax, rows):
    for k, exposure in enumerate(EXPOSURES):
        for matching, look in BANDS.items():
            found = [number(r["effect"]) for r in rows if (r["exposure"], r["matching"]) == (exposure, matching)]
            found = [x for x in found if math.isfinite(x)]
            if found:
                low, high = np.quantile(found, (0.025, 0.975))
                ax.fill_between([k - 0.42, k + 0.42], low, high, color=style.UNTRAINED, linewidth=0, zorder=0,
                                label=f"middle 95 % of {len(found)} controls of equal {matching}", **look)  # fmt: skip


def layers(effects: dict, verdicts: dict) -> Figure:
    """A panel a model: the direction's effect on the words over the layer of the dose, a line an exposure."""
    models = list(dict.fromkeys(effects["model"]))
    figure = Figure(figsize=(9, 2.8 * len(models)), layout="constrained")
    axes = figure.subplots(len(models), 1, squeeze=False)[:, 0]
    for ax, model in zip(axes, models):
        at = place(verdicts, model)
        rows = effects.rows(model=model, metric="words", direction=at["direction"], dose=at["dose"])
        for exposure, colour in zip(EXPOSURES, (style.MOLD, style.GOLD, style.UNTRAINED)):
            mine = sorted((r for r in rows if r["exposure"] == exposure), key=lambda r: r["layer"])
            x, y = [r["layer"] for r in mine], [[number(r[k]) for r in mine] for k in ("mean", "low", "high")]
            ax.plot(x, y[0], marker="o", markersize=3, color=colour, label=exposure)
            ax.fill_between(x, *y[1:], color=colour, alpha=0.15, linewidth=0)
        ax.axhline(0, color=style.TRAINED, linewidth=0.7)
        ax.set(title=f"{at['direction']}, {model} model", xlabel="layer of the dose", ylabel="nats")
    beneath(figure)
    return figure


def named(prompt: str) -> str:
    """A prompt's name in words: "temporal:3/well/1" is the fourth task, which went well, before a long talk."""
    found = re.fullmatch(r".*:(\d+)/(well|badly)/([01])", str(prompt))
    if not found:
        return prompt
    task, outcome, length = found.groups()
    return f"task {int(task) + 1}, went {outcome}, {('short', 'long')[int(length)]} talk in between"


def positions(found: dict) -> Figure:
    """A strip a prompt: what the dose does to the words at each single token; ends of parts as lines."""
    strips = list(dict.fromkeys(zip(found["model"], found["prompt"])))
    figure = Figure(figsize=(9, 0.7 + 0.75 * len(strips)), layout="constrained")
    axes = figure.subplots(len(strips), 1, squeeze=False)[:, 0]
    top = max([abs(number(x)) for x in found["effect"] if math.isfinite(number(x))], default=0) or 1
    image = None
    for ax, (model, prompt) in zip(axes, strips):
        rows = found.rows(model=model, prompt=prompt)
        values = np.array([[number(r["effect"]) for r in rows]])
        image = ax.imshow(values, aspect="auto", cmap="RdBu", vmin=-top, vmax=top, interpolation="nearest")
        edges = [i for i in range(1, len(rows)) if rows[i]["part"] != rows[i - 1]["part"]]
        for edge in edges:
            ax.axvline(edge - 0.5, color=EDGE, linewidth=0.8)
        starts = [0, *edges]
        ax.set_xticks(starts, [rows[i]["part"] for i in starts], fontsize=7, ha="left")
        ax.set_yticks([])
        ax.set_title(f"{named(prompt)}, {model} model", fontsize=7.5)
        ax.grid(False)
    if image is not None:
        figure.colorbar(image, ax=list(axes), label="nats", shrink=0.9)
    return figure


def section(built: dict) -> Markup:
    """The part of the page, from the tables; what a run has not read is left out."""
    get = lambda part: built.get(f"evals_temporal_{part}")
    effects, verdicts = get("effects"), get("verdicts")
    parts = [heading("State or read-out?"), _counts(get("counts"))]
    if not effects or not verdicts:  # no question was mastered
        return joined(parts)
    parts.insert(1, _verdicts(verdicts))
    parts.append(embed(
        (exposures, effects, verdicts, get("controls")),
        "The same dose early, at the read-out, and throughout",
        "What the same dose adds to the answer when it is given early and withdrawn, only where the answer is read, "
        "or throughout. A lasting state would move the left-hand points as far as the middle ones; a read-out moves "
        "the middle ones alone. Points outside the grey bands move the answer more than nearly all directions of "
        "equal norm, or of equal effect on the next token where they are added. Bars: 95 % intervals over families.",
        "evals_temporal_effects",
    ))  # fmt: skip
    if len({*effects["layer"]}) > 1:
        parts.append(embed(
            (layers, effects, verdicts),
            "The same dose at every layer",
            "The same, layer by layer, at the largest dose: what it adds to the log-odds of the words.",
            "evals_temporal_effects",
        ))  # fmt: skip
    if get("ranks"):
        parts.append(_ranks(get("ranks"), get("matching")))
    if get("map"):
        parts.append(embed(
            (positions, get("map")),
            "The same dose at every token",
            "The same dose at every single token of a few prompts: what it adds to the log-odds of the words at the "
            "end.",
            "evals_temporal_map",
        ))  # fmt: skip
        parts.append(details("The ten tokens of each prompt that matter most", _tokens(get("map"))))
    parts.append(details("Effects and ratios", _effects(effects) + _ratios(get("ratios"))))
    if get("along"):
        parts.append(details("Where the dose lies in the stream", _along(get("along"))))
    return joined(parts)


def _verdicts(verdicts) -> Markup:
    rows = [
        [r["model"], r["direction"], num(r["layer"], 0), num(r["dose"], 1), r["claim"],
         Markup("<b>{}</b>").format(r["verdict"]), *(num(number(r[k]), 3) for k in ("value", "low", "high"))]
        for r in verdicts.rows()
    ]  # fmt: skip
    rules = dict(zip(verdicts["claim"], verdicts["rule"]))
    said = "; ".join(f"{claim}: {rule}" for claim, rule in rules.items())
    head = ("model", "direction", "layer", "dose", "claim", "verdict", "value", "low", "high")
    return table(head, rows, numeric=(2, 3, 6, 7, 8)) + note(f"The rules were fixed before the run. {said}.")


def _counts(counts) -> Markup:
    if not counts:
        return Markup("")
    said = "; ".join(
        f"{r['model']} model, {r['surface']}: {r['mastered']} of {r['prompts']} prompts, {r['families']} families"
        for r in counts.rows()
    )
    return note(
        f"Left in, after the comprehension check without steering: {said}. A question is mastered where the answer "
        "follows a supposition that all goes well, or badly, and lies in the tokens asked for."
    )


def _ranks(ranks, matching) -> Markup:
    spread = {(r["model"], r["exposure"], r["matching"]): r for r in matching.rows()} if matching else {}
    rows = []
    for r in ranks.rows():
        kl = spread.get((r["model"], r["exposure"], r["matching"]), {})
        rows.append([
            *(r[k] for k in ("model", "exposure", "matching", "kind")), num(number(r["effect"]), 3, sign=True),
            num(number(r["share"]), 3), num(number(r["low"]), 3), num(number(r["high"]), 3), num(r["n"], 0),
            *(num(number(kl.get(k)), 4) for k in ("own", "low", "median", "high")),
        ])  # fmt: skip
    head = ("model", "exposure", "equal", "controls", "effect", "share as large", "low", "high", "n",
            "KL, nats", "controls' 5 %", "median", "95 %")  # fmt: skip
    about = note(
        "The share of controls, the direction itself counted in, that move the words at least as much. KL is the "
        "divergence of the next token where the dose is added."
    )
    return heading("The direction among its controls") + about + table(head, rows, numeric=range(4, 13))


def _tokens(found) -> Markup:
    rows = []
    for model, prompt in dict.fromkeys(zip(found["model"], found["prompt"])):
        mine = [r for r in found.rows(model=model, prompt=prompt) if math.isfinite(number(r["effect"]))]
        rows += [
            [model, named(prompt), num(r["position"], 0), code(visible(r["token"])),
             r["part"], num(r["effect"], 3, sign=True)]
            for r in sorted(mine, key=lambda r: -abs(r["effect"]))[:10]
        ]  # fmt: skip
    return table(("model", "prompt", "position", "token", "part", "effect"), rows, numeric=(2, 5), css="tall")


def _effects(effects) -> Markup:
    rows = [
        [*(r[k] for k in ("model", "direction")), num(r["layer"], 0), num(r["dose"], 2, sign=True),
         *(r[k] for k in ("exposure", "metric")),
         *(num(number(r[k]), 3, sign=True) for k in ("mean", "low", "high")),
         num(r["families"], 0), share(number(r["silent"]))]
        for r in effects.rows()
    ]  # fmt: skip
    head = (
        "model",
        "direction",
        "layer",
        "dose",
        "exposure",
        "measure",
        "effect",
        "low",
        "high",
        "families",
        "silent",
    )
    return table(head, rows[:2000], numeric=(2, 3, 6, 7, 8, 9, 10), css="tall")


def _ratios(ratios) -> Markup:
    rows = [
        [*(r[k] for k in ("model", "direction")), num(r["layer"], 0), num(r["dose"], 2, sign=True),
         r["metric"], *(num(number(r[k]), 3, sign=True) for k in ("ratio", "low", "high"))]
        for r in (ratios.rows() if ratios else ())
    ]  # fmt: skip
    head = ("model", "direction", "layer", "dose", "measure", "early / read-out", "low", "high")
    return table(head, rows[:2000], numeric=(2, 3, 5, 6, 7), css="tall")


def _along(found) -> Markup:
    layers = sorted(set(found["layer"]))
    rows = []
    for key in dict.fromkeys(zip(found["model"], found["exposure"], found["site"])):
        mine = {r["layer"]: r for r in found.rows(model=key[0], exposure=key[1], site=key[2])}
        rows.append([*key, *(num(number(mine[k]["moved"]), 2, sign=True) for k in layers if k in mine)])
    head = ("model", "exposure", "token", *(f"layer {k}" for k in layers))
    return table(head, rows, numeric=range(3, len(head)), css="tall")
