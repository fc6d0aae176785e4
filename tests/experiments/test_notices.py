"""Webhooks: signed, in order, tried again, given up at last, and to the declared address alone."""

from __future__ import annotations

import hmac
from hashlib import sha256
from pathlib import Path

import httpx
import orjson
import pytest

from experiments.config import read_config
from experiments.errors import DocumentError
from experiments.ledger import events
from experiments.ledger.store import DatabaseError
from experiments.notices import ATTEMPTS, Notices
from tests.dripping import BODY, HEAD, dripping

from .plane import Plane

URL = "https://hooks.example/turnout"
SECRET = "s3cret"


class Receiver:
    """Answers with the statuses that it is told, 200 afterwards; keeps what it took."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 0:
            raise httpx.ConnectError("nobody there")
        return httpx.Response(status, headers={"location": "https://elsewhere.example/"})

    @property
    def actions(self) -> list[str]:
        return [orjson.loads(request.content)["decision"]["action"] for request in self.requests]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Receiver:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    return Receiver()


@pytest.fixture
def notices(plane: Plane, receiver: Receiver) -> Notices:
    """Told of the webhook already: what is decided from now on is news."""
    made = Notices(
        plane.controller.store,
        lambda: {URL: "HOOK_SECRET"},
        now_ns=plane._tick,
        transport=httpx.MockTransport(receiver),
    )
    made.tell()
    return made


def later(plane: Plane, notices: Notices, seconds: float) -> None:
    plane.now_ns += int(seconds * 1e9)
    notices.tell()


def test_every_decision_is_told_once_signed_and_in_order(
    plane: Plane, receiver: Receiver, notices: Notices
) -> None:
    plane.begin()
    plane.conclude("ship")
    plane.promote()
    notices.tell()
    notices.tell()
    assert receiver.actions == ["start", "conclude", "promote"]
    for request in receiver.requests:
        assert str(request.url) == URL
        at, _, made = request.headers["x-turnout-signature"].partition(",v1=")
        expected = hmac.new(SECRET.encode(), f"{at[2:]}.".encode() + request.content, sha256).hexdigest()
        assert made == expected
        assert orjson.loads(request.content)["decision"]["state"] == "done"
    numbers = [int(request.headers["x-turnout-event"]) for request in receiver.requests]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("status", [500, 404, 301, 0])
def test_what_fails_is_tried_again_less_and_less_often_and_holds_its_order(
    plane: Plane, receiver: Receiver, notices: Notices, status: int
) -> None:
    receiver.statuses = [status] * 3
    plane.begin()
    plane.rollback()
    plane.settle()
    for pause in (0, 0.9, 0.2, 1.9, 0.2, 3.9, 0.2):
        later(plane, notices, pause)
    assert receiver.actions == ["start", "start", "start", "start", "rollback"]
    assert all(request.url.host == "hooks.example" for request in receiver.requests)
    (state,) = notices.state()
    assert (state.told, state.attempts, state.error) == (2, 0, None)


def test_what_was_told_is_not_told_again_while_the_ledger_takes_no_writes(
    plane: Plane, receiver: Receiver, notices: Notices, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.begin()

    def refuse(change: object) -> None:
        raise DatabaseError("no space left on device")

    with monkeypatch.context() as there:
        there.setattr(plane.controller.store, "write", refuse)
        with pytest.raises(DatabaseError):
            notices.tell()
        notices.tell()
    plane.conclude("ship")
    notices.tell()
    assert receiver.actions == ["start", "conclude"]
    (state,) = notices.state()
    assert state.told == 2


def test_a_restart_neither_forgets_nor_repeats(plane: Plane, receiver: Receiver, notices: Notices) -> None:
    receiver.statuses = [500]
    plane.begin()
    notices.tell()
    plane.restart()
    again = Notices(
        plane.controller.store,
        lambda: {URL: "HOOK_SECRET"},
        now_ns=plane._tick,
        transport=httpx.MockTransport(receiver),
    )
    later(plane, again, 2)
    later(plane, again, 2)
    assert receiver.actions == ["start", "start"]


@pytest.mark.parametrize(
    ("url", "secret"),
    [("https://hooks..example/", SECRET), (f"https://{'a' * 64}.example/", SECRET), (URL + "/b", "\udcff")],
)
def test_one_that_cannot_even_be_asked_holds_nobody_else_up(
    plane: Plane, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, url: str, secret: str
) -> None:
    monkeypatch.setenv("BAD_SECRET", secret)

    def resolved(request: httpx.Request) -> httpx.Response:
        request.url.host.encode("idna")  # as the resolver does
        return receiver(request)

    told = Notices(
        plane.controller.store,
        lambda: {url: "BAD_SECRET", URL: "HOOK_SECRET"},
        now_ns=plane._tick,
        transport=httpx.MockTransport(resolved),
    )
    told.tell()
    plane.begin()
    told.tell()
    assert [(str(request.url), receiver.actions) for request in receiver.requests] == [(URL, ["start"])]
    assert {state.url for state in told.state() if state.error} == {url}


@pytest.mark.parametrize(("beginning", "told"), [(HEAD, 0), (BODY, 1)])
def test_a_receiver_whose_answer_does_not_end_holds_nobody_up(
    plane: Plane, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, beginning: bytes, told: int
) -> None:
    monkeypatch.setattr("experiments.notices.PATIENCE_S", 0.3)
    with dripping(beginning) as url:
        notices = Notices(plane.controller.store, lambda: {url: "HOOK_SECRET"}, now_ns=plane._tick)
        notices.tell()
        plane.begin()
        notices.tell()
    (state,) = notices.state()
    assert state.told == told
    assert state.error == (None if told else "no answer within 0.3 s")


def test_a_clock_that_is_set_back_makes_nobody_wait_for_a_day(
    plane: Plane, receiver: Receiver, notices: Notices
) -> None:
    receiver.statuses = [503]
    plane.begin()
    later(plane, notices, 86_400)
    later(plane, notices, -86_400)
    assert receiver.actions == ["start", "start"]


def test_a_clock_that_is_set_back_by_minutes_makes_the_first_pause_no_longer(
    plane: Plane, receiver: Receiver, notices: Notices
) -> None:
    receiver.statuses = [503]
    plane.begin()
    notices.tell()
    later(plane, notices, -600)
    assert receiver.actions == ["start", "start"]


def test_at_last_it_is_given_up_and_counted(plane: Plane, receiver: Receiver, notices: Notices) -> None:
    receiver.statuses = [503] * ATTEMPTS
    plane.begin()
    plane.rollback()
    plane.settle()
    for _ in range(ATTEMPTS):
        later(plane, notices, 3601)
    (state,) = notices.state()
    assert (state.given_up, state.told) == (1, 0)
    later(plane, notices, 3601)
    assert receiver.actions[-1] == "rollback"


def test_nothing_is_sent_unsigned(
    plane: Plane, receiver: Receiver, notices: Notices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOOK_SECRET")
    plane.begin()
    notices.tell()
    assert receiver.requests == []
    assert "HOOK_SECRET" in (notices.state()[0].error or "")


def test_what_was_decided_before_it_was_declared_is_not_told(plane: Plane, receiver: Receiver) -> None:
    plane.begin()
    late = Notices(
        plane.controller.store,
        lambda: {URL: "HOOK_SECRET"},
        now_ns=plane._tick,
        transport=httpx.MockTransport(receiver),
    )
    late.tell()
    late.tell()
    assert receiver.requests == []


def test_events_come_in_the_order_of_their_commit_each_state_once(plane: Plane) -> None:
    plane.begin()
    plane.conclude("ship")
    plane.promote()
    plane.settle()
    found = events.after(plane.controller.store, 0)
    assert [(one.decision.action, one.decision.state) for one in found] == [
        ("start", "done"), ("conclude", "done"), ("promote", "intent"), ("promote", "done"),
    ]  # fmt: skip
    numbers = [one.number for one in found]
    assert numbers == sorted(set(numbers))
    assert events.after(plane.controller.store, numbers[1])[0].number == numbers[2]
    assert events.after(plane.controller.store, 0, experiment="other") == []
    assert events.latest(plane.controller.store) == numbers[-1]


@pytest.mark.parametrize(
    "url", ["ftp://x/", "https://u:p@host/", "hook", "https://", "http://h:0/", "https://h/#x", "http://h:x/"]
)
def test_an_address_that_is_none_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="notify"):
        read_config(f"notify:\n  - {{url: '{url}', secret_env: HOOK}}\n", "turnout.yaml")


def test_webhooks_are_declared_in_the_settings() -> None:
    declared = read_config(f"notify:\n  - {{url: '{URL}', secret_env: HOOK_SECRET}}\n", "turnout.yaml")
    assert declared.webhooks == {URL: "HOOK_SECRET"}
