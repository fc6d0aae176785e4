"""The real control API over a real controller, with a little of everything in its ledger.

What the pages are tested against where the shape of the documents matters: nothing here is written by hand.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from experiments.api import create_app
from experiments.ledger.exchange import ExchangeRecord
from experiments.ledger.spool import SpoolWriter
from tests.experiments.ledger.samples import chat_answer, chat_request, record
from tests.experiments.plane import AB, SHADOW, TOKEN, Plane

SET_HASH = f"golden@sha256:{'0' * 64}"
RUNS = {1: "a" * 32, 2: "b" * 32}
UNITS = 200


@contextmanager
def real_control(folder: Path, stocked_mlflow: Path) -> Iterator[tuple[Plane, str]]:
    """A plane with an A/B `faster` (v2 against v1), a shadow `mirror` (v3) and golden runs, and its URL."""
    with serving(Plane(folder / "data", stocked_mlflow)) as (plane, url):
        _fill(plane)
        _golden(url)
        _preflight(url)
        yield plane, url


@contextmanager
def serving(plane: Plane) -> Iterator[tuple[Plane, str]]:
    """The plane, started, and its control API's URL."""
    plane.start()
    server = uvicorn.Server(
        uvicorn.Config(create_app(plane.controller), port=0, log_level="error", lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started:
            assert thread.is_alive(), "the control API did not start"
            assert time.monotonic() < deadline, "the control API did not start within 20 s"
            time.sleep(0.02)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield plane, url
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        plane.kill()


def _fill(plane: Plane) -> None:
    plane.begin(AB)
    plane.begin(
        SHADOW.replace("experiment: faster", "experiment: mirror").replace("candidate: 2", "candidate: 3")
    )
    writer = SpoolWriter(plane.data / "spool", "w1")
    began = plane.now_ns
    plane.now_ns += 60 * 10**9
    for exchange in _exchanges(began):
        assert writer.append(exchange)
    writer.close()
    plane.controller.collect()
    plane.controller.watch.look()


def _exchanges(now_ns: int) -> list[ExchangeRecord]:
    found = []
    for number in range(UNITS):
        arm, version = ("control", 1) if number % 2 else ("candidate", 2)
        at = {"started_ns": now_ns + number * 1_000_000, "unit": f"{number:016x}"}
        primary = record(
            number,
            request=chat_request(f"question {number}"),
            response=chat_answer("it takes 14 days"),
            duration_us=250_000 - 50_000 * (version - 1) + number,
            **{"experiment": "faster", "phase": 1, "assigned_arm": arm, "served_arm": arm},
            **{"assigned_version": version, "served_version": version},
            **at,
        )
        mirrored = record(
            1000 + number,
            request_id=primary.request_id,
            pair_id=primary.exchange_id,
            role="shadow",
            response=chat_answer("it takes 5 days" if number % 3 else "it takes 14 days"),
            **{"experiment": "mirror", "phase": 1, "assigned_arm": "candidate", "served_arm": "candidate"},
            **{"assigned_version": 3, "served_version": 3},
            **at,
        )
        found += [primary, mirrored]
    return found


def _golden(url: str) -> None:
    about = {"set_name": "support", "set_hash": SET_HASH, "model": "chat"}
    with httpx.Client(
        base_url=f"{url}/api/golden", headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False
    ) as http:
        for version, run in RUNS.items():
            _post(http, "/runs", {"run_id": run, "version": version, **about})
            _post(http, f"/runs/{run}/results", {"results": [_result(n, version) for n in range(4)]})
            summary = {"items": 4, "scored": 4, "missing": 0, "passed": 3.0}
            _post(http, f"/runs/{run}/finish", {"status": "complete", "summary": summary})
        result = {
            "sentence": "Fail: item 1 fails newly.",
            "items": {"compared": 4, "missing": 0},
            "newly_failing": [{"item_id": "item-1", "evaluator": "exact", "expected": "5", "got": "14"}],
        }
        sides = {
            "control_run": RUNS[1],
            "candidate_run": RUNS[2],
            "control_version": 1,
            "candidate_version": 2,
        }
        body = {"comparison_id": "c" * 32, "verdict": "fail", "result": result, **sides, **about}
        _post(http, "/comparisons", body)
        runs = {name: sides[name] for name in ("control_run", "candidate_run")}
        task = {name: "x" for name in ("task", "item_id", "item_hash", "evaluator", "criterion")}
        task |= {"set_name": "support", "evaluator_version": "judge@1"}
        sheet = {"evaluator": "kind", "set_name": "support", "seed": "s", "needed": 1, "open": 1, "items": 1}
        shown = {"place": 0, "question": "user: q", "answers": ["a"], "criterion": "c", "grades": ["fail"]}
        _post(http, "/worksheet", {**runs, **sheet, "tasks": [{**shown, "label": task}]})


def _preflight(url: str) -> None:
    finding = {
        "check": "template",
        "status": "fail",
        "sentence": "9 of 11 questions become another prompt.",
        "items": ["plain"],
        "numbers": {},
    }
    prints = {"control_fingerprint": "sha256:a", "candidate_fingerprint": "sha256:b"}
    result = {"verdict": "fail", "sentence": "Fail: template.", "findings": [finding], **prints}
    sides = {"model": "chat", "control_version": 1, "candidate_version": 2}
    with httpx.Client(
        base_url=f"{url}/api", headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False
    ) as http:
        _post(http, "/preflights", {"preflight_id": "d" * 32, "verdict": "fail", "result": result, **sides})


def _result(number: int, version: int) -> dict[str, Any]:
    return {
        "item_id": f"item-{number}", "item_hash": "h", "repeat": 0, "evaluator": "exact",
        "evaluator_version": "exact@1", "status": "scored", "value": 0.0 if number == version - 1 else 1.0,
    }  # fmt: skip


def _post(http: httpx.Client, route: str, body: dict[str, Any]) -> None:
    answer = http.post(route, json=body)
    assert answer.is_success, answer.text
