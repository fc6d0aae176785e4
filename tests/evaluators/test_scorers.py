from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from evaluators.golden import GoldenItem, Policy
from evaluators.score import Output, Score
from evaluators.scorers.numeric import numbers_in
from evaluators.scorers.patterns import TIME_LIMIT_S
from evaluators.scorers.structured import ResponseFormatOptions, response_format, subset
from evaluators.scoring import score_output

from .sets import one_item, said


async def verdict(folder: Path, check: dict[str, Any], output: Output, **fields: Any) -> float | None:
    return (await score(folder, check, output, **fields)).value


async def score(folder: Path, check: dict[str, Any], output: Output, **fields: Any) -> Score:
    item = one_item(folder, check, **fields)
    [(_, found)] = await score_output(item, output, Policy())
    return found


FENCED = {"type": "json_schema", "schema": {"type": "object"}, "extract": "fenced"}
REFERRING = {"type": "json_schema", "schema": {"$ref": "#/$defs/n", "$defs": {"n": {"type": "null"}}}}


@pytest.mark.parametrize(
    ("check", "reference", "text", "passes"),
    [
        ({"type": "exact"}, "right", " right\n", True),
        ({"type": "exact"}, "right", "Right", False),
        ({"type": "exact", "case_sensitive": False}, "right", "RIGHT", True),
        ({"type": "exact"}, ["5", "five"], "five", True),
        ({"type": "exact"}, 5, "5", True),
        ({"type": "exact"}, "caf\u00e9", "cafe\u0301", True),
        ({"type": "exact"}, "right", "", False),
        ({"type": "exact", "not": True}, "right", "wrong", True),
        ({"type": "contains"}, "60 days", "within 60 days.", True),
        ({"type": "contains", "values": ["a", "b"]}, None, "only a", False),
        ({"type": "contains", "values": ["a", "b"], "mode": "any"}, None, "only b", True),
        ({"type": "regex", "pattern": "^yes\\b", "flags": "i"}, None, "Yes, sir", True),
        ({"type": "regex", "pattern": "^yes\\b"}, None, "yesterday", False),
        ({"type": "regex", "pattern": "a+", "whole": True}, None, "aaab", False),
        ({"type": "numeric"}, 67.3, "That is 67.30 EUR.", True),
        ({"type": "numeric"}, 67.3, "Of 62.40 you pay 67.30", True),
        ({"type": "numeric", "pick": "first"}, 67.3, "Of 62.40 you pay 67.30", False),
        ({"type": "numeric", "pick": "only"}, 67.3, "Of 62.40 you pay 67.30", False),
        ({"type": "numeric", "pick": "any"}, 62.4, "Of 62.40 you pay 67.30", True),
        ({"type": "numeric", "tolerance": 0.5}, 67, "67.5", True),
        ({"type": "numeric", "tolerance": 0.5}, 67, "67.51", False),
        ({"type": "numeric", "relative": 0.01}, 200, "198", True),
        ({"type": "numeric", "tolerance": 0}, 0.3, "0.3", True),
        ({"type": "numeric"}, 1, "no number at all", False),
        ({"type": "numeric"}, 1, "", False),
        ({"type": "json_schema", "schema": {"required": ["a"]}}, None, '{"a": null}', True),
        ({"type": "json_schema", "schema": {"required": ["a"]}}, None, '{"b": 1}', False),
        ({"type": "json_schema", "schema": True}, None, "Sure! {}", False),
        ({"type": "json_schema", "schema": True}, None, "NaN", False),
        (FENCED, None, "So:\n```json\n{}\n```", True),
        ({"type": "json_schema", "schema": {"prefixItems": [{"const": 1}]}}, None, "[2]", False),
        (REFERRING, None, "1", False),
    ],
)  # fmt: skip
async def test_a_text_passes_or_not(
    tmp_path: Path, check: dict[str, Any], reference: Any, text: str, passes: bool
) -> None:
    assert await verdict(tmp_path, check, said(text), reference=reference) == float(passes)


@pytest.mark.parametrize(
    ("asked", "text", "value"),
    [
        ({"type": "json_schema", "json_schema": {"schema": {"required": ["a"]}}}, '{"a": 1}', 1.0),
        ({"type": "json_schema", "json_schema": {"schema": {"required": ["a"]}}}, '{"b": 1}', 0.0),
        ({"type": "json_object"}, "[1]", 0.0),
        ({"type": "json_schema", "json_schema": {"schema": {"$ref": "http://x/y"}}}, "{}", None),
        ({"type": "text"}, "no JSON was asked for", None),
    ],
)
def test_an_answer_is_held_against_the_requests_own_format(
    asked: dict[str, Any], text: str, value: float | None
) -> None:
    item = GoldenItem(id="i", hash="", messages=(), checks=(), response_format=asked)
    found = response_format(item, Output(text=text), ResponseFormatOptions())
    if value is None:
        assert isinstance(found, Score)
        assert found.status == "skipped"
    else:
        assert found[0] == value


@pytest.mark.parametrize(
    ("check", "calls", "passes"),
    [
        ({"name": "get", "args": {"id": 7}}, [("get", '{"id": 7}')], True),
        ({"name": "get", "args": {"id": 7}}, [("get", '{"id": 7.0}')], True),
        ({"name": "get", "args": {"id": 7}}, [("get", '{"id": "7"}')], False),
        ({"name": "get", "args": {"id": 1}}, [("get", '{"id": true}')], False),
        ({"name": "get", "args": {"id": 7}}, [("get", '{"id": 7, "x": 1}')], False),
        ({"name": "get", "args": {"id": 7}, "mode": "subset"}, [("get", '{"id": 7, "x": 1}')], True),
        (
            {"name": "get", "args": {"a": {"b": 1}}, "mode": "subset"},
            [("get", '{"a": {"b": 1, "c": 2}}')],
            True,
        ),
        ({"name": "get", "args": {"a": [1]}, "mode": "subset"}, [("get", '{"a": [1, 2]}')], False),
        ({"name": "get"}, [("get", "")], True),
        ({"name": "get"}, [("get", '{"id": ')], False),
        ({"name": "get"}, [("get", "[1]")], False),
        ({"name": "get"}, [("put", "{}")], False),
        ({"name": "get"}, [], False),
        ({"name": "get"}, [("get", "{}"), ("put", "{}")], False),
        ({"name": "get", "calls": "any"}, [("put", "{}"), ("get", "{}")], True),
        ({"name": None}, [], True),
        ({"name": None}, [("get", "{}")], False),
    ],
)
async def test_a_tool_call_is_right_or_not(
    tmp_path: Path, check: dict[str, Any], calls: list[tuple[str, str]], passes: bool
) -> None:
    assert await verdict(tmp_path, {"type": "tool_call", **check}, said("ok", *calls)) == float(passes)


async def test_a_pattern_that_backtracks_is_an_error_of_the_instrument_and_takes_no_time(
    tmp_path: Path,
) -> None:
    started = time.monotonic()
    found = await score(tmp_path, {"type": "regex", "pattern": "^(a|aa)+$"}, said("a" * 60 + "b"))
    assert (found.status, found.value) == ("error", None)
    assert found.error is not None
    assert found.error.kind == "pattern_timeout"
    assert time.monotonic() - started < 20 * TIME_LIMIT_S


async def test_a_backtracking_pattern_inside_a_schema_is_stopped_too(tmp_path: Path) -> None:
    check = {"type": "json_schema", "schema": {"type": "string", "pattern": "^(a|aa)+$"}}
    found = await score(tmp_path, check, said('"' + "a" * 60 + 'b"'))
    assert (found.status, found.error and found.error.kind) == ("error", "pattern_timeout")


@pytest.mark.parametrize(
    "outcome", ["truncated", "empty", "upstream_error", "upstream_rejected", "timeout", "length"]
)
async def test_a_model_that_failed_is_scored_0_also_by_a_negated_check(tmp_path: Path, outcome: Any) -> None:
    check = {"type": "contains", "values": ["x"], "not": True}
    found = await score(tmp_path, check, said("half an answ", outcome=outcome))
    assert (found.status, found.value, found.label) == ("scored", 0.0, outcome)


async def test_policy_can_leave_failures_unscored_and_look_at_cut_texts(tmp_path: Path) -> None:
    item = one_item(tmp_path, {"type": "exact"}, {"type": "exact", "key": "strict", "target_errors": "zero"})
    policy = Policy(target_errors="unscored", length="score")
    lenient, strict = [s for _, s in await score_output(item, said(outcome="timeout"), policy)]
    assert (lenient.status, lenient.value) == ("unscored", None)
    assert strict.value == 0.0
    cut, _ = [s for _, s in await score_output(item, said("right", outcome="length"), policy)]
    assert cut.value == 1.0


@pytest.mark.parametrize(
    ("outcome", "status"), [("overloaded", "unscored"), ("rejected", "error"), (None, "error")]
)
async def test_what_kept_a_question_from_the_model_is_missing_and_never_0(
    tmp_path: Path, outcome: Any, status: str
) -> None:
    found = await score(tmp_path, {"type": "exact"}, said(outcome=outcome))
    assert (found.status, found.value) == (status, None)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32).map(lambda x: round(x, 3)))
def test_a_number_is_read_back_from_running_text(value: float) -> None:
    assert numbers_in(f"The answer is {value!r}.") == [value]


@pytest.mark.parametrize(
    ("text", "mark", "numbers"),
    [
        ("1,234.50 EUR", ".", [1234.5]),
        ("1.234,50 EUR", ",", [1234.5]),
        ("3,4 and 5", ".", [3.0, 5.0]),
        ("1'000'000", ".", [1e6]),
        ("HO-4410", ".", [4410.0]),
        ("x2 v1.2", ".", []),
        ("a -5, \u22127 and 10-3", ".", [-5.0, -7.0, 10.0, 3.0]),
        ("1e3 units", ".", [1000.0]),
        ("9" * 400, ".", []),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, mark: Any, numbers: list[float]) -> None:
    assert numbers_in(text, mark) == numbers


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, st.text(min_size=3, max_size=4), json_values)
def test_an_object_contains_itself_also_after_it_has_grown(value: Any, key: str, extra: Any) -> None:
    assert subset(value, value)
    if isinstance(value, dict):
        assert subset(value, {**value, key: extra})
        assert not subset({**value, key: extra}, value)


def test_a_score_has_a_finite_value_exactly_when_it_is_scored() -> None:
    for bad in (
        {"status": "scored"},
        {"status": "error", "value": 0.0},
        {"status": "scored", "value": float("nan")},
    ):
        with pytest.raises(ValueError, match="score 'x'"):
            Score(name="x", **bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "check",
    [
        {"type": "json_schema", "schema": {"additionalProperties": {"type": "number"}}},
        {"type": "json_diff", "value": {}},
    ],
)
async def test_a_name_in_an_answer_that_utf8_cannot_hold_is_wrong_and_no_error(
    tmp_path: Path, check: dict[str, Any]
) -> None:
    """What a model answers must not turn its failure into missing data."""
    item = one_item(tmp_path, check)
    [(_, score)] = await score_output(item, said(r'{"\ud83d": "x"}'), Policy())
    assert (score.status, score.value) == ("scored", 0.0), score


@pytest.mark.parametrize("schema", [{}, {"additionalProperties": False}])
async def test_a_backtracking_pattern_for_names_is_stopped_too(
    tmp_path: Path, schema: dict[str, Any]
) -> None:
    check = {"type": "json_schema", "schema": {**schema, "patternProperties": {"^(a|aa)+$": {}}}}
    found = await score(tmp_path, check, said('{"' + "a" * 60 + 'b": 1}'))
    assert (found.status, found.error and found.error.kind) == ("error", "pattern_timeout")


@pytest.mark.parametrize(
    ("names", "answer", "passes"),
    [
        ({"properties": {"a": {}}}, '{"a": 1}', True),
        ({"properties": {"a": {}}}, '{"a": 1, "b": 1}', False),
        ({"$ref": "#/$defs/a"}, '{"a": 1}', True),
        ({"$ref": "#/$defs/a"}, '{"b": 1}', False),
        ({"allOf": [{"$ref": "#/$defs/a"}, {"patternProperties": {"^b": {}}}]}, '{"a": 1, "b2": 1}', True),
        ({"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}, '{"b": 1}', True),
        ({"oneOf": [{"additionalProperties": {"type": "string"}}]}, '{"c": "any"}', True),
        ({"not": {"not": {"properties": {"a": {}}}}}, '{"a": 1}', False),
        (
            {"dependentSchemas": {"a": {"$ref": "#/$defs/b"}}, "properties": {"a": {}}},
            '{"a": 1, "b": 1}',
            True,
        ),
        ({"dependentSchemas": {"a": {"$ref": "#/$defs/b"}}}, '{"b": 1}', False),
        ({"if": {"$ref": "#/$defs/a"}, "then": {"$ref": "#/$defs/b"}}, '{"a": 1, "b": 1}', True),
        ({"if": {"$ref": "#/$defs/a"}, "else": {"$ref": "#/$defs/b"}}, '{"b": 1}', True),
        ({"if": {"$ref": "#/$defs/a"}, "else": {"$ref": "#/$defs/b"}}, '{"a": 1, "b": 1}', False),
        ({}, "[]", True),
    ],
)
async def test_names_that_nothing_speaks_of_are_held_to_the_rest(
    tmp_path: Path, names: dict[str, Any], answer: str, passes: bool
) -> None:
    defs = {name: {"properties": {name: {}}, "required": [name]} for name in "ab"}
    for rest in ({"unevaluatedProperties": False}, {"unevaluatedProperties": {"type": "null"}}):
        check = {"type": "json_schema", "schema": {"$defs": defs, **names, **rest}}
        assert (await score(tmp_path, check, said(answer))).value == float(passes)
        stock = Draft202012Validator(check["schema"]).is_valid(json.loads(answer))
        assert stock is passes, "the judgement of the library, which has no limits"


@pytest.mark.parametrize("inside", [{}, {"allOf": [{"$ref": "#/$defs/names"}]}])
async def test_what_only_the_stock_validator_is_slow_at_holds_up_nobody(
    tmp_path: Path, inside: dict[str, Any]
) -> None:
    slow = {"patternProperties": {"^(a+)+$": {}}}
    schema = {**(inside or slow), "$defs": {"names": slow}, "unevaluatedProperties": False}
    answer = said('{"' + "a" * 60 + '!": 1}')
    assert (await score(tmp_path, {"type": "json_schema", "schema": schema}, answer)).value == 0.0
    unique = {"type": "json_schema", "schema": {"uniqueItems": True}}
    many = [{"n": number} for number in range(20_000)]
    assert (await score(tmp_path, unique, said(json.dumps(many)))).value == 1.0
    assert (await score(tmp_path, unique, said(json.dumps([*many, {"n": 7.0}])))).value == 0.0
    assert (await score(tmp_path, unique, said(r'["\ud83d", "\ud83c", 1, true]'))).value == 1.0


async def test_a_schema_that_leads_back_into_itself_in_branches_has_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluators.scorers.structured._TIME_LIMIT_S", 0.05)
    branches = [{"properties": {"x": {"$ref": "#"}}, "required": [name]} for name in "abcd"]
    check = {"type": "json_schema", "schema": {"anyOf": branches}}
    found = await score(tmp_path, check, said('{"x": ' * 40 + "{}" + "}" * 40))
    assert (found.status, found.error and found.error.kind) == ("error", "pattern_timeout")
    assert (await score(tmp_path, check, said('{"x": {"a": 1}, "b": 1}'))).value == 1.0


@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        ('{"x1": 1, "name": "a"}', True),
        ('{"x1": "one"}', False),
        ('{"x1": 1, "other": true}', True),
        ('{"x1": 1, "other": 2}', False),
        ("[]", True),
    ],
)
async def test_names_are_held_to_their_patterns(tmp_path: Path, answer: str, passes: bool) -> None:
    names = {"properties": {"name": {}}, "patternProperties": {"^x": {"type": "number"}}}
    check = {"type": "json_schema", "schema": {**names, "additionalProperties": {"type": "boolean"}}}
    assert (await score(tmp_path, check, said(answer))).value == float(passes)
    shut = {"type": "json_schema", "schema": {**names, "additionalProperties": False}}
    other = passes and "other" not in answer
    assert (await score(tmp_path, shut, said(answer))).value == float(other)
