"""Colours: the same meaning in every figure and replay, apart for colour-blind readers, on white as on black.

A name in capitals is the colour on white paper. The page draws with `var(--name)`, which a dark screen sets to the
second of the pair: so one figure serves both (see `svg.py`).
"""

# Each stands out from the page by 3 to 1 or more, as WCAG asks of graphics, and any two can be told apart with each
# kind of colour blindness, in either theme; a test measures both.
THEMES = {
    "ink": ("#15202b", "#e6ebf0"),  # the trained model, text, frames
    "untrained": ("#75808a", "#98a2ac"),
    "gold": ("#b27d00", "#f0bb2b"),
    "mold": ("#0062bd", "#4a9ff5"),
    "rest": ("#00704a", "#3fdb9c"),  # baseline one against rest
    "baseline": ("#a33b0a", "#f57d5b"),  # the Path baseline
    "wind": ("#8a1c86", "#d573cd"),
    "sky": ("#1593c4", "#9bd8fb"),
}
# What lies behind: bands of chance and lines at zero, grids, the page, cards, borders; and text that steps back.
GROUND = {
    "chance": ("#b5bcc2", "#5c6670"),
    "grid": ("#e8ebee", "#2a343e"),
    "page": ("#ffffff", "#12181f"),
    "card": ("#f7f8f9", "#1b232c"),
    "line": ("#dde1e5", "#36414c"),
    "soft": ("#5b6670", "#a9b4bf"),
    "path": ("#f1ede2", "#4a4a44"),
    "lit": ("#f3c64f", "#8a6a10"),  # tiles: Gold, Mold, and what melted into Mold
    "dull": ("#9cc4e8", "#2c5078"),
    "melted": ("#4f8fce", "#1d3a5c"),
}
VARIABLES = THEMES | GROUND

TRAINED, UNTRAINED, GOLD, MOLD = (THEMES[name][0] for name in ("ink", "untrained", "gold", "mold"))
REST, PATH_BASELINE, WIND, SKY = (THEMES[name][0] for name in ("rest", "baseline", "wind", "sky"))
CHANCE, GRID = (GROUND[name][0] for name in ("chance", "grid"))
CYCLE = (MOLD, GOLD, REST, WIND, SKY, PATH_BASELINE, UNTRAINED)  # of lines that have no meaning of their own
MARKERS = "osD^vPX"  # a second sign beside the colour, where lines of the cycle cross
