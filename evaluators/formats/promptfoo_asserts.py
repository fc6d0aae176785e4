"""Which check of ours says what a promptfoo assertion says, and why has the next one none?

After promptfoo's documentation (assertions and metrics, deterministic metrics, model-graded metrics).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from evaluators.formats import wording
from evaluators.formats.templates import TemplateRefused, filled

_READ: Final = frozenset(("type", "value", "threshold", "metric", "weight"))
_CSV: Final = re.compile(
    r"(?P<type>(?:not-)?[a-z][a-z0-9-]*(?:[:][a-z-]+)?)(?:\((?P<threshold>\d+(?:\.\d*)?|\.\d+)\))?(?::(?P<value>.*))?",
    re.DOTALL,
)
#: What cells may be headed by beside the names of assertions.
_FORMER: Final = {"fn": "javascript", "eval": "javascript", "grade": "llm-rubric"}
_JUDGED: Final = frozenset(("llm-rubric", "g-eval", "model-graded-closedqa"))
Lost = tuple[str, str]


def checks_of(
    assertions: Sequence[Any], variables: Mapping[str, Any]
) -> tuple[list[wording.Check], list[Lost]]:
    """The checks of a test, and what of its assertions could not be taken: (field, why)."""
    checks: list[wording.Check] = []
    lost: list[Lost] = []
    for index, assertion in enumerate(assertions):
        where = f"assert[{index}]"
        if not isinstance(assertion, Mapping):
            lost.append((where, f"{type(assertion).__name__} is no assertion"))
            continue
        if assertion.get("type") == "assert-set" and assertion.get("threshold") is None:
            inner, gone = checks_of(assertion.get("assert") or (), variables)
            checks += inner
            lost += [(f"{where}.{field}", why) for field, why in gone]
            continue
        try:
            checks.append(_check(assertion, variables))
        except (TemplateRefused, ValueError) as error:
            lost.append((f"{where} ({assertion.get('type')})", str(error)))
            continue
        if assertion.get("weight") not in (None, 1):
            lost.append((f"{where}.weight", f"{assertion['weight']!r}: here a check gates, or it does not"))
    return checks, lost


def csv_assertion(cell: str) -> dict[str, Any]:
    """The assertion in an `__expected` cell: `type: value`, `type(threshold): value`, or a value to equal."""
    cell = cell.strip()
    found = _CSV.fullmatch(cell)
    kind = _FORMER.get(found["type"], found["type"]) if found else ""
    if not found or kind.removeprefix("not-") not in _CHECKS.keys() | _JUDGED | _REFUSED.keys() | _OTHERS:
        return {"type": "equals", "value": cell}
    assertion: dict[str, Any] = {"type": kind}
    if value := (found["value"] or "").strip():
        assertion["value"] = value
        if kind.removeprefix("not-").endswith(("-any", "-all")):
            assertion["value"] = [part.strip() for part in value.split(",")]
    return assertion | ({"threshold": float(found["threshold"])} if found["threshold"] else {})


def _check(assertion: Mapping[str, Any], variables: Mapping[str, Any]) -> wording.Check:
    declared = str(assertion.get("type"))
    kind = declared.removeprefix("not-")
    if unread := sorted(assertion.keys() - _READ):
        raise ValueError(f"has {', '.join(unread)}, which would change what it says")
    value = filled(assertion.get("value"), variables)
    if isinstance(value, str) and value.startswith("file://"):
        raise ValueError(f"{value} has the value elsewhere; write it into the assertion")
    if kind in _JUDGED:
        check = wording.judged("\n".join(wording.texts(value)))
    elif kind in _CHECKS:
        check = _CHECKS[kind](value, assertion.get("threshold"))
    else:
        raise ValueError(_REFUSED.get(kind, "is no assertion that is known here"))
    return check if declared == kind else wording.negated(check)


def _strings(value: Any) -> Sequence[str]:
    """A list of texts; a text is split at commas, as promptfoo does for -any and -all."""
    return wording.texts([part.strip() for part in value.split(",")] if isinstance(value, str) else value)


def _equals(value: Any, _: Any) -> wording.Check:
    return (
        wording.json_is(value) if isinstance(value, Mapping | list) else wording.exact(*wording.texts(value))
    )


def _json(extract: str) -> Callable[[Any, Any], wording.Check]:
    def check(value: Any, _: Any) -> wording.Check:
        schema = json.loads(value) if isinstance(value, str) else value
        return {"type": "json_schema", "schema": True if schema is None else schema, "extract": extract}

    return check


def _limit(type_: str, name: str) -> Callable[[Any, Any], wording.Check]:
    def check(_: Any, threshold: Any) -> wording.Check:
        if not isinstance(threshold, int | float) or isinstance(threshold, bool):
            raise ValueError("needs a threshold")
        return {"type": type_, name: threshold}

    return check


#: From promptfoo's type to ours. Each takes the value and the threshold, and raises ValueError.
_CHECKS: Final[dict[str, Callable[[Any, Any], wording.Check]]] = {
    "equals": _equals,
    "contains": lambda value, _: wording.contains(*wording.texts(value)),
    "icontains": lambda value, _: wording.contains(*wording.texts(value), ignore_case=True),
    "contains-any": lambda value, _: wording.contains(*_strings(value)),
    "contains-all": lambda value, _: wording.contains(*_strings(value), every=True),
    "icontains-any": lambda value, _: wording.contains(*_strings(value), ignore_case=True),
    "icontains-all": lambda value, _: wording.contains(*_strings(value), every=True, ignore_case=True),
    "starts-with": lambda value, _: {"type": "regex", "pattern": rf"\A{re.escape(wording.texts(value)[0])}"},
    "regex": lambda value, _: {"type": "regex", "pattern": wording.texts(value)[0]},
    "is-json": _json("whole"),
    "is-refusal": lambda value, _: {"type": "refusal"},
    "latency": _limit("latency", "max_ms"),
    "cost": _limit("cost", "max_usd"),
}
_REFUSED: Final[dict[str, str]] = {
    "javascript": "runs code, which is not imported",
    "python": "runs code, which is not imported",
    "ruby": "runs code, which is not imported",
    "webhook": "asks a service for the verdict",
    "similar": "compares embeddings of promptfoo's own provider; add an embedding check by hand",
    "levenshtein": "is a distance in characters; similarity here is a ratio",
    "contains-json": "finds JSON anywhere in the text; json_schema here reads all of it or a fenced block",
    "factuality": "is graded by promptfoo's own prompt; write a rubric",
    "answer-relevance": "is graded by promptfoo's own prompt; write a rubric",
    "context-faithfulness": "is about retrieval, which is outside a chat completion",
    "context-recall": "is about retrieval, which is outside a chat completion",
    "context-relevance": "is about retrieval, which is outside a chat completion",
    "select-best": "compares the answers of several providers; `turnout golden compare` does that",
    "assert-set": "has a threshold: part of its checks would do",
}
#: The other assertions of promptfoo: in a cell they are no text that the answer should equal.
_OTHERS: Final = frozenset(
    (
        "bleu",
        "classifier",
        "contains-html",
        "contains-sql",
        "contains-xml",
        "conversation-relevance",
        "finish-reason",
        "gleu",
        "guardrails",
        "is-html",
        "is-sql",
        "is-valid-function-call",
        "is-valid-openai-function-call",
        "is-valid-openai-tools-call",
        "is-xml",
        "meteor",
        "model-graded-factuality",
        "moderation",
        "perplexity",
        "perplexity-score",
        "pi",
        "rouge-l",
        "rouge-n",
        "rouge-s",
        "search-rubric",
        "skill-used",
        "tool-call-f1",
        "trace-error-spans",
        "trace-span-count",
        "trace-span-duration",
        "word-count",
    )
)
