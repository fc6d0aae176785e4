"""How is a number told to people? Never as 0 of something, nor as 100 % of less than all."""

from __future__ import annotations

import math
from typing import Final

#: In any unit: no level and no difference of two is so small, but what floats leave of zero is.
_NOTHING: Final = 1e-10
#: In percent: no share of as many units as there are people is so small, but what floats leave of zero is.
_NOISE: Final = 1e-8


def percent(share: float) -> str:
    """A share for people: 9.8 %, 0.04 %, 0.0041 %; never 0 % of something, nor 100 % of less than all."""
    in_percent = share * 100.0
    digits = 1 if abs(in_percent) >= 1.0 or in_percent == 0.0 else 2
    return f"{in_percent:.{_enough(in_percent, digits)}f} %"


def _enough(in_percent: float, digits: int) -> int:
    """The decimals with which what is neither nothing nor all is not rounded to it: then two digits of it."""
    rest = min(abs(in_percent), abs(100.0 - abs(in_percent)))
    hidden = _NOISE < rest < 0.5 * 10.0**-digits
    return 1 - math.floor(math.log10(rest)) if hidden else digits


def points(difference: float, digits: int = 2) -> str:
    """A difference of shares in points, without the unit: -1.59, +0.0041; never 0 of something."""
    in_points = difference * 100.0
    return f"{in_points:+.{_enough(in_points, digits)}f}"


def quantity(value: float, display_unit: str, least: float = math.inf) -> str:
    """A level for people, with its unit: 0.97, 249 ms, 0.00040 USD; never 0 of something.

    `least` is a difference beside it that is to be seen in the digits as well: two of its own.
    """
    digits = 0 if abs(value) >= 100.0 else 1 if abs(value) >= 10.0 else 2
    for told in (abs(value), abs(least)):
        if _NOTHING < told < 0.5 * 10.0**-digits:
            digits = 1 - math.floor(math.log10(told))
    return f"{value:,.{digits}f}{' ' + display_unit if display_unit else ''}"
