"""A verdict and its folder: the same to the byte, also when the ledger has moved on."""

from __future__ import annotations

import json
import random
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from experiments import views
from experiments.dossier import DossierError, replay
from experiments.errors import Conflict, NotFound
from experiments.ledger import trials
from experiments.ledger.evaluations import add_scores
from experiments.ledger.exchange import ExchangeRecord, FeedbackRecord
from experiments.ledger.spool import SpoolWriter
from experiments.ledger.store import instant
from experiments.reporting import write_dossier
from turnout.cli import app
from turnout.report_page import write_page

from .ledger.samples import chat_stream, record
from .plane import AB, SHADOW, Plane

SPEC = """\
experiment: faster
model: chat
mode: canary
candidate: 2
traffic: {ramp: [20, 50], min_units: 20, min_duration: 1s}
metrics:
  success: [{metric: latency, mde: 5%, adjust: true}]
  guardrails:
    - {metric: error_rate, tolerated_ratio: 1.25}
    - {metric: latency.p95, margin: 20%}
    - {metric: tokens_per_second, margin: 20%, adjust: true}
  exploratory:
    - {metric: feedback:stars}
    - {metric: "latency>300ms"}
    - {metric: completion_tokens}
    - {metric: score:q.tone}
    - {metric: "score:q.tone<0.5"}
analysis: {horizon: 5000, looks: 3}
"""

MIRRORED = """\
experiment: faster
model: chat
mode: shadow
candidate: 2
traffic: {share: 20}
metrics:
  guardrails:
    - {metric: latency.p50, margin: 20%}
    - {metric: tokens_per_second, margin: 20%}
    - {metric: score:q.tone, margin: 20%}
  exploratory: [{metric: latency.p95}, {metric: preference:q.tone}]
analysis: {horizon: 5000, looks: 3}
"""


def traffic(plane: Plane, seed: int, count: int = 240) -> None:
    """What a proxy would have written, taken in by the controller."""
    chance = random.Random(seed)
    experiment = plane.controller.junction.experiment("faster")
    share = experiment.weight_ppm / 1e6
    writer = SpoolWriter(plane.data / "spool", f"w{seed}")
    scores: list[dict[str, Any]] = []
    for number in range(count):
        unit = chance.randrange(120)
        arm = "candidate" if unit / 120 < share else "control"
        failed = chance.random() < 0.05
        base: dict[str, Any] = {
            "experiment": "faster",
            "phase": experiment.phase.number,
            "unit": f"user-{unit}",
            "started_ns": plane.now_ns,
            "stream": True,
            "content_type": "text/event-stream",
            "outcome": "upstream_error" if failed else "complete",
            "status": 502 if failed else 200,
            "response": b"" if failed else chat_stream(["a"] * chance.randrange(1, 9)),
            "duration_us": chance.randrange(80_000, 400_000),
        }
        if experiment.routes:
            made = record(number + 1000 * seed, assigned_arm=arm, served_arm=arm, **base)
        else:
            answer = {
                "experiment": None,
                "outcome": "complete",
                "duration_us": chance.randrange(80_000, 400_000),
            }
            primary = record(2 * number + 1000 * seed, **{**base, **answer})
            assert writer.append(primary)
            scores.append(scored(primary, chance.random()))
            made = record(
                2 * number + 1 + 1000 * seed,
                role="shadow",
                pair_id=primary.exchange_id,
                assigned_arm="candidate",
                **base,
            )
        assert writer.append(made)
        scores.append(scored(made, chance.random()))
        if chance.random() < 0.3:
            assert writer.append(
                FeedbackRecord(
                    request_id=made.request_id,
                    name="stars",
                    value=chance.uniform(0, 5),
                    at_ns=plane.now_ns,
                    worker="w",
                )
            )
    writer.close()
    plane.controller.collect()
    at = instant(plane.now_ns)
    plane.controller.store.write(lambda connection: add_scores(connection, scores, at=at))


def before(plane: Plane) -> None:
    """What the units did before anything was tried on them."""
    chance = random.Random(0)
    writer = SpoolWriter(plane.data / "spool", "w0")
    for number in range(200):
        made = record(
            number,
            unit=f"user-{chance.randrange(120)}",
            started_ns=plane.now_ns - chance.randrange(1, 10**6) * 10**9,
            duration_us=chance.randrange(80_000, 400_000),
        )
        assert writer.append(made)
    writer.close()
    plane.controller.collect()


def scored(row: ExchangeRecord, value: float) -> dict[str, Any]:
    return {
        "exchange_id": row.exchange_id,
        "evaluator": "q.tone",
        "evaluator_version": "tone@1:aa",
        "status": "scored",
        "value": value,
    }


def look(plane: Plane) -> None:
    plane.now_ns += 20 * 10**9
    plane.controller.watch.look()


@pytest.mark.parametrize("spec", [SPEC, SHADOW, MIRRORED, AB], ids=["canary", "shadow", "mirrored", "ab"])
def test_a_verdict_is_reached_again_from_its_folder_also_when_the_ledger_has_moved_on(
    plane: Plane, tmp_path: Path, spec: str
) -> None:
    before(plane)
    plane.begin(spec)
    for seed in (1, 2):  # the canary takes a step between the two: there are phases
        traffic(plane, seed)
        look(plane)
    seen = plane.controller.watch.seen("faster")
    assert seen is not None
    if spec is SPEC:
        assert {"latency", "tokens_per_second"} == {one.metric for one in seen.evidence.past}
        assert "cuped" in seen.document["metrics"][0]["effect"]["method"]
    assert all(
        metric["effect"] for metric in seen.document["metrics"] if metric["metric"] != "feedback:stars"
    )
    traffic(plane, 3)
    look(plane)
    experiment = plane.controller.junction.experiment("faster")
    folder = tmp_path / "then"
    folder.mkdir()
    write_dossier(plane.controller.store, experiment, folder, digest=seen.document["digest"])
    assert (folder / "verdict.json").read_bytes().count(seen.document["digest"].encode()) == 1
    plane.kill()  # the folder stands by itself
    assert [(check.what, check.same, check.detail) for check in replay(folder)] == [
        ("files as they were written", True, ""),
        ("sums from the rows", True, ""),
        ("verdict from the sums", True, ""),
    ]


def test_the_view_of_a_shadow_says_how_many_requests_were_not_copied(plane: Plane) -> None:
    plane.begin(SHADOW)
    traffic(plane, 1)
    look(plane)
    seen = plane.controller.watch.seen("faster")
    assert seen is not None
    books = views.experiment(plane.controller, plane.controller.junction.experiment("faster"))["accounting"]
    assert books["not_copied"] == seen.document["accounting"]["not_copied"]
    assert books["not_copied"] is not None


def test_looks_keep_their_order_and_reports_their_bytes_under_a_clock_that_was_set_back(
    plane: Plane, tmp_path: Path
) -> None:
    plane.begin(AB + "analysis: {horizon: 120, looks: 6, min_duration: 0s}\n")
    plane.now_ns += 3600 * 10**9
    reached = []
    for seed, count in ((1, 30), (2, 40), (3, 60)):
        traffic(plane, seed, count)
        look(plane)
        seen = plane.controller.watch.seen("faster")
        assert seen is not None
        assert seen.document["look"]["scheduled"]
        reached.append(seen.document["digest"])
        plane.now_ns -= 600 * 10**9
    store, experiment = plane.controller.store, plane.controller.junction.experiment("faster")
    assert [one["digest"] for one in trials.verdicts(store, "faster")] == reached
    assert [one.at_ns for one in trials.past_looks(store, "faster")] == [
        one["as_of_ns"] for one in trials.verdicts(store, "faster")
    ]
    for digest in (*reached, None):
        folder = tmp_path / str(digest)
        folder.mkdir()
        write_dossier(store, experiment, folder, digest=digest)
        assert all(check.same for check in replay(folder))
        last = json.loads((folder / "verdict.json").read_bytes())
        curve = json.loads((folder / "history.json").read_bytes())
        assert last["digest"] == (digest or reached[-1])
        assert len(curve) == reached.index(last["digest"]) + 1


def test_a_golden_set_that_the_experiment_did_not_ask_for_stands_in_no_reports_way(
    plane: Plane, tmp_path: Path
) -> None:
    def compared(name: str, digest: str) -> None:
        at = instant(plane._tick())
        row = [f"{name}-{digest}", name, digest, "chat", "c", "d", 1, 2, "pass", at, "{}"]
        plane.controller.store.write(
            lambda c: c.execute(
                "INSERT INTO golden_comparisons VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)", row
            )
        )

    compared("support", "s")
    plane.begin(AB + "golden: {require: pass, set: support}\n")
    compared("other", "draft")
    compared("other", "edited")
    traffic(plane, 1)
    look(plane)
    experiment = plane.controller.junction.experiment("faster")
    folder = tmp_path / "report"
    folder.mkdir()
    write_dossier(plane.controller.store, experiment, folder)
    assert all(check.same for check in replay(folder))


@pytest.fixture
def written(plane: Plane, tmp_path: Path) -> Path:
    plane.begin(SPEC)
    for seed in (1, 2):
        traffic(plane, seed)
        look(plane)
    folder = tmp_path / "report"
    folder.mkdir()
    write_dossier(plane.controller.store, plane.controller.junction.experiment("faster"), folder)
    return folder


@pytest.mark.parametrize("name", ["date=2026-11-28", "re*", "what?", "[1] {2}", "100 % 'quoted'"])
def test_its_folder_may_be_called_as_one_likes(written: Path, name: str) -> None:
    folder = written.rename(written.with_name(name))
    shutil.copytree(folder, folder.with_name("report"))  # what a pattern finds as well
    assert all(check.same for check in replay(folder))


def test_a_row_that_is_missing_is_noticed(written: Path) -> None:
    rows = pyarrow.parquet.read_table(written / "rows.parquet")
    pyarrow.parquet.write_table(rows.slice(1), written / "rows.parquet")
    intact, sums, verdict = replay(written)
    assert not intact.same
    assert "rows.parquet" in intact.detail
    assert not sums.same
    assert not verdict.same


def test_a_verdict_that_was_touched_is_noticed(written: Path) -> None:
    file = written / "verdict.json"
    file.write_bytes(file.read_bytes().replace(b'"keep_running"', b'"ship"'))
    intact, sums, verdict = replay(written)
    assert (intact.same, sums.same, verdict.same) == (False, True, False)
    assert "kind" in verdict.detail


def test_a_folder_of_another_code_is_told_as_that_and_not_as_changed_rows(written: Path) -> None:
    """Its sums may lack what is summed since: that is no fault of its rows."""
    sealed = json.loads((written / "code.json").read_bytes())
    verdict = written / "verdict.json"
    verdict.write_bytes(verdict.read_bytes().replace(b'"keep_running"', b'"ship"'))
    sealed["files"]["verdict.json"] = sha256(verdict.read_bytes()).hexdigest()
    command = ["report", "--replay", str(written)]
    (written / "code.json").write_text(json.dumps(sealed))
    changed = CliRunner().invoke(app, command)
    assert changed.exit_code == 1
    assert "This is not the verdict of these rows." in changed.stdout
    sealed |= {"experiments": "0ld" * 20, "packages": {"turnout-llm": "0.0.9"}}
    (written / "code.json").write_text(json.dumps(sealed))
    older = CliRunner().invoke(app, command)
    assert older.exit_code == 1
    told = " ".join(older.stdout.split())
    assert "by another code: turnout-llm 0.0.9" in told
    assert "rules 0ld0ld0ld0ld; this is turnout-llm" in told
    assert "not the verdict of these rows" not in told
    assert json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)["written_by_another"]
    (written / "rows.parquet").write_bytes(b"")
    assert CliRunner().invoke(app, command).exit_code == 1


@pytest.mark.parametrize(
    "grasp",
    ["(SELECT count(*) FROM read_text('{file}')) > 0", "(SELECT count(*) FROM '{file}') > 0"],
)
def test_sql_of_a_strangers_folder_reaches_no_file(written: Path, tmp_path: Path, grasp: str) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\n1,2\n")
    spec = json.loads((written / "spec.json").read_text())
    spec["goals"][0]["metric"]["observed_sql"] = grasp.format(file=secret)
    (written / "spec.json").write_text(json.dumps(spec))
    with pytest.raises(LookupError, match="disabled"):
        replay(written)


def test_units_in_the_folder_are_pseudonyms(written: Path) -> None:
    units = pyarrow.parquet.read_table(written / "rows.parquet").column("unit").to_pylist()
    assert all("user" not in unit for unit in units)
    assert len(set(units)) > 50


def test_the_page_says_the_verdict_and_draws_it(written: Path) -> None:
    write_page(written)
    page = (written / "report.md").read_text()
    assert "# faster: Keep running" in page
    assert "latency.p95" in page
    assert " None" not in page.split("## By which code")[1]
    assert "![effects](effects.svg)" in page
    assert (written / "effects.svg").read_text().startswith("<svg")
    assert "latency, %" in (written / "history.svg").read_text()  # as the effects are told


def test_a_folder_that_is_none_is_told(tmp_path: Path, written: Path) -> None:
    with pytest.raises(DossierError, match="turnout report"):
        replay(tmp_path / "nowhere")
    for file in (written / "verdict.json", written / "evidence.json"):
        content = file.read_bytes()
        file.write_bytes(content[:-9])
        with pytest.raises(DossierError, match=rf"{file.name} is (no JSON|not as it was written): "):
            replay(written)
        file.write_bytes(content)
    sealed = (written / "code.json").read_bytes()
    for odd in (b"[]", b'{"files": {}}', b'{"files": ["rows.parquet"]}'):
        (written / "code.json").write_bytes(odd)
        with pytest.raises(DossierError, match=r"code\.json is not as it was written"):
            replay(written)
    (written / "code.json").write_bytes(sealed)
    told = json.loads((written / "evidence.json").read_bytes())
    (written / "evidence.json").write_text(json.dumps(told | {"started_ns": 10**30}))
    with pytest.raises(LookupError, match="cannot be read"):
        replay(written)
    (written / "spec.json").write_text("{}")
    with pytest.raises(DossierError, match=r"spec\.json"):
        replay(written)
    shutil.rmtree(written)


def test_what_cannot_be_reported_is_told(plane: Plane, tmp_path: Path) -> None:
    experiment = plane.begin(SPEC)
    with pytest.raises(NotFound, match="no verdict yet"):
        write_dossier(plane.controller.store, experiment, tmp_path)
    traffic(plane, 1)
    look(plane)
    store = plane.controller.store
    store.write(lambda c: c.execute("UPDATE exchanges SET duration_ms = duration_ms + 1"))
    with pytest.raises(Conflict, match=r"another verdict .* in digest, metrics: was it reached"):
        write_dossier(store, experiment, tmp_path)
