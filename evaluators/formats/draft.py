"""What did an import make of foreign files: which items, with which checks, and what could not be taken?

Nothing is dropped silently: every field of a foreign item either becomes part of a golden item or stands in
`refused` with its reason. An importer proposes plain rows; `settled` holds them to the golden format itself
(by loading what it would write), so that a proposal our scorers cannot carry out is refused, not written.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from evaluators.errors import EvaluatorError, GoldenSetError
from evaluators.loading import ITEMS_FILE, SET_FILE, load_golden_set
from evaluators.wellformed import well_formed
from experiments.errors import Problem

ALL: Final = "*"  # the item of a refusal that concerns the file as a whole
_ID: Final = re.compile(r"[^A-Za-z0-9._-]+")
_CHECK: Final = re.compile(r"checks\[(\d+)\]")
_LONGEST_ID: Final = 180
_ROOM: Final = 8  # for the number of one that is there already
#: Whom the set will ask is for its set.yaml to say: no row is at fault for it.
_ANY_JUDGE: Final = json.dumps(
    {"judge": {"provider": "any/any", "embeddings": "any", "embeddings_base": "http://127.0.0.1/v1"}}
)


class ImportRefused(EvaluatorError):
    """The files are not what the format says, so that no item can be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What could not be imported: of which item (`*`: all of them), which field, and why."""

    item: str
    field: str
    why: str

    def __str__(self) -> str:
        return f"{self.item}: {self.field}: {self.why}"


@dataclass(slots=True, kw_only=True)
class Draft:
    """Items in the golden format, as JSON rows, and the refusals. `read` counts the foreign items."""

    format: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    read: int = 0
    _taken: Counter[str] = field(default_factory=Counter)

    @property
    def checks(self) -> int:
        """Checks of all items; an item that leaves them to its reference has one."""
        return sum(len(row.get("checks") or (1,)) for row in self.rows)

    def refuse(self, item: str, field: str, why: str) -> None:
        """Note what cannot be taken."""
        self.refused.append(Refusal(item=item, field=field, why=why))

    def new_id(self, wanted: object, fallback: str) -> str:
        """An id of its own that the golden format allows, as near to the foreign one as can be."""
        plain, instead = _plain(wanted), _plain(fallback)
        base = plain if plain[:1].isalnum() else _plain(f"{instead or 'item'}-{plain}")
        self._taken[base] += 1
        again = self._taken[base]
        # Cut before it is numbered: what is cut off behind would be the number.
        return base if again == 1 else self.new_id(f"{base[: _LONGEST_ID - _ROOM]}-{again}", fallback)

    def add(
        self,
        item: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        reference: Any = None,
        checks: Sequence[Mapping[str, Any]] = (),
        **fields: Any,
    ) -> None:
        """Propose an item; the fields that are None or empty are left out."""
        body = {"messages": [dict(message) for message in messages]}
        body |= {
            name: fields.pop(name) for name in ("tools", "response_format", "params") if fields.get(name)
        }
        row: dict[str, Any] = {"id": item, "input": body}
        optional = {"reference": reference, "checks": [dict(check) for check in checks], **fields}
        row |= {name: value for name, value in optional.items() if value not in (None, [], {}, ())}
        self.rows.append(row)


def _plain(text: object) -> str:
    """What of a text may stand in an id."""
    return "" if text is None else _ID.sub("-", str(text)).strip("-.")[:_LONGEST_ID].strip("-.")


def settled(draft: Draft) -> Draft:
    """The draft without what the golden format refuses, each refusal listed: a check that no scorer carries
    out is taken out of its item, an item with nothing left to gate on out of the draft."""
    result = Draft(format=draft.format, refused=list(draft.refused), read=draft.read)
    rows = []
    for row in draft.rows:
        if well_formed(row) != row:
            result.refuse(well_formed(row["id"]), "item", "not imported: UTF-8 or 64 bits cannot hold it")
        elif (why := _no_json(row)) is not None:
            result.refuse(row["id"], "item", f"not imported: JSON cannot hold it ({why})")
        else:
            rows.append(row)
    while rows:
        problems = _problems(rows)
        if not problems:
            break
        faulty: dict[int, dict[int | None, tuple[str, str]]] = {}
        for line, where, text in problems:
            check = _CHECK.match(where)
            faulty.setdefault(line - 1, {})[int(check[1]) if check else None] = (where, text)
        rows = _without(rows, faulty, result)
    result.rows = rows
    return result


def _no_json(row: Mapping[str, Any]) -> str | None:
    """Why a row is none: tables and YAML have more than JSON, such as moments and bytes."""
    try:
        json.dumps(row)
    except (TypeError, ValueError, RecursionError) as error:
        return str(error)
    return None


def write_set(folder: Path, draft: Draft, *, description: str = "") -> Path:
    """The draft as a golden set's folder. Raises ImportRefused without items, or if it is taken."""
    if not draft.rows:
        raise ImportRefused(
            f"none of the {draft.read} items could be imported:\n"
            + "\n".join(f"  {refusal}" for refusal in draft.refused[:20])
        )
    items = folder / ITEMS_FILE
    if items.exists():
        raise ImportRefused(f"{items} exists; give another folder with --out, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    items.write_text(_lines(draft.rows), "utf-8")
    if not (folder / SET_FILE).exists():
        (folder / SET_FILE).write_text(f"description: {json.dumps(description)}\n", "utf-8")
    return folder


def _problems(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, str, str]]:
    """Line, field and text of every problem that loading these rows would meet."""
    with tempfile.TemporaryDirectory(prefix="turnout-import-") as folder:
        (Path(folder) / ITEMS_FILE).write_text(_lines(rows), "utf-8")
        (Path(folder) / SET_FILE).write_text(_ANY_JUDGE, "utf-8")
        try:
            load_golden_set(Path(folder))
        except GoldenSetError as error:
            return [(problem.line or 1, problem.field, _words(problem)) for problem in error.problems]
    return []


def _words(problem: Problem) -> str:
    in_check = _CHECK.match(problem.field)
    return problem.found if in_check else f"{problem.found}; expected {problem.expected}"


def _without(
    rows: Sequence[dict[str, Any]], faulty: Mapping[int, Mapping[int | None, tuple[str, str]]], result: Draft
) -> list[dict[str, Any]]:
    kept = []
    for index, row in enumerate(rows):
        faults = faulty.get(index)
        if not faults:
            kept.append(row)
            continue
        checks = [check for number, check in enumerate(row.get("checks", ())) if number not in faults]
        for _, (where, why) in sorted(faults.items(), key=lambda fault: fault[0] or -1):
            result.refuse(row["id"], where or "item", why)
        if None not in faults and checks:
            kept.append({**row, "checks": checks})
        else:
            result.refuse(row["id"], "item", "not imported: it cannot be asked or has no check left")
    return kept


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
