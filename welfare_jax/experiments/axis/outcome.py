"""The primary outcome in plain words, for the first screen: what it is, what it was held against, what may be said."""

import math

from welfare_jax.report.data import Run, dig, finite, number, numbers
from welfare_jax.report.markup import num

BASELINE = {"rest": "one against rest", "path": "against the Path mean"}
LAYERS = {
    "signal": "the layers in which both vectors are more signal than noise",
    "last_third": "the last third of the layers",
    "all": "all layers",
}
MORE = {"opposed": "more opposed", "aligned": "less opposed"}


def training(run: Run) -> str:
    """Whether training changed the cosine, as far as training runs and shams tell; empty where none were compared."""
    lists = (dig(run.config, "organisms", "shuffle_rewards") or [], [dig(run.config, "train", "shuffle_rewards")])
    nothing = any(each and all(x is True for x in each) for each in lists)
    parts = (
        "Rewards were shuffled between tiles here: there was nothing to learn." if nothing else "",
        _training(run), _reward(_named(run, "training").get("shuffled")),
    )  # fmt: skip
    return " ".join(filter(None, parts))


def _reward(found) -> str:
    """Whether it was the reward that did it, where runs of shuffled rewards were trained beside."""
    runs, others = (finite(numbers(dig(found, k))) for k in ("changes", "sham_changes"))
    if not runs or not others:
        return ""
    change, low, high = (number(found.get(k)) for k in ("change", "low", "high"))
    told = f"Trained as long with rewards shuffled between tiles, {len(others)} more changed it by {_ends(others)}"
    if len(runs) == 1:
        return f"{told}."
    told += f"; the means differ by {num(change, sign=True)} (95 % interval {num(low, sign=True)} to "
    told += f"{num(high, sign=True)}), so "
    verdict = str(found.get("verdict"))
    if verdict in MORE:
        return f"{told}what the tiles earn did it."
    if verdict == "small":
        return f"{told}what the tiles earn makes no difference as large as {num(number(found.get('least')))}."
    return f"{told}whether what the tiles earn did it cannot be told."


def _training(run: Run) -> str:
    found = _named(run, "training")
    if not found:
        return ""
    if "change" not in found:
        return f"Whether training changed anything cannot be told: {_blind(found)}"
    runs, shams = (finite(numbers(found.get(k))) for k in ("changes", "sham_changes"))
    if not runs:
        return ""
    if len(runs) == 1:
        return _one_run(found, runs[0], shams)
    least, change, low, high = (number(found.get(k)) for k in ("least", "change", "low", "high"))
    spans = f"95 % interval {num(low, sign=True)} to {num(high, sign=True)}"
    each = ", ".join(num(c, sign=True) for c in runs)
    told = f"The {len(runs)} training runs changed the primary outcome by {each}"
    if shams:
        beside = f"{len(shams)} adapters of the same size in random directions by {_ends(shams)}"
        told = (
            f"{told}; {beside}. The means differ by {num(change, sign=True)} ({spans}, over runs, adapters and walks)."
        )
    else:
        told = f"{told}, on average {num(change, sign=True)} ({spans}, over runs and walks)."
    verdict = str(found.get("verdict"))
    if verdict in MORE and shams:
        return f"Training made the two vectors {MORE[verdict]}. {told}"
    if verdict in MORE:
        return (
            f"The trained models' vectors are {MORE[verdict]} than the untrained model's. {told} Whether any change "
            "of the weights of that size would do the same was not tested: set outcome.shams."
        )
    if verdict == "small":
        return f"Training made no change as large as {num(least)}, the smallest of interest. {told}"
    return f"Whether training changed the two vectors cannot be told from these runs. {told}"


def _one_run(found, change: float, shams: list) -> str:
    if not shams:
        return ""
    p, least = number(found.get("p")), 1 / (1 + len(shams))
    beyond = "lies outside what they do" if p < 0.05 else "does not stand out among them"
    few = f" (with so few, p cannot be below {num(least)})" if least >= 0.05 else ""
    return (
        f"Beside it, {len(shams)} adapters of the same size in random directions changed the primary outcome by "
        f"{_ends(shams)}; this checkpoint's change of {num(change, sign=True)} {beyond}, p = {num(p, 3)}{few}. It is "
        "one training run: another seed may end elsewhere."
    )


def checkpoint(run: Run) -> str:
    """What one checkpoint shows beside the untrained model; empty where there is no outcome."""
    found = _named(run, "outcome")
    if not found:
        return ""
    base, layers = BASELINE.get(str(found.get("baseline")), ""), LAYERS.get(str(found.get("layers")), "")
    used, count = [int(x) for x in finite(numbers(found.get("used")))], run.analysis.get("layers")
    said = f"Primary outcome, fixed before the run: how cos(v_mold, v_gold) {base} changes, averaged over {layers}"
    said += f" ({_spans(used)}: {len(used)} of {count})." if used else "."
    if "change" not in found:
        return f"{said} Whether this checkpoint differs from the untrained model cannot be told: {_blind(found)}"
    names = ("change", "low", "high", "untrained", "trained", "detectable", "least", "walks", "walks_needed")
    v = {name: number(found.get(name)) for name in names}
    ends = f"{num(v['untrained'], sign=True)} to {num(v['trained'], sign=True)}" if math.isfinite(v["trained"]) else ""
    change = f"{num(v['change'], sign=True)} (95 % interval over walks {num(v['low'], sign=True)} to "
    change += f"{num(v['high'], sign=True)}; from {ends})"
    seen = (
        f"With {v['walks']:,.0f} walks a class a change of {num(v['detectable'])} or more is found in 95 of 100 cases"
    )
    verdict = str(found.get("verdict"))
    if verdict in MORE:
        return (
            f"{said} This checkpoint differs from the untrained model: its vectors are {MORE[verdict]}, by {change}."
        )
    if verdict == "small":
        return f"{said} This checkpoint shows no change as large as {num(v['least'])}: {change}. {seen}."
    return (
        f"{said} Whether this checkpoint differs from the untrained model cannot be told: {change}. {seen}; one of "
        f"{num(v['least'])}, the smallest of interest, would take some {v['walks_needed']:,.0f} walks a class "
        "(extract.per_length)."
    )


def _named(run: Run, part: str) -> dict:
    found = dig(run.analysis, part)
    return found if isinstance(found, dict) else {}


def _blind(found) -> str:
    walks = number(found.get("walks"))
    read = f" ({walks:,.0f} a class were read)" if math.isfinite(walks) else ""
    return f"these walks hold too little signal in those layers{read}; more are needed (extract.per_length)."


def _ends(values) -> str:
    return f"{num(min(values), sign=True)} to {num(max(values), sign=True)}"


def _spans(layers: list) -> str:
    """Layer numbers in words: "layers 3, 7 to 9"."""
    parts, rest = [], list(layers)
    while rest:
        end = next((i for i, x in enumerate(rest) if x != rest[0] + i), len(rest))
        parts.append(str(rest[0]) if end == 1 else f"{rest[0]} to {rest[end - 1]}")
        rest = rest[end:]
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(parts)}"
