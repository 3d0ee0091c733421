"""Files as nobody means to write them: any bytes, good files with something changed, JSON with a place changed."""

import copy
import json
import math

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from welfare_jax.errors import InputError

QUIET = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large)
VALUES = (
    None, True, False, -1, 0, 1, 2, 7, 3.5, 2**31 - 1, 10**400, math.inf, math.nan, "x", "2", [], {}, [1], ["x"],
    {"x": 1},
)  # fmt: skip


def few(examples: int):
    """The same examples in every run, so many of them."""
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=QUIET)


def one_line(call, *named):
    """What `call()` gives; None where it raises an `InputError` of one line that has all of `named`."""
    try:
        return call()
    except InputError as error:
        text = str(error)
        assert "\n" not in text and len(text) < 700 and all(name in text for name in named), text


def bytes_like(good: bytes):
    """Any bytes; and a good file cut short, with a bit turned, or with some bytes in place of others."""

    def splice(args):
        at, cut, put = args
        return good[:at] + put + good[at + cut :]

    def flip(args):
        at, bit = args
        return good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :]

    size, inside = st.integers(0, len(good)), st.integers(0, len(good) - 1)
    return st.one_of(
        st.binary(max_size=80), size.map(lambda at: good[:at]),
        st.tuples(size, st.integers(0, 9), st.binary(max_size=9)).map(splice),
        st.tuples(inside, st.integers(0, 7)).map(flip),
    )  # fmt: skip


def places(value, at=()):
    """The paths of everything inside a JSON value; of a list, those of its first element."""
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, inner in inside:
        yield (*at, key)
        yield from places(inner, (*at, key))


def changed(good, values=VALUES, without=()):
    """`good`, a JSON object, with one or two places changed: another value, none, or a key beside it.

    without: keys at the top that are left alone.
    """
    where = [at for at in places(good) if at[0] not in without]
    kept = [value for at in where if (value := _get(good, at)) is not None]  # of the right kind, perhaps

    def apply(changes):
        out = copy.deepcopy(good)
        for at, kind, value in changes:
            try:
                node = _get(out, at[:-1])
                if kind == "remove":
                    del node[at[-1]]
                else:
                    node[at[-1] if kind == "replace" else f"{at[-1]}_more"] = copy.deepcopy(value)
            except (KeyError, IndexError, TypeError):  # the first change took the second one's place away
                continue
        return out

    one = st.tuples(
        st.sampled_from(where),
        st.sampled_from(("replace", "replace", "replace", "remove", "add")),
        st.one_of(st.sampled_from(values), st.sampled_from(values), st.sampled_from(kept)),
    )
    return st.lists(one, min_size=1, max_size=2).map(apply)


def _get(value, at):
    for key in at:
        value = value[key]
    return value


def text(value) -> str:
    """JSON as Python writes it: NaN and Infinity too."""
    return json.dumps(value)
