"""What do the durations, percentages and sizes that people write in a file amount to?

Pure text in, numbers out. A number without its unit is refused: `5` may mean five seconds, minutes or days.
"""

from __future__ import annotations

import math
import re
from typing import Final

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_BYTES: Final = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip
#: More than these nobody means, and neither a calendar nor a database takes: a thousand years in seconds, and
#: what 64 bits count in bytes.
_LONGEST: Final = 1000 * 365.25 * 86_400
_LARGEST: Final = 2**63 - 1
#: Less than this no traffic can tell from nothing, and no float from 1 on the other side.
_LEAST_SHARE: Final = 0.99e-9  # 0.0000001% as a float
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_PERCENT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?i?B)", re.IGNORECASE)


def seconds(value: object) -> float:
    """`30s`, `10m`, `1h30m`, `7d` in seconds, at most 1000 years. Raises ValueError."""
    text = str(value).strip()
    parts = list(_DURATION_PART.finditer(text))
    if isinstance(value, bool) or not parts or "".join(part[0] for part in parts) != text:
        raise ValueError("not a duration")
    span = sum(float(part[1]) * _SECONDS[part[2]] for part in parts)
    if span > _LONGEST:
        raise ValueError("longer than 1000 years")
    return span


def points(value: object) -> float:
    """`5`, `5.5` or `5%` as 5.0: a percentage of traffic, 0 to 100. Raises ValueError."""
    number = _of_percent(value, one=1.0)
    if not 0 <= number <= 100:
        raise ValueError("outside 0 to 100")
    return number


def fraction(value: object) -> float:
    """`5%` or `0.05` as 0.05: a share of something, 1e-9 from 0 and from 1 at least. Raises ValueError."""
    number = _of_percent(value, one=100.0)
    if not _LEAST_SHARE <= number <= 1 - _LEAST_SHARE:
        raise ValueError("outside 0 to 1")
    return number


def size(value: object) -> int:
    """`500MB`, `5GB`, `1GiB` in bytes, less than 2^63. Raises ValueError."""
    match = None if isinstance(value, bool) else _SIZE.fullmatch(str(value).strip())
    if match is None:
        raise ValueError("not a size")
    amount = float(match[1]) * _BYTES[match[2].upper()]
    if amount > _LARGEST:
        raise ValueError("more than 64 bits count")
    return int(amount)


def _of_percent(value: object, *, one: float) -> float:
    """A number as it is, or the percentage that a text names, in parts of `one` percent."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    match = _PERCENT.fullmatch(str(value).strip())
    if match is None:
        raise ValueError("neither a number nor a percentage")
    return float(match[1]) / one


def duration_text(span: float) -> str:
    """Seconds as people write them: `45s`, `10m`, `1h30m`, `7d`."""
    left, parts = round(span), []
    for unit in ("d", "h", "m", "s"):
        count, left = divmod(left, int(_SECONDS[unit]))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2]) or "0s"


def points_text(percentage: float) -> str:
    """5.0 as `5 %`, 0.25 as `0.25 %`."""
    return f"{percentage:.4f}".rstrip("0").rstrip(".") + " %"
