"""Which golden items are the records of an MLflow evaluation dataset, and the other way round?

After MLflow's documentation (GenAI evaluation datasets): a record has `inputs`, and `expectations` of which
`expected_response`, `expected_facts`, `guidelines` and `expected_tool_calls` have a meaning. MLflow
leaves the first three to judges; so does the import, and the response becomes the reference too
(`--scorer exact` or `contains` compares it to the letter).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from evaluators.formats import reading, wording
from evaluators.formats.draft import Draft, ImportRefused
from evaluators.formats.messages import NotMessages, messages_of
from evaluators.formats.options import ImportOptions
from evaluators.formats.templates import TemplateRefused, fill
from evaluators.golden import GoldenItem, GoldenSet

NAME: Final = "mlflow"
_BODY: Final = frozenset(("messages", "tools", "response_format"))
_QUESTIONS: Final = ("question", "query", "prompt", "request", "input")
_PARAMS: Final = frozenset(("temperature", "top_p", "max_tokens", "seed", "stop", "max_completion_tokens"))
#: Where a record came from and what the dataset's store knows of it: kept as the item's source, or of no use.
_LINEAGE: Final = frozenset(
    ("dataset_record_id", "dataset_id", "created_time", "create_time", "last_update_time", "created_by",
     "last_updated_by", "source", "source_type", "source_id", "tags")
)  # fmt: skip


def read(paths: Sequence[Path], options: ImportOptions) -> Draft:
    """The records of .json or .jsonl files. Raises ImportRefused."""
    if options.scorer not in (None, "exact", "contains", "judge"):
        raise ImportRefused(f"--scorer {options.scorer}: expected exact, contains or judge")
    draft = Draft(format=NAME)
    for path in paths:
        for number, record in enumerate(reading.table(path), start=1):
            draft.read += 1
            item = draft.new_id(record.get("dataset_record_id"), f"{path.stem}-{number}")
            _add(draft, item, record, options)
    return draft


def _add(draft: Draft, item: str, record: Mapping[str, Any], options: ImportOptions) -> None:
    for name in record.keys() - _LINEAGE - {"inputs", "expectations"}:
        draft.refuse(item, str(name), "is no part of a question: the answer is asked of our versions")
    inputs, expectations = _object(record.get("inputs")), _object(record.get("expectations")) or {}
    try:
        if inputs is None:
            raise NotMessages("the record has no inputs")
        messages = _messages(inputs, options)
    except (NotMessages, TemplateRefused) as error:
        draft.refuse(item, "item", f"not imported: {error}")
        return
    if not options.prompt:
        for name in inputs.keys() - _BODY - _PARAMS - {_question(inputs)}:
            draft.refuse(
                item, f"inputs.{name}", "is not put to the model; name it in --prompt if it should be"
            )
    checks = list(_checks(draft, item, expectations, options))
    response = expectations.get("expected_response")
    reference = (
        response if isinstance(response, str | int | float) and not isinstance(response, bool) else None
    )
    if not checks and not options.checks and reference is None:
        draft.refuse(item, "item", "not imported: no expectation is left")
        return
    draft.add(
        item,
        messages,
        reference=reference,
        checks=[*checks, *options.checks],
        tools=inputs.get("tools"),
        response_format=inputs.get("response_format"),
        params={name: inputs[name] for name in sorted(inputs.keys() & _PARAMS)},
        tags=[
            f"{name}={value}"
            for name, value in (_object(record.get("tags")) or {}).items()
            if not str(name).startswith("mlflow.")
        ],
        source={"kind": NAME, "record": record.get("dataset_record_id"), "source": record.get("source")},
    )


def _object(value: Any) -> dict[str, Any] | None:
    """An object, or one in JSON as a table holds it."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return dict(value) if isinstance(value, Mapping) else None


def _messages(inputs: Mapping[str, Any], options: ImportOptions) -> list[dict[str, Any]]:
    if options.prompt:
        return messages_of(fill(options.prompt, {**inputs, "inputs": inputs}), system=options.system)
    if "messages" in inputs:
        return messages_of(inputs["messages"], system=options.system)
    name = _question(inputs)
    if name is None:
        raise NotMessages(f"inputs has neither messages nor one of {', '.join(_QUESTIONS)}: give --prompt")
    return messages_of(inputs[name], system=options.system)


def _question(inputs: Mapping[str, Any]) -> str | None:
    return next((name for name in _QUESTIONS if name in inputs), None)


def _checks(
    draft: Draft, item: str, expectations: Mapping[str, Any], options: ImportOptions
) -> Iterator[wording.Check]:
    for name, value in expectations.items():
        try:
            yield from _expected(name, value, options.scorer or "judge")
        except ValueError as error:
            draft.refuse(item, f"expectations.{name}", str(error))


def _expected(name: str, value: Any, scorer: str) -> list[wording.Check]:
    if name == "expected_response":
        texts = wording.texts(value)
        if scorer == "judge":
            return [wording.judged(f"The answer says the same as this expected response:\n{texts[0]}")]
        return [wording.exact(*texts) if scorer == "exact" else wording.contains(*texts)]
    if name == "expected_facts":
        facts = "\n".join(f"- {fact}" for fact in wording.texts(value))
        return [wording.judged(f"The answer states all of these facts, in whatever words:\n{facts}")]
    if name == "guidelines":
        named = value.values() if isinstance(value, Mapping) else [value]
        rules = [rule for group in named for rule in wording.texts(group)]
        return [wording.judged(f"The answer keeps to this guideline:\n{rule}") for rule in rules]
    if name == "expected_tool_calls":
        if not isinstance(value, list) or not all(isinstance(call, Mapping) for call in value):
            raise ValueError("is no list of calls")
        return [wording.tool_call(call) for call in value]
    raise ValueError("has no meaning to MLflow's own scorers, nor here")


def records(golden: GoldenSet) -> list[dict[str, Any]]:
    """The set as records that MLflow's `EvaluationDataset.merge_records` takes."""
    return [_record(item, golden) for item in golden.items]


def _record(item: GoldenItem, golden: GoldenSet) -> dict[str, Any]:
    body = item.body("")
    body.pop("model")
    expectations: dict[str, Any] = {}
    if item.reference:
        expectations["expected_response"] = str(item.reference[0])
    calls = [
        {"name": check.options.name, "arguments": check.options.args or {}}
        for check in item.checks
        if check.type == "tool_call" and check.options.name is not None and not check.negate
    ]
    if calls:
        expectations["expected_tool_calls"] = calls
    tags = {
        "turnout.item": item.id,
        "turnout.item_hash": item.hash,
        "turnout.set": golden.name,
        "turnout.set_hash": golden.hash,
    }
    return {
        "inputs": body,
        "expectations": expectations,
        "tags": tags | {f"tag.{tag}": "true" for tag in item.tags},
    }
