"""Samples, their moments, and what estimates made of them must be: sound, near, turned with their arms."""

from __future__ import annotations

import math

import pytest
from hypothesis import strategies as st

from experiments.statistics.estimate import Estimate, Interval
from experiments.statistics.moments import Moments

HUGE = 10**9

#: Decimal values: sums of them keep enough digits for what is compared.
number = st.integers(-10_000, 10_000).map(lambda value: value / 100.0)
sample = st.lists(number, min_size=0, max_size=25)
full = st.lists(number, min_size=3, max_size=25)


def moments(raw: list[float]) -> Moments:
    return Moments(n=len(raw), total=math.fsum(raw), squares=math.fsum(v * v for v in raw))


def sound(found: Estimate, *, infinite: bool = False) -> None:
    """Ordered around the estimate and finite (or infinite where that is meant), or a state with a name."""
    if found.status != "ok":
        assert found.interval is None
        assert found.p is None
        return
    assert found.interval is not None
    lower, upper = found.interval.lower, found.interval.upper
    assert lower <= upper
    assert not math.isnan(lower)
    assert not math.isnan(upper)
    if not infinite:
        assert math.isfinite(lower)
        assert math.isfinite(upper)
    assert found.log_p is None or found.log_p <= 0.0


def near(one: Interval | None, other: Interval | None, rel: float = 1e-6, abs_: float = 1e-7) -> None:
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert one.lower == pytest.approx(other.lower, rel=rel, abs=abs_)
        assert one.upper == pytest.approx(other.upper, rel=rel, abs=abs_)


def turned(interval: Interval | None) -> Interval | None:
    return None if interval is None else Interval(lower=-interval.upper, upper=-interval.lower, level=0.95)
