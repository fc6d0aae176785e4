"""What golden set lies at this path, and if it is none, what exactly is wrong with it?

Reads `<folder>/{set.yaml,items.jsonl}` or a single `.jsonl`, and reports every problem of the files at once:
file, line, field, what was expected, how to mend it. Asks no model; but a Python file that set.yaml names
under `evaluators` is run, as any code that one imports.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from evaluators.canonical import content_hash, why_no_json
from evaluators.errors import EvaluatorUnusable, GoldenSetError, UnknownEvaluator
from evaluators.golden import Check, GoldenItem, GoldenSet, JudgeChoice, MetricPolicy, Policy
from evaluators.plugins import load_file, load_installed
from evaluators.problems import from_pydantic
from evaluators.rows import CheckRow, ItemRow, SetRow
from evaluators.scorers import Evaluator, evaluator_named
from evaluators.scoring import lacking_needs, requires
from experiments.document import check as check_document
from experiments.document import read_document, shown
from experiments.errors import DocumentError, Problem

SET_FILE: Final = "set.yaml"
ITEMS_FILE: Final = "items.jsonl"
_MAX_LINE: Final = 8 * 1024 * 1024
_CHECK_FIELDS: Final = frozenset(info.alias or name for name, info in CheckRow.model_fields.items())


def load_golden_set(path: Path) -> GoldenSet:
    """The golden set at `path`: a folder with set.yaml and items.jsonl, or a .jsonl file.

    Raises GoldenSetError with every problem found.
    """
    problems: list[Problem] = []
    if path.is_dir():
        declared = _read_set(path / SET_FILE, problems)
        items_path, name = path / ITEMS_FILE, declared.name or path.resolve().name
    else:
        declared, items_path, name = SetRow(), path, path.stem
    load_installed()
    own = _own_evaluators(items_path.parent, declared, problems)
    items = _read_items(items_path, declared, own, problems)
    if problems:
        raise GoldenSetError(problems)
    golden = GoldenSet(
        name=name,
        hash=set_hash(items),
        items=items,
        policy=_policy(declared),
        description=declared.description,
        judge=None if declared.judge is None else JudgeChoice(**declared.judge.model_dump()),
    )
    if problems := list(_unfit(path, golden)):
        raise GoldenSetError(problems)
    return golden


def set_hash(items: tuple[GoldenItem, ...]) -> str:
    """`golden@sha256:...` over what the items are and how they hang together; their order says nothing."""
    content = sorted(
        [item.id, item.hash, item.cluster, sorted(item.tags), *([item.weight] if item.weight != 1 else [])]
        for item in items
    )
    return "golden@" + content_hash(content)


def _policy(declared: SetRow) -> Policy:
    fields = declared.model_dump(include=set(Policy.__dataclass_fields__) - {"metrics"})
    metrics = {key: MetricPolicy(**row.model_dump()) for key, row in declared.metrics.items()}
    return Policy(**fields, metrics=metrics)


def _unfit(path: Path, golden: GoldenSet) -> Iterator[Problem]:
    """What fits each by itself, but not together."""
    where = path / SET_FILE if path.is_dir() else path
    for key in sorted(set(golden.policy.metrics) - set(golden.evaluators)):
        known = ", ".join(golden.evaluators)
        yield _problem(where, None, f"metrics.{key}", "no check of this key", f"one of {known}")
    # A check that only shows is skipped where nobody can be asked; one that gates must not vanish like that.
    gating = (check for item in golden.items for check in item.checks if check.gate)
    needs = {need for check in gating for need in requires(check)}
    judge = golden.judge
    if "judge" in needs and (judge is None or not (judge.model or judge.provider)):
        mend = "Add judge: {model: NAME} or judge: {provider: ...}; it must not be the model under test"
        yield _problem(where, None, "judge", "nothing", "a judge for a check that gates", mend)
    if "embedder" in needs and (judge is None or not judge.embeddings):
        mend = "Add judge: {embeddings: MODEL, embeddings_base: http://.../v1}"
        yield _problem(where, None, "judge.embeddings", "nothing", "an embedding model for a check", mend)


def _own_evaluators(folder: Path, declared: SetRow, problems: list[Problem]) -> dict[str, Evaluator]:
    found: dict[str, Evaluator] = {}
    for index, name in enumerate(declared.evaluators):
        try:
            found |= load_file(folder, name)
        except EvaluatorUnusable as error:
            field = f"evaluators[{index}]"
            problems.append(_problem(folder / SET_FILE, None, field, str(error), "a file of evaluators"))
    return found


def _read_set(path: Path, problems: list[Problem]) -> SetRow:
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return SetRow()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(_problem(path, None, "", str(error), "a readable file in UTF-8"))
        return SetRow()
    if not text.strip():
        return SetRow()
    try:
        declared = check_document(read_document(text, str(path)), SetRow)
    except DocumentError as error:
        problems.extend(error.problems)
        return SetRow()
    if (why := why_no_json(declared.default_checks)) is not None:
        mend = "Put it in quotation marks"
        problems.append(_problem(path, None, "default_checks", why, "values of JSON", mend))
        return SetRow()
    return declared


def _read_items(
    path: Path, declared: SetRow, own: Mapping[str, Evaluator], problems: list[Problem]
) -> tuple[GoldenItem, ...]:
    try:
        raw_lines = path.read_bytes().split(b"\n")
    except OSError as error:
        mend = f"Give a folder with {SET_FILE} and {ITEMS_FILE}, or a .jsonl file"
        problems.append(_problem(path, None, "", error.strerror or str(error), "a readable file", mend))
        return ()
    items: list[GoldenItem] = []
    lines: dict[str, int] = {}
    for number, raw in enumerate(raw_lines, start=1):
        if not raw.strip():
            continue
        found: list[Problem] = []
        item = _read_item(path, number, raw, declared, own, found)
        problems.extend(found)
        if item is None:
            continue
        if item.id in lines:
            doubled = f"{item.id!r}, which line {lines[item.id]} has too"
            mend = "Give one of the two another id"
            problems.append(_problem(path, number, "id", doubled, "an id of its own", mend))
        lines.setdefault(item.id, number)
        items.append(item)
    if not items and not problems:
        problems.append(_problem(path, None, "", "no item", "at least one", "Write one JSON object a line"))
    return tuple(items)


def _read_item(
    path: Path, line: int, raw: bytes, declared: SetRow, own: Mapping[str, Evaluator], problems: list[Problem]
) -> GoldenItem | None:
    try:
        if len(raw) > _MAX_LINE:
            raise ValueError(f"the line has {len(raw)} bytes, at most {_MAX_LINE} are read")
        value = json.loads(raw, object_pairs_hook=_unique, parse_constant=_no_constant)
        content_hash(value)  # lone surrogates and such: refuse them here, where the line is known
    except (ValueError, RecursionError) as error:
        mend = "Write one JSON object on one line"
        problems.append(
            _problem(path, line, "", f"text that is not ({error})", "one JSON object in UTF-8", mend)
        )
        return None
    if not isinstance(value, dict):
        mend = 'Begin the line with {"id": ...'
        problems.append(_problem(path, line, "", shown(value), "a JSON object", mend))
        return None
    try:
        row = ItemRow.model_validate(value)
    except ValidationError as error:
        problems.extend(from_pydantic(path, error, ItemRow, lambda _: line))
        return None
    raw_checks = (
        value.get("checks")
        or declared.default_checks
        or ([{"type": "exact"}] if row.reference not in (None, "", []) else [])
    )
    item = _item(row, value, raw_checks)
    checks = _checks(path, line, item, raw_checks, own, problems)
    return None if checks is None else replace(item, checks=checks)


def _item(row: ItemRow, value: dict[str, Any], raw_checks: list[Any]) -> GoldenItem:
    content = {"input": value["input"], "reference": value.get("reference"), "checks": raw_checks}
    body = value["input"]
    return GoldenItem(
        id=row.id,
        hash=content_hash(content),
        messages=tuple(body["messages"]),
        tools=tuple(body.get("tools") or ()),
        response_format=body.get("response_format"),
        params=body.get("params") or {},
        reference=row.references,
        checks=(),
        tags=tuple(row.tags),
        cluster_id=row.cluster_id,
        weight=row.weight,
        human_label=row.human_label,
        source=row.source,
        added=None if row.added is None else row.added.isoformat(),
    )


def _checks(
    path: Path,
    line: int,
    item: GoldenItem,
    raw_checks: list[Any],
    own: Mapping[str, Evaluator],
    problems: list[Problem],
) -> tuple[Check, ...] | None:
    """The item's checks with their options, or None after noting what is wrong with any of them."""
    before = len(problems)
    if not raw_checks:
        mend = 'Add "checks" or "reference" to the item, or default_checks to set.yaml'
        problems.append(_problem(path, line, "checks", "none", "at least one check", mend))
    checks: list[Check] = []
    for index, raw in enumerate(raw_checks):
        where = f"checks[{index}]"
        try:
            checks.append(_check(item, raw, own, {check.key for check in checks}))
        except ValidationError as error:
            of_row = error.title == CheckRow.__name__
            model = CheckRow if of_row else _evaluator(raw["type"], own).options
            problems.extend(from_pydantic(path, error, model, lambda _: line, prefix=where))
        except (ValueError, UnknownEvaluator, EvaluatorUnusable) as error:
            problems.append(_problem(path, line, where, str(error), "a check that can be made"))
    judged = any(check.kind != "code" for check in checks)
    if checks and not (judged or any(check.gate for check in checks)) and len(problems) == before:
        mend = 'Leave out "gate": false in at least one check'
        problems.append(_problem(path, line, "checks", "none that gates", "at least one that does", mend))
    return tuple(checks) if len(problems) == before else None


def _evaluator(name: str, own: Mapping[str, Evaluator]) -> Evaluator:
    return own[name] if name in own else evaluator_named(name)


def _check(item: GoldenItem, raw: Any, own: Mapping[str, Evaluator], taken: set[str]) -> Check:
    if not isinstance(raw, dict):
        raise ValueError(f'{shown(raw)}, which is no object such as {{"type": "exact"}}')
    row = CheckRow.model_validate({key: raw[key] for key in raw if key in _CHECK_FIELDS})
    evaluator = _evaluator(row.type, own)
    options = evaluator.options.model_validate({key: raw[key] for key in raw if key not in _CHECK_FIELDS})
    if lacking := lacking_needs(evaluator, options, item):
        raise ValueError(f"{row.type!r}, which compares with a {lacking[0]} that the item lacks")
    options.suits(item.reference)
    if row.key in taken:
        raise ValueError(f"the key {row.key!r}, which another check of the item has too")
    return Check(
        key=row.key or _free_key(row.type, taken),
        type=row.type,
        version=evaluator.version,
        options=options,
        # What a judge thinks is shown unless the set says that it gates.
        gate=evaluator.kind == "code" if row.gate is None else row.gate,
        negate=row.negate,
        target_errors=row.target_errors,
        kind=evaluator.kind,
        threshold=evaluator.threshold if row.threshold is None else row.threshold,
        weight=row.weight,
    )


def _free_key(type_: str, taken: set[str]) -> str:
    """The scorer's name, or `regex-2` for the second regex of an item."""
    return next(
        key for n in range(1, len(taken) + 2) if (key := type_ if n == 1 else f"{type_}-{n}") not in taken
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen = Counter(key for key, _ in pairs)
    if twice := [key for key, count in seen.items() if count > 1]:
        raise ValueError(f"the key {twice[0]!r} stands twice in one object")
    return dict(pairs)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _problem(
    path: Path, line: int | None, field: str, found: str, expected: str, mend: str | None = None
) -> Problem:
    return Problem(file=str(path), line=line, field=field, found=found, expected=expected, mend=mend)
