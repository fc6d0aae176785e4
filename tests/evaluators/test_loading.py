# ruff: noqa: E501  (one case a line)
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.canonical import canonical_json, content_hash, same_json
from evaluators.comparison import decide
from evaluators.errors import GoldenSetError
from evaluators.estimates import Effect, PairedValue, paired_effect
from evaluators.golden import Policy
from evaluators.loading import load_golden_set
from evaluators.rows import SetRow
from evaluators.scorers import evaluator_named, registered
from evaluators.scoring import score_output

from .sets import ROOT, SUPPORT, make_set, right_output, row, write_set


def problems(folder: Path, *rows: Any, set_yaml: str = "") -> list[str]:
    with pytest.raises(GoldenSetError) as caught:
        make_set(folder, rows, set_yaml)
    return [str(problem).replace(str(folder) + "/", "") for problem in caught.value.problems]


def test_a_set_is_read_with_its_policy(tmp_path: Path) -> None:
    golden = make_set(
        tmp_path / "mine",
        [
            row("a", tags=["x"], cluster_id="c", added="2026-11-01", weight=1),
            row("b", input={"messages": [{"role": "user", "content": "q"}], "params": {"max_tokens": 5}}),
        ],
        "name: mine\nmargin: 0.1\nalpha: 0.1\nmin_pass_rate: 0.5\ntarget_errors: unscored\nlength: score\n",
    )
    first, second = golden.items
    assert golden.policy == Policy(
        margin=0.1, alpha=0.1, min_pass_rate=0.5, target_errors="unscored", length="score"
    )
    assert (first.cluster, second.cluster) == ("cluster:c", "item:b")
    assert [check.key for check in first.checks] == ["exact"]  # a reference alone is compared exactly
    assert second.body("m") == {
        "model": "m",
        "messages": [{"role": "user", "content": "q"}],
        "max_tokens": 5,
    }


def test_a_bare_file_is_a_set_and_checks_of_one_kind_get_keys_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "bare.jsonl"
    checks = [{"type": "regex", "pattern": "a"}, {"type": "regex", "pattern": "b"}]
    path.write_text(json.dumps(row("a", checks=checks)) + "\n\n", "utf-8")
    golden = load_golden_set(path)
    assert (golden.name, list(golden.evaluators)) == ("bare", ["regex", "regex-2"])


def test_default_checks_of_the_set_apply_to_items_without_their_own(tmp_path: Path) -> None:
    yaml = "default_checks:\n  - type: contains\n"
    golden = make_set(tmp_path, [row("a"), row("b", checks=[{"type": "exact"}])], yaml)
    assert [item.checks[0].type for item in golden.items] == ["contains", "exact"]


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (row("a", input={"messages": []}), "items.jsonl:1: input.messages: found []"),
        (row("a", input={"messages": [{"role": "usr", "content": ""}]}), "items.jsonl:1: input.messages[0].role: found 'usr', expected 'system'"),
        (row("a", input={"messages": [{"role": "user", "content": "q"}], "params": {"stream": True}}), "input.params: found stream cannot stand here"),
        (row("a", refrence="x"), "items.jsonl:1: refrence: found an unknown field, expected one of id, input, reference"),
        (row("a", refrence="x"), "Did you mean 'reference'?"),
        (row("a b"), "items.jsonl:1: id: found 'a b'"),
        (row("a", weight=0), "items.jsonl:1: weight: found 0, expected greater than 0"),
        (row("a", reference=None), "items.jsonl:1: checks: found none, expected at least one check"),
        (row("a", checks=[{"type": "regx"}]), "items.jsonl:1: checks[0]: found no scorer is called 'regx'; there are bleu, choice"),
        (row("a", checks=[{"type": "regex", "pattern": "((a{999}){999}){999}"}]), "checks[0].pattern: found '((a{999}){999}){999}' is too large: its repeats"),
        (row("a", checks=[{"type": "regex", "pattern": "("}]), "checks[0].pattern: found '(' is no regular expression: missing )"),
        (row("a", checks=[{"type": "regex", "pattern": "a", "patern": "a"}]), "checks[0].patern: found an unknown field, expected one of pattern, flags, whole. Did you mean 'pattern'?"),
        (row("a", checks=[{"type": "regex", "pattern": "a", "flags": "q"}]), "checks[0].flags: found flags are of imsx, not 'q'"),
        (row("a", reference=None, checks=[{"type": "exact"}]), "checks[0]: found 'exact', which compares with a reference that the item lacks"),
        (row("a", reference="seven", checks=[{"type": "numeric"}]), "checks[0]: found the reference of a numeric check is a number"),
        (row("a", checks=[{"type": "json_schema", "schema": {"type": "strin"}}]), "checks[0].schema: found not a JSON Schema 2020-12: at $.type"),
        (row("a", checks=[{"type": "json_schema", "schema": {"$ref": "http://x/y"}}]), "$ref 'http://x/y' leads outside the schema"),
        (row("a", checks=[{"type": "json_schema", "schema": {"items": {"$ref": "#/$defs/no"}}}]), "$ref '#/$defs/no' leads nowhere in the schema"),
        (row("a", checks=[{"type": "json_schema", "schema": {"$schema": "http://json-schema.org/draft-07/schema#"}}]), "only https://json-schema.org/draft/2020-12/schema is spoken here"),
        (row("a", checks=[{"type": "contains", "values": [""]}]), "an empty text is contained in every answer"),
        (row("a", checks=[{"type": "exact", "gate": "no"}]), "checks[0].gate: found 'no', expected a valid boolean"),
        (row("a", checks=[{"type": "exact", "gate": False}]), "checks: found none that gates"),
        (row("a", checks=[{"type": "exact", "key": "k"}, {"type": "contains", "key": "k"}]), "checks[1]: found the key 'k', which another check of the item has too"),
        (row("a", checks=["exact"]), "checks[0]: found 'exact', which is no object"),
    ],
)  # fmt: skip
def test_a_bad_item_is_told_with_file_line_field_and_mend(tmp_path: Path, item: Any, told: str) -> None:
    [problem] = problems(tmp_path, item)
    assert told in problem


def test_every_problem_is_told_at_once_with_its_own_line(tmp_path: Path) -> None:
    write_set(tmp_path, [])
    lines = [
        json.dumps(row("a")),
        "{",
        json.dumps(row("a")),
        '{"id": "d", "id": "d"}',
        '"text"',
        '{"x": NaN}',
    ]
    (tmp_path / "items.jsonl").write_bytes("\n".join(lines).encode() + b'\n{"id": "\xff"}')
    with pytest.raises(GoldenSetError) as caught:
        load_golden_set(tmp_path)
    told = {problem.line: str(problem) for problem in caught.value.problems}
    assert sorted(told) == [2, 3, 4, 5, 6, 7]
    assert "found 'a', which line 1 has too, expected an id of its own" in told[3]
    assert "the key 'id' stands twice" in told[4]
    assert "found 'text', expected a JSON object" in told[5]
    assert "NaN is not JSON" in told[6]


@pytest.mark.parametrize(
    ("set_yaml", "told"),
    [
        ("name: x\nmargn: 0.1\n", "set.yaml:2: margn: found the unknown key 'margn'"),
        ("margin: much\n", "set.yaml:1: margin: found 'much', expected a share from 0 to below 1"),
        ("name: [\n", "set.yaml:2: found"),
        ("- a\n", "set.yaml:1: found ['a'], expected a mapping"),
    ],
)
def test_a_bad_set_file_is_told_too(tmp_path: Path, set_yaml: str, told: str) -> None:
    [problem] = problems(tmp_path, row("a"), set_yaml=set_yaml)
    assert told in problem


def test_a_set_that_is_not_there_or_empty_says_so(tmp_path: Path) -> None:
    with pytest.raises(GoldenSetError, match=r"No such file.*set\.yaml and items\.jsonl"):
        load_golden_set(tmp_path / "nowhere.jsonl")
    assert problems(tmp_path) == [
        "items.jsonl: found no item, expected at least one. Write one JSON object a line"
    ]


def test_the_hash_follows_the_content_and_not_its_dress(tmp_path: Path) -> None:
    golden = make_set(tmp_path / "a", [row("a"), row("b")])
    dressed = tmp_path / "b"
    write_set(dressed, [])
    text = json.dumps(dict(reversed(row("b").items())), indent=None, separators=(" ,", " : "))
    (dressed / "items.jsonl").write_text(text + "\n" + json.dumps(row("a", added="2026-01-01")), "utf-8")
    assert load_golden_set(dressed).hash == golden.hash
    assert golden.hash.startswith("golden@sha256:")
    changed = make_set(tmp_path / "c", [row("a"), row("b", reference="Right")])
    clustered = make_set(tmp_path / "d", [row("a"), row("b", cluster_id="x")])
    assert len({golden.hash, changed.hash, clustered.hash}) == 3
    assert changed.items[0].hash == golden.items[0].hash
    assert changed.items[1].hash != golden.items[1].hash
    assert clustered.items[1].hash == golden.items[1].hash


@given(st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4) | st.none(), max_size=4))
def test_canonical_json_is_blind_to_order_and_to_nothing_else(value: dict[str, Any]) -> None:
    shuffled = dict(reversed(value.items()))
    assert canonical_json(shuffled) == canonical_json(value)
    assert json.loads(canonical_json(value)) == value
    assert content_hash({**value, "more": 1}) != content_hash(value)


def test_equality_is_that_of_json() -> None:
    assert same_json({"a": 1.0, "b": [2]}, {"b": [2.0], "a": 1})
    assert not same_json(1, True)
    assert not same_json([1, 2], [2, 1])
    assert not same_json("1", 1)


async def test_the_example_set_tells_right_from_wrong_by_its_own_key() -> None:
    golden = load_golden_set(SUPPORT)
    questions = {item.messages[-1]["content"].strip() for item in golden.items}
    assert len(questions) == len(golden.items) >= 60
    for item in golden.items:
        right = [s for _, s in await score_output(item, right_output(item), golden.policy)]
        wrong = [s for _, s in await score_output(item, right_output(item, "wrong"), golden.policy)]
        assert all(score.value == 1.0 for score in right), (item.id, right)
        assert any(score.value == 0.0 for score in wrong), (item.id, wrong)


def test_the_page_about_golden_sets_names_every_check_option_and_field() -> None:
    page = (ROOT / "docs/reference/golden-sets.md").read_text("utf-8")
    for name in registered():
        options = evaluator_named(name).options.model_fields
        [line, *_] = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        assert {
            field for key, info in options.items() if f"`{(field := info.alias or key)}`" not in line
        } == set()
    for field, info in SetRow.model_fields.items():
        assert f"`{field}`" in page
        if isinstance(info.default, float):
            assert f"| `{field}` | `{info.default}` |" in page


def test_a_set_without_a_difference_passes_from_72_items_on_as_the_page_says() -> None:
    def effect(n: int) -> Effect | None:
        values = [PairedValue(control=1, candidate=1, cluster=str(k)) for k in range(n)]
        return paired_effect(values, alpha=0.05)

    assert [decide(effect(n), 0.05) for n in (71, 72)] == ["inconclusive", "pass"]


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ("2026-01-01", "default_checks"),
        (".nan", "default_checks"),
        (".inf", "default_checks"),
        ('"\\ud800"', ""),
    ],
)
def test_a_default_check_that_is_no_json_is_a_problem_of_set_yaml(
    tmp_path: Path, value: str, field: str
) -> None:
    question = {key: inner for key, inner in row("a").items() if key != "reference"}
    folder = write_set(tmp_path, [question], f"default_checks: [{{type: contains, values: [{value}]}}]\n")
    with pytest.raises(GoldenSetError) as error:
        load_golden_set(folder)
    problem = error.value.problems[0]
    assert (problem.file, problem.field) == (str(folder / "set.yaml"), field)
    assert field or problem.line, "what is no text is no value of a field yet: its line says where"


@pytest.mark.parametrize("code", ["import sys\nsys.exit(0)\n", "raise SystemExit('bye')\n"])
def test_a_file_of_evaluators_that_exits_does_not_end_the_run_as_passed(tmp_path: Path, code: str) -> None:
    folder = write_set(tmp_path, [row("a")], "evaluators: [own.py]\n")
    (folder / "own.py").write_text(code)
    with pytest.raises(GoldenSetError, match="does not run \\(SystemExit"):
        load_golden_set(folder)


@pytest.mark.parametrize("reference", [0, 0.0])
def test_nought_is_an_answer(tmp_path: Path, reference: float) -> None:
    item = make_set(tmp_path, [row("a", reference=reference)]).items[0]
    assert [check.type for check in item.checks] == ["exact"]
    assert item.checks[0].options.expects(item.reference) == "'0'"
