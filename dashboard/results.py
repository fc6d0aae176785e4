"""How is a comparison's result read, whose shape is the evaluators' own and may be of another release?

Pure. What is not there, or is something else, is None, empty, or a dash: never an error, never a zero.
"""

from typing import Any

from . import figures


def number(value: object) -> float | None:
    """A finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if figures.known(float(value)) else None


def mapping(value: object) -> dict[str, Any]:
    """A JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: object) -> list[dict[str, Any]]:
    """The JSON objects of a list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def named(value: object) -> dict[str, dict[str, Any]]:
    """The JSON objects of a list by their evaluator."""
    return {str(one.get("evaluator")): one for one in mappings(value)}


def points(effect: object) -> str:
    """An effect in points with its interval: +1.0 (-4.0 to +6.0)."""
    found = mapping(effect)
    return interval(found.get("estimate"), found.get("lower"), found.get("upper"), 100.0, 1)


def interval(value: object, lower: object, upper: object, times: float, places: int) -> str:
    """A signed number, `times` as large, with its interval in brackets if it has one."""
    middle, low, high = (number(one) for one in (value, lower, upper))
    if middle is None:
        return figures.DASH
    text = f"{times * middle:+.{places}f}"
    if low is not None and high is not None:
        text += f" ({times * low:+.{places}f} to {times * high:+.{places}f})"
    return text.replace("-", figures.MINUS)


def share(part: object, whole: float | None) -> str:
    """A count and its share of the whole: 2 (4.2 %)."""
    of = number(part)
    if of is None or not whole:
        return figures.DASH
    return f"{figures.count(of)} ({figures.percent(of / whole)})"


def dollars(value: object) -> str:
    """A cost; none is a dash."""
    cost = number(value)
    return figures.DASH if not cost else f"{cost:.4f} USD"
