"""How does a validation error of pydantic read to somebody who writes golden sets?

As a problem with file, line and field in the file's own words, what was expected, and how to mend it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from experiments.document import shown
from experiments.errors import Problem

_MENDS: Final = {
    "missing": "Add the field",
    "extra_forbidden": "Correct or remove the field",
    "literal_error": "Use one of these",
    "string_pattern_mismatch": "Use letters, digits, dot, dash and underscore",
    "string_type": "Put it in quotation marks",
    "float_type": "Write a number, without quotation marks",
    "bool_type": "Write true or false, without quotation marks",
}
_BRANCHES: Final = frozenset(("str", "int", "float", "bool"))


def from_pydantic(
    path: Path,
    error: ValidationError,
    model: type[BaseModel],
    line_of: Callable[[str], int | None],
    *,
    prefix: str = "",
) -> Iterator[Problem]:
    """One problem per field. The branches of a union are told as one, not once per branch."""
    told: set[str] = set()
    for detail in error.errors(include_url=False, include_context=False):
        field = _field(detail["loc"], prefix)
        if field in told:
            continue
        told.add(field)
        found, expected, mend = _words(detail, model)
        yield Problem(
            file=str(path), line=line_of(field), field=field, found=found, expected=expected, mend=mend
        )


def _field(location: tuple[int | str, ...], prefix: str) -> str:
    # Unions put the branch's name into the location ("reference", "str"): not a name of the file.
    field = prefix
    for part in location:
        if isinstance(part, int):
            field += f"[{part}]"
        elif not (part in _BRANCHES or "[" in part or part.startswith("function-")):
            field += f".{part}" if field else part
    return field


def _words(detail: Any, model: type[BaseModel]) -> tuple[str, str, str | None]:
    """What was found, what was expected, how to mend it."""
    kind, mend = detail["type"], _MENDS.get(detail["type"])
    if kind == "missing":
        return "nothing", "this field", mend
    if kind == "extra_forbidden":
        name = str(detail["loc"][-1])
        known = [info.alias or name for name, info in model.model_fields.items()]
        close = difflib.get_close_matches(name, known, n=1)
        return (
            "an unknown field",
            f"one of {', '.join(known)}",
            f"Did you mean {close[0]!r}?" if close else mend,
        )
    message = detail["msg"]
    if kind == "value_error":  # a sentence of a validator of ours, which says what is wrong
        return message.removeprefix("Value error, "), "a value that fits", mend
    return shown(detail.get("input")), message.removeprefix("Input should be "), mend
