"""The pace of a replay, and what it remembers of a run that was killed. No process, no clock."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from typer.testing import CliRunner

from evaluators.pacing import Retry
from tests.evaluators.fakes import Reply, serving
from turnout.operations import replay_text
from turnout.replay_command import replay_app
from turnout.replaying import Journal, Rate, Stopped, Tally, Way, replay

ONE = "019a0000-0000-7000-8000-000000000001"
TWO = "019a0000-0000-7000-8000-000000000002"


class Clock:
    """Seconds that pass when a test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_rate_spaces_requests_evenly_and_owes_no_burst_after_a_pause() -> None:
    clock = Clock()
    rate = Rate(4.0, clock)
    assert [rate.delay() for _ in range(4)] == [0.0, 0.25, 0.5, 0.75]
    clock.now += 10.0  # nobody asked for a while: that is no claim to ask faster now
    assert [rate.delay() for _ in range(3)] == [0.0, 0.25, 0.5]
    assert [Rate(None, clock).delay() for _ in range(3)] == [0.0, 0.0, 0.0]


def test_no_second_holds_more_than_the_rate() -> None:
    clock = Clock()
    rate = Rate(7.0, clock)
    places = []
    for step in (0.0, 0.01, 0.3, 0.0, 0.0, 1.7, 0.0, 0.02) * 20:
        clock.now += step
        places.append(clock.now + rate.delay())
    for first in places:
        assert sum(first <= place < first + 0.999 for place in places) <= 7


def test_a_journal_remembers_answers_and_not_a_line_that_broke_off(tmp_path: Path) -> None:
    with Journal(tmp_path, "past") as journal:
        journal.write(ONE)
        journal.write(TWO)
    path = tmp_path / "past.ids"
    path.write_bytes(path.read_bytes()[:-10])
    with Journal(tmp_path, "past") as journal:
        assert journal.answered == {ONE}
        journal.write(TWO)
        with pytest.raises(Stopped, match="another process"), Journal(tmp_path, "past"):
            pass
        former = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, former[1]))
        try:
            with pytest.raises(Stopped, match=r"past\.ids cannot be written: File too large"):
                journal.write(TWO)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, former)
    with pytest.raises(Stopped, match="TURNOUT_DATA"), Journal(Path("/dev/null"), "past"):
        pass
    with Journal(tmp_path, "past") as journal:
        assert journal.answered == {ONE, TWO}
        journal.clear()
    with Journal(tmp_path, "past") as journal:
        assert journal.answered == set()


def test_the_accounting_closes_in_words() -> None:
    progress = {
        "selected": 10,
        "paired": 4,
        "skipped": {"not_recorded": 1, "tools_skipped": 2},
        "remaining": 3,
    }
    assert replay_text(progress, 2) == (
        "10 selected = 4 paired + 3 skipped (1 not recorded, 2 tools skipped) + 2 failed + 1 remaining"
    )
    assert replay_text(progress | {"remaining": 0}, 2).endswith("0 failed + 0 remaining")


class Recorded:
    """The control API, which has one request that waits."""

    def get(self, path: str, params: Any = None) -> Any:
        request = {"exchange_id": ONE, "path": "/v1/x", "unit": "u", "tenant": None, "request": "{}"}
        return {"requests": [request], "closed": None, "after": None}


@asynccontextmanager
async def refusing(tmp_path: Path, status: bytes, code: str, message: str) -> AsyncIterator[Tally]:
    """What a run comes to at a proxy that refuses every request."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        body = orjson.dumps({"error": {"code": code, "message": message}})
        writer.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        way = Way(
            experiment="past",
            model="chat",
            candidate="version 2",
            api=cast(Any, Recorded()),
            proxy_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
            token="wrong",
            token_origin="here the token comes from X",
            rate=Rate(None),
            retry=Retry(attempts=1),
            patience=1,
        )
        with Journal(tmp_path, "past") as journal:
            yield await replay(way, journal)


async def test_a_token_that_the_proxy_refuses_is_told_with_where_it_came_from(tmp_path: Path) -> None:
    async with refusing(tmp_path, b"403 Forbidden", "admin_required", "wrong token") as tally:
        assert tally.stopped == "wrong token; here the token comes from X"


async def test_a_candidate_that_fails_is_not_said_to_be_absent(tmp_path: Path) -> None:
    said = "Nothing succeeds at the candidate (the last: status 500)."
    async with refusing(tmp_path, b"503 No", "breaker_open", said) as tally:
        assert tally.stopped == f"1 requests in a row got no answer: {said}".rstrip(".")


def test_a_token_that_the_controller_refuses_is_told_with_where_it_came_from(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("experiment: past\n")
    with serving(lambda question, version: Reply()) as fake:
        environment = {"TURNOUT_TOKEN": "wrong", "TURNOUT_CONTROL_URL": fake.url}
        done = CliRunner().invoke(replay_app, [str(spec)], env=environment)
    assert done.exit_code == 1
    assert "here the token comes from TURNOUT_TOKEN" in done.stderr.replace("\n", " ")
