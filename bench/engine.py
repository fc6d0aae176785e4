"""What does Turnout cost in front of a real engine? The same load with it and without it, by turns.

    python -m bench.engine URL [--concurrency 1,16,64,256] [--rounds 2] [--out FILE.json]

URL is an engine that speaks OpenAI's API and has vLLM's `/metrics`; nobody else may use it meanwhile. In
front of it one worker, everything on as `bench.row` prepares it: an API key, a split of 80 to 20, every
exchange on disk. Both arms are this engine, so that its work is the same with Turnout and without.
Compared are what is answered (token by token where the engine agrees with itself), how fast, and how soon the
engine is free of clients that leave; at the end each request is in the ledger once. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import orjson

from bench import row
from bench.proxy import cpu_us, pss_mb, running
from bench.streams import Clients, Load, post
from experiments.ledger.collector import Collector
from experiments.ledger.store import Store, instant
from turnout.processes import free_port

#: An answer that is far from its end when its client leaves.
LONG: Final = 4000
PATIENCE_SECONDS: Final = 20.0
#: What a client that leaves has read: so its stream is under way.
_UNDER_WAY: Final = 3
COLUMNS: Final = {
    "tokens_per_s": "tokens/s",
    "requests_per_s": "requests/s",
    "ttft_p50_ms": "first token p50, ms",
    "ttft_p99_ms": "p99",
    "gap_p50_ms": "between tokens p50, ms",
    "gap_p99_ms": "p99",
    "cpu_token_us": "proxy's CPU µs per token",
    "cpu_request_us": "per request",
    "cores": "cores",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to ask: the engine itself, or the proxy in front of it."""

    name: str
    url: str
    key: str = ""
    pid: int | None = None

    def load(self, model: str, **asked: Any) -> Load:
        """What clients ask here."""
        parts = urlsplit(self.url)
        return Load(
            host=parts.hostname or "127.0.0.1", port=parts.port or 80, model=model, key=self.key, **asked
        )

    def client(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=120, trust_env=False)


@dataclass(slots=True)
class Report:
    """Everything that was found.

    `asked` is what the proxy was asked, `tokens` what it was answered between the two instants of
    `measured_ns`: so much the ledger must hold.
    """

    model: str
    samples: list[dict[str, Any]] = field(default_factory=list)
    alike: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    leaving: list[dict[str, Any]] = field(default_factory=list)
    ledger: dict[str, Any] = field(default_factory=dict)
    asked: int = 0
    tokens: int = 0
    measured_ns: tuple[int, int] = (0, 0)
    pss_mb: float = 0.0

    @property
    def passed(self) -> bool:
        return (
            not any(sample["failed"] for sample in self.samples)
            and DIFFERENT not in self.alike.values()
            and all(each["free_ms"] is not None for each in self.leaving)
            and self.ledger["exchanges"] == self.ledger["distinct"] == self.asked
            and self.ledger["streamed_tokens"] == self.tokens
        )


# --- how fast ---------------------------------------------------------------------------------------------


def measure(report: Report, places: list[Place], given: argparse.Namespace) -> None:
    """Each concurrency at each place, by turns; a short one of the largest warms both up before."""
    first, began_ns = 1, time.time_ns()
    with Clients(given.processes) as clients:
        warm = max(given.concurrency)
        for place in places:
            load = place.load(report.model, connections=warm, tokens=16, words=given.words, first=first)
            first += load.requests
            _turn(report, clients, place, load)
        for connections in given.concurrency:
            each = max(given.each, -(-given.at_least // connections))
            for number in range(given.rounds):
                # What slows down as time goes on slows both: the second turn of a pair goes first next time.
                for place in places if number % 2 == 0 else places[::-1]:
                    load = place.load(report.model, connections=connections, each=each, tokens=given.tokens)
                    load = replace(load, words=given.words, first=first)
                    first += load.requests
                    sample = _turn(report, clients, place, load)
                    report.samples.append(sample | {"round": number})
                    print(_line(sample), file=sys.stderr, flush=True)
    report.measured_ns = began_ns, time.time_ns()


def _turn(report: Report, clients: Clients, place: Place, load: Load) -> dict[str, Any]:
    seen, spent = clients.run(load, lambda: cpu_us(place.pid) if place.pid else 0.0)
    sample: dict[str, Any] = {"place": place.name, "connections": load.connections, **seen.figures()}
    if place.pid:
        report.asked += load.requests
        report.tokens += seen.tokens
        report.pss_mb = max(report.pss_mb, pss_mb(place.pid))
        sample |= {
            "cpu_token_us": spent / max(1, seen.tokens),
            "cpu_request_us": spent / max(1, sample["answers"]),
            "cores": spent / 1e6 / sample["seconds"],
        }
    return sample


def _line(sample: dict[str, Any]) -> str:
    told = f"{sample['place']:8} {sample['connections']:4}: {sample['tokens_per_s']:8,.0f} tokens/s"
    return f"{told}, first {sample['ttft_p50_ms']:.1f} ms, gap {sample['gap_p50_ms']:.2f} ms"


# --- what is answered -------------------------------------------------------------------------------------

SAME, DIFFERENT, UNSTEADY = "same", "different", "the engine does not agree with itself"
_GREEDY: Final = {"temperature": 0, "seed": 1}
_TALK: Final = {"messages": [{"role": "user", "content": "Where is my parcel, and when does it come?"}]}
_USAGE: Final = {"stream": True, "stream_options": {"include_usage": True}}
_CHAT, _COMPLETIONS = "/v1/chat/completions", "/v1/completions"
#: What is asked of both, by name: a path, and a body.
QUESTIONS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "chat": (_CHAT, {**_TALK, **_GREEDY, "max_tokens": 48, "logprobs": True}),
    "chat, two choices": (_CHAT, {**_TALK, "seed": 7, "temperature": 0.8, "max_tokens": 24, "n": 2}),
    "chat, streamed": (_CHAT, {**_TALK, **_GREEDY, **_USAGE, "max_tokens": 48, "logprobs": True}),
    "chat, streamed, no usage asked": (_CHAT, {**_TALK, **_GREEDY, "max_tokens": 48, "stream": True}),
    "chat, a sampled seed": (_CHAT, {**_TALK, "seed": 7, "temperature": 0.8, "max_tokens": 48}),
    "chat, one stop word": (_CHAT, {**_TALK, **_GREEDY, "max_tokens": 48, "stop": ["e"]}),
    "completions": (_COMPLETIONS, {"prompt": "Where is", **_GREEDY, "max_tokens": 48, "logprobs": 1}),
    "completions, two prompts": (_COMPLETIONS, {"prompt": ["Where is", "Hm"], **_GREEDY, "max_tokens": 24}),
    "completions, streamed": (_COMPLETIONS, {"prompt": "Where is", **_GREEDY, **_USAGE, "max_tokens": 48}),
    "responses": ("/v1/responses", {"input": "Where is it?", "temperature": 0, "max_output_tokens": 24}),
    "messages": ("/v1/messages", {**_TALK, "temperature": 0, "max_tokens": 24}),
    "tokenize": ("/tokenize", {"prompt": "Where is my parcel?"}),
    "a temperature that is refused": (_CHAT, {**_TALK, "temperature": -1}),
}


def compare(report: Report, direct: Place, proxied: Place) -> None:
    """Each question to the engine, through the proxy, and to the engine again."""
    with direct.client() as engine, proxied.client() as proxy:
        for name, (path, body) in QUESTIONS.items():
            whole = {"model": report.model, "user": "alike", **body}
            engine.post(path, json=whole)  # what it keeps of a prompt is kept for all three
            said = [told(client.post(path, json=whole)) for client in (engine, proxy, engine)]
            report.asked += 1
            report.alike[name] = verdict(*said)
            report.statuses[name] = said[1][0]
            if report.alike[name] == DIFFERENT:
                print(f"{name}:\n  engine {said[0]}\n  proxy  {said[1]}", file=sys.stderr)


def verdict(before: object, through: object, after: object) -> str:
    """Whether what came through the proxy is what the engine says, if that is one thing."""
    if through in (before, after):
        return SAME
    return DIFFERENT if before == after else UNSTEADY


def told(answer: httpx.Response) -> tuple[int, object]:
    """What an answer says, without what differs between any two: names, instants, where a stream is cut."""
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        return answer.status_code, stream_said(answer.content)
    return answer.status_code, _lasting(answer.json())


def _lasting(value: object) -> object:
    """Without names and instants, however deep."""
    if isinstance(value, dict):
        gone = ("id", "request_id", "created", "created_at", "completed_at")
        return {name: _lasting(each) for name, each in value.items() if name not in gone}
    return [_lasting(each) for each in value] if isinstance(value, list) else value


def stream_said(body: bytes) -> dict[str, Any]:
    """Text, tokens, ends and usage of a stream. An engine joins what waits for a slow reader: no chunks."""
    text, tokens, ends, usage = "", [], [], []
    events = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
    for event in events:
        document = {} if event.strip() == b"[DONE]" else orjson.loads(event)
        usage += [document["usage"]] if document.get("usage") else []
        for choice in document.get("choices") or ():
            text += (choice.get("delta") or {}).get("content") or choice.get("text") or ""
            found = choice.get("logprobs") or {}
            tokens += [(each["token"], each["logprob"]) for each in found.get("content") or ()]
            ends += [choice["finish_reason"]] if choice.get("finish_reason") else []
    done = bool(events) and events[-1].strip() == b"[DONE]"
    return {"text": text, "tokens": tokens, "ends": ends, "usage": usage, "done": done}


# --- how soon it is free of those who leave ---------------------------------------------------------------


def leave(report: Report, places: list[Place], times: int, leavers: int) -> None:
    """Clients that all leave at once, amid their streams, by turns."""
    for _ in range(times):
        for place in places:
            free_ms, polls_ms = asyncio.run(_leave(place, places[0], report.model, leavers))
            report.asked += leavers if place.pid else 0
            report.leaving.append({"place": place.name, "free_ms": free_ms, "poll_ms": polls_ms})


async def _leave(place: Place, engine: Place, model: str, leavers: int) -> tuple[float | None, float]:
    """Milliseconds until the engine says that nothing runs (None: it does not), and what asking it takes.

    Raises TimeoutError if it does not run so many at once.
    """
    async with httpx.AsyncClient(base_url=engine.url, timeout=10, trust_env=False) as client:
        async with asyncio.timeout(PATIENCE_SECONDS):
            writers = [await _under_way(place.load(model), number) for number in range(leavers)]
            while await _running(client) < leavers:  # noqa: ASYNC110 - another process sets no event
                await asyncio.sleep(0.01)
        began, polls = time.perf_counter(), 0
        for writer in writers:
            writer.transport.abort()
        while time.perf_counter() - began < PATIENCE_SECONDS:
            still, polls = await _running(client), polls + 1
            took = (time.perf_counter() - began) * 1e3
            if not still:
                return took, took / polls
            await asyncio.sleep(0.002)
    return None, 0.0


async def _under_way(load: Load, number: int) -> asyncio.StreamWriter:
    """A stream that has begun, and is far from its end."""
    body = {"model": load.model, "max_tokens": LONG, "ignore_eos": True, "stream": True}
    body |= {"user": f"leaver-{number}", "messages": [{"role": "user", "content": "Go on"}]}
    reader, writer = await asyncio.open_connection(load.host, load.port)
    writer.write(post(_CHAT, load.host, load.key, orjson.dumps(body)))
    for _ in range(_UNDER_WAY):
        await reader.readuntil(b"data: ")
    return writer


async def _running(client: httpx.AsyncClient) -> float:
    """Requests that the engine works at, as it counts them itself."""
    lines = (await client.get("/metrics")).text.splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("vllm:num_requests_running{")
    )


# --- what is on record ------------------------------------------------------------------------------------


def account(report: Report, spool: Path, ledger: Path) -> None:
    """The spool into a ledger, and what it holds."""
    with Store(ledger) as store:
        collector = Collector(store, spool)
        while collector.collect_once().exchanges:
            pass
        [report.ledger] = store.read(
            """SELECT count(*) AS exchanges, count(DISTINCT exchange_id) AS "distinct",
                      count(*) FILTER (served_arm = 'candidate') AS candidate,
                      sum(completion_tokens) FILTER (started_at BETWEEN ? AND ?) AS streamed_tokens
               FROM exchanges""",
            [instant(ns) for ns in report.measured_ns],
        )
        outcomes = store.read("SELECT outcome, count(*) AS n FROM exchanges GROUP BY outcome ORDER BY n DESC")
        report.ledger["outcomes"] = {each["outcome"]: each["n"] for each in outcomes}


# --- all of it --------------------------------------------------------------------------------------------


@contextmanager
def proxied(data: Path) -> Iterator[Place]:
    """One worker on what is prepared in `data`."""
    port = free_port()
    command = [sys.executable, "-m", "proxy", "--data", str(data), "--port", str(port)]
    command += ["--control-url", f"http://127.0.0.1:{free_port()}"]
    with running(command, port) as process:
        yield Place(name="Turnout", url=f"http://127.0.0.1:{port}", key=row.KEY, pid=process.pid)


def table(samples: list[dict[str, Any]]) -> str:
    """Medians of the rounds, as Markdown, and in brackets each round's tokens per second."""
    lines = ["| at once | | " + " | ".join(COLUMNS.values()) + " |", "|" + " --- |" * (len(COLUMNS) + 2)]
    for connections in dict.fromkeys(sample["connections"] for sample in samples):
        for place in dict.fromkeys(sample["place"] for sample in samples):
            of = [each for each in samples if (each["connections"], each["place"]) == (connections, place)]
            cells = [_cell(name, [each[name] for each in of if name in each]) for name in COLUMNS]
            lines.append(f"| {connections} | {place} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(name: str, values: list[float]) -> str:
    if not values:
        return ""
    decimals = 0 if name == "tokens_per_s" else 1 if name == "requests_per_s" else 2
    median = f"{statistics.median(values):,.{decimals}f}"
    single = " ".join(f"{value:,.0f}" for value in values)
    return f"{median} ({single})" if name == "tokens_per_s" and len(values) > 1 else median


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="the engine: http://HOST:PORT")
    parser.add_argument("--model", default="chat", help="the name that it serves")
    parser.add_argument("--concurrency", type=lambda text: [int(one) for one in text.split(",")])
    parser.add_argument("--rounds", type=int, default=2, help="turns of each place at each concurrency")
    parser.add_argument("--each", type=int, default=4, help="requests of a connection in a turn, at least")
    parser.add_argument("--at-least", type=int, default=16, help="requests in a turn, at least")
    parser.add_argument("--tokens", type=int, default=128, help="of an answer")
    parser.add_argument("--words", type=int, default=128, help="of a prompt")
    parser.add_argument("--processes", type=int, default=min(4, os.cpu_count() or 1), help="of the clients")
    parser.add_argument("--leave", type=int, default=3, help="how often clients leave amid their streams")
    parser.add_argument("--leavers", type=int, default=50, help="at once; the engine must run so many")
    parser.add_argument("--data", type=Path, help="a folder that `bench.row.prepare` made for this engine")
    parser.add_argument("--out", type=Path, help="a file for all samples, as JSON")
    parser.set_defaults(concurrency=[1, 16, 64, 256])
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point; the exit code says whether answers, leaving and the ledger are as they must be."""
    given = _parser().parse_args(argv)
    report = Report(given.model)
    with tempfile.TemporaryDirectory(prefix="turnout-bench-") as name:
        data = given.data or Path(name) / "data"
        if not (data / "proxy-snapshot.json").exists():
            row.prepare(data, given.model, (given.url, given.url))
        direct = Place(name="engine", url=given.url)
        with proxied(data) as place:
            compare(report, direct, place)
            measure(report, [direct, place], given)
            leave(report, [direct, place], given.leave, given.leavers)
        account(report, data / "spool", Path(name) / "ledger.duckdb")
    if given.out:
        given.out.write_bytes(orjson.dumps({**_document(report), "passed": report.passed}))
    print(table(report.samples))
    print(orjson.dumps(_document(report) | {"samples": None}, option=orjson.OPT_INDENT_2).decode())
    return 0 if report.passed else 1


def _document(report: Report) -> dict[str, Any]:
    return {name: getattr(report, name) for name in Report.__dataclass_fields__}


if __name__ == "__main__":
    sys.exit(main())
