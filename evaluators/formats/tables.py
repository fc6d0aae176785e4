"""Which golden items are the rows of a table (CSV, TSV, Parquet, JSONL), when one says which column is what?

`fields` maps ours to theirs: `input=question`, `reference=answer`, and if wanted `id`, `tags`, `cluster_id`,
`system`, `human_label`. A column that is named nowhere is listed once. `checks` judge; without any, `exact`
against the reference does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from evaluators.formats import reading, wording
from evaluators.formats.draft import ALL, Draft, ImportRefused
from evaluators.formats.messages import NotMessages, messages_of
from evaluators.formats.options import ImportOptions
from evaluators.formats.templates import TemplateRefused, fill, slots

NAME: Final = "table"
_FIELDS: Final = frozenset(("input", "reference", "id", "tags", "cluster_id", "system", "human_label"))


def read(paths: Sequence[Path], options: ImportOptions) -> Draft:
    """The rows of the files. Raises ImportRefused, which names the columns there are."""
    if unknown := sorted(options.fields.keys() - _FIELDS):
        raise ImportRefused(f"--map {unknown[0]}=...: expected one of {', '.join(sorted(_FIELDS))}")
    draft = Draft(format=NAME)
    for path in paths:
        rows = reading.table(path)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        fields = _fields(path, columns, options)
        taken = {*fields.values(), *(_root(slot) for slot in slots(options.prompt or ""))}
        for column in columns:
            if column not in taken:
                draft.refuse(ALL, column, f"{path.name}: a column that --map does not name")
        for number, row in enumerate(rows, start=1):
            draft.read += 1
            value = {name: row.get(column) for name, column in fields.items()}
            _add(draft, draft.new_id(value.get("id"), f"{path.stem}-{number}"), row, value, options)
    return draft


def _root(slot: str) -> str:
    return slot.partition(".")[0].partition("[")[0]


def _fields(path: Path, columns: Sequence[str], options: ImportOptions) -> dict[str, str]:
    fields = {name: name for name in _FIELDS if name in columns} | dict(options.fields)
    if missing := [column for column in fields.values() if column not in columns]:
        raise ImportRefused(f"{path} has no column {missing[0]!r}; it has {', '.join(columns) or 'none'}")
    if "input" not in fields and not options.prompt:
        raise ImportRefused(
            f"{path}: say which column is the question: --map input=COLUMN; it has {', '.join(columns)}"
        )
    return fields


def _add(
    draft: Draft, item: str, row: Mapping[str, Any], value: Mapping[str, Any], options: ImportOptions
) -> None:
    try:
        question = fill(options.prompt, row) if options.prompt else value["input"]
        messages = messages_of(question, system=value.get("system") or options.system)
        given = value.get("reference")
        reference = list(wording.texts(given)) if given not in (None, "", []) else None
    except (NotMessages, TemplateRefused, ValueError) as error:
        draft.refuse(item, "item", f"not imported: {error}")
        return
    if reference is None and not options.checks:
        draft.refuse(item, "item", "not imported: neither a reference nor --check says what is right")
        return
    cluster = value.get("cluster_id")
    draft.add(
        item,
        messages,
        reference=reference,
        checks=options.checks,
        tags=_tags(value.get("tags")),
        cluster_id=None if cluster in (None, "") else str(cluster),
        human_label=value.get("human_label") or None,
        source={"kind": NAME},
    )


def _tags(value: Any) -> list[str]:
    found = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else []
    return [str(tag).strip() for tag in found if str(tag).strip()]
