"""A day of traffic in seconds: a real controller and ledger, a clock that is set, requests that are made up.

Every request goes where the snapshot in force sends its unit, every look is the controller's own. Only HTTP,
the engines and the passing of time are left out.
"""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

import orjson

from experiments.assignment import unit_id
from experiments.ledger import decisions
from experiments.ledger.exchange import ExchangeRecord
from experiments.ledger.recording import RecordingPolicy
from experiments.ledger.rows import rows_of
from experiments.ledger.store import Connection, instant

from .histories import MemoryPlane
from .plane import ADA

SECOND = 10**9
POLICY = RecordingPolicy(recording="numbers")
REQUEST = orjson.dumps({"model": "chat", "messages": [{"role": "user", "content": "Hello"}]})
ANSWER = orjson.dumps(
    {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
)


class Day:
    """A control plane under a virtual clock, and the traffic of its model.

    `faster` is the factor on the candidate's latency, `failing` its error rate; control fails once in 200.
    """

    def __init__(self, data: Path, *, seed: int, faster: float = 0.8, failing: float = 0.005) -> None:
        self.plane = MemoryPlane(data)
        self.random = Random(seed)
        self.faster = faster
        self.failing = failing
        self.requests = 0
        self.exposed = 0
        self.plane.start()

    def start(self, spec: str) -> None:
        self.plane.controller.control.start(spec, "day.yaml", ADA)

    def golden(self, verdict: str) -> None:
        """The comparison on the golden set, as the golden runner stores it."""
        at = instant(self.plane.now_ns)
        self.plane.controller.store.write(
            lambda c: c.execute(
                "INSERT INTO golden_comparisons"
                " VALUES ('g', 'support', 'h', 'chat', 'a', 'b', 1, 2, ?, ?, '{}', NULL)",
                [verdict, at],
            )
        )

    def pass_time(self, seconds: int, requests: int) -> None:
        """Requests spread over the time, then a look of the controller."""
        began, rows = self.plane.now_ns, []
        for number in range(requests):
            rows += self._request(began + seconds * SECOND * number // max(1, requests))
        self.plane.now_ns = began + seconds * SECOND
        self._collect(rows)
        self.plane.controller.watch.look()
        self.plane.controller.settlement.pay_all()

    def _request(self, at_ns: int) -> list[ExchangeRecord]:
        self.requests += 1
        unit = unit_id(f"user-{self.random.randrange(4000)}")
        snapshot = self.plane.snapshot
        route = snapshot.route("chat", unit)
        primary = self._exchange(at_ns, f"{self.requests:08x}-p", unit, route.endpoint.version)
        primary.experiment, primary.phase = route.experiment, route.phase
        primary.assigned_arm = primary.served_arm = route.arm
        made = [primary]
        self.exposed += route.endpoint.version == 2
        for mirror, endpoint in snapshot.mirrors("chat", unit, primary.exchange_id):
            copy = self._exchange(at_ns, f"{self.requests:08x}-s", unit, endpoint.version)
            copy.role, copy.experiment, copy.phase = "shadow", mirror.experiment, mirror.phase
            copy.assigned_arm = copy.served_arm = mirror.arm
            copy.pair_id = primary.pair_id = primary.exchange_id
            made.append(copy)
        return made

    def _exchange(self, at_ns: int, name: str, unit: str, version: int) -> ExchangeRecord:
        candidate = version == 2
        failed = self.random.random() < (self.failing if candidate else 0.005)
        factor = self.faster if candidate else 1.0
        duration = round(400_000 * factor * math.exp(self.random.gauss(0.0, 0.4)))
        return ExchangeRecord(
            exchange_id=name,
            request_id=name,
            started_ns=at_ns,
            path="/v1/chat/completions",
            model="chat",
            worker="w1",
            unit=unit,
            snapshot=self.plane.snapshot.version,
            assigned_version=version,
            served_version=version,
            status=500 if failed else 200,
            outcome="upstream_error" if failed else "complete",
            content_type="application/json",
            duration_us=duration,
            first_byte_us=duration,
            request=REQUEST,
            response=b"{}" if failed else ANSWER,
            chunk_us=(duration,),
            chunk_ends=(len(ANSWER),),
        )

    def _collect(self, records: list[ExchangeRecord]) -> None:
        rows = [row for one in records for row in rows_of(one, "day", POLICY).exchanges]
        if not rows:
            return
        marks = ", ".join("?" * len(rows[0]))

        def write(connection: Connection) -> None:
            columns = [c[0] for c in connection.execute("SELECT * FROM exchanges LIMIT 0").description]
            started = columns.index("started_at")
            timed = [
                [instant(value * 1000) if at == started else value for at, value in enumerate(row)]
                for row in rows
            ]
            connection.executemany(f"INSERT INTO exchanges VALUES ({marks})", timed)

        self.plane.controller.store.write(write)

    def state(self) -> str:
        return self.plane.controller.junction.experiments()[0].state

    def stages(self) -> list[tuple[str, str]]:
        """(action, stage) of every decision, oldest first."""
        rows = reversed(decisions.listed(self.plane.controller.store, limit=500))
        return [(one.action, str(one.detail.get("stage", ""))) for one in rows]

    def close(self) -> None:
        self.plane.kill()
