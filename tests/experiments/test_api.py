"""The control API: its shapes, its refusals, its token, and the long poll that workers wait on."""

from __future__ import annotations

import asyncio
import errno
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import orjson
import pytest
from mlflow import MlflowClient
from mlflow.webhooks.delivery import _generate_hmac_signature
from starlette.testclient import TestClient

from experiments import golden_log
from experiments.__main__ import control_token
from experiments.api import create_app
from experiments.api.events import _events as event_stream
from experiments.errors import ExperimentsError
from experiments.ledger.recording import RedactionTooSlow
from experiments.snapshot import Snapshot
from registry import RegistryUnreachable

from .plane import AB, ADA, SHADOW, TOKEN, Plane

HASH = f"golden@sha256:{'0' * 64}"
RUN, OTHER = "a" * 32, "b" * 32
SUMMARY = {"metrics": {"pass_rate": 0.95, "coverage": 1.0, "none": None}, "gate": "pass"}


@pytest.fixture
def api(plane: Plane) -> Iterator[TestClient]:
    # Without the lifespan: the plane has started its controller and stops it.
    client = TestClient(create_app(plane.controller), raise_server_exceptions=False)
    client.headers["authorization"] = f"Bearer {TOKEN}"
    yield client
    client.close()


def refused(answer: Any, status: int, code: str) -> dict[str, Any]:
    """The error in OpenAI's shape."""
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["code"] == code
    assert set(error) >= {"message", "type", "param", "code"}
    assert error["message"]
    return error


# -- who may ask -------------------------------------------------------------------------------------------


def changing_routes(api: TestClient) -> list[tuple[str, str]]:
    paths = api.get("/openapi.json").json()["paths"]
    return [(method, path) for path, methods in paths.items() for method in methods if method != "get"]


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xff\xfe"],
)
def test_everything_that_changes_state_needs_the_token(
    plane: Plane, api: TestClient, header: str | None
) -> None:
    del api.headers["authorization"]
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    routes = changing_routes(api)
    assert len(routes) >= 10
    for method, path in routes:
        answer = api.request(
            method, path.format(model="chat", name="x", run_id=RUN, version=2), json={}, headers=headers
        )
        refused(answer, 401, "unauthorized")
    assert plane.rows() == []


def test_a_hint_of_the_registry_is_signed_as_mlflow_signs(
    plane: Plane, api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    del api.headers["authorization"]
    body = orjson.dumps({"entity": "model_version_alias", "action": "created", "data": {}})

    def hint(secret: str = "s3cret", *, age: int = 0, sent: bytes = body) -> Any:
        stamp = str(time.time_ns() // 1_000_000_000 - age)
        signed = _generate_hmac_signature(secret, "d-1", stamp, body.decode())
        headers = {"x-mlflow-signature": signed, "x-mlflow-timestamp": stamp, "x-mlflow-delivery-id": "d-1"}
        return api.post("/api/models/changed", content=sent, headers=headers)

    assert "registry: {secret_env: NAME}" in refused(hint(), 401, "unauthorized")["message"]
    settings = plane.controller.options.data / "turnout.yaml"
    settings.write_text("registry: {secret_env: HOOK}\n")
    assert plane.controller.config.reload()
    refused(hint(), 401, "unauthorized")  # the variable is not set
    monkeypatch.setenv("HOOK", "s3cret")
    for wrong in (hint("other"), hint(age=301), hint(age=-301), hint(sent=body + b" ")):
        assert "HOOK" in refused(wrong, 401, "unauthorized")["message"]
    for name in ("v1,", "v1,%", "v2,AAAA", "", "v1,\xff"):
        header = {"x-mlflow-signature": name.encode("latin-1")}
        refused(api.post("/api/models/changed", headers=header), 401, "unauthorized")
    # What was moved by other hands is taken up by the next round, which the hint is the reason for.
    plane.registry.set_alias("chat", "production", 2)
    assert hint().status_code == 202
    plane.controller.heed()
    assert plane.controller.junction.model("chat").production == 2


def test_reading_needs_no_token(api: TestClient) -> None:
    del api.headers["authorization"]
    for path in ("/healthz", "/api/overview", "/api/models", "/api/health", "/api/decisions", "/snapshot"):
        assert api.get(path).status_code == 200


def test_a_page_of_another_site_cannot_read_along(api: TestClient) -> None:
    assert api.get("/api/overview", headers={"host": "evil.example"}).status_code == 400


def test_a_token_is_made_once_and_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TURNOUT_TOKEN", raising=False)
    token = control_token(tmp_path / "data")
    assert len(token) > 30
    assert control_token(tmp_path / "data") == token
    assert (tmp_path / "data" / "token").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["token"]
    (tmp_path / "data" / "token").write_text("\n")
    with pytest.raises(ExperimentsError, match="is empty"):
        control_token(tmp_path / "data")
    monkeypatch.setenv("TURNOUT_TOKEN", "given")
    assert control_token(tmp_path / "data") == "given"


# -- bad input ---------------------------------------------------------------------------------------------


def test_a_bad_spec_is_answered_with_every_problem(api: TestClient) -> None:
    spec = AB.replace("model: chat", "modle: chat").replace("weight: 50", "weight: 500")
    error = refused(
        api.post("/api/experiments", json={"spec_yaml": spec, "filename": "a.yaml"}), 400, "invalid_spec"
    )
    found = [(problem["file"], problem["line"], problem["field"]) for problem in error["problems"]]
    assert found == [("a.yaml", 1, "model"), ("a.yaml", 2, "modle"), ("a.yaml", 5, "traffic.weight")]
    assert "a.yaml:5: traffic.weight: found 500, expected a percentage" in error["message"]


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/api/experiments", b"{", "invalid_json"),
        ("/api/experiments", b"{}", "invalid_request"),
        ("/api/experiments", b"[1]", "invalid_request"),
        ("/api/models/chat/promote", b'{"version": []}', "invalid_request"),
        ("/api/models/chat/promote", b'{"reason": 5}', "invalid_request"),
        ("/api/models/chat/versions", b'{"replicas": ["ftp://x"]}', "invalid_registry_entry"),
        ("/api/models/chat/versions", b'{"replicas": ["http://u:p@h:1"]}', "invalid_registry_entry"),
        ("/api/golden/runs", b'{"run_id": "../etc"}', "invalid_request"),
    ],
)
def test_bad_bodies_are_refused_with_a_stable_code(
    api: TestClient, path: str, body: bytes, code: str
) -> None:
    refused(api.post(path, content=body, headers={"content-type": "application/json"}), 400, code)


def test_a_body_too_large_is_refused_whether_it_says_so_or_not(api: TestClient) -> None:
    large = b"x" * (33 * 1024 * 1024)
    refused(api.post("/api/experiments", content=large), 413, "body_too_large")
    refused(api.post("/api/experiments", content=iter([large[: 1 << 20]] * 33)), 413, "body_too_large")


def test_what_is_not_there_is_not_found(api: TestClient) -> None:
    refused(api.get("/api/models/nope"), 404, "unknown_model")
    refused(api.get("/api/experiments/nope"), 404, "unknown_experiment")
    refused(api.get("/api/exchanges/nope"), 404, "unknown_exchange")
    refused(api.get("/api/golden/runs/nope"), 404, "unknown_golden_run")
    refused(api.get("/nope"), 404, "not_found")
    refused(api.delete("/api/models"), 405, "method_not_allowed")
    refused(api.get("/api/decisions?limit=0"), 400, "invalid_request")


def test_a_fault_of_our_own_is_told_without_a_traceback(
    plane: Plane, api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("experiments.views.overview", broken)
    error = refused(api.get("/api/overview"), 500, "internal_error")
    assert "secret" not in error["message"]


def test_the_documentation_names_every_route(api: TestClient) -> None:
    document = api.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            assert route["summary"], (method, path)
            assert route["tags"], (method, path)


# -- models and experiments --------------------------------------------------------------------------------


def test_a_version_is_registered_and_shown(plane: Plane, api: TestClient) -> None:
    body = {
        "replicas": ["http://127.0.0.1:9005/"],
        "engine": "vllm",
        "aliases": ["next"],
        "tags": {"team": "a"},
    }
    made = api.post("/api/models/chat/versions", json=body)
    assert made.status_code == 201
    assert made.json()["version"] == 4
    assert made.json()["endpoint"] == {
        "replicas": ["http://127.0.0.1:9005"], "served_name": "chat", "engine": "vllm",
        "credential": None,
    }  # fmt: skip
    model = api.get("/api/models/chat").json()
    assert (model["name"], model["production"], model["former"]) == ("chat", 1, None)
    assert [version["aliases"] for version in model["versions"]] == [["production"], [], [], ["next"]]
    assert plane.snapshot.endpoints["chat", 4].replicas == ("http://127.0.0.1:9005",)


def test_a_version_may_be_registered_before_it_is_served(plane: Plane, api: TestClient) -> None:
    made = api.post("/api/models/chat/versions", json={"source": "org/weights"})
    assert made.status_code == 201
    assert (made.json()["endpoint"], made.json()["source"]) == (None, "org/weights")
    refused = api.post("/api/models/chat/versions", json={})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "nothing_to_register")


def test_a_new_model_is_routed_at_once(plane: Plane, api: TestClient) -> None:
    body = {"replicas": ["http://127.0.0.1:9007"], "aliases": ["production"]}
    assert api.post("/api/models/code/versions", json=body).status_code == 201
    assert plane.snapshot.models["code"].production == 1


def test_what_is_blotted_out_of_a_models_bodies_can_be_read(plane: Plane, api: TestClient) -> None:
    assert api.get("/api/models/chat/recording").json() == {
        "recording": "full", "redact": [], "keep_s": None, "keep_bytes": None
    }  # fmt: skip
    declared = "models:\n  chat: {recording: redacted, redact: ['[0-9]{16}'], keep: 30d}\n"
    (plane.data / "turnout.yaml").write_text(declared, "utf-8")
    assert plane.controller.config.reload()
    found = api.get("/api/models/chat/recording").json()
    assert (found["recording"], found["redact"], found["keep_s"]) == ("redacted", ["[0-9]{16}"], 30 * 86400)
    assert api.get("/api/models/none/recording").status_code == 404


def test_registering_is_no_back_door_to_production(plane: Plane, api: TestClient) -> None:
    body = {"replicas": ["http://127.0.0.1:9005"], "aliases": ["production"]}
    refused(api.post("/api/models/chat/versions", json=body), 409, "production_taken")
    assert plane.production == 1


def test_no_number_in_a_query_is_the_ledgers_trouble(api: TestClient) -> None:
    queries = [
        (path, parameter["name"])
        for path, methods in api.get("/openapi.json").json()["paths"].items()
        for parameter in methods.get("get", {}).get("parameters", ())
        if parameter["in"] == "query" and "integer" in str(parameter["schema"]) and path != "/api/events"
    ]
    assert len(queries) >= 10
    for path, name in queries:
        answer = api.get(
            path.format(model="chat", name="x", run_id=RUN, exchange_id="x"), params={name: 10**20}
        )
        assert answer.status_code < 500, (path, name, answer.text)


@pytest.mark.parametrize("route", ["/api/experiments", "/api/overview"])
def test_a_list_asks_the_ledger_no_more_often_for_every_experiment_that_has_ended(
    plane: Plane, api: TestClient, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    store, asked = plane.controller.store, []
    reading = store.reading
    monkeypatch.setattr(store, "reading", lambda: asked.append(1) or reading())

    def ended(*names: str) -> int:
        for name in names:
            plane.begin(AB.replace("experiment: faster", f"experiment: {name}"))
            plane.judged("keep_running", name)
            assert api.post(f"/api/experiments/{name}/stop", json={"reason": "enough"}).is_success
        assert api.get(route).is_success  # what has just ended is read once
        asked.clear()
        listed = api.get(route).json()
        shown = listed["experiments"] if route == "/api/overview" else listed
        assert {one["verdict"]["kind"] for one in shown} == {"keep_running"}
        return len(asked)

    assert ended("one") == ended("two", "three", "four")


def test_a_guardrail_with_too_little_data_is_not_one_without_data(plane: Plane, api: TestClient) -> None:
    plane.begin(AB)
    plane.controller.watch.look()
    document = plane.controller.watch.latest("faster") or {}
    [guardrail] = [metric for metric in document["metrics"] if metric["role"] == "guardrail"]
    for state, light in (("insufficient_data", "insufficient_data"), ("no_data", "no_data"), ("ok", "ok"),
        ("worse", "worse"), ("crossed", "crossed")):  # fmt: skip
        guardrail["state"] = state
        assert api.get("/api/experiments/faster").json()["guardrails"][0]["state"] == light


def test_guardrails_that_were_declared_are_there_before_the_first_verdict(
    plane: Plane, api: TestClient
) -> None:
    plane.controller.control.start(AB, "spec.yaml", ADA, draft=True)
    assert api.get("/api/experiments").json()[0]["guardrails"] == [
        {"metric": "error_rate", "state": "no_data"}
    ]


def test_the_way_of_an_experiment(plane: Plane, api: TestClient) -> None:
    started = api.post("/api/experiments", json={"spec_yaml": AB, "actor": "ada"})
    assert started.status_code == 201, started.text
    assert started.json()["arms"] == [
        {"arm": "control", "version": 1, "weight_pct": 50.0},
        {"arm": "candidate", "version": 2, "weight_pct": 50.0},
    ]
    plane.controller.watch.look()
    view = api.get("/api/experiments/faster").json()
    assert view["state"] == "running"
    assert view["verdict"]["kind"] == "keep_running"
    assert view["verdict"]["as_of"].endswith("Z")
    assert view["accounting"]["eligible"] == 0
    assert view["guardrails"] == [{"metric": "error_rate", "state": "no_data"}]
    assert [phase["candidate_pct"] for phase in view["phases"]] == [50.0]
    assert view["spec_yaml"] == AB
    refused(api.post("/api/models/chat/promote", json={"version": 2}), 409, "promotion_refused")
    refused(api.post("/api/models/chat/promote", json={"version": 2, "force": True}), 409, "reason_required")

    paused = api.post("/api/experiments/faster/pause", json={"reason": "lunch"}).json()
    assert paused["changed"][0] == "experiment 'faster' is paused"
    refused(api.post("/api/experiments/faster/pause/again", json={}), 404, "not_found")
    plane.settle()
    assert api.post("/api/experiments/faster/resume", json={}).json()["state"] == "done"
    assert api.post("/api/models/chat/rollback", json={"actor": "ada"}).json()["action"] == "rollback"
    plane.settle()
    refused(api.post("/api/experiments/faster/resume", json={}), 409, "wrong_state")
    ended = api.get("/api/experiments/faster").json()
    assert ended["state"] == "rolled_back"
    assert ended["arms"][1]["weight_pct"] == 0.0
    actions = [row["action"] for row in api.get("/api/decisions?experiment=faster").json()]
    assert actions == ["rollback", "resume", "pause", "start"]
    timeline = api.get("/api/experiments/faster/timeline").json()
    assert [event["action"] for event in timeline["events"]] == ["start", "pause", "resume", "rollback"]
    assert timeline["traffic"] == []


def test_a_rollback_that_says_two_things_is_refused(plane: Plane, api: TestClient) -> None:
    plane.begin()
    body = {"experiment": "faster", "production": True}
    answer = api.post("/api/models/chat/rollback", json=body)
    refused(answer, 400, "ambiguous_rollback")
    assert "send `experiment`" in answer.json()["error"]["message"]
    assert plane.candidate_has_traffic
    body["production"] = False
    assert api.post("/api/models/chat/rollback", json=body).json()["experiment"] == "faster"


def test_a_decision_says_who_acts_on_it(plane: Plane, api: TestClient) -> None:
    api.get(f"/snapshot?have={plane.snapshot.version}&worker=w1")
    answer = api.post(
        "/api/models/chat/promote", json={"version": 3, "force": True, "reason": "why not"}
    ).json()
    assert answer["decision_id"]
    assert answer["unacknowledged"] == ["w1"]  # it has not asked again
    assert answer["forced"]
    assert answer["elapsed_ms"] > 0
    again = api.post("/api/models/chat/promote", json={"version": 3}).json()
    assert again["decision_id"] is None
    assert "nothing to change" in again["changed"][0]


def test_pairs_and_exchanges_of_an_experiment_without_traffic_are_empty(api: TestClient) -> None:
    api.post("/api/experiments", json={"spec_yaml": SHADOW})
    assert api.get("/api/experiments/faster/pairs?filter=different").json() == {"total": 0, "pairs": []}
    refused(api.get("/api/experiments/faster/pairs?filter=odd"), 400, "invalid_request")
    assert api.get("/api/exchanges?experiment=faster").json() == []


def test_a_filter_that_is_none_is_refused_and_does_not_find_everything(api: TestClient) -> None:
    refused(api.get("/api/exchanges?experimnet=faster"), 400, "unknown_parameter")
    refused(api.get("/api/decisions?since=2026-01-01"), 400, "unknown_parameter")
    refused(api.get("/api/exchanges?outcome=failed"), 400, "invalid_request")
    refused(api.get("/api/exchanges?before=nope"), 404, "unknown_exchange")
    assert api.get("/api/exchanges?outcome=client_gone&limit=5&offset=0").json() == []


def test_the_overview_holds_what_the_first_page_shows(plane: Plane, api: TestClient) -> None:
    api.post("/api/experiments", json={"spec_yaml": AB})
    overview = api.get("/api/overview").json()
    assert [model["name"] for model in overview["models"]] == ["chat"]
    assert [one["name"] for one in overview["experiments"]] == ["faster"]
    health = overview["health"]
    assert health["registry"] == {"ok": True, "error": None, "last_ok_s": health["registry"]["last_ok_s"]}
    assert health["snapshot"] == plane.snapshot.version
    assert health["pending"] == []
    plane.registry.away = True
    plane.settle()
    assert api.get("/api/health").json()["registry"]["ok"] is False


def test_what_is_declared_and_does_not_come_about_is_told(plane: Plane, api: TestClient) -> None:
    controller = plane.controller
    assert api.get("/api/health").json()["troubles"] == []
    hook = "notify: [{url: 'https://a.example/secret-path', secret_env: NOT_THERE}]"
    controller.config.replace(f"models: {{chat: {{redact: ['(a+)+$']}}}}\n{hook}")
    controller.notices.tell()
    assert api.post("/api/experiments", json={"spec_yaml": AB}).status_code == 201
    controller.notices.tell()
    controller.collector._patience.spend(1.0, "chat", RedactionTooSlow("slow"))
    told, withheld = api.get("/api/health").json()["troubles"]
    assert "a.example" in told
    assert "NOT_THERE" in told
    assert "secret-path" not in told
    assert "1 bodies of 'chat' are not kept" in withheld


def test_a_disk_that_is_full_is_told_before_and_after(
    plane: Plane, api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3 << 20))
    (told,) = api.get("/api/health").json()["troubles"]
    assert "has 3 MiB left" in told
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=64 << 20))
    (told,) = api.get("/api/health").json()["troubles"]
    assert "has 64 MiB left: the ledger's log is moved into its file once there are" in told
    api.post("/api/experiments", json={"spec_yaml": AB})
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("experiments.api.experiments.write_dossier", Mock(side_effect=full))
    error = refused(api.get("/api/experiments/faster/report"), 503, "no_room")
    assert "No space left on device" in error["message"]
    monkeypatch.setattr("experiments.api.experiments.write_dossier", Mock(side_effect=OSError(5, "torn")))
    refused(api.get("/api/experiments/faster/report"), 500, "internal_error")


# -- golden ------------------------------------------------------------------------------------------------


def begin(api: TestClient, run_id: str = RUN, **changes: Any) -> Any:
    body = {
        "run_id": run_id,
        "set_name": "support",
        "set_hash": HASH,
        "model": "chat",
        "version": 2,
        "parameters": {"repeats": 1},
    }
    return api.post("/api/golden/runs", json=body | changes)


def result(item: str) -> dict[str, Any]:
    return {
        "item_id": item, "item_hash": f"sha256:{'1' * 64}", "repeat": 0, "evaluator": "exact",
        "evaluator_version": "1", "status": "scored", "value": 1.0, "label": None, "explanation": None,
        "output": {"text": "yes", "tool_calls": []}, "outcome": "complete", "request_id": "r",
    }  # fmt: skip


def test_a_golden_run_is_kept_and_logged_to_mlflow_once(plane: Plane, api: TestClient) -> None:
    assert begin(api).status_code == 201
    assert begin(api).status_code == 200
    refused(begin(api, version=3), 409, "golden_run_exists")
    refused(begin(api, run_id=OTHER, version=9), 404, "unknown_version")
    rows = {"results": [result("a"), result("b")]}
    assert api.post(f"/api/golden/runs/{RUN}/results", json=rows).json() == {"stored": 2, "ignored": 0}
    rows["results"].append(result("c"))
    assert api.post(f"/api/golden/runs/{RUN}/results", json=rows).json() == {"stored": 1, "ignored": 2}
    finish = {"status": "complete", "summary": SUMMARY}
    done = api.post(f"/api/golden/runs/{RUN}/finish", json=finish).json()
    assert (done["status"], done["results"], done["summary"]) == ("complete", 3, SUMMARY)
    assert done["mlflow_run_id"]
    again = api.post(f"/api/golden/runs/{RUN}/finish", json=finish).json()
    assert again["mlflow_run_id"] == done["mlflow_run_id"]
    refused(api.post(f"/api/golden/runs/{RUN}/results", json=rows), 409, "golden_run_finished")
    shown = api.get(f"/api/golden/runs/{RUN}").json()
    assert [row["item_id"] for row in shown["results"]] == ["a", "b", "c"]
    assert [run["run_id"] for run in api.get("/api/golden/runs?model=chat&status=complete").json()] == [RUN]


def test_mlflow_has_the_numbers_of_the_whole_run_and_not_of_where_it_was_stopped(
    plane: Plane, api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[Any] = []

    def log(*_: object, metrics: Any, **__: object) -> str:
        logged.append(metrics)
        return f"m{len(logged)}"

    monkeypatch.setattr(plane.registry, "log_golden_run", log)
    begin(api)
    stopped = {"status": "partial", "summary": {"metrics": {"pass_rate": 0.1}}}
    assert api.post(f"/api/golden/runs/{RUN}/finish", json=stopped).json()["mlflow_run_id"] is None
    whole = {"status": "complete", "summary": {"metrics": {"pass_rate": 0.9}}}
    assert api.post(f"/api/golden/runs/{RUN}/finish", json=whole).json()["mlflow_run_id"] == "m1"
    assert logged == [{"pass_rate": 0.9}]
    late = api.post(f"/api/golden/runs/{RUN}/finish", json=stopped).json()
    assert (late["status"], late["summary"]) == ("complete", whole["summary"])


def test_an_mlflow_that_is_away_fails_no_golden_run(
    plane: Plane, api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> str:
        raise RegistryUnreachable("away")

    begin(api)
    finish = {"status": "complete", "summary": SUMMARY}
    with monkeypatch.context() as patch:
        patch.setattr(plane.registry, "log_golden_run", away)
        assert api.post(f"/api/golden/runs/{RUN}/finish", json=finish).json()["mlflow_run_id"] is None
    assert api.post(f"/api/golden/runs/{RUN}/finish", json=finish).json()["mlflow_run_id"]


def test_a_golden_run_that_ended_while_mlflow_was_away_is_logged_when_it_answers(
    plane: Plane, api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> str:
        raise RegistryUnreachable("away")

    finish = {"status": "complete", "summary": SUMMARY}
    with monkeypatch.context() as patch:
        patch.setattr(plane.registry, "log_golden_run", away)
        for run_id in (RUN, OTHER):
            plane.now_ns += 10**9
            begin(api, run_id)
            api.post(f"/api/golden/runs/{run_id}/finish", json=finish)
        plane.controller.reconcile()
        assert not plane.controller.registry_condition().ok
    for _ in range(2):
        plane.controller.reconcile()
    last, first = (run["mlflow_run_id"] for run in api.get("/api/golden/runs").json())
    client = MlflowClient(plane.registry.tracking_uri, plane.registry.tracking_uri)
    there = client.search_runs([client.get_experiment_by_name("turnout-golden").experiment_id])
    assert {run.info.run_id for run in there} == {first, last}
    assert len(there) == 2
    assert client.get_model_version("chat", "2").tags["turnout.golden_run"] == last


def test_a_slow_mlflow_holds_up_no_golden_run(
    plane: Plane, api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(golden_log, "PATIENCE_S", 0.05)
    keep, answers, calls = plane.registry.log_golden_run, threading.Event(), []

    def slow(*words: Any, **more: Any) -> str:
        calls.append(words)
        answers.wait(30)
        return keep(*words, **more)

    monkeypatch.setattr(plane.registry, "log_golden_run", slow)
    begin(api)
    finish = {"status": "complete", "summary": SUMMARY}
    for _ in range(2):  # a client that gave up asks again
        assert api.post(f"/api/golden/runs/{RUN}/finish", json=finish).json()["mlflow_run_id"] is None
    answers.set()
    plane.controller.reconcile()  # waits for those that are under way
    assert api.get("/api/golden/runs").json()[0]["mlflow_run_id"]
    assert len(calls) == 1


def test_a_golden_run_of_a_version_that_has_gone_is_tried_no_more(plane: Plane, api: TestClient) -> None:
    with plane.registry._mlflow.asking("delete version 2") as client:
        client.delete_model_version("chat", "2")
    begin(api)
    api.post(f"/api/golden/runs/{RUN}/finish", json={"status": "complete", "summary": SUMMARY})
    plane.controller.reconcile()
    assert plane.controller.registry_condition().ok
    assert plane.controller.golden_log._refused == {RUN}


def test_what_was_found_while_mlflow_was_away_is_tagged_when_it_answers(
    plane: Plane, api: TestClient
) -> None:
    begin(api, OTHER, version=1)
    begin(api, set_name="s" * 100)
    body = {
        "comparison_id": "c" * 32, "set_name": "s" * 100, "set_hash": HASH, "model": "chat",
        "control_run": OTHER, "candidate_run": RUN, "control_version": 1, "candidate_version": 2,
        "verdict": "fail", "result": {},
    }  # fmt: skip
    preflight = {
        "preflight_id": "d" * 32, "model": "chat", "control_version": 1, "candidate_version": 2,
        "verdict": "pass", "result": {},
    }  # fmt: skip
    plane.registry.away = True
    assert api.post("/api/golden/comparisons", json=body).status_code == 201
    assert api.post("/api/preflights", json=preflight).status_code == 201
    plane.registry.away = False
    plane.controller.reconcile()
    tags = plane.registry.version("chat", 2).tags
    assert tags["golden." + "s" * 100] == f"fail against version 1 ({HASH})"
    assert tags["preflight"] == "pass against version 1"


def test_a_comparison_opens_the_gate_and_is_tagged_on_the_version(plane: Plane, api: TestClient) -> None:
    gated = AB + "golden: {require: pass, set: support}\n"
    refused(api.post("/api/experiments", json={"spec_yaml": gated}), 409, "golden_required")
    body = {
        "comparison_id": "c" * 32, "set_name": "support", "set_hash": HASH, "model": "chat",
        "control_run": RUN, "candidate_run": OTHER, "control_version": 1, "candidate_version": 2,
        "verdict": "pass", "result": {"sentence": "fine"},
    }  # fmt: skip
    refused(api.post("/api/golden/comparisons", json=body), 404, "unknown_golden_run")
    begin(api, version=1)
    begin(api, run_id=OTHER)
    made = api.post("/api/golden/comparisons", json=body)
    assert made.status_code == 201
    assert {**body, "at": made.json()["at"]} == made.json()
    assert api.post("/api/golden/comparisons", json=body).status_code == 200
    other = {**body, "candidate_version": 1, "verdict": "fail"}
    assert api.post("/api/golden/comparisons", json=other).json() == made.json(), "what is there stays"
    assert len(api.get("/api/golden/comparisons?model=chat&set_name=support").json()) == 1
    assert plane.registry.version("chat", 2).tags["golden.support"].startswith("pass against version 1")
    assert api.post("/api/experiments", json={"spec_yaml": gated}).status_code == 201


# -- the workers' poll -------------------------------------------------------------------------------------


def test_a_worker_gets_what_it_has_not_and_304_for_what_it_has(plane: Plane, api: TestClient) -> None:
    answer = api.get("/snapshot?have=0&worker=w1")
    assert Snapshot.from_json(answer.content) == plane.snapshot
    assert api.get(f"/snapshot?have={plane.snapshot.version}&worker=w1&wait=0.01").status_code == 304
    workers = api.get("/api/health").json()["workers"]
    assert [(one["worker"], one["snapshot"]) for one in workers] == [("w1", plane.snapshot.version)]


@pytest.mark.parametrize("workers", [1, 8])
async def test_rollback_is_acknowledged_by_every_worker_within_a_second(plane: Plane, workers: int) -> None:
    """Workers as they are, but for their sockets: each asks, takes up, and asks again."""
    plane.begin()
    publication = plane.controller.publication
    have = dict.fromkeys((f"w{number}" for number in range(workers)), 0)
    stopping = False

    async def work(name: str) -> None:
        while not stopping:
            raw = await publication.next_for(name, have[name], 5)
            if raw is not None:
                have[name] = Snapshot.from_json(raw).version

    tasks = [asyncio.ensure_future(work(name)) for name in have]
    while set(have.values()) != {publication.version}:
        await asyncio.sleep(0.001)
    plane.registry.away = True
    began = time.monotonic()
    done = await asyncio.to_thread(plane.rollback)
    assert time.monotonic() - began < 1
    assert done.acknowledged_by == tuple(sorted(have))
    assert done.unacknowledged == ()
    assert set(have.values()) == {publication.version}
    stopping = True
    publication.release()
    await asyncio.gather(*tasks)


# -- events ------------------------------------------------------------------------------------------------


async def test_events_go_on_after_the_last_one_seen(plane: Plane, api: TestClient) -> None:
    plane.begin()
    plane.rollback()
    plane.settle()
    seen: list[tuple[int, str]] = []
    async for piece in event_stream(plane.controller, 0, None, None):
        for block in piece.decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.split("\n") if line)
            if "data" in fields:
                seen.append((int(fields["id"]), orjson.loads(fields["data"])["action"]))
        if len(seen) == 2:
            break
    assert [action for _, action in seen] == ["start", "rollback"]
    again = event_stream(plane.controller, seen[0][0], "chat", "faster")
    assert await anext(again) == b"retry: 1000\n\n"
    assert (await anext(again)).startswith(b"id: %d\nevent: decision\ndata: {" % seen[1][0])
    plane.controller.publication.release()  # a controller that is stopping lets nobody wait
    with pytest.raises(StopAsyncIteration):
        await anext(again)


def test_a_stream_that_is_released_ends_and_says_what_it_is(plane: Plane, api: TestClient) -> None:
    plane.controller.publication.release()
    answer = api.get("/api/events?after=0")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text == "retry: 1000\n\n"
    refused(api.get("/api/events", headers={"last-event-id": "x"}), 400, "invalid_request")
    assert api.get("/api/webhooks").json() == []
