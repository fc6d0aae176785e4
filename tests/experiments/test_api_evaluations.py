"""Preflights, gate states and scores over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from experiments.api import create_app
from registry import EndpointSpec

from .plane import TOKEN, Plane

ID = "e" * 32


@pytest.fixture
def api(plane: Plane) -> Iterator[TestClient]:
    client = TestClient(create_app(plane.controller), raise_server_exceptions=False)
    client.headers["authorization"] = f"Bearer {TOKEN}"
    yield client
    client.close()


def preflight(**fields: Any) -> dict[str, Any]:
    base = {"preflight_id": ID, "model": "chat", "control_version": 1, "candidate_version": 2}
    return base | {"verdict": "fail", "result": {"sentence": "Fail: template."}} | fields


def test_a_preflight_is_kept_once_and_becomes_a_tag(plane: Plane, api: TestClient) -> None:
    assert api.post("/api/preflights", json=preflight()).status_code == 201
    again = api.post("/api/preflights", json=preflight(verdict="pass"))
    assert (again.status_code, again.json()["verdict"]) == (200, "fail")
    [listed] = api.get("/api/preflights", params={"model": "chat", "candidate_version": 2}).json()
    assert listed["result"]["sentence"] == "Fail: template."
    assert plane.registry.version("chat", 2).tags["preflight"] == "fail against version 1"
    assert api.post("/api/preflights", json=preflight(candidate_version=99)).status_code == 404


def test_a_preflight_of_what_is_another_engine_since_says_so(plane: Plane, api: TestClient) -> None:
    def asked(number: int, print_: str) -> dict[str, Any]:
        known = api.get("/api/models/chat").json()["versions"]
        endpoint = next(one["endpoint"] for one in known if one["version"] == 2)
        result = {"candidate_fingerprint": print_, "candidate_endpoint": endpoint, "control_fingerprint": "a"}
        body = preflight(preflight_id=f"{number:032x}", result=result)
        return dict(api.post("/api/preflights", json=body).json())

    def outdated() -> list[Any]:
        return [one["outdated"] for one in api.get("/api/preflights").json()]

    assert asked(1, "a")["outdated"] == []
    assert asked(2, "b")["outdated"] == []
    assert outdated() == [[], ["a later preflight found another engine behind version 2"]]
    moved = EndpointSpec(replicas=("http://127.0.0.1:7",), served_name="chat", engine="vllm")
    plane.registry.set_endpoint("chat", 2, moved)
    plane.controller.reconcile()
    assert outdated() == [["version 2 is served elsewhere, or by another engine, since"]] * 2


def test_where_a_version_stands_is_in_its_tags(plane: Plane, api: TestClient) -> None:
    path = "/api/models/chat/versions/2/gate"
    assert api.post(path, json={"state": "fingerprinted", "fingerprint": "sha256:f"}).json() == {
        "gate.state": "fingerprinted",
        "gate.fingerprint": "sha256:f",
    }
    api.post(path, json={"state": "passed", "golden": "golden@sha256:1", "verdict": "sha256:v"})
    tags = plane.registry.version("chat", 2).tags
    assert {key: tags[key] for key in tags if key.startswith("gate.")} == {
        "gate.state": "passed",
        "gate.fingerprint": "sha256:f",
        "gate.golden": "golden@sha256:1",
        "gate.verdict": "sha256:v",
    }
    assert api.post(path, json={"state": "thinking"}).status_code == 400


@pytest.mark.parametrize(
    ("body", "order"),
    [
        ({"state": "passed", "golden": "g", "verdict": "v"}, ["gate.golden", "gate.verdict", "gate.state"]),
        ({"state": "seen", "key": "k"}, ["gate.state", "gate.key"]),
    ],
)
def test_no_conclusion_is_seen_without_what_it_rests_on(
    plane: Plane, api: TestClient, monkeypatch: pytest.MonkeyPatch, body: dict[str, str], order: list[str]
) -> None:
    written: list[str] = []
    keep = plane.registry.tag_version
    monkeypatch.setattr(plane.registry, "tag_version", lambda *tag: (written.append(tag[2]), keep(*tag)))
    api.post("/api/models/chat/versions/2/gate", json=body)
    assert sorted(written) == sorted(order)
    assert written.index("gate.state") == order.index("gate.state")


def test_scores_are_appended_once_and_counted(api: TestClient) -> None:
    score = {
        "exchange_id": "x",
        "evaluator": "exact",
        "evaluator_version": "1",
        "status": "scored",
        "value": 1,
    }
    sent = {"scores": [score, score]}
    assert api.post("/api/scores", json=sent).json() == {"stored": 1, "ignored": 1}
    assert api.post("/api/scores", json=sent).json() == {"stored": 0, "ignored": 2}
    assert [one["value"] for one in api.get("/api/scores", params={"exchange_id": "x"}).json()] == [1.0]
    assert api.get("/api/scores/spent", params={"evaluator": "exact"}).json()["scores"] == 1
    asked = {"model": "chat", "evaluator": "exact", "version": "1"}
    assert api.get("/api/scores/pending", params=asked).json() == []
    assert api.get("/api/scores/summary", params={"model": "chat"}).json() == []
    assert api.get("/api/scores/pending", params=asked | {"rate": 2}).status_code == 400
