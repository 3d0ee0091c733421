"""What a compiled program sends between devices, read off the text of the compiler's own program."""

import collections
import math
import re
from typing import NamedTuple

KINDS = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute",
    "collective-broadcast",
)  # fmt: skip
BITS = {"pred": 8, "bf16": 16, "s4": 4, "u4": 4, "s2": 2, "u2": 2}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?)\s([a-z][a-z0-9\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)")
_BRANCHES = re.compile(
    r"branch_computations=\{([^}]*)\}|true_computation=(%?[\w.\-]+), false_computation=(%?[\w.\-]+)"
)
_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Collective(NamedTuple):
    """One instruction of a program."""

    kind: str
    dtype: str
    bytes: int  # on each device: of what goes in or of what comes out, whichever is more
    times: int  # how often it runs
    deep: int  # in how many loops it stands
    counted: bool  # whether all of these say how often they run; the others count once


class _Instruction(NamedTuple):
    name: str
    type: str
    kind: str
    rest: str  # operands and attributes


def of(text: str) -> list[Collective]:
    """The collectives of a compiled program; of a branch, those of the side that sends most."""
    computations, entry, inside = collections.defaultdict(list), None, None
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            inside = head[2]
            entry = inside if head[1] else entry
        elif inside and (found := _INSTRUCTION.match(line)):
            computations[inside].append(_Instruction(*found.groups()))
    return _walk(entry, computations, {})


def total(found: list[Collective]) -> int:
    """Bytes that a device sends or receives in one run of the program."""
    return sum(one.bytes * one.times for one in found)


def table(found: list[Collective]) -> list[dict]:
    """Collectives of one kind and type together, those that send most first."""
    parts = collections.defaultdict(list)
    for one in found:
        parts[one.kind, one.dtype, one.deep > 0].append(one)
    rows = [
        {"kind": kind, "dtype": dtype, "in_loops": deep, "count": len(part), "runs": sum(one.times for one in part),
         "bytes": total(part), "counted": all(one.counted for one in part)}
        for (kind, dtype, deep), part in parts.items()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: -row["bytes"])


def _walk(name, computations, known) -> list[Collective]:
    if name in known:
        return known[name]
    found = []
    for one in computations[name]:
        if one.kind == "while":
            body = re.search(r"body=%?([\w.\-]+)", one.rest)[1]
            times = _times(one, computations)
            inner = _walk(body, computations, known)
            found += [
                c._replace(times=c.times * (times or 1), deep=c.deep + 1, counted=c.counted and times is not None)
                for c in inner
            ]
        elif one.kind == "conditional":
            names = _NAME.findall(" ".join(filter(None, _BRANCHES.search(one.rest).groups())))
            found += max((_walk(n, computations, known) for n in names), key=total)
        elif one.kind.removesuffix("-start") in KINDS:
            found.append(_collective(one, computations[name]))
        elif called := _CALLED.search(one.rest):
            found += _walk(called[1], computations, known)
    known[name] = found
    return found


def _times(loop, computations) -> int | None:
    """How often a loop runs: what the compiler notes, or what its condition compares a counter from zero with."""
    if known := _KNOWN.search(loop.rest):
        return int(known[1])
    body = computations[re.search(r"condition=%?([\w.\-]+)", loop.rest)[1]]
    constants = {i.name: int(v[1]) for i in body if i.kind == "constant" and (v := re.match(r"(-?\d+)\)", i.rest))}
    for one in body:
        if one.kind == "compare" and "direction=LT" in one.rest:
            limits = [constants[n] for n in _NAME.findall(one.rest.partition(")")[0]) if n in constants]
            return limits[0] if len(limits) == 1 else None
    return None


def _collective(one: _Instruction, beside: list[_Instruction]) -> Collective:
    names = set(_NAME.findall(one.rest.partition(")")[0]))
    given = [other.type for other in beside if other.name in names]
    into, out = sum(map(_bytes, given)), _bytes(one.type)
    if one.kind.endswith("-start") and one.type.startswith("("):  # a pair of operands and results
        out -= into
    wide = max(_ARRAY.findall(" ".join(given) or one.type), key=lambda a: _size(*a), default=("", ""))
    return Collective(one.kind.removesuffix("-start"), wide[0], max(into, out), 1, 0, True)


def _bytes(type_: str) -> int:
    return sum(_size(*array) for array in _ARRAY.findall(type_))


def _size(dtype: str, shape: str) -> int:
    bits = BITS.get(dtype) or int(re.search(r"\d+", dtype)[0] if re.search(r"\d+", dtype) else 0)
    return math.prod(int(n) for n in shape.split(",") if n) * bits // 8
