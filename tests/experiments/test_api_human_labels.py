"""Draws and labels over HTTP: declared once, grown but never drawn anew, and never changed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from experiments.api import create_app

from .plane import TOKEN, Plane, amid_the_next_write

RUN, OTHER, DRAW, GREATER = "a" * 32, "b" * 32, "c" * 32, "d" * 32


@pytest.fixture
def api(plane: Plane) -> Iterator[TestClient]:
    client = TestClient(create_app(plane.controller), raise_server_exceptions=False)
    client.headers["authorization"] = f"Bearer {TOKEN}"
    for run_id, version in ((RUN, 1), (OTHER, 2)):
        run = {"run_id": run_id, "set_name": "support", "set_hash": "golden@sha256:1", "model": "chat"}
        assert client.post("/api/golden/runs", json={**run, "version": version}).status_code == 201
    yield client
    client.close()


def draw(**fields: Any) -> dict[str, Any]:
    base = {"draw_id": DRAW, "control_run": RUN, "candidate_run": OTHER, "evaluator": "kind", "seed": "s"}
    return base | {"size": 30, "declared_by": "ann"} | fields


def label(number: int = 0, **fields: Any) -> dict[str, Any]:
    base = {
        "label_id": f"{number:032x}", "task": "sha256:t", "labeller": "ann", "grade": "pass",
        "note": None, "set_name": "support", "item_id": "i1", "item_hash": "sha256:i", "evaluator": "kind",
        "evaluator_version": "judge@1", "judge": "examiner@1", "criterion": "sha256:c", "draw_id": DRAW,
    }  # fmt: skip
    return base | fields


def post(api: TestClient, *labels: dict[str, Any]) -> Any:
    return api.post("/api/golden/labels", json={"labels": list(labels)})


def listed(api: TestClient, **query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get("/api/golden/labels", params=query).json()
    return found


def test_a_draw_is_declared_once_and_may_only_grow(api: TestClient) -> None:
    assert api.post("/api/golden/draws", json=draw()).status_code == 201
    again = api.post("/api/golden/draws", json=draw(size=99))
    assert (again.status_code, again.json()["size"]) == (200, 30), "sent twice, it is the same"
    for change in ({"size": 30}, {"size": 10}, {"size": 60, "seed": "luckier"}):
        answer = api.post("/api/golden/draws", json=draw(draw_id=GREATER, **change))
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "labels_drawn")
    assert api.post("/api/golden/draws", json=draw(draw_id=GREATER, size=60)).status_code == 201
    assert [one["size"] for one in api.get("/api/golden/draws", params={"control_run": RUN}).json()] == [
        30,
        60,
    ]
    assert api.get("/api/golden/draws", params={"evaluator": "other"}).json() == []


def test_of_two_who_declare_in_the_same_instant_one_has_declared(
    plane: Plane, api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two declarations would be two looks, and halve alpha for nobody's sake."""
    answers: list[Any] = []

    def declare(draw_id: str) -> None:
        answers.append(api.post("/api/golden/draws", json=draw(draw_id=draw_id)))

    other = threading.Thread(target=declare, args=(GREATER,))
    amid_the_next_write(plane.controller.store, monkeypatch, other)
    declare(DRAW)
    other.join()
    assert sorted(answer.status_code for answer in answers) == [201, 409]
    assert len(api.get("/api/golden/draws").json()) == 1


def test_draws_keep_their_order_under_a_clock_that_was_set_back(plane: Plane, api: TestClient) -> None:
    api.post("/api/golden/draws", json=draw())
    plane.now_ns -= 3600 * 10**9
    api.post("/api/golden/draws", json=draw(draw_id=GREATER, size=60))
    assert [one["size"] for one in api.get("/api/golden/draws").json()] == [30, 60]


def test_a_draw_is_of_runs_that_there_are(api: TestClient) -> None:
    answer = api.post("/api/golden/draws", json=draw(candidate_run="f" * 32))
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_golden_run")


def test_a_label_is_never_changed_and_the_last_word_counts(api: TestClient) -> None:
    assert post(api, label()).json()["error"]["code"] == "unknown_draw"
    api.post("/api/golden/draws", json=draw())
    assert post(api, label(0), label(1, task="sha256:u", grade=None, note="who knows")).json() == {
        "stored": 2,
        "ignored": 0,
    }
    assert post(api, label(0, grade="fail")).json() == {"stored": 0, "ignored": 1}
    post(api, label(2, grade="fail"), label(3, labeller="bob"))
    assert [(one["task"], one["labeller"], one["grade"]) for one in listed(api, set_name="support")] == [
        ("sha256:u", "ann", None),
        ("sha256:t", "ann", "fail"),
        ("sha256:t", "bob", "pass"),
    ]
    assert listed(api, set_name="other") == []
    assert {one["judge"] for one in listed(api, evaluator="kind")} == {"examiner@1"}
    assert all(one["at"].endswith("Z") for one in listed(api))


def worksheet(**fields: Any) -> dict[str, Any]:
    about = {name: value for name, value in label().items() if name in ORIGIN}
    task = {"place": 0, "label": about, "question": "user: q", "answers": ["a"], "criterion": "It helps."}
    base = {"control_run": RUN, "candidate_run": OTHER, "evaluator": "kind", "seed": "s", "needed": 30}
    base |= {"set_name": "support", "items": 1}
    return base | {"open": 60, "tasks": [task | {"grades": ["fail", "pass"]}]} | fields


ORIGIN = (
    "task", "set_name", "item_id", "item_hash", "evaluator", "evaluator_version", "judge", "criterion",
)  # fmt: skip


def ask(api: TestClient, **fields: Any) -> Any:
    of = {"control_run": RUN, "candidate_run": OTHER, "evaluator": "kind"}
    return api.get("/api/golden/worksheet", params=of | fields)


def test_a_worksheet_is_kept_until_a_newer_one_takes_its_place(api: TestClient) -> None:
    assert ask(api).json()["error"]["code"] == "unknown_worksheet"
    assert api.post("/api/golden/worksheet", json=worksheet()).json() == {"tasks": 1}
    found = ask(api).json()
    assert (found["needed"], found["open"], found["model"], found["set_name"]) == (30, 60, "chat", "support")
    assert (found["control_version"], found["candidate_version"]) == (1, 2)
    [task] = found["tasks"]
    assert task == worksheet()["tasks"][0] | {"reference": ""}
    assert {name: label()[name] for name in ORIGIN} == task["label"]
    assert api.post("/api/golden/worksheet", json=worksheet(open=61)).status_code == 200
    assert ask(api).json()["open"] == 61
    assert ask(api, evaluator="other").json()["error"]["code"] == "unknown_worksheet"


def test_a_worksheet_is_of_runs_that_there_are_and_needs_the_token(api: TestClient) -> None:
    gone = {"candidate_run": "f" * 32}
    assert api.post("/api/golden/worksheet", json=worksheet(**gone)).json()["error"]["code"] == (
        "unknown_golden_run"
    )
    assert ask(api, **gone).json()["error"]["code"] == "unknown_golden_run"
    del api.headers["authorization"]
    assert api.post("/api/golden/worksheet", json=worksheet()).status_code == 401
    assert ask(api).status_code == 404


@pytest.mark.parametrize(
    "bad", [{"label_id": "../x"}, {"labeller": ""}, {"note": "x" * 5000}, {"grade": ""}, {"task": "x" * 300}]
)
def test_a_label_that_is_none_is_refused(api: TestClient, bad: dict[str, Any]) -> None:
    api.post("/api/golden/draws", json=draw())
    answer = post(api, label(**bad))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert listed(api) == []
