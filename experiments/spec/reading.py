"""What does an experiment's YAML file declare, and is it a declaration that can be run?"""

from __future__ import annotations

from collections.abc import Iterator

from ..document import Document, Path, check, in_order, read_document, shown
from ..errors import DocumentError, Problem
from .declaration import BY_MODE, ExperimentSpec


def read_spec(text: str, file: str = "spec.yaml") -> ExperimentSpec:
    """Parse and check a spec. Raises DocumentError with every problem that can be seen at once."""
    document = read_document(text, file)
    mode = None
    if isinstance(document.value, dict):
        mode = document.value.get("mode", "chain" if "stages" in document.value else None)
    problems = list(_contradictions(document))
    spec = None
    try:
        spec = check(document, BY_MODE.get(mode, ExperimentSpec) if isinstance(mode, str) else ExperimentSpec)
    except DocumentError as error:
        problems += error.problems
    if problems or spec is None:
        raise DocumentError(in_order(problems))
    return spec


def _contradictions(document: Document) -> Iterator[Problem]:
    """What no single field can know: fields that are right one by one and wrong together."""
    value = document.value
    if not isinstance(value, dict):
        return
    metrics = value.get("metrics")
    entries = metrics if isinstance(metrics, dict) else {}
    for role in ("success", "guardrails"):
        seen: dict[str, int] = {}
        listed = entries.get(role)
        for index, entry in enumerate(listed if isinstance(listed, list) else []):
            name = entry.get("metric") if isinstance(entry, dict) else None
            if isinstance(name, str) and name in seen:
                path: Path = ("metrics", role, index, "metric")
                yield document.problem(
                    path, f"{name!r} a second time", "each metric once", "Remove one of the two"
                )
            elif isinstance(name, str):
                seen[name] = index
    if not entries.get("success") and not entries.get("guardrails"):
        yield document.problem(
            ("metrics",),
            "no metric",
            "at least one success metric or guardrail",
            "Add metrics: {guardrails: [{metric: error_rate, tolerated_ratio: 1.25}]}",
        )
    yield from _unjudged_stages(document)
    control, candidate = value.get("control", "production"), value.get("candidate")
    if candidate is not None and str(control) == str(candidate):
        yield document.problem(
            ("candidate",),
            shown(candidate),
            "another version than the control",
            "Name the version to be tried",
        )


def _unjudged_stages(document: Document) -> Iterator[Problem]:
    """A stage before the last one is judged by the guardrails alone: without any it could never pass."""
    stages, metrics = document.value.get("stages"), document.value.get("metrics")
    if not isinstance(stages, dict):
        return
    traffic = [name for name in ("shadow", "canary", "ab") if name in stages]
    if len(traffic) > 1 and not (isinstance(metrics, dict) and metrics.get("guardrails")):
        yield document.problem(
            ("stages", traffic[0]),
            f"{traffic[0]} before {traffic[-1]}, and no guardrail",
            "a guardrail: the stages before the last one are judged by nothing else",
            "Add metrics: {guardrails: [{metric: error_rate, tolerated_ratio: 1.25}]}",
        )
