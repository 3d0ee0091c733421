"""The palette, measured: contrast after WCAG 2.2, and what is left of its differences to colour-blind eyes."""

import itertools

import numpy as np
import pytest

from welfare_jax.report import style
from welfare_jax.report.markup import render

THEME = {"light": 0, "dark": 1}
# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
SEEN = {
    "all colours": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]


def linear(colour):
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    low, high = sorted(0.05 + linear(c) @ [0.2126, 0.7152, 0.0722] for c in (one, other))
    return high / low


def lab(colour, seen):
    """CIE L*a*b* of a colour as it is seen."""
    x = TO_XYZ @ np.clip(np.asarray(seen) @ linear(colour), 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_the_measures_by_hand():
    assert contrast("#000000", "#ffffff") == pytest.approx(21) and contrast("#767676", "#ffffff") == pytest.approx(
        4.54, abs=0.01
    )
    assert lab("#ffffff", np.eye(3)) == pytest.approx([100, 0, 0], abs=0.1)
    assert contrast("#e69f00", "#ffffff") < 3  # the gold of Okabe and Ito, which this palette does without


@pytest.mark.parametrize("theme", THEME)
@pytest.mark.parametrize("ground", ["page", "card"])
def test_lines_and_text_stand_out(theme, ground):
    of = lambda name: style.VARIABLES[name][THEME[theme]]
    for name in style.THEMES:
        assert contrast(of(name), of(ground)) >= 3, name  # graphics
    for name in ("ink", "soft", "mold"):  # text, text that steps back, links
        assert contrast(of(name), of(ground)) >= 4.5, name


@pytest.mark.parametrize("theme", THEME)
@pytest.mark.parametrize("eyes", SEEN)
def test_any_two_can_be_told_apart(theme, eyes):
    """A difference of 2 can just be seen side by side; 12 is plain between thin lines."""
    for one, other in itertools.combinations(style.THEMES, 2):
        a, b = (lab(style.THEMES[name][THEME[theme]], SEEN[eyes]) for name in (one, other))
        assert np.linalg.norm(a - b) > 12, (one, other)


def test_the_page_has_both_themes_and_paper():
    page = str(render("report.html", title="", answer="", sections=[]))
    light, dark = page.index(":root {"), page.index("@media screen and (prefers-color-scheme: dark)")
    for name, (on_white, on_black) in style.VARIABLES.items():
        assert f"--{name}: {on_white};" in page[light:dark] and f"--{name}: {on_black};" in page[dark:], name
    assert "@media print" in page
    used = {part.split(")")[0] for part in page.split("var(--")[1:]}
    assert used <= style.VARIABLES.keys()  # none is used that no theme has
