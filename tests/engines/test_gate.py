"""On a real vLLM the preflight names what a version reads otherwise, and the golden run what it says worse.

`drifted` has other weights, a template that puts in a system prompt, and sampling defaults of its own;
`retold` has production's weights and that template; `damaged` has production's files but for one
layer of its weights; `copy` is another version in the registry, served from production's very files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry import Registry
from tests.journey import Fleet, Turnout, eventually

from .conftest import serving

pytestmark = [pytest.mark.engines, pytest.mark.timeout(420)]

ITEMS = 80  # without a single difference 72 are enough to pass at a margin of five points
SET = "name: words\nlength: score\n"
#: The checks of how a version reads: what production's own files with other weights pass.
READING = {"tokenizer", "template", "sampling_defaults", "context", "prompt_tokens"}


@pytest.fixture(scope="module")
def variants(
    vllm_python: str, engines_registry: Registry, fleet: Fleet, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[str]]:
    """The engines of `retold` and `damaged`."""
    data = tmp_path_factory.mktemp("variants")
    versions = {number: f"models:/chat/{number}" for number in (3, 4)}
    with serving(vllm_python, engines_registry, data, versions) as addresses:
        yield addresses


@pytest.fixture(scope="module")
def stage(fleet: Fleet, variants: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Turnout]:
    """Turnout with five versions: production, the drifted, the retold and the damaged one, and the copy."""
    turnout = Turnout(tmp_path_factory.mktemp("gate"))
    with turnout.up():
        for url, alias in zip(
            (fleet.first, fleet.second, *variants, fleet.first),
            ("production", "drifted", "retold", "damaged", "copy"),
            strict=True,
        ):
            turnout.run(
                *("models", "register", "chat", "--replica", url, "--alias", alias),
                *("--served-name", fleet.served_name, "--engine", fleet.engine),
            )
        eventually(lambda: turnout.get("/api/models/chat")["production"], within=10)
        eventually(lambda: served(turnout), within=10)
        yield turnout


def served(turnout: Turnout) -> bool:
    return httpx.get(f"{turnout.proxy}/v1/models").is_success


@pytest.fixture(scope="module")
def words(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A golden set of what production says, greedily: the only right answers that noise has."""
    folder = tmp_path_factory.mktemp("words")
    rows = []
    with httpx.Client(base_url=fleet.first, timeout=60) as engine:
        for number in range(ITEMS):
            asked = {"messages": [{"role": "user", "content": f"Word number {number}, please"}]}
            params = {"max_tokens": 6, "temperature": 0, "ignore_eos": True}
            answer = engine.post("/v1/chat/completions", json=asked | params | {"model": "chat"}).json()
            said = answer["choices"][0]["message"]["content"]
            rows.append({"id": f"w{number}", "input": asked | {"params": params}, "reference": said})
    usable = [row for row in rows if row["reference"].strip()]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in usable), "utf-8")
    (folder / "set.yaml").write_text(SET)
    assert len(usable) >= 72
    return folder


Reports = dict[str, Future[dict[str, Any]]]


@pytest.fixture(scope="module")
def reports(stage: Turnout, tiny_models: Path) -> Iterator[Reports]:
    """By candidate what its preflight says. A preflight asks one question at a time, and an engine has one
    core: two of them at once."""
    files = ("--control-files", str(tiny_models / "first"), "--candidate-files", str(tiny_models / "second"))
    with ThreadPoolExecutor(2) as pool:
        yield {
            "drifted": pool.submit(held, stage, "drifted", *files, code=1),
            "retold": pool.submit(held, stage, "retold", code=1),
            "damaged": pool.submit(held, stage, "damaged", code=0),
            "copy": pool.submit(held, stage, "copy", code=0),
        }


def held(stage: Turnout, candidate: str, *more: str, code: int) -> dict[str, Any]:
    said = stage.run("preflight", "chat", "--candidate", candidate, "--json", *more, code=code)
    found: dict[str, Any] = json.loads(said)
    return found


def statuses(report: dict[str, Any]) -> dict[str, str]:
    return {finding["check"]: finding["status"] for finding in report["findings"]}


def test_the_preflight_names_the_drift(reports: Reports) -> None:
    report = reports["drifted"].result()
    found = statuses(report)
    assert {check for check, status in found.items() if status == "fail"} >= {
        "template",
        "sampling_defaults",
    }, report
    assert (found["tokenizer"], found["context"]) == ("ok", "note")
    assert found["prompt_tokens"] == found["artefacts"] == "warn"
    by_check = {finding["check"]: finding["sentence"] for finding in report["findings"]}
    assert "temperature" in by_check["sampling_defaults"]
    assert "generation_config.json" in by_check["artefacts"]
    assert report["control_fingerprint"] != report["candidate_fingerprint"]


def test_a_changed_template_alone_is_named_and_nothing_else_of_the_reading(reports: Reports) -> None:
    report = reports["retold"].result()
    found = statuses(report)
    assert {check for check in READING if found[check] == "fail"} == {"template"}, report
    assert (found["tokenizer"], found["sampling_defaults"]) == ("ok", "ok")
    [template] = [finding for finding in report["findings"] if finding["check"] == "template"]
    assert "became '<|turn|>system" in template["sentence"]


def test_damaged_weights_read_as_production_does_and_only_their_answers_show_it(
    stage: Turnout, reports: Reports, words: Path
) -> None:
    """Nothing that a preflight can ask of the engine tells them apart; the golden run does."""
    found = statuses(reports["damaged"].result())
    assert {found[check] for check in READING} <= {"ok", "note"}, found
    said = stage.run("golden", "compare", str(words), "--model", "chat", "-c", "damaged", code=1)
    assert "the candidate is worse" in said


def test_the_preflight_lets_a_copy_through(stage: Turnout, reports: Reports) -> None:
    report = reports["copy"].result()
    assert {check for check, status in statuses(report).items() if status in ("fail", "warn")} <= {"latency"}
    assert report["control_fingerprint"] == report["candidate_fingerprint"]
    kept = [
        one["verdict"] for one in stage.get("/api/preflights?model=chat") if one["candidate_version"] == 5
    ]
    assert kept == ["pass"]


def test_the_golden_run_fails_the_drifted_version_and_passes_the_copy(stage: Turnout, words: Path) -> None:
    compare = ("golden", "compare", str(words), "--model", "chat", "--concurrency", "2")
    failed = stage.run(*compare, "--candidate", "drifted", code=1)
    assert "the candidate is worse" in failed
    passed = stage.run(*compare, "--candidate", "copy", code=0)
    assert "no drop beyond the margin" in passed
