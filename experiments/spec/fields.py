"""How may one value in an experiment's file be written, and how is a wrong one told?

The types of single fields. Which fields there are, and which go together, is not known here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Annotated, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError

from registry import names
from registry.errors import InvalidEntry

from .. import metrics, quantities
from ..document import shown


class Strict(BaseModel):
    """A mapping in the file: every key is known, every value of its type, and nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def wrong(value: object, expected: str, mend: str | None = None) -> PydanticCustomError:
    """A value is not what its field takes: what was expected, and how to mend it."""
    return contradiction(shown(value), expected, mend)


def contradiction(found: str, expected: str, mend: str | None = None) -> PydanticCustomError:
    """Values that are right one by one do not go together; `found` says it in words."""
    context = {"found": found, "expected": expected}
    return PydanticCustomError("turnout", "{expected}", context | ({"mend": mend} if mend else {}))


def _reads(parse: Callable[[object], float], expected: str, mend: str) -> BeforeValidator:
    def read(value: object) -> float:
        try:
            return parse(value)
        except ValueError:
            raise wrong(value, expected, mend) from None

    return BeforeValidator(read)


def _matches(pattern: re.Pattern[str], expected: str) -> BeforeValidator:
    def read(value: object) -> object:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise wrong(value, expected)
        return value

    return BeforeValidator(read)


def _version(value: object) -> int | str:
    try:
        if isinstance(value, (int, str)) and not isinstance(value, bool):
            return names.reference(value)
    except InvalidEntry:
        pass
    raise wrong(value, "a version number such as 3, or an alias such as production")


def _model(value: object) -> object:
    try:
        return names.model_name(value)  # type: ignore[arg-type]  # it refuses what is no text
    except InvalidEntry:
        raise wrong(value, "a registered model's name") from None


def _metric(value: object) -> object:
    try:
        return metrics.metric(str(value)).name
    except metrics.MetricError:
        near = difflib.get_close_matches(str(value), metrics.CATALOGUE, n=1)
        mend = f"Did you mean {near[0]!r}?" if near else None
        known = f"one of {', '.join(metrics.CATALOGUE)}, or one such as {', '.join(metrics.PATTERNS)}"
        raise wrong(value, known, mend) from None


Duration: TypeAlias = Annotated[
    float,
    _reads(
        quantities.seconds,
        "a duration such as 30s, 10m, 12h or 7d, at most 1000 years",
        "Write the unit with the number",
    ),
]
Points: TypeAlias = Annotated[
    float, _reads(quantities.points, "a percentage from 0 to 100, such as 5 or 5%", "Write 5 or 5%")
]
Share: TypeAlias = Annotated[
    float,
    _reads(
        quantities.fraction,
        "a share between 0.0000001% and 99.9999999%, such as 5% or 0.05",
        "Write the % sign, or a fraction",
    ),
]
ExperimentName: TypeAlias = Annotated[
    str,
    _matches(
        re.compile(r"[a-z0-9][a-z0-9._-]{0,62}"), "a name of a-z, 0-9, '.', '_' and '-', at most 63 long"
    ),
]
GroupName: TypeAlias = Annotated[
    str, _matches(re.compile(r"[a-z0-9][a-z0-9._-]{0,62}"), "a name of a-z, 0-9, '.', '_' and '-'")
]
UnitKind: TypeAlias = Annotated[
    str,
    _matches(
        re.compile(r"user|session|tenant|request|header:[A-Za-z0-9-]{1,64}"),
        "user, session, tenant, request or header:NAME",
    ),
]
ModelName: TypeAlias = Annotated[str, BeforeValidator(_model)]
MetricName: TypeAlias = Annotated[str, BeforeValidator(_metric)]
VersionRef: TypeAlias = Annotated[int | str, BeforeValidator(_version)]
