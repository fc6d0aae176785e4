"""What does an experiment's YAML file declare, and is it a declaration that can be run?"""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from .. import metrics
from ..document import Document, Path, check, in_order, read_document, shown
from ..errors import DocumentError, Problem
from .declaration import BY_MODE, ExperimentSpec


def read_spec(text: str, file: str = "spec.yaml") -> ExperimentSpec:
    """Parse and check a spec. Raises DocumentError with every problem that can be seen at once."""
    document = read_document(text, file)
    mode = None
    if isinstance(document.value, dict):
        meant = difflib.get_close_matches("stages", [key.lower() for key in document.value])
        mode = document.value.get("mode", "chain" if meant else None)
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
    measured = value.get("metrics")
    entries = measured if isinstance(measured, dict) else {}
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
    yield from _unreplayable(document)
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
    stages, measured = document.value.get("stages"), document.value.get("metrics")
    if not isinstance(stages, dict):
        return
    traffic = [name for name in ("shadow", "canary", "ab") if name in stages]
    if len(traffic) > 1 and not (isinstance(measured, dict) and measured.get("guardrails")):
        yield document.problem(
            ("stages", traffic[0]),
            f"{traffic[0]} before {traffic[-1]}, and no guardrail",
            "a guardrail: the stages before the last one are judged by nothing else",
            "Add metrics: {guardrails: [{metric: error_rate, tolerated_ratio: 1.25}]}",
        )


def _unreplayable(document: Document) -> Iterator[Problem]:
    """What a recorded request does not tell: how long its answer would take at the hour of the other one, and
    which headers it had. A later stage of a chain may ask it of live traffic."""
    value = document.value
    stages = value.get("stages")
    replayed = _is_recorded(stages.get("shadow") if isinstance(stages, dict) else value.get("traffic"))
    if not replayed:
        return
    rules = value.get("exclude")
    if isinstance(rules, dict) and rules.get("headers"):
        yield document.problem(
            ("exclude", "headers"),
            "headers",
            "tenants or tags: headers are not recorded, so recorded requests cannot be kept out by them",
        )
    if isinstance(stages, dict) and ("canary" in stages or "ab" in stages):
        return
    declared = value.get("metrics")
    for role in ("success", "guardrails", "exploratory"):
        listed = declared.get(role) if isinstance(declared, dict) else None
        for index, entry in enumerate(listed if isinstance(listed, list) else []):
            name = entry.get("metric") if isinstance(entry, dict) else None
            if isinstance(name, str) and _is_timed(name):
                yield document.problem(
                    ("metrics", role, index, "metric"),
                    f"{name!r} of recorded requests",
                    "a metric that does not depend on the hour: the two answers met other loads and caches",
                    "Use error_rate or completion_tokens here, and compare times in a live shadow",
                )


def _is_recorded(traffic: object) -> bool:
    return isinstance(traffic, dict) and traffic.get("recorded") is not None


def _is_timed(name: str) -> bool:
    try:
        return metrics.metric(name).timed
    except metrics.MetricError:
        return False  # told elsewhere
