"""What Prometheus reads is what the ledger gets, summed over all workers, and never goes back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from experiments.ledger.exchange import ExchangeRecord
from proxy import exposition
from proxy.exposition import WorkerState
from proxy.limits import Limits
from proxy.metrics import DURATION_US, GAP_US, Gauges, Metrics

from .harness import SSE_HEAD, Engine, Proxy, ask, chunk, json_answer, post, running_proxy, snapshot
from .test_relay import parts

GAUGES = Gauges(
    in_flight=1,
    connections=2,
    snapshot=3,
    records_written=4,
    records_lost=5,
    shadow_in_flight=6,
    shadow_bytes=7,
    tasks=8,
    open_files=9,
    resident_bytes=10,
)


def record(**fields: object) -> ExchangeRecord:
    given = {"model": "chat", "served_version": 1, "duration_us": 20_000, **fields}
    return ExchangeRecord(exchange_id="x", request_id="x", started_ns=1, path="/", worker="w", **given)  # type: ignore[arg-type]


def samples(text: bytes) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def total(found: dict[str, list[tuple[dict[str, str], float]]], name: str, **labels: str) -> float:
    return sum(value for given, value in found.get(name, []) if labels.items() <= given.items())


def of(records: Iterable[ExchangeRecord]) -> Metrics:
    metrics = Metrics()
    for one in records:
        metrics.observe(one)
    return metrics


def test_copies_that_were_shed_are_counted_by_why(tmp_path: Path) -> None:
    copy = {"role": "shadow", "experiment": "dark", "served_arm": "candidate", "outcome": "shed"}
    limited = record(**copy, error_code="rate_limited")
    metrics = of([limited, limited, record(**copy, error_code="tools_skipped"), record()])
    metrics.add(Metrics.of(orjson.loads(orjson.dumps(metrics.document()))))
    found = samples(exposition.expose(tmp_path, tmp_path, WorkerState("w", metrics, GAUGES), each=False))
    name = "turnout_copies_shed_total"
    assert total(found, name, experiment="dark", reason="rate_limited") == 4
    assert total(found, name) == 6


def test_a_record_is_counted_where_it_belongs() -> None:
    stream = record(stream=True, chunk_us=(5_000, 5_000, 15_500), chunk_ends=(1, 2, 3), outcome="truncated")
    metrics = of([record(), record(), stream])
    ((labels, numbers),) = metrics.numbers.items()
    assert labels == ("chat", 1, None, None, "primary")
    assert numbers.outcomes == {"complete": 2, "truncated": 1}
    assert (sum(numbers.duration), numbers.duration_us) == (3, 60_000)
    assert numbers.duration[DURATION_US.index(25_000)] == 3
    assert (sum(numbers.first), numbers.first_us) == (1, 5_000)
    assert (sum(numbers.gaps), numbers.gaps_us) == (2, 10_500)
    assert (numbers.gaps[0], numbers.gaps[GAP_US.index(25_000)]) == (1, 1)


def test_a_document_gives_the_same_sums_back() -> None:
    metrics = of([record(), record(served_arm="candidate", stream=True, chunk_us=(1,), chunk_ends=(1,))])
    metrics.unread["client_gone"] += 2
    back = Metrics.of(orjson.loads(orjson.dumps(metrics.document())))
    assert (back.numbers, back.unread) == (metrics.numbers, metrics.unread)


def test_workers_add_up_and_the_ended_stay_counted(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    exposition.clear(folder)
    own = WorkerState("host-1-aa", of([record()] * 3), GAUGES)
    own.metrics.unread["client_gone"] = 1
    for name in ("host-2-bb", "host-3-cc"):
        other = of([record()] * 5)
        other.unread["client_gone"] = 2
        exposition.save(folder, WorkerState(name, other, GAUGES))
    for ended in (None, 2, 3):
        if ended is not None:
            exposition.retire(folder, ended)
        together = samples(exposition.expose(folder, tmp_path / "spool", own, each=False))
        assert total(together, "turnout_exchanges_total", outcome="complete", model="chat") == 13
        assert together["turnout_requests_unread_total"] == [({"reason": "client_gone"}, 5)]
        assert total(together, "turnout_exchange_duration_seconds_count") == 13
        assert total(together, "turnout_exchange_duration_seconds_sum") == pytest.approx(13 * 0.02)
    each = samples(exposition.expose(folder, tmp_path / "spool", own, each=True))
    assert total(each, "turnout_exchanges_total", worker="host-1-aa") == 3
    assert total(each, "turnout_exchanges_total", worker="ended") == 10
    assert [labels["worker"] for labels, _ in each["turnout_in_flight"]] == ["host-1-aa"]


def test_a_worker_that_ends_while_somebody_asks_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = WorkerState("host-1-aa", of([record()]), GAUGES)
    exposition.save(tmp_path, WorkerState("host-2-bb", of([record()] * 5), GAUGES))
    for pid in (8, 9):
        exposition.save(tmp_path, WorkerState(f"host-{pid}-zz", of([record()]), GAUGES))
    exposition.retire(tmp_path, 8)
    read = Path.read_bytes

    def read_and_retire(path: Path) -> bytes:
        found = read(path)
        monkeypatch.setattr(Path, "read_bytes", read)
        exposition.retire(tmp_path, 9)
        return found

    monkeypatch.setattr(Path, "read_bytes", read_and_retire)
    for _ in range(2):
        found = samples(exposition.expose(tmp_path, tmp_path, own, each=False))
        assert total(found, "turnout_exchanges_total") == 8


async def test_a_worker_that_is_killed_has_left_what_it_said_last(tmp_path: Path) -> None:
    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(b"{}"))

    for name in ("killed", "next"):  # as the supervisor does
        exposition.clear(tmp_path / name / "metrics")
    async with Engine(answer).running() as engine:
        async with running_proxy(tmp_path / "killed", snapshot({1: engine.url})) as proxy:
            await proxy.post(ask())
            await proxy.send(b"GARBAGE\r\n\r\n")
            said = await scrape(proxy)
            (left,) = (tmp_path / "killed" / "metrics").glob("*.json")
            killed = (left.name, left.read_bytes())  # at this instant
        async with running_proxy(tmp_path / "next", snapshot({1: engine.url})) as proxy:
            folder = tmp_path / "next" / "metrics"
            (folder / killed[0]).write_bytes(killed[1])
            exposition.retire(folder, int(killed[0].split("-")[-2]))
            now = await scrape(proxy)
    for name in ("turnout_exchanges_total", "turnout_requests_unread_total"):
        assert total(now, name) == total(said, name) == 1


def test_a_number_in_the_hosts_name_is_no_worker_that_has_ended(tmp_path: Path) -> None:
    for name in ("ip-10-0-0-7-8-aa", "ip-10-0-0-7-10-bb"):
        exposition.save(tmp_path, WorkerState(name, of([record()]), GAUGES))
    for pid in (7, 10):
        exposition.retire(tmp_path, pid)
    assert {path.stem for path in tmp_path.iterdir()} == {"ip-10-0-0-7-8-aa", "ended"}


def test_a_torn_file_of_another_worker_hides_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "host-9-zz.json").write_bytes(b'{"worker": "x", "metr')
    (tmp_path / "ended.json").write_bytes(b"[]")
    own = WorkerState("host-1-aa", of([record()]), GAUGES)
    assert (
        total(samples(exposition.expose(tmp_path, tmp_path, own, each=False)), "turnout_exchanges_total") == 1
    )


async def scrape(proxy: Proxy, path: str = "/metrics") -> dict[str, list[tuple[dict[str, str], float]]]:
    raw = f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()
    status, headers, body = parts(await proxy.send(raw))
    assert (status, headers["content-type"]) == (200, exposition.CONTENT_TYPE.decode())
    return samples(body)


async def test_what_is_scraped_is_what_was_recorded(tmp_path: Path) -> None:
    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        if b'"stream":true' not in request:
            writer.write(json_answer(b"{}"))
            return
        writer.write(SSE_HEAD)
        for _ in range(3):
            writer.write(chunk(b'data: {"choices":[]}\n\n'))
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with Engine(answer).running() as engine:
        table = snapshot({1: engine.url, 2: engine.url}, candidate_ppm=500_000)
        async with running_proxy(tmp_path, table) as proxy:
            for number in range(20):
                await proxy.post(ask(user=f"u{number}", stream=number % 2 == 0))
            await proxy.post(ask(n=0))
            found = await scrape(proxy)
            rows = proxy.exchanges()
            for arm in ("control", "candidate"):
                served = [row for row in rows if row.served_arm == arm]
                assert total(found, "turnout_exchanges_total", arm=arm, outcome="complete") == len(served) > 0
                streams = [row for row in served if row.stream]
                assert total(found, "turnout_time_to_first_chunk_seconds_count", arm=arm) == len(streams)
                gaps = sum(len(row.chunk_us) - 1 for row in streams)
                assert total(found, "turnout_chunk_gap_seconds_count", arm=arm) == gaps
            assert total(found, "turnout_exchanges_total", outcome="rejected") == 1
            assert total(found, "turnout_records_written_total") == 21
            assert await scrape(proxy, "/metrics/workers")


PARTS = (b"POST /v1/chat", b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")


async def unread(proxy: Proxy) -> dict[str, float]:
    found = await scrape(proxy)
    return {labels["reason"]: count for labels, count in found["turnout_requests_unread_total"]}


async def test_what_never_was_a_whole_request_is_counted_by_why(tmp_path: Path) -> None:
    table = snapshot({1: "http://127.0.0.1:9"})
    async with running_proxy(tmp_path / "left", table) as proxy:
        for part in PARTS:
            _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(part)
            while not any(client._in_message for client in proxy.worker._clients):
                await asyncio.sleep(0.005)
            writer.close()
            while proxy.worker._clients:
                await asyncio.sleep(0.005)
        await proxy.send(b"GARBAGE\r\n\r\n")
        assert await unread(proxy) == {"client_gone": 2, "malformed_http": 1}
    async with running_proxy(tmp_path / "slow", table, Limits(head_seconds=0.1, body_seconds=0.1)) as proxy:
        for part in PARTS:
            await proxy.send(part)
        await proxy.send(b"")  # a port that is looked at is no request
        assert await unread(proxy) == {"request_too_slow": 2}
        assert proxy.records() == []


@pytest.mark.parametrize("whole", [True, False])
async def test_a_stranger_is_counted_and_leaves_no_row(tmp_path: Path, whole: bool) -> None:
    table = snapshot({1: "http://127.0.0.1:9"}, keys={sha256(b"sk-good").hexdigest(): "acme"})
    async with running_proxy(tmp_path, table) as proxy:
        request = post(ask(), headers={"authorization": "Bearer no"})
        answer = await proxy.send(request if whole else request[:-1])
        assert answer.startswith(b"HTTP/1.1 401")
        assert await unread(proxy) == {"invalid_api_key": 1}
        assert proxy.records() == []
