"""Colours: the same meaning in every figure and replay, apart for colour-blind readers."""

# Okabe and Ito's palette: Gold and Mold differ in hue and in lightness.
GOLD = "#e69f00"
MOLD = "#0072b2"
PATH = "#f1ede2"
WIND = "#b3307d"
TRAINED = "#15202b"
UNTRAINED = "#8a939c"
REST = "#009e73"  # baseline one against rest
PATH_BASELINE = "#d55e00"
