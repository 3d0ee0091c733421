"""Figures: colours of both themes, words for those who cannot see them, legends beside the data."""

import re

import pytest
from fakes import fake_run
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from welfare_jax.experiments.axis import answer, axes_figures, figures
from welfare_jax.experiments.axis.tables import tables
from welfare_jax.report import data, style, svg


def drawn(columns) -> Figure:
    figure = Figure(figsize=(4, 3), layout="constrained")
    ax = figure.subplots()
    ax.plot(columns, color=style.GOLD, label="Gold")
    ax.plot([0, 1], [0, 5], color="#123456", markerfacecolor="white", marker="o")
    ax.set(title="Tiles", xlabel="step", ylabel="entered")
    svg.beneath(figure)
    return figure


def test_colours_are_the_pages_own():
    found = svg.svg(drawn, [3, 1.5, 1])
    assert (
        "stroke: var(--gold)" in found and "var(--ink)" in found and "fill: var(--page)" in found
    )  # line, text, hole
    assert style.GOLD not in found and "#123456" in found  # what is no colour of the house stays
    assert "#ffffff" not in found  # nothing white behind it


def test_what_it_shows_is_told():
    found = svg.svg(drawn, [3, 1.5, 1], title="A <b>")
    assert re.match(r'<svg viewBox="[^"]*" role="img"><title>A &lt;b&gt;</title><desc>([^<]*)</desc>', found)
    assert "<desc>Tiles: entered against step; Gold from 3.00 to 1.00.</desc>" in found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fake_run(folder)
    return data.load(folder)


def test_no_legend_lies_on_data(run):
    built = tables(run)
    intervals, means = built["cosine_intervals"], built["cosine_mean_over_training"]
    for drawing in (
        (figures.reward, built["reward"]), (figures.behaviour, built["behaviour"]),
        (figures.cosine_by_layer, built["cosine_by_layer"], intervals),
        (figures.cosine_over_training, built["cosine_over_training"], means, {"path": 0.1}),
        (figures.separation_over_training, built["separation_over_training"]),
        (figures.geometry, built["geometry"], intervals), (figures.selection, built["selection"]),
        (axes_figures.densities, built["densities"]), (axes_figures.axes_by_layer, built["axes"]),
        (axes_figures.emotion_components, built["emotion_components"]),
        (answer.both, built["reward"], built["cosine_by_layer"], intervals, None),
        (answer.beside, built["axes"], "trained", 1),
    ):  # fmt: skip
        draw, *columns = drawing
        figure = draw(*columns)
        FigureCanvasAgg(figure).draw()
        legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes if ax.get_legend())]
        assert legends, draw.__name__
        for box in (legend.get_window_extent() for legend in legends):
            assert not any(box.overlaps(ax.get_window_extent()) for ax in figure.axes), draw.__name__
            assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0, draw.__name__  # nor is it cut off
