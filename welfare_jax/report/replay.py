"""An episode of the maze, turn by turn: as data (`frames`), in a terminal (`text`) and in a browser (`html`).

Tiles: `.` path, `g` gold, `#` mold, `x` a tile that melted into mold when the player left it, `?` not known.
Axes: x grows east, y grows south. Rules: arXiv:2605.30232 §2.1, §J.4.
"""

import argparse
import math
import pathlib
import sys

from markupsafe import Markup

from welfare_jax.errors import InputError
from welfare_jax.report import markup
from welfare_jax.report.data import dicts, load, number, numbers
from welfare_jax.text.wording import LETTERS, STEPS

ROLES = {".": "path", "g": "gold", "#": "mold", "x": "mold"}
NAMES = ROLES | {"x": "mold (melted)", "?": "unknown"}
LEGEND = (
    (".", "path", "path"), ("g", "gold", "gold"), ("#", "mold", "mold"),
    ("x", "melted", "mold, melted behind the player"),
)  # fmt: skip


def frames(episode: dict) -> list:
    """What a viewer sees before each turn and after the last: T + 1 dicts for T turns.

    Every frame: `turn` (0..T), `at` (x, y), `rows` (the window as text), `reward`, `gold`, `mold` (so far) and
    `trail` (places the player was at). Frames 0..T-1 also hold their turn: `message`, `letter`, `action`, `probs`
    (N, E, S, W), `near` (the four tiles around), `landed` (after the own move), `wind` (-1 or 0..3), `end` (after
    the wind), `gain` (reward, NaN if absent), `gains` (how often gold and mold were entered) and `outcome` (words).
    """
    board = _board(episode)
    at = _place(episode.get("start"), (0, 0))
    so_far, trail, out = {"reward": 0.0, "gold": 0, "mold": 0}, [], []
    for i, turn in enumerate(dicts(episode.get("turns"))):
        at = _place([turn.get("x"), turn.get("y")], at)
        trail = trail or [at]
        frame = {"turn": i, "at": at, "rows": _rows(board, episode), "trail": list(trail), **so_far}
        frame |= _decision(turn, at, board, _letters(episode))
        moves, melts = ((at, frame["landed"]), (frame["landed"], frame["end"])), episode.get("melt") is not False
        entered = [_move(board, a, b, melts) for a, b in moves]
        frame["gains"] = {role: sum(ROLES.get(tile) == role for tile in entered) for role in ("gold", "mold")}
        frame["gain"] = number(turn.get("reward"))
        frame["outcome"] = _outcome(frame, entered)
        out.append(frame)
        for place in (frame["landed"], frame["end"]):
            trail += [place] * (place != trail[-1])
        at = frame["end"]
        so_far = {k: so_far[k] + frame["gains"].get(k, 0) for k in ("gold", "mold")} | {
            "reward": so_far["reward"] + (frame["gain"] if math.isfinite(frame["gain"]) else 0.0)
        }
    end = {"turn": len(out), "at": at, "rows": _rows(board, episode), "trail": trail or [at], **so_far}
    return [*out, end | {"outcome": f"The episode is over. Reward {markup.num(so_far['reward'], 1, sign=True)}."}]


def crop(episode: dict, margin: int = 3) -> dict:
    """The episode with a window that reaches `margin` tiles beyond the player's path, where the maze does."""
    xs, ys = zip(*(p for f in frames(episode) for p in (*f["trail"], f["at"])), strict=True)
    board = _board(episode)
    columns = _span(xs, [x for x, _ in board], margin)
    lines = _span(ys, [y for _, y in board], margin)
    rows = ["".join(board.get((x, y), "?") for x in columns) for y in lines]
    return episode | {"window": {"x0": columns.start, "y0": lines.start, "rows": rows}}


def text(episode: dict, turn: int) -> str:
    """Frame `turn` (0..T, T the end) for a terminal, in ASCII: `@` player, the other signs as in `frames`."""
    episode = crop(episode)
    frame = frames(episode)[turn]
    (x0, y0), _ = _window(episode)
    rows = [list(row) for row in frame["rows"]]
    x, y = frame["at"]
    if 0 <= y - y0 < len(rows) and 0 <= x - x0 < len(rows[y - y0]):
        rows[y - y0][x - x0] = "@"
    lines = [
        f"{episode.get('title', 'episode')}: turn {turn + 1} of {len(dicts(episode.get('turns')))}, at ({x}, {y}), "
        f"reward so far {frame['reward']:+.1f}, gold {frame['gold']}, mold {frame['mold']}",
        *(" ".join(row) for row in rows),
        "@ player  . path  g gold  # mold  x melted",
    ]
    if "action" in frame:
        odds = "  ".join(f"{c} {100 * p:.0f}%" for c, p in zip(_letters(episode), frame["probs"], strict=False))
        lines += ["", frame["message"], "", f"answer: {frame['letter']}   ({odds})"]
    return "\n".join([*lines, frame["outcome"].replace("\N{MINUS SIGN}", "-")])


def transcript(episode: dict) -> str:
    """The whole episode for a terminal: every turn as `text` shows it."""
    return "\n\n".join(text(episode, turn) for turn in range(len(dicts(episode.get("turns"))) + 1))


def html(episode: dict) -> Markup:
    """The player of one episode as an HTML fragment of a page."""
    episode = crop(episode)
    (x0, y0), _ = _window(episode)
    tiles = episode.get("tiles") if isinstance(episode.get("tiles"), dict) else {}
    emoji = {sign: str(tiles.get(ROLES.get(sign), "")) for sign in NAMES}
    seen = frames(episode)
    data = {"x0": x0, "y0": y0, "tiles": emoji, "names": NAMES, "letters": _letters(episode), "frames": seen}
    return markup.render(
        "replay.html", title=f"{episode.get('title', 'episode')}: reward {_total(episode, seen)}",
        legend=[(name, emoji[sign], label) for sign, name, label in LEGEND], last=len(seen) - 1,
        turns=markup.details("All turns as a table", _table(seen)), data=markup.embed_json(data),
    )  # fmt: skip


def page(episode: dict) -> Markup:
    """The player of one episode as a whole HTML document."""
    body = Markup('<main style="padding-top: 20px">{}</main>').format(html(episode))
    focus = Markup("document.querySelector('.replay').focus();")
    return markup.render("page.html", title=str(episode.get("title", "episode")), body=body, script=focus)


def main(argv=None) -> int:
    """Shows a run's recorded episode in the terminal, or writes it as a page of its own."""
    parser = argparse.ArgumentParser(prog="python -m welfare_jax.report.replay", description=main.__doc__)
    parser.add_argument("workdir", help="the folder of a run")
    parser.add_argument("--episode", type=int, default=0, help="which of the recorded episodes, from 0")
    parser.add_argument("--html", metavar="FILE", help="write this page instead")
    args = parser.parse_args(argv)
    try:
        episodes = dicts(load(args.workdir).analysis.get("episodes"))
        if not 0 <= args.episode < len(episodes):
            raise InputError(f"--episode={args.episode}: {args.workdir} has {len(episodes)} recorded episodes")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.html:
        pathlib.Path(args.html).write_text(page(episodes[args.episode]), encoding="utf-8")
    else:
        print(transcript(episodes[args.episode]))
    return 0


def _letters(episode) -> list:
    """The four answers, N E S W where the episode does not name them."""
    found = episode.get("letters")
    return [str(a) for a in found] if isinstance(found, (list, tuple)) and len(found) == 4 else list(LETTERS)


def _window(episode) -> tuple:
    """The window's corner (x, y) and its rows."""
    window = episode.get("window") if isinstance(episode.get("window"), dict) else {}
    rows = window.get("rows") if isinstance(window.get("rows"), list) else []
    return _place([window.get("x0"), window.get("y0")], (0, 0)), [str(row) for row in rows]


def _board(episode) -> dict:
    (x0, y0), rows = _window(episode)
    return {(x0 + i, y0 + j): c if c in NAMES else "?" for j, row in enumerate(rows) for i, c in enumerate(row)}


def _rows(board, episode) -> list:
    """The window's rows with the board's tiles of now."""
    (x0, y0), rows = _window(episode)
    return ["".join(board[x0 + i, y0 + j] for i in range(len(row))) for j, row in enumerate(rows)]


def _span(path, known, margin) -> range:
    """Coordinates from `margin` before to `margin` after `path`, cut to the known ones and to a sane length."""
    low, high = min(path) - margin, max(path) + margin
    if known:
        low, high = max(low, min(known)), min(high, max(known))
    return range(low, min(high, low + 99) + 1)


def _place(value, default) -> tuple:
    found = numbers(value)
    return (int(found[0]), int(found[1])) if len(found) == 2 and all(map(math.isfinite, found)) else tuple(default)


def _direction(value) -> int:
    """0..3, or -1 for anything else."""
    return int(value) if number(value) in range(4) else -1


def _decision(turn, at, board, letters) -> dict:
    landed = _place(turn.get("landed"), at)
    action = _direction(turn.get("action"))
    return {
        "message": str(turn.get("message", "")),
        "action": action,
        "letter": letters[action] if action >= 0 else "?",
        "probs": numbers(turn.get("probs"))[:4],
        "near": "".join(board.get((at[0] + dx, at[1] + dy), "?") for dx, dy in STEPS),
        "landed": landed,
        "wind": _direction(turn.get("wind")),
        "end": _place(turn.get("end"), landed),
    }


def _move(board, start, end, melts) -> str:
    """Moves over `board`, in place: what is left melts, Gold entered is eaten. Returns the tile entered or ''."""
    if start == end:
        return ""
    if melts and board.get(start) in (".", "g"):
        board[start] = "x"
    entered = board.get(end, "?")
    if entered == "g":
        board[end] = "."
    return entered


def _outcome(frame, entered) -> str:
    (x, y), (u, v) = frame["landed"], frame["end"]
    words = [f"Moves {frame['letter']} to ({x}, {y}): {NAMES.get(entered[0], 'no tile entered')}."]
    if frame["wind"] >= 0:
        words.append(f"Wind pushes {'NESW'[frame['wind']]} to ({u}, {v}): {NAMES.get(entered[1], 'no tile entered')}.")
    return " ".join([*words, f"Reward {markup.num(frame['gain'], 1, sign=True)}."])


def _total(episode, seen) -> str:
    given = number(episode.get("reward"))
    return markup.num(given if math.isfinite(given) else seen[-1]["reward"], 1, sign=True)


def _table(seen) -> Markup:
    rows = [
        (f["turn"] + 1, f"({f['at'][0]}, {f['at'][1]})", f["outcome"], *_running(f, after))
        for f, after in zip(seen, seen[1:], strict=False)
    ]
    return markup.table(("turn", "at", "what happened", "reward", "so far"), rows, numeric=(0, 3, 4))


def _running(frame, after) -> tuple:
    return markup.num(frame["gain"], 1, sign=True), markup.num(after["reward"], 1, sign=True)


if __name__ == "__main__":
    sys.exit(main())
