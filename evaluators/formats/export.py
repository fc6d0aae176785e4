"""How does a golden run read in other tools: Inspect's viewer, promptfoo's JSON, MLflow's records, JUnit?

A run is given as it is stored: what was asked (the set) and what came of it (the rows). Nothing is worked out
anew but sums of what the rows say; an answer without a score stays without one.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from xml.etree import ElementTree as Xml

from evaluators.comparison import Comparison
from evaluators.formats import mlflow_records
from evaluators.golden import Check, GoldenItem, GoldenSet
from evaluators.results import ResultRow, text_of

#: What a case can be beside passed, and the attribute that counts it.
_JUNIT_COUNTS: Final = {"failure": "failures", "error": "errors", "skipped": "skipped"}
_XML_REFUSES: Final = {number: " " for number in (*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A stored run: which model and version, when (ISO 8601), and its rows."""

    run_id: str
    model: str
    version: int
    started_at: str
    ended_at: str | None
    rows: Sequence[ResultRow]

    def answers(self, golden: GoldenSet) -> Iterator[tuple[GoldenItem, int, list[tuple[Check, ResultRow]]]]:
        """Each answered question with its checks' rows, in the set's order. Rows of a former item are no
        answer to the present one."""
        by_answer: dict[tuple[str, str, int], dict[str, ResultRow]] = defaultdict(dict)
        for row in self.rows:
            by_answer[row.item_id, row.item_hash, row.repeat][row.evaluator] = row
        repeats = sorted({row.repeat for row in self.rows})
        for item in golden.items:
            for repeat in repeats:
                rows = by_answer.get((item.id, item.hash, repeat), {})
                found = [(check, rows[check.key]) for check in item.checks if check.key in rows]
                if found:
                    yield item, repeat, found


def mlflow(golden: GoldenSet, run: RunRecord) -> str:
    """JSON lines: MLflow's dataset records with the run's answers as `outputs`, for `mlflow.genai.evaluate`
    or `EvaluationDataset.merge_records`. The run's metrics are in MLflow already."""
    records = {
        item.id: record for item, record in zip(golden.items, mlflow_records.records(golden), strict=True)
    }
    lines = []
    for item, repeat, rows in run.answers(golden):
        tags = {"turnout.run": run.run_id, "turnout.version": str(run.version), "turnout.repeat": str(repeat)}
        tags |= {f"turnout.check.{check.key}": _value(row) for check, row in rows}
        record = records[item.id]
        answer = {"outputs": {"response": text_of(rows[0][1])}, "tags": record["tags"] | tags}
        lines.append(json.dumps(record | answer, ensure_ascii=False) + "\n")
    return "".join(lines)


def inspect(golden: GoldenSet, run: RunRecord) -> str:
    """An Inspect eval log (JSON, version 2): open it with `inspect view`."""
    samples = [_inspect_sample(item, repeat, rows, run) for item, repeat, rows in run.answers(golden)]
    by_check: dict[str, list[float]] = defaultdict(list)
    for _, _, rows in run.answers(golden):
        for check, row in rows:
            if row.value is not None:
                by_check[check.key].append(row.value)
    repeats = len({sample["epoch"] for sample in samples}) or 1
    document = {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": run.run_id,
            "run_id": run.run_id,
            "created": run.started_at,
            "task": golden.name,
            "task_id": run.run_id,
            "task_version": golden.hash,
            "dataset": {
                "name": golden.name,
                "samples": len(golden.items),
                "sample_ids": [i.id for i in golden.items],
            },
            "model": f"{run.model}/{run.version}",
            "config": {"epochs": repeats},
            "metadata": {"turnout.set_hash": golden.hash},
        },
        "plan": {"name": "turnout golden run", "steps": [], "config": {}},
        "results": {
            "total_samples": len(golden.items) * repeats,
            "completed_samples": len(samples),
            "scores": [_inspect_score(key, values) for key, values in sorted(by_check.items())],
        },
        "stats": {"started_at": run.started_at, "completed_at": run.ended_at or "", "model_usage": {}},
        "samples": samples,
    }
    return json.dumps(document, ensure_ascii=False, indent=1)


def _inspect_score(key: str, values: Sequence[float]) -> dict[str, Any]:
    mean = {"name": "mean", "value": sum(values) / len(values), "params": {}}
    return {
        "name": key,
        "scorer": key,
        "params": {},
        "scored_samples": len(values),
        "metrics": {"mean": mean},
    }


def _inspect_sample(
    item: GoldenItem, repeat: int, rows: Sequence[tuple[Check, ResultRow]], run: RunRecord
) -> dict[str, Any]:
    row = rows[0][1]
    output: Mapping[str, Any] = row.output or {}
    answer: dict[str, Any] = {"role": "assistant", "content": str(output.get("text") or "")}
    if calls := output.get("tool_calls"):
        answer["tool_calls"] = [
            {"id": f"call-{n}", "function": call["name"], "arguments": _object(call["arguments"])}
            for n, call in enumerate(calls)
        ]
    stop = {"length": "max_tokens", "tool_calls": "tool_calls"}.get(str(output.get("finish_reason")), "stop")
    asked = [_inspect_message(message) for message in item.messages]
    sample: dict[str, Any] = {
        "id": item.id,
        "epoch": repeat + 1,
        "input": asked,
        "target": [str(reference) for reference in item.reference] or "",
        "messages": [*asked, answer],
        "output": {
            "model": f"{run.model}/{run.version}",
            "choices": [{"message": answer, "stop_reason": stop}],
            "completion": answer["content"],
        },
        "scores": {check.key: _inspect_value(check, row, answer["content"]) for check, row in rows},
        "metadata": {"tags": list(item.tags), "item_hash": item.hash, "outcome": row.outcome},
        "store": {},
        "events": [],
        "model_usage": {},
        "attachments": {},
    }
    if row.outcome not in ("complete", "length"):
        message = str(output.get("error") or row.outcome or "no answer")
        sample["error"] = {"message": message, "traceback": "", "traceback_ansi": ""}
    return sample


def _inspect_message(message: Mapping[str, Any]) -> dict[str, Any]:
    role = "system" if message["role"] == "developer" else message["role"]
    made = {"role": role, "content": message.get("content") or ""}
    if calls := message.get("tool_calls"):
        made["tool_calls"] = [
            {
                "id": str(call.get("id", n)),
                "function": call["function"]["name"],
                "arguments": _object(call["function"]["arguments"]),
            }
            for n, call in enumerate(calls)
        ]
    if "tool_call_id" in message:
        made["tool_call_id"] = message["tool_call_id"]
    return made


def _inspect_value(check: Check, row: ResultRow, answer: str) -> dict[str, Any]:
    value = "N" if row.value is None else row.value  # Inspect's NOANSWER: no score is no zero
    return {
        "value": value,
        "answer": answer,
        "explanation": row.explanation or "",
        "metadata": {"status": row.status, "gate": check.gate},
    }


def _object(arguments: str) -> dict[str, Any]:
    try:
        found = json.loads(arguments or "{}")
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"(not JSON)": arguments}


def promptfoo(golden: GoldenSet, run: RunRecord) -> str:
    """JSON in the shape of promptfoo's output (`results.results[]`, `stats`, `gradingResult`)."""
    results = []
    for item, repeat, rows in run.answers(golden):
        gating = [(check, row) for check, row in rows if check.decisive and row.status != "skipped"]
        missing = any(row.value is None for _, row in gating)
        success = all(check.passes(row.value) for check, row in gating)
        output: Mapping[str, Any] = rows[0][1].output or {}
        components = [
            {
                "pass": check.passes(row.value),
                "score": row.value,
                "reason": row.explanation or row.status,
                "assertion": {"type": check.type, "metric": check.key},
            }
            for check, row in rows
        ]
        results.append(
            {
                "id": f"{run.run_id}:{item.id}:{repeat}",
                "provider": {"id": f"turnout:{run.model}:{run.version}"},
                "prompt": {"raw": json.dumps(list(item.messages), ensure_ascii=False), "label": item.id},
                "vars": {"id": item.id, "repeat": repeat},
                "testCase": {"description": item.id, "metadata": {"tags": list(item.tags)}},
                "response": {"output": text_of(rows[0][1]), "tokenUsage": _usage(output.get("usage"))},
                "latencyMs": output.get("latency_ms"),
                "success": success,
                "score": None if missing else sum(row.value or 0 for _, row in gating) / max(len(gating), 1),
                "failureReason": 2 if missing else 0 if success else 1,
                "error": "no score" if missing else None,
                "gradingResult": {"pass": success, "componentResults": components},
            }
        )  # fmt: skip
    stats = {
        "successes": sum(result["failureReason"] == 0 for result in results),
        "failures": sum(result["failureReason"] == 1 for result in results),
        "errors": sum(result["failureReason"] == 2 for result in results),
    }
    document = {
        "evalId": run.run_id,
        "results": {"version": 3, "timestamp": run.started_at, "results": results, "stats": stats},
        "config": {"description": f"{golden.name} ({golden.hash})"},
    }
    return json.dumps(document, ensure_ascii=False, indent=1)


def _usage(usage: Any) -> dict[str, Any]:
    found: Mapping[str, Any] = usage if isinstance(usage, Mapping) else {}
    names = {"prompt_tokens": "prompt", "completion_tokens": "completion", "total_tokens": "total"}
    return {theirs: found[ours] for ours, theirs in names.items() if isinstance(found.get(ours), int)}


def junit(golden: GoldenSet, run: RunRecord, comparison: Comparison | None = None) -> str:
    """JUnit XML: a case per check of each answer. What fails and decides is a failure, what has no score an
    error; what decides nothing, or does not apply, is skipped.

    Of a candidate's run with its `comparison` the verdict is the first case, a failure or, if inconclusive,
    an error; and what the control fails as well is skipped, for it is no news.
    """
    suite = Xml.Element("testsuite", name=f"{golden.name} {run.model} version {run.version}")
    counts = dict.fromkeys(_JUNIT_COUNTS.values(), 0) | {"tests": 0}

    def add(name: str, took_s: float, kind: str | None, message: str, text: str) -> None:
        case = Xml.SubElement(suite, "testcase", classname=golden.name, name=_xml(name), time=f"{took_s:.3f}")
        counts["tests"] += 1
        if kind is not None:
            counts[_JUNIT_COUNTS[kind]] += 1
            Xml.SubElement(case, kind, message=_xml(message)[:500]).text = _xml(text)[:4000]

    known = None
    if comparison is not None:
        kind = {"fail": "failure", "inconclusive": "error"}.get(comparison.verdict)
        add("verdict", 0.0, kind, comparison.sentence, comparison.sentence)
        known = {(change.item_id, change.evaluator) for change in comparison.newly_failing}
    for item, repeat, rows in run.answers(golden):
        for check, row in rows:
            took = float((row.output or {}).get("latency_ms") or 0.0) / 1000
            name = f"{item.id} {check.key}" + (f" repeat {repeat}" if repeat else "")
            kind, message = _junit_kind(check, row), row.explanation or row.status
            if kind == "failure" and known is not None and (item.id, check.key) not in known:
                kind, message = "skipped", f"the control fails it as well: {message}"
            add(name, took, kind, message, text_of(row))
    for name, count in counts.items():
        suite.set(name, str(count))
    root = Xml.Element("testsuites", {key: value for key, value in suite.attrib.items() if key != "name"})
    root.append(suite)
    Xml.indent(root)
    return Xml.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _junit_kind(check: Check, row: ResultRow) -> str | None:
    if row.status != "skipped" and check.passes(row.value):
        return None
    if row.status == "skipped" or not check.decisive:
        return "skipped"
    return "error" if row.value is None else "failure"


def _value(row: ResultRow) -> str:
    return row.status if row.value is None else f"{row.value:g}"


def _xml(text: str) -> str:
    """Without the characters that XML 1.0 cannot hold."""
    return text.encode("utf-8", "replace").decode().translate(_XML_REFUSES)


EXPORTS: Final[dict[str, Callable[[GoldenSet, RunRecord], str]]] = {
    "inspect": inspect,
    "junit": junit,
    "mlflow": mlflow,
    "promptfoo": promptfoo,
}
