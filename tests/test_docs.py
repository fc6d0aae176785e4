"""The documentation says what is true."""

from __future__ import annotations

import re
from dataclasses import fields
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import duckdb
import pytest

from experiments import spec
from experiments.ledger import schema
from experiments.ledger.exchange import OUTCOMES
from proxy.limits import Limits

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def test_the_limits_table_is_the_limits() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", (DOCS / "reference/limits.md").read_text(), re.M)
    assert dict(rows) == {field.name: str(field.default) for field in fields(Limits)}


def test_every_error_code_and_outcome_is_documented() -> None:
    page = (DOCS / "reference/proxy.md").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "proxy").glob("*.py"))
    codes = set(re.findall(r'Refusal\(\s*\d{3},\s*"(\w+)"', sources)) | set(
        re.findall(r'_wrong\("(\w+)"', sources)
    )
    assert len(codes) > 15
    assert {code for code in codes if f"`{code}`" not in page} == set()
    assert {outcome for outcome in OUTCOMES if f"`{outcome}`" not in page} == set()


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 200


def generator() -> ModuleType:
    found = spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert found is not None
    assert found.loader is not None
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_generated_pages_are_what_the_code_makes() -> None:
    pages = generator().pages()
    assert len(pages) == 4
    for name, text in pages.items():
        on_disk = (DOCS / "reference" / name).read_text()
        assert on_disk == text, f"{name} is out of date: run `.venv/bin/python docs/generate.py`"


def test_every_attribute_of_a_span_is_documented() -> None:
    page = (DOCS / "reference/traces.md").read_text()
    code = (DOCS.parent / "experiments/spans.py").read_text()
    names = set(re.findall(r'"((?:gen_ai|turnout|http|url|error)\.[a-z_.]+)":', code))
    assert len(names) > 20
    assert {name for name in names if f"`{name}`" not in page} == set()


def test_every_table_and_column_of_the_ledger_is_documented() -> None:
    page = (DOCS / "reference/ledger.md").read_text()
    connection = duckdb.connect(":memory:")
    schema.migrate(connection)
    rows = connection.execute("SELECT table_name, column_name FROM information_schema.columns").fetchall()
    connection.close()
    assert len(rows) > 100
    assert {table for table, _ in rows if f"`{table}`" not in page} == set()
    assert {(table, column) for table, column in rows if f"`{column}`" not in page} == set()


@pytest.mark.parametrize(
    "declared",
    [
        spec.AbSpec, spec.AbTraffic, spec.CanaryTraffic, spec.ShadowTraffic, spec.Metrics, spec.SuccessMetric,
        spec.Guardrail, spec.Analysis, spec.GoldenGate, spec.ChainSpec, spec.Stages, spec.ShadowStage,
        spec.CanaryStage, spec.AbStage, spec.Policies, spec.Exclude, spec.Exclusive,
    ],
)  # fmt: skip
def test_every_field_of_an_experiment_file_is_documented(declared: type[spec.ExperimentSpec]) -> None:
    page = (DOCS / "reference/experiments.md").read_text()
    for name in declared.model_fields:
        assert f"### `{name}`" in page or f"| `{name}` |" in page


def test_the_example_of_an_experiment_file_is_one() -> None:
    page = (DOCS / "reference/experiments.md").read_text()
    example = re.findall(r"```yaml\n(.*?)```", page, re.S)[0]
    assert spec.read_spec(example).experiment == "chat-v2-canary"


def test_the_experiment_files_of_the_guide_are_valid() -> None:
    found = re.findall(r"```yaml\n(experiment:.*?)```", (DOCS / "guide.md").read_text(), re.S)
    assert [spec.read_spec(text).mode for text in found] == ["shadow", "canary"]
