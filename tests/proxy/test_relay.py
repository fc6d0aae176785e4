"""A request's journey: bytes there and back, arms, fallback, disconnect, record."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import orjson
import pytest

from experiments.assignment import PPM, point, unit_id
from experiments.ledger.exchange import FeedbackRecord
from experiments.snapshot import Exclusion, Gate
from proxy.limits import Limits

from .harness import ADMIN, SSE_HEAD, Engine, ask, chunk, json_answer, post, running_proxy, snapshot

ANSWER = b'{"id":"x",  "choices":[{"message":{"content":"h\\u00e9llo"}}]}'


async def plain(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(json_answer(ANSWER, extra=b"x-engine: yes\r\nServer: vllm\r\n"))


def parts(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), {k.lower(): v for k, v in headers.items()}, body


def dechunk(body: bytes) -> bytes:
    out = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        count = int(size, 16)
        out, body = out + body[:count], body[count + 2 :]
        if not count:
            break
    return out


async def test_bytes_pass_unchanged_and_the_row_is_whole(tmp_path: Path) -> None:
    async with Engine(plain).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        raw = b'{ "model" : "chat",\n "user":"ada", "messages":[ ], "top_k": 7, "nested": {"model": "other"}}'
        status, headers, body = parts(await proxy.post(raw))
        assert (status, body) == (200, ANSWER)
        assert headers["x-engine"] == "yes"
        assert headers["server"] == "vllm"
        assert headers["x-turnout-model-version"] == "1"
        assert engine.requests[0].endswith(b"\r\n\r\n" + raw)
        (row,) = proxy.exchanges()
        assert row.request_id == headers["x-turnout-request-id"]
        assert (row.outcome, row.status, row.served_version) == ("complete", 200, 1)
        assert (row.request, row.response) == (raw, ANSWER)
        assert row.unit == unit_id("ada")
        assert row.experiment is None
        assert row.chunk_ends == (len(ANSWER),)
        assert 0 < row.first_byte_us <= row.duration_us


async def test_client_credentials_never_reach_an_engine_or_the_ledger(tmp_path: Path) -> None:
    async with Engine(plain).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        await proxy.post(ask(), headers={"Authorization": "Bearer sk-canary", "Cookie": "canary"})
        assert b"canary" not in engine.requests[0]
        assert b"canary" not in b"".join(path.read_bytes() for path in (tmp_path / "spool").rglob("*.seg"))


async def test_served_name_replaces_the_model_and_nothing_else(tmp_path: Path) -> None:
    table = {"served_name": 'org/"x"'}
    async with Engine(plain).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url}, **table)) as proxy:
            raw = b'{"messages":[{"content":"the \\"model\\": chat"}], "model":"chat" ,"x":1}'
            await proxy.post(raw)
            sent = raw.replace(b'"model":"chat"', b'"model":"org/\\"x\\""')
            assert engine.requests[0].endswith(b"\r\n\r\n" + sent)


def stream(*events: bytes, pause: float = 0.0):
    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD)
        for event in events:
            writer.write(chunk(event))
            await writer.drain()
            await asyncio.sleep(pause)
        writer.write(b"0\r\n\r\n")

    return answer


DELTA = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'
DONE = b"data: [DONE]\n\n"


async def test_usage_is_asked_for_recorded_and_hidden_from_who_did_not_ask(tmp_path: Path) -> None:
    async with Engine(stream(DELTA, USAGE, DONE)).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
            _, headers, body = parts(await proxy.post(ask(stream=True)))
            assert dechunk(body) == DELTA + DONE
            assert headers["content-type"] == "text/event-stream"
            assert b'{"stream_options":{"include_usage":true},"model"' in engine.requests[0]
            (row,) = proxy.exchanges()
            assert row.response == DELTA + USAGE + DONE
            assert row.stream
            assert row.outcome == "complete"


async def test_usage_stays_for_who_asked(tmp_path: Path) -> None:
    async with Engine(stream(DELTA, USAGE, DONE)).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
            request = ask(stream=True, stream_options={"include_usage": True})
            _, _, body = parts(await proxy.post(request))
            assert dechunk(body) == DELTA + USAGE + DONE
            assert engine.requests[0].endswith(orjson.dumps(request))


async def test_the_row_is_written_before_done_is_sent(tmp_path: Path) -> None:
    """A client that reads [DONE] has its answer: were the worker killed now, the row must exist."""

    async def never_ends(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + chunk(DELTA) + chunk(b"data: [DO"))
        await asyncio.sleep(0.05)
        writer.write(chunk(b"NE]\n\n"))
        await asyncio.sleep(30)

    async with Engine(never_ends).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(post(ask(stream=True, stream_options={"include_usage": True})))
            await reader.readuntil(b"NE]\n\n")
            (row,) = proxy.exchanges()
            assert row.outcome == "complete"
            writer.close()


async def test_a_stream_with_a_declared_length_keeps_its_own_when_its_head_is_known(tmp_path: Path) -> None:
    """As a gateway sends it that has waited for the end."""
    bodies = [DELTA * count + DONE for count in (1, 3, 2, 2)]
    left = iter(bodies)

    async def buffered(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(next(left)).replace(b"application/json", b"text/event-stream"))

    async with Engine(buffered).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
            for body in bodies:
                request = ask(stream=True, stream_options={"include_usage": True})
                _, headers, answer = parts(await proxy.post(request))
                whole = dechunk(answer) if "transfer-encoding" in headers else answer
                assert (whole, int(headers.get("content-length", len(body)))) == (body, len(body))


async def test_text_that_says_done_is_not_the_end(tmp_path: Path) -> None:
    tricky = b'data: {"choices":[{"delta":{"content":"data: [DONE]"}}]}\n\n'
    async with Engine(stream(tricky, DELTA, DONE, pause=0.02)).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
            await proxy.post(ask(stream=True))
            (row,) = proxy.exchanges()
            assert row.response == tricky + DELTA + DONE


async def dead(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def failing(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(json_answer(b'{"error":"no"}', "500 Internal Server Error"))


def refusing(status: str) -> object:
    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(b'{"error":"no"}', status))

    return answer


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (dead, "upstream_error"),
        (failing, "upstream_error"),
        (refusing("404 Not Found"), "upstream_rejected"),  # no such model there: not the client's doing
        (refusing("401 Unauthorized"), "upstream_rejected"),
        (refusing("403 Forbidden"), "upstream_rejected"),
    ],
    ids=["reset", "500", "404", "401", "403"],
)
async def test_a_failing_candidate_falls_back_and_the_row_says_both(
    tmp_path: Path, fault: object, outcome: str
) -> None:
    async with Engine(plain).running() as good, Engine(fault).running() as bad:
        table = snapshot({1: good.url, 2: bad.url}, candidate_ppm=1_000_000)
        async with running_proxy(tmp_path, table) as proxy:
            status, headers, body = parts(await proxy.post(ask()))
            assert (status, body) == (200, ANSWER)
            assert headers["x-turnout-arm"] == "control"
            (row,) = proxy.exchanges()
            assert (row.assigned_arm, row.served_arm) == ("candidate", "control")
            assert (row.outcome, row.arm_outcome, row.attempts) == ("complete", outcome, 2)
            assert row.error_code == ("upstream_cut" if fault is dead else None), (
                "why it was not the candidate"
            )
            assert row.response == ANSWER


async def test_what_the_client_asked_wrongly_is_refused_by_whom_it_asked(tmp_path: Path) -> None:
    refused = refusing("400 Bad Request")
    async with Engine(plain).running() as good, Engine(refused).running() as bad:
        table = snapshot({1: good.url, 2: bad.url}, candidate_ppm=1_000_000)
        async with running_proxy(tmp_path, table) as proxy:
            assert parts(await proxy.post(ask()))[0] == 400
            (row,) = proxy.exchanges()
            assert (row.served_arm, row.outcome, row.arm_outcome) == ("candidate", "upstream_rejected", None)


@pytest.mark.parametrize("alone", [False, True])
async def test_half_an_event_that_was_held_back_is_no_byte_the_client_has_got(
    tmp_path: Path, *, alone: bool
) -> None:
    async def half(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + chunk(DELTA[:30]))
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.transport.abort()

    async with Engine(stream(DELTA, DONE)).running() as good, Engine(half).running() as bad:
        table = snapshot({1: bad.url if alone else good.url, 2: bad.url}, candidate_ppm=1_000_000)
        async with running_proxy(tmp_path, table) as proxy:
            status, headers, body = parts(await proxy.post(ask(stream=True)))
            (row,) = proxy.exchanges()
    assert (row.arm_outcome, row.attempts, headers["x-turnout-arm"]) == ("truncated", 2, "control")
    if alone:
        assert (status, orjson.loads(body)["error"]["code"]) == (502, "upstream_cut")
        assert (row.outcome, row.response) == ("truncated", DELTA[:30])
    else:
        assert (status, dechunk(body)) == (200, DELTA + DONE)
        assert (row.outcome, row.response) == ("complete", DELTA + DONE)


async def test_an_unreachable_engine_is_a_502_in_openais_shape(tmp_path: Path) -> None:
    async with running_proxy(tmp_path, snapshot({1: "http://127.0.0.1:9"})) as proxy:
        status, _, body = parts(await proxy.post(ask()))
        assert status == 502
        assert orjson.loads(body)["error"]["code"] == "upstream_unreachable"
        (row,) = proxy.exchanges()
        assert (row.outcome, row.error_code) == ("upstream_error", "upstream_unreachable")


async def test_a_second_replica_is_tried_when_the_first_cannot_be_reached(tmp_path: Path) -> None:
    async with Engine(plain).running() as engine:
        table = snapshot({1: ("http://127.0.0.1:9", engine.url)})
        async with running_proxy(tmp_path, table) as proxy:
            for _ in range(4):
                assert parts(await proxy.post(ask()))[0] == 200


async def test_after_the_first_byte_a_cut_is_passed_on_as_a_cut(tmp_path: Path) -> None:
    async def cut(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + chunk(DELTA))
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.transport.abort()

    async with Engine(plain).running() as good, Engine(cut).running() as bad:
        table = snapshot({1: good.url, 2: bad.url}, candidate_ppm=1_000_000)
        async with running_proxy(tmp_path, table) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(post(ask(stream=True)))
            received = b""
            with pytest.raises(ConnectionResetError):
                while True:
                    piece = await reader.read(65536)
                    if not piece:
                        raise ConnectionResetError
                    received += piece
            assert received.endswith(chunk(DELTA))
            assert not good.requests
            (row,) = proxy.exchanges()
            assert (row.outcome, row.error_code, row.arm_outcome) == ("truncated", "upstream_cut", None)
            writer.close()


async def silent(_: bytes, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def trickle(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(SSE_HEAD)
    while True:
        writer.write(chunk(DELTA))
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("behaviour", [silent, trickle], ids=["before-first-byte", "mid"])
async def test_a_client_that_leaves_frees_the_engine_at_once(
    tmp_path: Path, behaviour: object, streaming: bool
) -> None:
    async with Engine(behaviour).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(post(ask(stream=streaming)))
            while not engine.requests:
                await asyncio.sleep(0.005)
            if behaviour is trickle:
                await reader.readuntil(DELTA)
            writer.close()
            await asyncio.wait_for(engine.gone.wait(), 0.25)
            (row,) = proxy.exchanges()
            assert row.outcome == "client_gone"
            assert not proxy.worker.relays


async def test_a_silent_engine_is_a_504_in_time(tmp_path: Path) -> None:
    async with Engine(silent).running() as engine:
        limits = Limits(first_byte_seconds=0.1)
        async with running_proxy(tmp_path, snapshot({1: engine.url}), limits) as proxy:
            status, _, body = parts(await proxy.post(ask()))
            assert (status, orjson.loads(body)["error"]["code"]) == (504, "upstream_timeout")
            await asyncio.wait_for(engine.gone.wait(), 0.25)
            assert proxy.exchanges()[0].outcome == "timeout"


async def test_a_stale_kept_connection_is_replaced_unseen(tmp_path: Path) -> None:
    async def closes_after(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(ANSWER))
        await writer.drain()
        asyncio.get_running_loop().call_later(0.02, writer.close)

    async with Engine(closes_after).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
            for pause in (0.0, 0.019, 0.02, 0.021, 0.05):
                assert parts(await proxy.post(ask()))[0] == 200
                await asyncio.sleep(pause)


async def test_arms_need_the_admin_token(tmp_path: Path) -> None:
    async with Engine(plain).running() as engine:
        table = snapshot({1: engine.url, 2: engine.url}, candidate_ppm=0)
        async with running_proxy(tmp_path, table) as proxy:
            for headers in (
                {"x-turnout-arm": "candidate"},
                {"x-turnout-version": "2"},
                {"x-turnout-origin": "golden"},
            ):
                status, _, body = parts(await proxy.post(ask(), headers=headers))
                assert (status, orjson.loads(body)["error"]["code"]) == (403, "admin_required")
                headers["x-turnout-admin"] = "wr\u00f6ng"
                assert parts(await proxy.post(ask(), headers=headers))[0] == 403
            assert not engine.requests
            admin = {"x-turnout-admin": ADMIN, "x-turnout-version": "2"}
            status, headers, _ = parts(await proxy.post(ask(), headers=admin))
            assert (status, headers["x-turnout-model-version"]) == (200, "2")
            assert proxy.exchanges()[-1].origin == "forced"


async def test_keys_name_the_tenant(tmp_path: Path) -> None:
    keys = {sha256(b"sk-acme").hexdigest(): "acme"}
    async with Engine(plain).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url}, keys=keys)) as proxy:
            assert parts(await proxy.post(ask()))[0] == 401
            wrong = parts(await proxy.post(ask(), headers={"Authorization": "Bearer \u00ff"}))
            assert (wrong[0], orjson.loads(wrong[2])["error"]["code"]) == (401, "invalid_api_key")
            assert parts(await proxy.post(ask(), headers={"authorization": "bearer sk-acme"}))[0] == 200
            (row,) = proxy.exchanges()
            assert row.tenant == "acme"


async def test_an_engine_error_reaches_the_client_as_it_is_when_there_is_no_other(tmp_path: Path) -> None:
    async with Engine(failing).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
            status, _, body = parts(await proxy.post(ask()))
            assert (status, body) == (500, b'{"error":"no"}')
            assert proxy.exchanges()[0].outcome == "upstream_error"


async def test_feedback_is_spooled(tmp_path: Path) -> None:
    async with running_proxy(tmp_path, snapshot({1: "http://127.0.0.1:9"})) as proxy:
        body = {"request_id": "r", "name": "thumbs_up", "value": True}
        assert parts(await proxy.post(body, "/v1/feedback"))[0] == 202
        for wrong in ({**body, "value": "x"}, {**body, "name": "a b"}, {"name": "x"}, []):
            assert parts(await proxy.post(wrong, "/v1/feedback"))[0] == 400
        (record,) = proxy.records()
        assert (record.request_id, record.name, record.value) == ("r", "thumbs_up", 1.0)


async def test_feedback_is_of_the_unit_that_its_requests_are_of_however_long_its_name(tmp_path: Path) -> None:
    name = "ä" * 600  # a request's is cut at `unit_characters`
    async with Engine(plain).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
            assert parts(await proxy.post(ask(user=name)))[0] == 200
            body = {"unit": name, "name": "resolved", "value": 1}
            assert parts(await proxy.post(body, "/v1/feedback"))[0] == 202
            (said,) = [one for one in proxy.records() if isinstance(one, FeedbackRecord)]
            assert said.unit == proxy.exchanges()[0].unit


async def test_a_full_disk_costs_rows_and_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Engine(plain).running() as engine:
        async with running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
            with monkeypatch.context() as patch:
                patch.setattr("os.writev", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
                for _ in range(3):
                    assert parts(await proxy.post(ask()))[0] == 200
            ready = parts(await proxy.send(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
            assert orjson.loads(ready[2])["lost"] == 3
            assert parts(await proxy.post(ask()))[0] == 200
            loss, row = proxy.records()
            assert loss.count == 3
            assert row.outcome == "complete"


TWICE = b'{"model":"chat","model":"chat","user":"ada","messages":[]}'


@pytest.mark.parametrize("stranger", ["shadow", "fallback", "candidate"])
async def test_an_ambiguous_model_is_refused_before_anything_is_sent(tmp_path: Path, stranger: str) -> None:
    """Only some endpoints need the name replaced: that must not decide when the request is refused."""

    async def down(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(b"{}", status="503 Service Unavailable"))

    async with Engine(plain).running() as one, Engine(down).running() as two:
        weights = {"share_ppm": 1_000_000} if stranger == "shadow" else {"candidate_ppm": 1_000_000}
        table = snapshot({1: one.url, 2: two.url}, **weights)  # type: ignore[arg-type]
        renamed = 2 if stranger in ("shadow", "candidate") else 1
        endpoints = dict(table.endpoints)
        endpoints["chat", renamed] = replace(endpoints["chat", renamed], served_name="other")
        async with running_proxy(tmp_path, replace(table, endpoints=endpoints)) as proxy:
            status, _, body = parts(await asyncio.wait_for(proxy.post(TWICE), 2))
            assert (status, orjson.loads(body)["error"]["code"]) == (400, "duplicate_field")
            assert not one.requests
            assert not two.requests
            assert not proxy.worker.relays
            assert not proxy.worker.shadows._copies
            assert [row.outcome for row in proxy.exchanges()] == ["rejected"]


async def test_a_defect_of_ours_is_one_500_and_frees_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(_: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    async with Engine(slow).running() as engine, Engine(slow).running() as dark:
        table = snapshot({1: engine.url, 2: dark.url}, share_ppm=1_000_000)
        async with running_proxy(tmp_path, table) as proxy:

            def broken(*_: object) -> None:
                raise KeyError("a defect")

            monkeypatch.setattr("proxy.relay.Relay._note", broken)  # its call is on the way by then
            status, _, body = parts(await proxy.post(ask()))
            assert (status, orjson.loads(body)["error"]["code"]) == (500, "internal_error")
            assert not proxy.worker.relays
            assert proxy.worker.upstreams.replica(engine.url).outstanding == 0
            assert [row.error_code for row in proxy.exchanges()] == ["internal_error"]


async def test_a_defect_while_relaying_is_logged_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> bytes:
        raise KeyError("a defect")

    monkeypatch.setattr("proxy.relay.Relay._accepts", broken)
    async with Engine(plain).running() as engine, running_proxy(tmp_path, snapshot({1: engine.url})) as proxy:
        status, _, _ = parts(await asyncio.wait_for(proxy.post(ask()), 2))
        assert status == 502
        assert "a defect" in caplog.text


async def test_what_is_clipped_has_no_hole(tmp_path: Path) -> None:
    async def three(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD)
        for piece in (b"data: a\n\n", b"data: " + b"b" * 200 + b"\n\n", b"data: c\n\n"):
            writer.write(chunk(piece))
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.write(b"0\r\n\r\n")

    async with Engine(three).running() as engine:
        table = snapshot({1: engine.url})
        async with running_proxy(tmp_path, table, Limits(recorded_bytes=100)) as proxy:
            await proxy.post(ask(stream=True))
            (row,) = proxy.exchanges()
            assert (row.clipped, row.response) == (True, b"data: a\n\n")


async def test_a_version_with_too_many_digits_is_no_other_version(tmp_path: Path) -> None:
    async with Engine(plain).running() as engine:
        table = snapshot({100_000_000: engine.url, 1: engine.url})
        async with running_proxy(tmp_path, table) as proxy:
            admin = {"x-turnout-admin": ADMIN, "x-turnout-version": "1000000001"}
            status, _, _ = parts(await proxy.post(ask(), headers=admin))
            assert status == 404


async def test_a_long_name_is_not_sent_back_whole(tmp_path: Path) -> None:
    async with running_proxy(tmp_path, snapshot({1: "http://127.0.0.1:9"})) as proxy:
        assert len(await proxy.post(ask(model="x" * 1_000_000))) < 2000


async def test_requests_that_a_rule_keeps_out_are_answered_by_production_in_no_arm(tmp_path: Path) -> None:
    async with Engine(plain).running() as control, Engine(plain).running() as candidate:
        table = snapshot(
            {1: control.url, 2: candidate.url}, candidate_ppm=1_000_000, share_ppm=1_000_000,
            keys={sha256(b"sk-acme").hexdigest(): "acme", sha256(b"sk-free").hexdigest(): "free"},
        )  # fmt: skip
        route = table.models["chat"]
        rules = Exclusion(tenants=("acme",), headers=(("x-internal", "1"),), tags=(("tier", "gold"),))
        held_out = Gate(salt="holdout", low=point("holdout", unit_id("ada")) + 1, high=PPM)
        split = replace(route.splits[0], exclude=rules)
        mirrors = tuple(replace(mirror, exclude=rules) for mirror in route.mirrors)
        table = replace(table, models={"chat": replace(route, splits=(split,), mirrors=mirrors)})
        async with running_proxy(tmp_path, table) as proxy:
            plainly = b'{"model":"chat","user":"ada","messages":[]}'
            tagged = b'{"model":"chat","user":"ada","messages":[],"metadata":{"tier":"gold"}}'
            for body, headers, arm in (
                (plainly, {"authorization": "Bearer sk-free"}, "candidate"),
                (plainly, {"authorization": "Bearer sk-acme"}, None),
                (plainly, {"authorization": "Bearer sk-free", "x-internal": "1"}, None),
                (tagged, {"authorization": "Bearer sk-free"}, None),
            ):
                status, found, _ = parts(await proxy.post(body, headers=headers))
                assert (status, found.get("x-turnout-arm")) == (200, arm)
            rows = [row for row in proxy.exchanges() if row.role == "primary"]
            assert [(row.experiment, row.outside, row.serial) for row in rows] == [
                ("exp", None, 1), ("exp", "excluded", 1), ("exp", "excluded", 2), ("exp", "excluded", 3),
            ]  # fmt: skip
            assert len(control.requests) == 3
            held = replace(split, gates=(held_out,))
            proxy.worker.adopt(replace(table, version=2, models={"chat": replace(route, splits=(held,))}))
            free = {"authorization": "Bearer sk-free"}
            assert b"x-turnout-experiment" not in await proxy.post(plainly, headers=free)
            await proxy.post(b'{"model":"chat","messages":[]}', headers=free)
            rows = [row for row in proxy.exchanges() if row.role == "primary"][4:]
            assert [(row.outside, row.assigned_arm, row.served_version, row.serial) for row in rows] == [
                ("holdout", None, 1, 1), ("no_unit", None, 1, 1),
            ]  # fmt: skip
