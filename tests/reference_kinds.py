"""What does an adapter give back, and how is it found? The registry of kinds, and shared helpers.

An adapter maps one kind's `inputs` to Turnout's public functions. It sees neither ids nor expected values,
and holds no statistics of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.statistics.estimate import Estimate, Interval
from experiments.statistics.moments import Moments

Inputs = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was computed. `holds` decides a behavioural case; `left_out` are paths that are not compared."""

    values: Mapping[str, Any]
    left_out: tuple[str, ...] = ()
    holds: bool | None = None


Adapter = Callable[[Inputs], Answer]
ADAPTERS: dict[str, Adapter] = {}


def kind(name: str) -> Callable[[Adapter], Adapter]:
    """Registers the adapter of a kind."""

    def register(adapter: Adapter) -> Adapter:
        ADAPTERS[name] = adapter
        return adapter

    return register


class Figures(Mapping[str, Any]):
    """Figures by name, and those to be had for any name of a form, such as "after n values", when asked.

    `rules` map a pattern to a function of its groups; what was asked for is kept, to be shown.
    """

    def __init__(
        self, fixed: Mapping[str, Any] | None = None, rules: Mapping[str, Callable[..., Any]] | None = None
    ) -> None:
        self._known = dict(fixed or {})
        self._rules = [(re.compile(pattern), rule) for pattern, rule in (rules or {}).items()]

    def __getitem__(self, key: str) -> Any:
        if key not in self._known:
            for pattern, rule in self._rules:
                found = pattern.fullmatch(key)
                if found:
                    self._known[key] = rule(*found.groups())
                    break
            else:
                raise KeyError(key)
        return self._known[key]

    def __contains__(self, key: object) -> bool:
        return key in self._known or (
            isinstance(key, str) and any(pattern.fullmatch(key) for pattern, _ in self._rules)
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


NUMBER = r"(-?\d+(?:\.\d+)?(?:e-?\d+)?)"


def by_number(compute: Callable[[float], Any]) -> Figures:
    """Figures under the number that they are of, written as text."""
    return Figures({}, {NUMBER: lambda text: compute(float(text))})


def by_count(compute: Callable[[int], Any]) -> Figures:
    """Figures under the count that they are of."""
    return Figures({}, {r"(\d+)": lambda text: compute(int(text))})


def fraction(digits: str) -> float:
    """A number as it stands in a name: "005" and "0_05" are 0.05, "1_25" is 1.25."""
    return float(digits.replace("_", ".")) if "_" in digits else float(f"{digits[0]}.{digits[1:]}")


def named(number: float) -> str:
    """The same the other way: 1.25 is "1_25"."""
    return f"{number:g}".replace(".", "_")


def number(value: Any) -> float:
    """A number, also written as "1/9" or "inf"."""
    if isinstance(value, str) and "/" in value:
        top, bottom = value.split("/")
        return float(top) / float(bottom)
    return float(value)


def arm(inputs: Inputs, *names: str) -> Any:
    """The first of these inputs that is there."""
    return next(inputs[name] for name in names if name in inputs)


def candidate_of(inputs: Inputs) -> Any:
    """The candidate's input under any of its names."""
    return arm(inputs, "candidate", "treatment", "experiment", "canary")


def control_of(inputs: Inputs) -> Any:
    """The control's input."""
    return arm(inputs, "control", "baseline")


def moments(raw: Any) -> Moments:
    """Sums from {n, sum, sum_squares}, from [count, n] of events, or from values."""
    if isinstance(raw, Mapping):
        squares = next(
            (raw[key] for key in ("sum_squares", "sumsq", "sum_of_squares") if key in raw), raw["sum"]
        )
        return Moments(n=raw["n"], total=float(raw["sum"]), squares=float(squares))
    values = [float(value) for value in raw]
    return Moments(
        n=len(values), total=math.fsum(values), squares=math.fsum(value * value for value in values)
    )


def plain_variance(share: Sequence[int]) -> Moments:
    """A share as moments whose variance is p(1 - p), as some platforms have it, without n - 1."""
    count, n = share
    p = count / n if n else 0.0
    return Moments(n=n, total=float(count), squares=p * (1 - p) * (n - 1) + n * p * p)


def share(raw: Sequence[int]) -> tuple[int, int]:
    """[count, n] as a share."""
    count, n = raw
    return count, n


def ends(interval: Interval | None) -> list[float] | None:
    """An interval as a list."""
    return None if interval is None else [interval.lower, interval.upper]


def as_published(found: Estimate) -> dict[str, Any]:
    """An estimate in the form in which experiment platforms publish theirs."""
    return {
        "point": found.value,
        "ci": ends(found.interval),
        "p": found.p,
        "se": found.se,
        "error": None if found.status == "ok" else found.status,
    }
