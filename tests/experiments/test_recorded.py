"""An experiment of recorded requests: what may be declared, what begins, how it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from experiments.api.app import create_app
from experiments.errors import Conflict, DocumentError
from experiments.ledger.exchange import ExchangeRecord
from experiments.ledger.spool import SpoolWriter
from experiments.spec import analysis_of, read_spec
from tests.experiments.ledger.samples import chat_request, record

from .plane import ADA, TOKEN, Plane

REPLAY = """\
experiment: past
model: chat
mode: shadow
candidate: 2
traffic: {recorded: {since: 2h}}
metrics: {guardrails: [{metric: error_rate, tolerated_ratio: 1.25}]}
analysis: {horizon: 1000, looks: 1}
"""
CHAIN = """\
experiment: past
model: chat
candidate: 2
stages:
  shadow: {recorded: {since: 2h}, analysis: {horizon: 100, looks: 1}}
  ab: {weight: 50}
metrics: {guardrails: [{metric: error_rate}, {metric: latency, margin: 10%}], exploratory: [{metric: ttft}]}
"""


def primary(plane: Plane, number: int) -> ExchangeRecord:
    at_ns = plane.now_ns - 3600 * 10**9 + number * 10**6
    fields = {"assigned_version": 1, "served_version": 1, "unit": f"u{number}", "request": chat_request("Hi")}
    return record(number, started_ns=at_ns, **fields)


def copy(plane: Plane, number: int, **fields: object) -> ExchangeRecord:
    pair = primary(plane, number).exchange_id
    shadow = {
        "role": "shadow", "origin": "replay", "pair_id": pair, "request_id": pair, "experiment": "past",
        "phase": 1, "assigned_arm": "candidate", "served_arm": "candidate", "assigned_version": 2,
        "served_version": 2, "unit": f"u{number}", "started_ns": plane.now_ns,
    }  # fmt: skip
    return record(1000 + number, **(shadow | fields))


def collect(plane: Plane, *records: ExchangeRecord) -> None:
    writer = SpoolWriter(plane.data / "spool", "w")
    for each in records:
        assert writer.append(each)
    writer.close()
    plane.controller.collect()
    plane.controller.collect()


@pytest.fixture
def filled(plane: Plane) -> Plane:
    collect(plane, *(primary(plane, number) for number in range(20)))
    return plane


def problems(text: str) -> str:
    with pytest.raises(DocumentError) as caught:
        read_spec(text)
    return str(caught.value)


def test_times_are_not_compared_with_the_past() -> None:
    for metric in (
        "latency, margin: 10%",
        "ttft.p95, margin: 10%",
        "latency>800ms",
        "tokens_per_second, margin: 5%",
    ):
        assert "does not depend on the hour" in problems(
            REPLAY.replace("error_rate, tolerated_ratio: 1.25", metric)
        )
    assert "headers are not recorded" in problems(REPLAY + "exclude: {headers: {x-beta: '1'}}\n")
    assert "an instant such as" in problems(REPLAY.replace("2h", "yesterday"))


def test_in_a_chain_they_wait_for_live_traffic() -> None:
    spec = read_spec(CHAIN)
    replayed, live = (analysis_of(spec, control_version=1, candidate_version=2, stage=n) for n in (0, 1))
    assert [goal.metric.name for goal in replayed.goals] == ["error_rate"]
    assert [goal.metric.name for goal in live.goals] == ["error_rate", "latency", "ttft"]


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        ("2h", "0s", (3000, 10_200)),
        ("1970-01-01T01:00:00Z", "1970-01-02", (3600, 10_200)),
        ("1h", "30m", (6600, 8400)),
    ],
)
def test_a_window_is_of_the_past(since: str, until: str, expected: tuple[int, int]) -> None:
    spec = read_spec(REPLAY.replace("{since: 2h}", f"{{since: {since}, until: {until}}}"))
    window = spec.traffic.recorded.window(10_200 * 10**9)
    assert window == tuple(second * 10**9 for second in expected)


def test_without_anything_to_replay_nothing_begins(plane: Plane) -> None:
    with pytest.raises(Conflict) as caught:
        plane.begin(REPLAY)
    assert caught.value.code == "nothing_recorded"
    assert not plane.controller.junction.has("past")


def test_its_mirror_takes_no_live_requests(filled: Plane) -> None:
    filled.begin(REPLAY)
    (mirror,) = filled.on_disk.models["chat"].mirrors
    assert mirror.recorded
    assert filled.on_disk.mirrors("chat", "u1", "r") == ()
    assert filled.on_disk.replays("chat", "past") is not None
    filled.controller.control.pause("past", ADA)
    assert filled.snapshot.replays("chat", "past") is None


def test_it_ends_when_nothing_is_left_to_ask(filled: Plane) -> None:
    filled.begin(REPLAY)
    controller = filled.controller
    collect(filled, *(copy(filled, number) for number in range(19)))
    controller.watch.look()
    assert filled.state("past") == "running"
    filled.now_ns += 3 * 3600 * 10**9  # nobody has asked for hours: that is the operator's affair
    controller.watch.look()
    assert filled.state("past") == "running"
    collect(filled, copy(filled, 19, outcome="shed", status=0, error_code="tools_skipped"))
    controller.watch.look()
    assert filled.state("past") in ("concluded", "kept")
    seen = controller.watch.seen("past")
    assert seen is not None
    assert (seen.document["exhausted"], seen.document["look"]["final"], seen.document["units"]) == (
        True,
        True,
        19,
    )


def all_asked(filled: Plane, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A replay that was given all its requests; what its clock shows, in seconds, to be set."""
    filled.begin(REPLAY)
    shown = [0.0]
    monkeypatch.setattr(filled.controller.standings, "_clock", lambda: shown[0])
    client = TestClient(create_app(filled.controller, loops=False))
    authorised = {"authorization": f"Bearer {TOKEN}"}
    client.get("/api/experiments/past/recorded/requests", params={"limit": 20}, headers=authorised)
    return shown


def test_copies_under_way_are_waited_for_though_their_bodies_are_deleted_meanwhile(
    filled: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller, running = filled.controller, all_asked(filled, monkeypatch)
    collect(filled, *(copy(filled, number) for number in range(10)))
    controller.watch.look()
    controller.store.write(lambda connection: connection.execute("DELETE FROM bodies"))

    def look() -> str:
        running[0] += 61  # the whole window is counted once a minute
        controller.watch.look()
        filled.now_ns += 3 * 10**9
        return str(filled.state("past"))

    assert look() == "running"
    collect(filled, *(copy(filled, number) for number in range(10, 19)))
    assert look() == "running"
    collect(filled, copy(filled, 19))
    assert look() in ("concluded", "kept")
    seen = controller.watch.seen("past")
    assert seen is not None
    assert seen.document["units"] == 20


def test_copies_that_never_come_are_not_waited_for_for_ever(
    filled: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller, running = filled.controller, all_asked(filled, monkeypatch)
    controller.store.write(lambda connection: connection.execute("DELETE FROM bodies"))
    controller.watch.look()
    assert filled.state("past") == "running"
    running[0] += 400
    filled.now_ns += 400 * 10**9
    controller.watch.look()
    assert filled.state("past") == "kept"


def test_a_passed_replay_permits_no_promotion(filled: Plane) -> None:
    filled.begin(REPLAY)
    filled.conclude("ship", "past")
    with pytest.raises(Conflict):
        filled.promote(None)
    assert filled.production == 1


@pytest.fixture
def api(filled: Plane) -> Callable[..., Any]:
    filled.begin(REPLAY)
    client = TestClient(create_app(filled.controller, loops=False))
    return client.get


def test_bodies_need_the_token_and_figures_do_not(api: Callable[..., Any]) -> None:
    path = "/api/experiments/past/recorded"
    assert api(f"{path}/requests").status_code == 401
    page = api(f"{path}/requests", params={"limit": 5}, headers={"authorization": f"Bearer {TOKEN}"}).json()
    assert (page["closed"], len(page["requests"])) == (None, 5)
    assert page["requests"][0]["request"].encode() == chat_request("Hi")
    found = api(path).json()
    assert (found["selected"], found["paired"], found["remaining"], found["units"]) == (20, 0, 20, 20)
    assert api(f"{path}/skipped").json() == []
    summary = api("/api/experiments/past").json()
    assert summary["recorded"] == {"since": found["since"], "until": found["until"]}
    assert summary["accounting"]["replay"]["selected"] == 20
    assert summary["waiting_for"].startswith("`turnout replay past`, which asks the 20")
