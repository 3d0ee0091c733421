"""Colours (the same meaning in every figure and replay, apart for colour-blind readers) and the page's CSS."""

import string

# Okabe and Ito's palette: Gold and Mold differ in hue and in lightness.
GOLD = "#e69f00"
MOLD = "#0072b2"
PATH = "#f1ede2"
WIND = "#b3307d"
TRAINED = "#15202b"
UNTRAINED = "#8a939c"
REST = "#009e73"  # baseline one against rest
PATH_BASELINE = "#d55e00"

_CSS = """
:root { --gold: $GOLD; --mold: $MOLD; --path: $PATH; --wind: $WIND; --ink: $TRAINED; --soft: #5b6670;
  --line: #dde1e5; --card: #f7f8f9; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main, header, nav ul { max-width: 960px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 32px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 1.25rem; margin: 0 0 8px; }
h3 { font-size: 1rem; margin: 20px 0 6px; }
p { margin: 0 0 12px; max-width: 76ch; }
section { padding: 28px 0 12px; border-top: 1px solid var(--line); scroll-margin-top: 44px; }
.sub, figcaption, .hint { color: var(--soft); font-size: .9rem; }
.missing { color: var(--soft); background: var(--card); border-left: 3px solid var(--line); padding: 6px 12px; }
nav { position: sticky; top: 0; z-index: 2; background: #fffffff2; border-bottom: 1px solid var(--line);
  margin-top: 16px; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 14px;
  padding-top: 8px; padding-bottom: 8px; }
@media (max-width: 700px) { nav { position: static; } }
nav a { color: var(--soft); font-size: .85rem; text-decoration: none; white-space: nowrap; }
nav a:hover { color: var(--ink); text-decoration: underline; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); gap: 12px; margin: 16px 0 20px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }
.card b { display: block; font-size: 1.05rem; white-space: nowrap; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: .82rem; line-height: 1.35; display: block; }
figure { margin: 8px 0 16px; }
.scroll { overflow-x: auto; }
.figure svg { width: 100%; min-width: 640px; max-width: 900px; height: auto; display: block; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
td.n, th.n { text-align: right; }
code, .token, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: .84rem; }
.token { white-space: pre; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px; overflow: auto;
  max-height: 460px; }
details { margin: 8px 0 12px; }
summary { cursor: pointer; color: var(--soft); font-size: .92rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)); gap: 8px 28px; }
.gold { border-left: 4px solid var(--gold); padding-left: 8px; }
.mold { border-left: 4px solid var(--mold); padding-left: 8px; }
.samples td.text { min-width: 158px; max-width: 280px; }
.samples td:first-child, .samples th:first-child { position: sticky; left: 0; background: #fff; padding-left: 0; }
.samples td.text div { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 11.5em; overflow-y: auto; }
.samples td.zero { background: var(--card); }
.tall { max-height: 420px; overflow: auto; }
"""


def css() -> str:
    colours = {name: value for name, value in globals().items() if name.isupper() and isinstance(value, str)}
    return string.Template(_CSS).substitute(colours)
