"""Which recorded requests is a candidate asked, where a shadow is not of live traffic but of the past?"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, Field

from .. import quantities
from .fields import Strict, wrong

_EXPECTED = "an instant such as 2026-11-20T08:00:00Z, or a duration before the start such as 24h"


def _moment(value: object) -> str:
    if isinstance(value, date) and not isinstance(value, datetime):  # YAML reads a bare day as a date
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, datetime):
        value = value.isoformat()
    try:
        if not isinstance(value, str):
            raise ValueError("neither")
        _read(value, 0)
    except (ValueError, OverflowError):
        raise wrong(value, _EXPECTED) from None
    return value


def _read(text: str, start_ns: int) -> int:
    """The instant in unix nanoseconds; a duration counts back from the start. Without a zone it is UTC."""
    try:
        return start_ns - round(quantities.seconds(text) * 1e9)
    except ValueError:
        moment = datetime.fromisoformat(text)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1e6) * 1000


Moment: TypeAlias = Annotated[str, BeforeValidator(_moment)]


class Recorded(Strict):
    """A window of the past, and how many of its requests at most."""

    since: Moment = Field(default="24h", description=_EXPECTED)
    until: Moment = Field(default="0s", description=_EXPECTED)
    limit: int | None = Field(
        default=None, ge=1, le=10**9, description="how many requests at most, the oldest first: 1 or more"
    )

    def window(self, start_ns: int) -> tuple[int, int]:
        """The half-open window [since, until) in unix nanoseconds, for an experiment that begins then.

        What is recorded later than that is not of the past.
        """
        return _read(self.since, start_ns), min(_read(self.until, start_ns), start_ns)
