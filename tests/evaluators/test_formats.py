"""What is imported of other tools' files is counted: every foreign check is a check here, or is listed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from evaluators.formats import Draft, ImportOptions, ImportRefused, import_files, write_set
from evaluators.formats.templates import TemplateRefused, fill, filled
from evaluators.loading import load_golden_set

FOREIGN = Path(__file__).parent / "foreign"
HOSTED = ("hosted_eval.json", "hosted_run.json", "hosted_rows.jsonl")
#: A refusal of one of these fields is the refusal of one foreign check.
CHECK_FIELDS = ("checks[", "assert[", "testing_criteria[", "expectations.", "ideal")


def imported(format_: str, *files: str, **options: Any) -> Draft:
    return import_files(format_, [FOREIGN / file for file in files], ImportOptions(**options))


def lost_checks(draft: Draft) -> int:
    return sum(refusal.field.startswith(CHECK_FIELDS) for refusal in draft.refused)


def row(draft: Draft, id: str) -> dict[str, Any]:
    return next(row for row in draft.rows if row["id"] == id)


MAPPED = {"input": "question", "target": "answer"}
COLUMNS = {"id": "qid", "input": "question", "reference": "answer", "tags": "topic", "cluster_id": "doc"}


@pytest.mark.parametrize(
    ("format_", "files", "options", "read", "whole_items_lost", "foreign_checks"),
    [
        # format, files, options, items in the files, items without a question or a check, checks in the files
        ("openai-evals", ("capitals.jsonl",), {}, 5, 1, 4),
        ("openai-evals", ("evals.yaml",), {}, 8, 2, 7),
        ("openai-hosted", HOSTED, {}, 3, 1, 14),
        ("promptfoo", ("promptfooconfig.yaml",), {}, 14, 2, 46),
        ("promptfoo", ("promptfoo_tests.csv",), {"prompt": "{{question}} ({{goods}})"}, 2, 0, 4),
        ("mlflow", ("mlflow_records.jsonl",), {"scorer": "contains"}, 4, None, 7),
        ("inspect", ("inspect_samples.jsonl",), {}, 6, 2, 4),
        ("inspect", ("inspect_theory.csv",), {"fields": MAPPED}, 2, 0, 2),
        ("table", ("questions.csv",), {"fields": COLUMNS}, 3, 1, 2),
        ("promptfoo", ("promptfoo_only.csv",), {"prompt": "Q: {{question}}"}, 3, None, 3),
    ],
)
def test_every_foreign_check_is_taken_or_listed(
    format_: str,
    files: tuple[str, ...],
    options: dict[str, Any],
    read: int,
    whole_items_lost: int | None,
    foreign_checks: int,
) -> None:
    draft = imported(format_, *files, **options)
    lost = [refusal.item for refusal in draft.refused if refusal.field == "item"]
    assert draft.read == read
    assert len(draft.rows) + len(lost) == read
    assert whole_items_lost in (None, len(lost))
    assert draft.checks + lost_checks(draft) == foreign_checks
    assert all(refusal.why for refusal in draft.refused)


def test_what_is_imported_is_a_golden_set(tmp_path: Path) -> None:
    draft = imported("promptfoo", "promptfooconfig.yaml")
    golden = load_golden_set(write_set(tmp_path / "set", draft, description="x"))
    assert [item.id for item in golden.items] == [row["id"] for row in draft.rows]
    with pytest.raises(ImportRefused, match="exists"):
        write_set(tmp_path / "set", draft)


def test_openai_classes_compare_as_they_do_there() -> None:
    match = imported("openai-evals", "capitals.jsonl")
    assert row(match, "capitals-2")["checks"] == [{"type": "regex", "pattern": r"\A\s*(?:Sucre|La\ Paz)"}]
    includes = imported("openai-evals", "evals.yaml")
    assert row(includes, "capitals-1")["checks"][0]["type"] == "contains"
    assert row(includes, "orders-1")["checks"] == [
        {"type": "json_schema", "schema": {"anyOf": [{"const": {"id": 17, "quantity": 2}}]}}
    ]
    refused = imported("openai-evals", "capitals.jsonl", scorer="FuzzyMatch", checks=({"type": "exact"},))
    assert [check["type"] for check in row(refused, "capitals-1")["checks"]] == ["exact"]
    assert any(refusal.field == "class" for refusal in refused.refused)


def test_the_hosted_template_becomes_the_question() -> None:
    found = row(imported("openai-hosted", *HOSTED), "hosted_rows-1")
    assert found["input"]["messages"] == [
        {"role": "developer", "content": "Say billing, shipping or other."},
        {"role": "user", "content": "My invoice is wrong"},
    ]
    assert found["input"]["params"] == {"temperature": 0, "max_tokens": 64}
    assert found["checks"][:3] == [
        {"type": "exact", "values": ["billing"]},
        {"type": "exact", "values": ["Sorry"], "not": True},
        {"type": "contains", "values": ["billing"], "mode": "any", "case_sensitive": False},
    ]
    with pytest.raises(ImportRefused, match="no question"):
        imported("openai-hosted", "hosted_eval.json", "hosted_rows.jsonl")


def test_promptfoo_variables_reach_prompts_and_assertions() -> None:
    draft = imported("promptfoo", "promptfooconfig.yaml")
    text = row(draft, "return-window-p1")
    assert text["input"]["messages"] == [
        {
            "role": "user",
            "content": "You support a shop for tents. Answer briefly: How long may I return a tents?",
        }
    ]
    assert {"type": "contains", "values": ["60 days"], "mode": "any"} in text["checks"]
    assert text["tags"] == ["topic=returns"]
    chat = row(draft, "any-of-these-p2-2")
    assert chat["input"]["messages"][1] == {"role": "user", "content": "What colours are there?"}
    assert chat["checks"][2]["not"] is True


def test_files_outside_the_folder_are_neither_read_nor_run() -> None:
    refused = {refusal.item: refusal.why for refusal in imported("promptfoo", "promptfooconfig.yaml").refused}
    assert "below the configuration's folder" in refused["tests[5]"]
    assert "below the configuration's folder" in refused["tests[6]"]


def test_choices_are_put_to_the_model() -> None:
    found = row(imported("inspect", "inspect_samples.jsonl"), "mc")
    assert "B) bat" in found["input"]["messages"][0]["content"]
    assert found["checks"] == [{"type": "regex", "pattern": r"(?i)ANSWER\s*:\s*\(?B\b"}]


def test_a_table_names_its_columns_when_the_map_is_wrong() -> None:
    with pytest.raises(ImportRefused, match="qid, question, answer"):
        imported("table", "questions.csv", fields={"input": "quesion"})


def test_parquet_is_read_as_csv_is(tmp_path: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    path = tmp_path / "q.parquet"
    parquet.write_table(arrow.table({"question": ["1+1?"], "answer": [2], "tags": [["maths"]]}), path)
    draft = import_files("table", [path], ImportOptions(fields={"input": "question", "reference": "answer"}))
    assert (draft.rows[0]["reference"], draft.rows[0]["tags"], draft.refused) == (["2"], ["maths"], [])


def test_ids_are_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "same.jsonl"
    path.write_text(
        "".join(json.dumps({"id": id, "input": "q", "target": "a"}) + "\n" for id in ("x y", "x-y", "?"))
    )
    draft = import_files("inspect", [path], ImportOptions())
    assert [row["id"] for row in draft.rows] == ["x-y", "x-y-2", "same-3"]


def test_templates_fill_names_and_refuse_programs() -> None:
    assert fill("{{ a }} and {{b.c[0]}}", {"a": 1, "b": {"c": ["x"]}}) == "1 and x"
    assert filled(["{{ a }}", {"k": "{{a}}!"}], {"a": [1]}) == [[1], {"k": "[1]!"}]
    for text in ("{{ a | dump }}", "{% if a %}x{% endif %}", "{{ f(a) }}", "{{ missing }}"):
        with pytest.raises(TemplateRefused):
            fill(text, {"a": 1})


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (r'{"input": "q \ud83d", "ideal": "a"}', "UTF-8"),
        ('{"input": "q", "ideal": NaN}', "NaN"),
        ('{"input": "q", "ideal": [1, {}]}', "neither"),
    ],
)
def test_what_no_set_can_hold_is_listed(tmp_path: Path, line: str, why: str) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_text(f'{{"input": "q", "ideal": 12345678901234567890123}}\n{line}\n', "utf-8")
    draft = import_files("openai-evals", [file], ImportOptions())
    [kept], [refused] = draft.rows, draft.refused
    assert kept["reference"] == ["12345678901234567890123"], "a number is compared as it is written"
    assert why in refused.why


def test_a_file_that_nests_too_deeply_is_told(tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_text(f'{{"input": {"[" * 100_000}{"]" * 100_000}, "ideal": "a"}}\n', "utf-8")
    with pytest.raises(ImportRefused, match=r"samples\.jsonl:1 is no JSON"):
        import_files("openai-evals", [file], ImportOptions())


@pytest.mark.parametrize("text", ["null", "0", '""', '{"input": "q"}\nnull\n'])
@pytest.mark.parametrize("format_", ["inspect", "mlflow", "table"])
def test_a_row_that_is_none_is_told(tmp_path: Path, format_: str, text: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(text, "utf-8")
    with pytest.raises(ImportRefused, match="where rows"):
        import_files(format_, [file], ImportOptions(fields={"input": "input"}))


def test_what_is_no_yaml_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "promptfooconfig.yaml"
    file.write_text("prompts: [hi]\ntests: [\n", "utf-8")
    with pytest.raises(ImportRefused, match=r"yaml:3 is no YAML \(expected the node content"):
        import_files("promptfoo", [file], ImportOptions())


def of_text(tmp_path: Path, format_: str, name: str, text: str, **options: Any) -> Draft:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    return import_files(format_, [path], ImportOptions(**options))


def test_a_long_document_in_a_table_is_read(tmp_path: Path) -> None:
    draft = of_text(tmp_path, "table", "a.csv", f"input,reference\n{'x' * 200_000},y\n")
    assert [len(row["input"]["messages"][0]["content"]) for row in draft.rows] == [200_000]


def test_a_date_in_yaml_is_what_stands_there(tmp_path: Path) -> None:
    tests = "tests: [{vars: {day: 2026-01-02}, assert: [{type: contains, value: x}]}]"
    draft = of_text(tmp_path, "promptfoo", "a.yaml", f"prompts: ['It is {{{{day}}}}.']\n{tests}")
    assert draft.rows[0]["input"]["messages"][0]["content"] == "It is 2026-01-02."


def test_ids_that_are_as_long_as_they_may_be_are_kept_apart() -> None:
    draft = Draft(format="table")
    ids = [draft.new_id("a" * 300, "row") for _ in range(12)]
    assert len(set(ids)) == 12
    assert max(map(len, ids)) <= 200


def test_a_file_may_be_called_as_people_call_files(tmp_path: Path) -> None:
    draft = of_text(tmp_path, "table", "häufige Fragen (neu).csv", "input,reference\na,b\nc,d\n")
    assert [row["id"] for row in draft.rows] == ["h-ufige-Fragen-neu--1", "h-ufige-Fragen-neu--2"]


def test_moments_of_a_table_are_text_in_a_question_and_no_json_elsewhere(tmp_path: Path) -> None:
    at = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    path = tmp_path / "a.parquet"
    rows = [{"input": "q", "target": "a", "metadata": {"at": at}, "at": at}]
    parquet.write_table(pa.Table.from_pylist(rows), path)
    table = {"input": "at", "reference": "target"}
    asked = import_files("table", [path], ImportOptions(fields=table, prompt="It is {{at}}: {{input}}"))
    assert asked.rows[0]["input"]["messages"][0]["content"].startswith("It is 2026-01-02 03:04")
    samples = import_files("inspect", [path], ImportOptions())
    assert any("JSON" in refusal.why for refusal in samples.refused), samples.refused


TESTS = "prompts: ['Is it {{day}}?']\n"


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (TESTS + "tests: [{vars: [monday], assert: [{type: is-json}]}]", "vars"),
        (TESTS + "tests: [{vars: {day: 1}, assert: 5}]", "assert"),
        (
            TESTS
            + "defaultTest: {vars: [1], assert: 5}\ntests: [{vars: {day: 1}, assert: [{type: is-json}]}]",
            "vars",
        ),
    ],
)
def test_what_a_configuration_has_in_another_shape_is_listed(tmp_path: Path, config: str, why: str) -> None:
    draft = of_text(tmp_path, "promptfoo", "a.yaml", config)
    assert any(why in str(refusal) for refusal in draft.refused), draft.refused


def test_a_threshold_that_is_no_number_makes_no_assertion_of_a_cell(tmp_path: Path) -> None:
    cells = "q,__expected\na,contains(1.2.3):x\n"
    draft = of_text(tmp_path, "promptfoo", "a.csv", cells, prompt="{{q}}")
    assert draft.rows[0]["checks"] == [{"type": "exact", "values": ["contains(1.2.3):x"]}]


def test_too_many_combinations_are_told_before_they_are_made(tmp_path: Path) -> None:
    variables = {f"v{n}": list(range(100)) for n in range(6)}
    tests = [{"vars": variables, "assert": [{"type": "is-json"}]}]
    with pytest.raises(ImportRefused, match="combinations"):
        of_text(tmp_path, "promptfoo", "a.json", json.dumps({"prompts": ["x"], "tests": tests}))


def test_choices_stand_behind_a_question_in_parts(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Which one?"}]
    sample = {"input": [{"role": "user", "content": parts}], "choices": ["x", "y"], "target": "A"}
    draft = of_text(tmp_path, "inspect", "a.json", json.dumps([sample]))
    content = draft.rows[0]["input"]["messages"][0]["content"]
    assert content[0] == parts[0]
    assert content[1]["text"].startswith("A) x\nB) y")


def test_a_check_that_needs_a_judge_is_taken_for_the_set_to_name_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    load = load_golden_set
    monkeypatch.setattr(
        "evaluators.formats.draft.load_golden_set", lambda path: loaded.append(path) or load(path)
    )
    rows = "".join(f"q{n},a{n}\n" for n in range(50))
    judge = {"type": "judge", "rubric": "It is polite.", "gate": True}
    draft = of_text(tmp_path, "table", "a.csv", f"input,reference\n{rows}", checks=({"type": "exact"}, judge))
    assert len(loaded) < 5
    assert len(draft.rows) == 50
    assert [check["type"] for check in draft.rows[0]["checks"]] == ["exact", "judge"], "set.yaml names it"


def table_of(tmp_path: Path, content: bytes, name: str = "a.csv") -> Draft:
    (tmp_path / name).write_bytes(content)
    options = ImportOptions(fields={"input": "question", "reference": "answer"})
    return import_files("table", [tmp_path / name], options)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'question,answer\n"q\n1",a1\nq2,"a2\nq3,a3\nq4,a4\n', r"a\.csv:4 .*unexpected end of data"),
        (b"question,answer,answer\nq1,a1,b1\n", r"a\.csv:1 has the column 'answer' twice"),
        (b"question,answer\nq1,a1\nq2,caf\xe9\n", r"a\.csv:3 is no text in UTF-8 \(byte 0xe9\)"),
        (b'question,answer\n"q\n1",a1,more\n', r"a\.csv:2 has more cells"),
    ],
)
def test_a_table_that_would_lose_cells_is_refused_with_its_line(
    tmp_path: Path, content: bytes, told: str
) -> None:
    with pytest.raises(ImportRefused, match=told):
        table_of(tmp_path, content)


def test_a_table_as_a_spreadsheet_writes_it_is_read(tmp_path: Path) -> None:
    draft = table_of(tmp_path, b'\xef\xbb\xbfquestion,answer,,\r\n"q\r\n1","say ""a""",,\r\n')
    assert [(row["input"]["messages"][0]["content"], row["reference"]) for row in draft.rows] == [
        ("q\n1", ['say "a"'])
    ]


def test_json_is_told_with_the_line_of_its_fault(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match=r"a\.json:3 is no JSON"):
        of_text(tmp_path, "openai-hosted", "a.json", '{"a": [1,\n 2\n 3]}')
    lines = '{"input": "a", "ideal": "b"}\n\n{"input": "c", "ideal": "d"}\n'
    with pytest.raises(ImportRefused, match=r"a\.jsonl:4 is no JSON"):
        of_text(tmp_path, "openai-evals", "a.jsonl", lines + '{"input":\n')
    draft = of_text(tmp_path, "openai-evals", "a.jsonl", lines)
    assert [row["source"]["line"] for row in draft.rows] == [1, 3]


def test_yaml_is_read_as_the_other_tool_reads_it(tmp_path: Path) -> None:
    config = """
prompts: ['{{v}}']
defaultTest: {assert: [{type: contains, value: x}]}
tests:
  - vars: {v: [12:30, yes, off, 010, 0x1F, 1_000, 1.5, 1e3, true, ~]}
"""
    draft = of_text(tmp_path, "promptfoo", "a.yaml", config)
    asked = [row["input"]["messages"][0]["content"] for row in draft.rows]
    assert asked[:7] == ["12:30", "yes", "off", "10", "31", "1000", "1.5"], draft.refused
    with pytest.raises(ImportRefused, match=r"a\.yaml:4 is no YAML \(the key 'assert' is there twice"):
        of_text(tmp_path, "promptfoo", "a.yaml", "prompts: [x]\ntests:\n- assert: []\n  assert: []\n")


def test_a_promptfoo_test_whose_answer_is_changed_by_code_leaves_no_check_on_the_raw_answer(
    tmp_path: Path,
) -> None:
    config = """
    prompts: ['Say {{word}}']
    defaultTest: {options: {transform: output.trim(), provider: x}}
    tests:
    - {description: by-default, vars: {word: a}, assert: [{type: equals, value: a}]}
    - description: own
      vars: {word: b}
      options: {transform: JSON.parse(output).x}
      assert: [{type: equals, value: b}]
    - {description: none, vars: {word: c}, options: {transform: null}, assert: [{type: equals, value: c}]}
    - description: asked
      vars: {word: d}
      options: {transform: null, transformVars: f(vars)}
      assert: [{type: equals, value: d}]
    - description: framed
      vars: {word: [e, f]}
      options: {transform: null, prefix: '<', suffix: '>', disableVarExpansion: true}
      assert: [{type: contains, value: e}]
    """
    draft = of_text(tmp_path, "promptfoo", "a.yaml", config)
    assert {row["id"]: row["input"]["messages"][0]["content"] for row in draft.rows} == {
        "none": "Say c",
        "framed": '<Say ["e", "f"]>',
    }
    lost = {(refusal.item, refusal.field): refusal.why for refusal in draft.refused}
    for item in ("by-default", "own"):
        assert "runs code on the answer" in lost[item, "options.transform"]
        assert "no check is left" in lost[item, "item"]
    assert "transformVars runs code" in lost["asked", "item"]
    assert lost["*", "defaultTest.options.provider"] == "is not imported"
    kept = of_text(tmp_path, "promptfoo", "a.yaml", config, checks=[{"type": "length", "max": 9}])
    checks = {row["id"]: [check["type"] for check in row["checks"]] for row in kept.rows}
    assert checks["own"] == ["length"]


def test_what_a_promptfoo_configuration_has_in_files_is_read_or_told(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "p.txt").write_text("Read {{doc}}")
    (tmp_path / "doc.txt").write_text("the document\n")
    config = """
prompts: [prompts/p.txt, prompts/gone.txt, {raw: 'Sum up {{doc}}', config: {temperature: 0}}]
defaultTest: {metadata: {team: a}}
tests:
  - {vars: {doc: file://doc.txt}, assert: [{type: contains, value: x}]}
  - {vars: {doc: file://doc.png}, assert: [{type: contains, value: x}]}
  - {vars: {doc: []}, assert: [{type: contains, value: x}]}
"""
    draft = of_text(tmp_path, "promptfoo", "a.yaml", config)
    asked = [row["input"]["messages"][0]["content"] for row in draft.rows]
    assert asked == ["Read the document", "Sum up the document"]
    told = [str(refusal) for refusal in draft.refused]
    for part in (
        "gone.txt is no text",
        "prompts[2].config",
        "defaultTest.metadata",
        "file://doc.png",
        "vars.doc",
    ):
        assert any(part in line for line in told), (part, told)


def test_a_cell_that_is_an_assertion_is_no_text_to_equal(tmp_path: Path) -> None:
    cells = "q,__expected\na,fn: output.length > 3\nb,grade: is kind\nc,latency(1000)\nd,is-xml\ne,Note: x\n"
    draft = of_text(tmp_path, "promptfoo", "a.csv", cells, prompt="{{q}}")
    assert [row["checks"][0]["type"] for row in draft.rows] == ["judge", "latency", "exact"]
    told = [str(refusal) for refusal in draft.refused]
    for part in ("runs code", "is-xml"):
        assert any(part in line for line in told), (part, told)
