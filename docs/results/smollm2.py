"""Draws smollm2.png, beside this file, from the tables in smollm2/: python docs/results/smollm2.py."""

import csv
import pathlib

from matplotlib.figure import Figure

HERE = pathlib.Path(__file__).parent
GREY, GREEN, RED, BLUE = "#8a939b", "#b8860b", "#7b3294", "#2166ac"


def table(name):
    with open(HERE / "smollm2" / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def numbers(rows, column):
    return [float(r[column]) for r in rows]


figure = Figure(figsize=(9, 3.0), layout="constrained", dpi=150)
learning, lengths, cosines = figure.subplots(1, 3)
for rows, width in (
    [(table("behaviour.csv"), 2.0)]
    + [([r for r in table("seeds/behaviour.csv") if r["organism"] == str(i)], 0.7) for i in range(3)]
):  # fmt: skip
    for column, colour, name in (("gold_taken", GREEN, "Gold taken"), ("mold_avoided", RED, "Mold avoided")):
        label = name if width > 1 else None
        learning.plot(numbers(rows, "step"), numbers(rows, column), color=colour, linewidth=width, label=label)
learning.set(title="What it learns", xlabel="training step", ylabel="share of chances", ylim=(0, 1.02))
geometry = table("geometry.csv")
for vector, colour in (("gold", GREEN), ("mold", RED)):
    for model, style in (("untrained", "--"), ("trained", "-")):
        y = numbers(geometry, f"norm_{vector}_{model}")
        lengths.plot(numbers(geometry, "layer"), y, style, color=colour, label=f"v_{vector}, {model}")
lengths.set(title="Length of its class vectors", xlabel="layer", yscale="log")
rows = [r for r in table("seeds/cosines.csv") if r["kind"] == "path"]
of = lambda seed: [r for r in rows if r["seed"] == seed]
chance = [numbers(of("0"), f"chance_{end}") for end in ("low", "high")]
cosines.fill_between(numbers(of("0"), "layer"), *chance, color="#b5bcc2", alpha=0.3, label="permuted labels, 95 %")
cosines.plot(numbers(of(""), "layer"), numbers(of(""), "value"), "--", color=GREY, label="untrained")
for seed in "012":
    label = "trained, three seeds" if seed == "0" else None
    cosines.plot(numbers(of(seed), "layer"), numbers(of(seed), "value"), color=BLUE, linewidth=1.2, label=label)
cosines.axhline(0, color="#b5bcc2", linewidth=0.8)
cosines.set(title="cos(v_mold, v_gold), Path baseline", xlabel="layer", ylim=(-1, 1))
for ax in (learning, lengths, cosines):
    ax.legend(fontsize=7, frameon=False)
    ax.title.set_fontsize(9)
    ax.tick_params(labelsize=8)
figure.savefig(HERE / "smollm2.png")
