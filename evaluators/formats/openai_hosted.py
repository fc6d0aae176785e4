"""Which golden items are the rows of an eval on OpenAI's platform, as its API gives them out?

After the API reference (Evals, Graders): the eval object has `testing_criteria`, the run object the
`input_messages` and perhaps the rows, a JSONL file or the run's output items have the rows. Give all of these
files together. Graders that run code are refused, as is one that reads anything but the answer's text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from evaluators.formats import reading, wording
from evaluators.formats.draft import Draft, ImportRefused
from evaluators.formats.messages import NotMessages, messages_of
from evaluators.formats.options import ImportOptions
from evaluators.formats.templates import TemplateRefused, fill, filled, slots

NAME: Final = "openai-hosted"
_ANSWER: Final = "sample.output_text"
_SAMPLING: Final = {"max_completions_tokens": "max_tokens", "max_completion_tokens": "max_tokens"}


@dataclass(slots=True)
class _Export:
    """What the files hold: the graders, the template of the question, its parameters, the rows."""

    criteria: list[Mapping[str, Any]] = field(default_factory=list)
    template: list[Any] | None = None
    params: dict[str, Any] = field(default_factory=dict)
    rows: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)


def read(paths: Sequence[Path], options: ImportOptions) -> Draft:
    """The rows of an eval. Raises ImportRefused when there is no template or no row."""
    draft, export = Draft(format=NAME), _Export()
    for path in paths:
        for index, found in enumerate(reading.objects(path), start=1):
            _take(export, draft, found, f"{path.stem}-{index}")
    if options.prompt:
        export.template = [{"role": "user", "content": options.prompt}]
    if export.template is None:
        raise ImportRefused(
            "no question: give the run's object too (with input_messages), or --prompt '{{item.NAME}}'"
        )
    if not export.rows:
        raise ImportRefused("no row: give the JSONL of the data source, or the run's output items")
    for number, (item_id, values) in enumerate(export.rows, start=1):
        draft.read += 1
        _add(draft, export, draft.new_id(values.get("id", item_id), f"row-{number}"), values, options)
    return draft


def _take(export: _Export, draft: Draft, found: Any, name: str) -> None:
    if not isinstance(found, Mapping):
        draft.refuse(name, "object", f"{type(found).__name__} is no object")
        return
    kind = found.get("object")
    if kind == "list" and isinstance(found.get("data"), list):
        for index, inner in enumerate(found["data"], start=1):
            _take(export, draft, inner, f"{name}-{index}")
    elif kind == "eval":
        export.criteria.extend(one for one in found.get("testing_criteria", ()) if isinstance(one, Mapping))
    elif kind == "eval.run":
        _take_run(export, draft, found.get("data_source") or {})
    elif kind == "eval.run.output_item":
        if isinstance(found.get("datasource_item"), Mapping):
            export.rows.append((f"row-{found.get('datasource_item_id', name)}", found["datasource_item"]))
    elif isinstance(found.get("item"), Mapping):
        export.rows.append((name, found["item"]))
        for extra in found.keys() - {"item"}:
            draft.refuse(name, str(extra), "is no part of a question: the answer is asked of our versions")
    else:
        draft.refuse(name, "object", f"neither eval, eval.run, output item nor row: keys {sorted(found)[:6]}")


def _take_run(export: _Export, draft: Draft, source: Mapping[str, Any]) -> None:
    messages = source.get("input_messages") or {}
    if messages.get("type") == "template":
        export.template = messages.get("template")
    elif messages.get("type") == "item_reference":
        export.template = [f"{{{{ {messages.get('item_reference')} }}}}"]
    for name, value in (source.get("sampling_params") or {}).items():
        if name == "text" and isinstance(value, Mapping):
            export.params["response_format"] = value.get("format")
        elif value is not None:
            export.params[_SAMPLING.get(name, name)] = value
    content = (source.get("source") or {}).get("content")
    if isinstance(content, list):
        for index, row in enumerate(content, start=1):
            _take(export, draft, row, f"row-{index}")


def _add(draft: Draft, export: _Export, item: str, values: Mapping[str, Any], options: ImportOptions) -> None:
    variables = {"item": values}
    try:
        asked = [filled(_plain(message), variables) for message in export.template or ()]
        question = asked[0] if len(asked) == 1 and not isinstance(asked[0], Mapping) else asked
        messages = messages_of(question, system=options.system)
    except (TemplateRefused, NotMessages) as error:
        draft.refuse(item, "item", f"not imported: {error}")
        return
    checks = [*_checks(draft, export.criteria, item, variables), *options.checks]
    if not checks:
        draft.refuse(item, "item", "not imported: no check is left")
        return
    params = dict(export.params)
    fields = {
        "response_format": params.pop("response_format", None),
        "tools": params.pop("tools", None),
        "params": params,
    }
    draft.add(item, messages, checks=checks, source={"kind": NAME, "item": dict(values)}, **fields)


def _plain(message: Any) -> Any:
    """A message without its wrapping `type: message`."""
    return {k: v for k, v in message.items() if k != "type"} if isinstance(message, Mapping) else message


def _checks(
    draft: Draft, criteria: Sequence[Mapping[str, Any]], item: str, variables: Mapping[str, Any]
) -> Iterator[wording.Check]:
    for index, criterion in enumerate(criteria):
        where = f"testing_criteria[{index}] ({criterion.get('type')})"
        try:
            yield _check(criterion, variables)
        except (TemplateRefused, ValueError) as error:
            draft.refuse(item, where, str(error))


def _check(criterion: Mapping[str, Any], variables: Mapping[str, Any]) -> wording.Check:
    kind = criterion.get("type")
    if kind == "string_check":
        _needs_answer(criterion.get("input"))
        return _string_check(
            str(criterion.get("operation")), fill(str(criterion.get("reference")), variables)
        )
    if kind == "text_similarity":
        _needs_answer(criterion.get("input"))
        return _similarity(criterion, fill(str(criterion.get("reference")), variables))
    if kind in ("score_model", "label_model"):
        return wording.judged(_rubric(criterion, variables))
    raise ValueError(
        "runs code, which is not imported" if kind == "python" else "is no grader that is known here"
    )


def _needs_answer(template: Any) -> None:
    if slots(str(template)) != [_ANSWER]:
        raise ValueError(f"reads {template!r}; only {{{{ {_ANSWER} }}}} is what our checks read")


def _string_check(operation: str, reference: str) -> wording.Check:
    checks = {
        "eq": lambda: wording.exact(reference),
        "ne": lambda: wording.negated(wording.exact(reference)),
        "like": lambda: wording.contains(reference),
        "ilike": lambda: wording.contains(reference, ignore_case=True),
    }
    if operation not in checks:
        raise ValueError(f"the operation {operation!r} is not known here")
    return checks[operation]()


def _similarity(criterion: Mapping[str, Any], reference: str) -> wording.Check:
    metric, threshold = criterion.get("evaluation_metric"), criterion.get("pass_threshold")
    if metric == "fuzzy_match":  # rapidfuzz's ratio, says the API reference
        check: wording.Check = {"type": "similarity", "measure": "ratio", "values": [reference]}
        return check | ({"threshold": threshold} if threshold is not None else {})
    raise ValueError(f"the metric {metric!r} has no equal here")


def _rubric(criterion: Mapping[str, Any], variables: Mapping[str, Any]) -> str:
    """What the grader is told, with the answer named rather than pasted in: the judge gets it apart."""
    known = {**variables, "sample": {"output_text": "[the answer]", "output_json": "[the answer]"}}
    parts = []
    for message in criterion.get("input") or ():
        content = message.get("content") if isinstance(message, Mapping) else message
        text = content.get("text", "") if isinstance(content, Mapping) else content
        parts.append(fill(str(text), known))
    if criterion.get("type") == "label_model":
        parts.append(
            f"It passes with the label {' or '.join(map(str, criterion.get('passing_labels') or ()))}."
        )
    elif criterion.get("pass_threshold") is not None:
        parts.append(
            f"It passes from {criterion['pass_threshold']} on the scale {criterion.get('range', [0, 1])}."
        )
    return "\n\n".join(parts)
