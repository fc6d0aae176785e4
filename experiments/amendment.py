"""What of a declaration may still be changed once its experiment is under way?

Only what is done upon the evidence: nothing that a verdict follows from, nothing that decides who is in the
evidence. Pure: two declarations in, the fields that differ out, or a refusal that says what to do instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

from .document import dotted, shown
from .errors import Conflict
from .spec import ExperimentSpec

Path = tuple[str, ...]

#: What follows from a verdict, what is done where there can be none, how fast a ramp goes, and what all
#: copies together may cost. Not the caps on single copies: what they shed is missing from the evidence.
_CANARY: Final[tuple[Path, ...]] = (("min_units",), ("min_duration",), ("hold_at",))
_SHADOW: Final[tuple[Path, ...]] = (("max_tokens",), ("max_cost",), ("prices",))
AMENDABLE: Final[tuple[Path, ...]] = (
    ("on_ship",),
    ("policies",),
    *(("traffic", *field) for field in (*_CANARY, *_SHADOW)),
    *(("stages", "canary", *field) for field in _CANARY),
    *(("stages", "shadow", *field) for field in _SHADOW),
)


def amendments(before: ExperimentSpec, after: ExperimentSpec) -> tuple[Path, ...]:
    """The fields that differ, all of which may. Raises Conflict, naming those that may not."""
    found = tuple(_differing(before.model_dump(), after.model_dump(), ()))
    fixed = [path for path in found if not any(path[: len(free)] == free for free in AMENDABLE)]
    if fixed:
        raise Conflict(
            f"experiment {before.experiment!r} declared {', '.join(map(dotted, fixed))} before its first "
            "unit, and its verdict follows from that: changed now, the evidence would be of two experiments. "
            f"End it (`turnout experiment stop {before.experiment}`) and declare the new one under another "
            "name, or put the file back",
            code="preregistered",
            param=dotted(fixed[0]),
        )
    return found


def _differing(before: Any, after: Any, path: Path) -> Iterator[Path]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys((*before, *after)):
            yield from _differing(before.get(key), after.get(key), (*path, key))
    elif before != after:
        yield path


def sentence(path: Path, before_yaml: str, after_yaml: str) -> str:
    """What becomes of a field, in the words of the two files."""
    return f"{dotted(path)}: {_written(before_yaml, path)} -> {_written(after_yaml, path)}"


def _written(text: str, path: Path) -> str:
    value = yaml.safe_load(text)
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return "the default"
        value = value[key]
    return str(value) if isinstance(value, str) else shown(value)
