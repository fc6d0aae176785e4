"""Is the answer the JSON, or the tool call, that it must be?

json_schema validates against JSON Schema 2020-12 without ever fetching a reference; tool_call compares name
and arguments as JSON, so that the order of keys and the spelling of a number make no difference.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final, Literal

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend
from pydantic import Field, field_validator, model_validator
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from evaluators.canonical import canonical_json, same_json
from evaluators.golden import GoldenItem, Reference
from evaluators.score import Output, Parsed, Score, ToolCall, parse_json
from evaluators.scorers.patterns import PatternError, PatternTimeout, compiled, found
from evaluators.scorers.registry import Answer, Options, scorer
from evaluators.wellformed import well_formed

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_FENCED: Final = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_SHOWN: Final = 200
_TIME_LIMIT_S: Final = 1.0  # for a whole answer; an honest one takes milliseconds
#: When the validation that is under way has used up its time.
_END: Final = ContextVar("_END", default=math.inf)


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not found(pattern, instance):
        yield ValidationError(f"{instance[:_SHOWN]!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if validator.is_type(instance, "object"):
        for pattern, inner in patterns.items():
            for name in (name for name in instance if found(pattern, name)):
                yield from validator.descend(instance[name], inner, path=name, schema_path=pattern)


def _additional_properties(
    validator: Any, inner: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    declared, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name in instance:
        if name in declared or any(found(pattern, name) for pattern in patterns):
            continue
        if inner is False:
            yield ValidationError(f"the property {name!r} is not allowed")
        else:
            yield from validator.descend(instance[name], inner, path=name)


def _unevaluated_properties(
    validator: Any, inner: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    others = {keyword: value for keyword, value in schema.items() if keyword != "unevaluatedProperties"}
    evaluated = _evaluated(validator, instance, others)
    for name in (name for name in instance if name not in evaluated):
        if inner is False:
            yield ValidationError(f"the property {name!r} is not allowed")
        else:
            yield from validator.descend(instance[name], inner, path=name)


def _evaluated(validator: Any, instance: Mapping[str, Any], schema: Any) -> set[str]:
    """The properties that a schema speaks of, which the instance is valid by (JSON Schema 2020-12, 11.3)."""
    if not isinstance(schema, Mapping):
        return set()
    if "additionalProperties" in schema or "unevaluatedProperties" in schema:
        return set(instance)
    names = set(schema.get("properties", ())) & instance.keys()
    for pattern in schema.get("patternProperties", ()):
        names |= {name for name in instance if found(pattern, name)}
    for reference in (schema[keyword] for keyword in ("$ref", "$dynamicRef") if keyword in schema):
        there = validator._resolver.lookup(reference)
        inside = validator.evolve(schema=there.contents, _resolver=there.resolver)
        names |= _evaluated(inside, instance, there.contents)
    for part in _parts(validator, instance, schema):
        names |= _evaluated(validator, instance, part)
    return names


def _parts(validator: Any, instance: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[Any]:
    """The schemas within a schema that are of the same instance, and that it is valid by."""

    def valid(part: Any) -> bool:
        return next(validator.descend(instance, part), None) is None

    for keyword in ("allOf", "anyOf", "oneOf"):
        yield from filter(valid, schema.get(keyword, ()))
    for name, part in schema.get("dependentSchemas", {}).items():
        if name in instance:
            yield part
    if "if" in schema:
        holds = valid(schema["if"])
        yield from (schema["if"], schema.get("then")) if holds else (schema.get("else"),)


def _unique_items(validator: Any, unique: bool, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if unique and validator.is_type(instance, "array") and len({*map(_bytes, instance)}) < len(instance):
        yield ValidationError("the items are not unique")


def _bytes(value: Any) -> bytes:
    try:
        return canonical_json(value)
    except ValueError:  # half of an emoji
        return repr(value).encode("utf-8", "backslashreplace")


def _bounded(keyword: str) -> Any:
    """Only by references can a schema lead back into itself, and that in several branches at once: then the
    work doubles with every level of what a model wrote."""

    def follow(validator: Any, reference: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if time.monotonic() > _END.get():
            raise PatternTimeout(
                f"the schema was not through after {_TIME_LIMIT_S:g} s: it leads back into itself in several "
                "branches; tell them apart before they do (if, then, else)"
            )
        yield from Draft202012Validator.VALIDATORS[keyword](validator, reference, instance, schema)

    return follow


# The stock ones run on `re`, which a model's text can hold up for ever (evaluators.scorers.patterns), compare
# each item with each, or know no end.
_Validator: Final = extend(
    Draft202012Validator,
    {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "unevaluatedProperties": _unevaluated_properties,
        "uniqueItems": _unique_items,
        "$ref": _bounded("$ref"),
        "$dynamicRef": _bounded("$dynamicRef"),
    },
)


class JsonSchemaOptions(Options):
    """`schema` in JSON Schema 2020-12. `extract: fenced` takes the first ``` block, not the whole text."""

    json_schema: dict[str, Any] | bool = Field(alias="schema")
    extract: Literal["whole", "fenced"] = "whole"

    def expects(self, reference: tuple[Reference, ...]) -> str:
        return "JSON that the schema allows"

    @field_validator("json_schema")
    @classmethod
    def _is_schema(cls, schema: dict[str, Any] | bool) -> dict[str, Any] | bool:
        check_schema(schema)
        return schema


class ToolCallOptions(Options):
    """The call that must be made: `name`, and `args` compared whole (`exact`) or as a part (`subset`).

    Without `args` only the name counts, and that the arguments are a JSON object. `calls: only` allows no
    other call beside it, `any` does. `name: null` asks that no tool is called at all.
    """

    name: str | None
    args: dict[str, Any] | None = None
    mode: Literal["exact", "subset"] = "exact"
    calls: Literal["only", "any"] = "only"

    def expects(self, reference: tuple[Reference, ...]) -> str:
        if self.name is None:
            return "no tool call"
        return f"{self.name}({'...' if self.args is None else json.dumps(self.args, ensure_ascii=False)})"

    @model_validator(mode="after")
    def _no_call_no_args(self) -> ToolCallOptions:
        if self.name is None and self.args is not None:
            raise ValueError("a call that must not be made has no args")
        return self


class JsonDiffOptions(Options):
    """The JSON that the answer should be: `value`. What lies at or under a path of `ignore` (`$.a.b[0]`) is
    not looked at; `extract: fenced` takes the first ``` block."""

    value: Any
    ignore: tuple[str, ...] = Field(default=(), strict=False)
    extract: Literal["whole", "fenced"] = "whole"

    def expects(self, reference: tuple[Reference, ...]) -> str:
        return json.dumps(self.value, ensure_ascii=False)[:_SHOWN]

    @field_validator("ignore")
    @classmethod
    def _paths(cls, ignore: tuple[str, ...]) -> tuple[str, ...]:
        if any(not path.startswith("$") for path in ignore):
            raise ValueError("a path begins with $, such as $.items[0].id")
        return ignore


def check_schema(schema: dict[str, Any] | bool) -> None:
    """Raise ValueError unless this is a 2020-12 schema that refers to nothing but its own parts."""
    if isinstance(schema, dict) and schema.get("$schema", _DIALECT).rstrip("#") != _DIALECT:
        raise ValueError(f"only {_DIALECT} is spoken here, not {schema['$schema']}")
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"not a JSON Schema 2020-12: at {error.json_path}: {error.message}") from None
    for keyword, value in _keywords(schema):
        if keyword in {"$ref", "$dynamicRef"} and isinstance(value, str) and not value.startswith("#"):
            raise ValueError(f"{keyword} {value!r} leads outside the schema; put the part under $defs")
        if keyword == "pattern" and isinstance(value, str):
            try:
                compiled(value)
            except PatternError as error:
                raise ValueError(str(error)) from None
    root = DRAFT202012.create_resource(schema)
    _look_up(Registry().resolver_with_root(root), root)


def _look_up(resolver: Any, part: Any) -> None:
    """Raise ValueError where a reference of this part of a schema, or of one within it, leads nowhere."""
    for keyword in ("$ref", "$dynamicRef"):
        if isinstance(part.contents, Mapping) and keyword in part.contents:
            reference = part.contents[keyword]
            try:
                resolver.lookup(reference)
            except (Unresolvable, ValueError):  # no such part, or no such number of a list
                raise ValueError(f"{keyword} {reference!r} leads nowhere in the schema") from None
    for inner in part.subresources():
        _look_up(resolver.in_subresource(inner), inner)


def schema_errors(schema: Any, value: Any) -> list[str]:
    """What the schema forbids in the value, by path; never fetches a reference. Raises PatternTimeout."""
    _END.set(time.monotonic() + _TIME_LIMIT_S)
    validator = _Validator(schema, registry=Registry())
    errors = sorted(validator.iter_errors(value), key=lambda error: error.json_path)
    return [well_formed(f"{error.json_path}: {error.message[:_SHOWN]}") for error in errors]


@scorer("json_schema", version="1", options=JsonSchemaOptions)
def json_schema(item: GoldenItem, output: Output, options: JsonSchemaOptions) -> tuple[bool, str]:
    """The answer is JSON that the schema allows."""
    parsed = _extracted(output.text, options.extract)
    if parsed is None:
        return False, "the text is no JSON" if options.extract == "whole" else "the text has no JSON block"
    errors = schema_errors(options.json_schema, parsed.value)
    if not errors:
        return True, "the JSON is as the schema says"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return False, f"{errors[0]}{more}"


class ResponseFormatOptions(Options):
    """Nothing to choose: the request itself says what its answer must be."""

    def expects(self, reference: tuple[Reference, ...]) -> str:
        return "what the request's response_format asks for"


@scorer("response_format", version="1", options=ResponseFormatOptions)
def response_format(
    item: GoldenItem, output: Output, options: ResponseFormatOptions
) -> Score | tuple[bool, str]:
    """The JSON that the request's own `response_format` asks for; skipped where it asks for none."""
    asked = item.response_format or {}
    if asked.get("type") not in ("json_object", "json_schema"):
        return Score.skipped("response_format", "the request asks for no JSON")
    schema: Any = {"type": "object"}
    if asked["type"] == "json_schema":
        schema = (asked.get("json_schema") or {}).get("schema", True)
        try:
            check_schema(schema)
        except ValueError as error:
            return Score.skipped("response_format", f"the request's schema cannot be used: {error}")
    return json_schema(item, output, JsonSchemaOptions(schema=schema))


@scorer("tool_call", version="1", options=ToolCallOptions)
def tool_call(item: GoldenItem, output: Output, options: ToolCallOptions) -> tuple[bool, str]:
    """The right tool is called with the right arguments."""
    calls = output.tool_calls
    if options.name is None:
        return not calls, f"expected {options.expects(())}, got {len(calls)}"
    expected = f"expected {options.expects(())}"
    if not calls:
        return False, f"{expected}, no tool is called"
    if options.calls == "only" and len(calls) > 1:
        return False, f"{expected} alone, {len(calls)} tools are called"
    verdicts = [_call_matches(call, options) for call in calls]
    for passed, why in verdicts:
        if passed:
            return True, why
    return False, f"{expected}; {verdicts[0][1]}"


@scorer("json_diff", version="1", options=JsonDiffOptions, value_type="float")
def json_diff(item: GoldenItem, output: Output, options: JsonDiffOptions) -> Answer:
    """The share of the leaves of both documents that are in both and equal. No JSON at all is 0."""
    parsed = _extracted(output.text, options.extract)
    if parsed is None:
        return 0.0, "the text is no JSON"
    wanted, got = _leaves(options.value), _leaves(parsed.value)
    for path in options.ignore:
        wanted = {place: leaf for place, leaf in wanted.items() if not _within(place, path)}
        got = {place: leaf for place, leaf in got.items() if not _within(place, path)}
    places = sorted(set(wanted) | set(got))
    other = [
        place
        for place in places
        if place not in wanted or place not in got or not same_json(wanted[place], got[place])
    ]
    share = 1.0 - len(other) / len(places) if places else 1.0
    named = ", ".join(other[:5]) + (f" and {len(other) - 5} more" if len(other) > 5 else "")
    return share, well_formed(f"other at {named}") if other else "the same JSON"


def subset(part: Any, whole: Any) -> bool:
    """Whether `part` is contained in `whole`: objects by key, at any depth; all else must be equal."""
    if isinstance(part, Mapping):
        return isinstance(whole, Mapping) and all(
            key in whole and subset(value, whole[key]) for key, value in part.items()
        )
    return same_json(part, whole)


def _call_matches(call: ToolCall, options: ToolCallOptions) -> tuple[bool, str]:
    if call.name != options.name:
        return False, f"{call.name!r} is called"
    # Engines send "" for a call without parameters; every client reads that as {}.
    parsed = parse_json(call.arguments or "{}")
    if parsed is None or not isinstance(parsed.value, dict):
        return False, f"the arguments of {call.name!r} are no JSON object: {call.arguments[:_SHOWN]!r}"
    if options.args is None:
        return True, f"{call.name!r} is called"
    same = same_json if options.mode == "exact" else subset
    if not same(options.args, parsed.value):
        return False, f"got {call.name}({call.arguments[:_SHOWN]})"
    return True, f"{call.name!r} is called with the right arguments"


def _leaves(value: Any, place: str = "$") -> dict[str, Any]:
    """Every value that is no object or array, and every empty one, by its path."""
    found: dict[str, Any] = {}
    waiting = [(place, value)]
    while waiting:  # not recursive: a model chooses the depth
        place, inner = waiting.pop()
        if isinstance(inner, Mapping) and inner:
            waiting.extend((f"{place}.{key}", child) for key, child in inner.items())
        elif isinstance(inner, list) and inner:
            waiting.extend((f"{place}[{index}]", child) for index, child in enumerate(inner))
        else:
            found[place] = inner
    return found


def _within(place: str, path: str) -> bool:
    return place == path or place.startswith((f"{path}.", f"{path}["))


def _extracted(text: str, extract: Literal["whole", "fenced"]) -> Parsed | None:
    if extract == "whole":
        return parse_json(text)
    block = _FENCED.search(text)
    return None if block is None else parse_json(block[1])


def _keywords(schema: Any) -> Iterator[tuple[str, Any]]:
    """Every key of every object in the schema. Names of properties come along: they do no harm as names of
    keywords unless a property called `$ref` has a text for a schema, which no valid schema has."""
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            yield str(key), value
            yield from _keywords(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _keywords(value)
