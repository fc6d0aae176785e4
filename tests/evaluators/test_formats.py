"""What is imported of other tools' files is counted: every foreign check is a check here, or is listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

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
