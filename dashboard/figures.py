"""How are numbers, times and intervals written, so that every page writes them alike?

Pure. A missing number is a dash and never a zero; a minus is a minus sign; a narrow space precedes a unit.
"""

import math
from datetime import UTC, datetime

from .answers import Effect, Metric
from .inert import one_line

DASH = "–"
MINUS = "\u2212"
NARROW = "\u202f"
MAX_UNIT = 16
# In percent: no share of as many units as there are people is so small, but what floats leave of zero is.
NOISE = 1e-8
NULL_OF_SCALE = {"ratio": 1.0, "difference": 0.0}


def known(value: float | None) -> bool:
    """Is there a number at all (not null, not NaN, not infinite)?"""
    return value is not None and math.isfinite(value)


def count(value: float | None) -> str:
    """12480 -> 12,480."""
    return f"{value:,.0f}".replace("-", MINUS) if value is not None and known(value) else DASH


def number(value: float | None, digits: int = 3) -> str:
    """To `digits` significant digits, never in exponent notation; what is too small by its bound."""
    if value is None or not known(value):
        return DASH
    if value == 0:
        return "0"
    if abs(value) < 1e-6:
        return "< 0.000001" if value > 0 else f"> {MINUS}0.000001"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(decimals, 6)}f}".replace("-", MINUS)


def percent(value: float | None, decimals: int = 1) -> str:
    """A share (0..1) in percent. What is neither nothing nor all is not rounded to it: two digits of it."""
    if value is None or not known(value):
        return DASH
    rest = min(abs(value), abs(1.0 - value)) * 100
    if NOISE < rest < 0.5 * 10.0**-decimals:
        decimals = 1 - math.floor(math.log10(rest))
    return f"{value * 100:.{decimals}f}".replace("-", MINUS) + f"{NARROW}%"


def level(value: float | None) -> str:
    """A confidence level in percent, as it was declared: 95 %, 97.5 %, 99.5 %."""
    return f"{value * 100:.4g}{NARROW}%" if value is not None and known(value) else DASH


def probability(value: float | None) -> str:
    """A p-value to three decimals; a smaller one by the bound that it lies below, never as 0."""
    if value is None or not known(value):
        return DASH
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def evidence(value: float | None) -> str:
    """An e-value: 3.1, 1,200; beyond a million only that."""
    if value is None or not known(value):
        return DASH
    return "> 1,000,000" if value > 1e6 else number(value, 2) if value < 10 else count(value)


def weight(value: float | None) -> str:
    """A weight that is a percentage already: 50 -> 50 %, 2.5 -> 2.5 %."""
    return f"{value:g}{NARROW}%" if value is not None and known(value) else DASH


def milliseconds(value: float | None) -> str:
    """412 ms, 3.41 s."""
    if value is None or not known(value):
        return DASH
    return f"{value / 1000:.2f}{NARROW}s" if value >= 1000 else f"{number(value)}{NARROW}ms"


def span(seconds: float | None) -> str:
    """A duration in its two largest units: <1 s, 42 s, 12 min, 3 h 5 min, 2 d 4 h."""
    if seconds is None or not known(seconds):
        return DASH
    if 0 <= seconds < 0.5:
        return f"<1{NARROW}s"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}{NARROW}s"
    if whole < 3600:
        return f"{whole // 60}{NARROW}min"
    if whole < 86400:
        minutes = whole % 3600 // 60
        return f"{whole // 3600}{NARROW}h" + (f" {minutes}{NARROW}min" if minutes else "")
    hours = whole % 86400 // 3600
    return f"{whole // 86400}{NARROW}d" + (f" {hours}{NARROW}h" if hours else "")


def size(count_of_bytes: float | None) -> str:
    """Bytes in powers of 1000."""
    if count_of_bytes is None or not known(count_of_bytes):
        return DASH
    value = float(count_of_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{number(value)}{NARROW}{unit}"
        value /= 1000
    return f"{number(value)}{NARROW}TB"


def moment(at: datetime | None) -> str:
    """A time of the audit trail, always UTC."""
    return DASH if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def version(value: int | None) -> str:
    """3 -> v3."""
    return DASH if value is None else f"v{value}"


def arm_value(metric: Metric, value: float | None) -> str:
    """One arm's figure in the unit of the metric."""
    if metric.kind == "binary":
        return percent(value, 2)
    if (metric.display_unit or "") == "ms":
        return milliseconds(value)
    unit = one_line(metric.display_unit or "", MAX_UNIT)
    text = number(value)
    return text if text == DASH or not unit else f"{text}{NARROW}{unit}"


def on_screen(metric: Metric, value: float | None, scale: str | None = None) -> float | None:
    """A value on the effect's scale as drawn: a ratio as change in %, a difference of rates in points."""
    scale = scale or (metric.effect or metric.band or Effect()).scale
    if value is None or not known(value):
        return None
    if scale == "ratio":
        return (value - 1) * 100
    return value * 100 if metric.kind == "binary" else value


def effect_unit(metric: Metric, scale: str | None = None) -> str:
    """The unit of `on_screen`."""
    scale = scale or (metric.effect or metric.band or Effect()).scale
    if scale == "ratio":
        return "%"
    return "pp" if metric.kind == "binary" else one_line(metric.display_unit or "", MAX_UNIT)


def change(metric: Metric, value: float | None) -> str:
    """A value on the effect's scale with its sign and unit: +1.20 pp, −8.1 %."""
    shown = on_screen(metric, value)
    return DASH if shown is None else _with_unit(_signed(shown, _decimals(metric)), effect_unit(metric))


def interval(metric: Metric, effect: Effect | None) -> str:
    """Lower … upper with the unit once; an open end is ∞, a missing interval a dash."""
    if effect is None or (not known(effect.lower) and not known(effect.upper)):
        return DASH
    places = _decimals(metric)
    low, high = (on_screen(metric, end, effect.scale) for end in (effect.lower, effect.upper))
    ends = (
        MINUS + "∞" if low is None else _signed(low, places),
        "∞" if high is None else _signed(high, places),
    )
    return _with_unit(" … ".join(ends), effect_unit(metric, effect.scale))


def _with_unit(text: str, unit: str) -> str:
    return f"{text}{NARROW}{unit}" if unit else text


def _signed(value: float, places: int) -> str:
    text = f"{abs(value):,.{places}f}"
    if not any(char in "123456789" for char in text):
        return text  # what rounds to nothing has no sign
    return ("+" if value > 0 else MINUS) + text


def _decimals(metric: Metric) -> int:
    """One number of decimals for all figures of a metric's effect: two digits of its widest interval."""
    parts = [part for part in (metric.effect, metric.band) if part is not None]
    ends = [
        end
        for part in parts
        for end in (on_screen(metric, value, part.scale) for value in (part.lower, part.upper))
        if end is not None
    ]
    width = max(ends) - min(ends) if ends else 0.0
    return 1 if width <= 0 else min(6, max(0, 1 - math.floor(math.log10(width / 3))))


def null_of(effect: Effect) -> float:
    """Where "no effect" lies on the effect's scale."""
    return effect.null if effect.null is not None else NULL_OF_SCALE.get(effect.scale, 0.0)


def _side(effect: Effect) -> int:
    """+1 or -1 if the interval lies wholly above or below "no effect", else 0, also if an end is missing."""
    if effect.lower is None or effect.upper is None:
        return 0
    return int(effect.lower > null_of(effect)) - int(effect.upper < null_of(effect))


def is_better(metric: Metric) -> bool | None:
    """Is the candidate better (True), worse (False) or not told apart (None)?

    Only if every interval that is shown excludes "no effect": a difference that one of them does not
    support is never coloured. With no declared direction nothing is better or worse.
    """
    if metric.direction not in ("increase", "decrease"):
        return None
    sides = {_side(part) for part in (metric.effect, metric.band) if part is not None}
    if len(sides) != 1:
        return None
    side = sides.pop()
    return None if side == 0 else (side > 0) == (metric.direction == "increase")


def is_within(metric: Metric) -> bool:
    """Has it been shown that the candidate is no worse than the margin? "Not seen to be worse" is less.

    Of a guardrail a look judges that, with z and its bound; of all else, and between looks, every interval
    that is shown must end before the margin.
    """
    if metric.margin is None or metric.direction not in ("increase", "decrease"):
        return False
    if metric.role == "guardrail" and metric.z is not None and metric.z_bound is not None:
        return metric.z >= metric.z_bound
    lower_is_better = metric.direction == "decrease"
    ends = [
        part.upper if lower_is_better else part.lower
        for part in (metric.effect, metric.band)
        if part is not None
    ]
    return bool(ends) and all(
        end is not None and (end < metric.margin if lower_is_better else end > metric.margin) for end in ends
    )
