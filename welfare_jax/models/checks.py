"""What the numbers of an architecture must be. Files say anything: strings, lists, true, NaN and 1e400."""

import math
import sys

from welfare_jax.errors import InputError

LARGEST = 2**31 - 1
MANY = 4096  # layers and experts are walked through one by one: a number that no model has would take hours to refuse


def whole(value, where: str, least: int = 1, most: int = LARGEST) -> int:
    """The value, where it is a whole number from `least` to `most`. `where` names it in the `InputError`."""
    if type(value) is not int or not least <= value <= most:
        raise InputError(f"{where}={short(value)}: must be a whole number from {least} to {most}")
    return value


def number(value, where: str, above: float = -math.inf) -> float:
    """The value, where it is a finite number above `above`. `where` names it in the `InputError`."""
    if type(value) not in (int, float) or not above < value or not abs(value) <= sys.float_info.max:
        raise InputError(
            f"{where}={short(value)}: must be a finite number" + f" above {above:g}" * (above > -math.inf)
        )
    return float(value)


def short(value) -> str:
    """A value as a line can show it, whatever its size."""
    try:
        return repr(value)[:80]
    except ValueError:  # Python prints no integers of thousands of digits
        return "a number of thousands of digits"
