"""Numbers are written alike everywhere, and a difference is called better or worse only when it may be."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from dashboard import figures
from dashboard.answers import Accounting, Effect, Metric
from dashboard.screens.accounting import unaccounted

N = figures.NARROW


def metric(
    fixed: tuple[float | None, float | None] | None,
    band: tuple[float | None, float | None] | None = None,
    direction: str | None = "decrease",
) -> Metric:
    def effect(ends: tuple[float | None, float | None] | None) -> Effect | None:
        return (
            None
            if ends is None
            else Effect(scale="ratio", estimate=0.9, lower=ends[0], upper=ends[1], null=1)
        )

    return Metric(
        metric="latency", kind="log_mean", direction=direction, effect=effect(fixed), band=effect(band)
    )


@pytest.mark.parametrize(
    ("fixed", "band", "direction", "better"),
    [
        ((0.87, 0.92), (0.85, 0.94), "decrease", True),
        ((0.87, 0.92), (0.85, 0.94), "increase", False),
        ((1.10, 1.20), None, "decrease", False),
        ((0.87, 0.92), (0.85, 1.02), "decrease", None),
        ((0.87, 1.0), None, "decrease", None),
        ((0.87, None), None, "decrease", None),
        ((0.87, 0.92), (1.1, 1.2), "decrease", None),
        ((0.87, 0.92), None, None, None),
        (None, None, "decrease", None),
    ],
)
def test_better_worse_or_not_told_apart(
    fixed: tuple[float, float] | None,
    band: tuple[float, float] | None,
    direction: str | None,
    better: bool | None,
) -> None:
    assert figures.is_better(metric(fixed, band, direction)) is better


@given(some.floats(0.5, 1.5), some.floats(0.5, 1.5))
def test_never_coloured_if_the_interval_covers_no_effect(one: float, other: float) -> None:
    low, high = sorted((one, other))
    if low <= 1 <= high:
        assert figures.is_better(metric((low, high))) is None


@pytest.mark.parametrize(
    ("share", "decimals", "text"),
    [
        (0.0, 2, "0.00"),
        (5e-17, 2, "0.00"),
        (1.0, 0, "100"),
        (0.0159, 2, "1.59"),
        (0.00003, 2, "0.0030"),
        (0.99996, 1, "99.9960"),
    ],
)
def test_a_share_is_neither_nothing_nor_all_unless_it_is(share: float, decimals: int, text: str) -> None:
    assert figures.percent(share, decimals) == f"{text}{N}%"


@pytest.mark.parametrize(("level", "text"), [(0.95, "95"), (0.975, "97.5"), (0.995, "99.5")])
def test_a_level_is_shown_as_it_was_declared(level: float, text: str) -> None:
    assert figures.level(level) == f"{text}{N}%"


def test_missing_is_a_dash_and_never_a_zero() -> None:
    for write in (
        figures.count,
        figures.number,
        figures.percent,
        figures.milliseconds,
        figures.span,
        figures.size,
    ):
        for missing in (None, float("nan"), float("inf")):
            assert write(missing) == figures.DASH


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "<1 s"),
        (59, "59 s"),
        (61, "1 min"),
        (3600, "1 h"),
        (3900, "1 h 5 min"),
        (93_600, "1 d 2 h"),
        (86_400, "1 d"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert figures.span(seconds) == text.replace(" s", f"{N}s").replace(" min", f"{N}min").replace(
        " h", f"{N}h"
    ).replace(" d", f"{N}d")


def test_an_effect_says_its_unit_once() -> None:
    ratio = metric((0.871, 0.918), (0.859, 0.931))
    assert figures.change(ratio, 0.894) == f"−10.6{N}%"
    assert figures.interval(ratio, ratio.band) == f"−14.1 … −6.9{N}%"


def test_a_difference_of_rates_is_in_points() -> None:
    rate = Metric(metric="e", kind="binary", effect=Effect(estimate=0.0012, lower=-0.0036, upper=0.006))
    assert figures.change(rate, 0.0012) == f"+0.12{N}pp"
    assert figures.interval(rate, Effect(lower=None, upper=0.006)) == f"−∞ … +0.60{N}pp"


@given(some.one_of(some.none(), some.floats(allow_nan=True, allow_infinity=True)))
def test_no_number_breaks_the_writing(value: float | None) -> None:
    odd = Metric(
        metric="x",
        kind="mean",
        display_unit="u" * 50,
        effect=Effect(estimate=value, lower=value, upper=value),
    )
    for text in (
        figures.change(odd, value),
        figures.interval(odd, odd.effect),
        figures.arm_value(odd, value),
    ):
        assert text
        assert "nan" not in text.replace("u", "")
    figures.is_better(odd)


def test_a_copy_that_was_shed_is_accounted_for() -> None:
    arms = {"candidate": {"assigned": 287, "outcomes": {"complete": 213, "shed": 74}}}
    books = {"eligible": 287, "recorded": 287, "missing": 0, "by_arm": arms}
    assert unaccounted(Accounting.model_validate(books)) == 0
    assert unaccounted(Accounting.model_validate(books | {"eligible": 290})) == 3


@given(some.floats(allow_nan=False, allow_infinity=False).filter(bool))
def test_a_number_that_is_not_zero_never_reads_as_zero(value: float) -> None:
    assert any(char in "123456789" for char in figures.number(value))
    assert figures.MINUS in figures.number(-abs(value))
