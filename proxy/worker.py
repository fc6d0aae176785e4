"""One worker: what it holds, which path leads where, how it starts and how it ends.

It holds the current snapshot, its spool and its connections, and needs nobody else to answer a request.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from urllib.parse import unquote

import orjson

from experiments.ledger.exchange import ExchangeRecord
from experiments.ledger.spool import SpoolWriter
from experiments.snapshot import LITELLM, Snapshot

from . import auth, feedback, replay, wire
from .application import Request, Responder
from .breaker import Breakers
from .deadlines import Deadlines, tick_for
from .doorway import Doorway
from .errors import Refusal, internal_error, unknown_model
from .exposition import Scrape, WorkerState, open_files, resident_bytes, save
from .heads import KnownHeads, RequestHead
from .identity import worker_name
from .limits import Budget, Limits
from .metrics import Gauges, Metrics
from .probing import Probes
from .provider_process import ProviderProcess
from .relay import Relay
from .server import ClientConnection
from .shadow import Shadows
from .subscription import Subscription
from .upstream import Upstreams

log = logging.getLogger("turnout.proxy")

SEAL_SECONDS = 0.5
#: How often the log says that records are lost, while they are.
LOSSES_SECONDS = 60.0
#: How long a worker without any snapshot asks for one before it listens all the same, to say so.
UNINFORMED_SECONDS = 2.0
#: How long it waits for the process that asks providers, so that their first requests need not.
PREPARING_SECONDS = 15.0

#: Of the clients that are too many, so many are told so at a time; the others find the door shut.
_REFUSED_IN_WORDS = 64

#: Requests leave no cycles behind: what is rarely there need not be looked for often.
_GC_THRESHOLDS = (20_000, 20, 20)

#: All workers together, and each by itself.
_SCRAPES = ("/metrics", "/metrics/workers")

#: What follows is a model's name.
_ONE_MODEL = "/v1/models/"

_NOTHING = Snapshot(version=0, published_ns=0, models={}, endpoints={})


class Worker:
    """The application behind every client connection of one process."""

    def __init__(self, data: Path, control_url: str, limits: Limits) -> None:
        self.data = data
        self.limits = limits
        self.loop = asyncio.get_running_loop()
        self.name = worker_name()
        self.snapshot = _NOTHING
        self.budget = Budget(limits.held_bytes)
        self.draining = False
        self.leaving = False
        self.relays: set[Relay] = set()
        self.providers = ProviderProcess(limits)
        self.upstreams = Upstreams(limits, self.providers)
        self.spool = SpoolWriter(data / "spool", self.name)
        self.metrics = Metrics()
        self.shadows = Shadows(self)
        self.breakers = Breakers(limits, self.loop.time)
        self.probes = Probes(self)
        self.subscription = Subscription(control_url, data / "proxy-snapshot.json", self.name, self.adopt)
        self.heads: KnownHeads[RequestHead] = KnownHeads()
        self._clients: set[ClientConnection] = set()
        tick = tick_for(
            limits.head_seconds,
            limits.body_seconds,
            limits.keep_alive_seconds,
            limits.stalled_reader_seconds,
        )
        self._deadlines = Deadlines(self._clients, tick)
        self._concluding = False  # an answer has gone in this turn of the loop
        self._concluded: list[tuple[ExchangeRecord, Relay]] = []  # those behind it
        self._serials: defaultdict[tuple[str, int, str | None], Iterator[int]] = defaultdict(lambda: count(1))
        self._told_lost = 0
        self._tell_again = 0.0
        self._deserted = asyncio.Event()
        self._informed = asyncio.Event()
        self._get = {
            "/healthz": self._health,
            "/readyz": self._ready,
            "/v1/models": self._models,
        }

    def adopt(self, snapshot: Snapshot) -> None:
        """The swap: from here on every request is routed by it; what an engine has, ends where it began."""
        self.snapshot = snapshot
        self.heads.clear()  # they hold what the former table said of their keys
        self._informed.set()
        if any(endpoint.engine == LITELLM for endpoint in snapshot.endpoints.values()):
            self.providers.start()
        self.upstreams.overtaken(snapshot)
        for relay in list(self.relays):
            relay.overtaken(snapshot)
        self.shadows.overtaken(snapshot)
        splits = [split for route in snapshot.models.values() for split in route.splits]
        self.breakers.keep(
            {(split.experiment, split.phase, arm.version) for split in splits for arm in split.arms}
        )
        log.info("snapshot %d is in force", snapshot.version)

    # the application

    def opened(self, client: ClientConnection) -> bool:
        self._clients.add(client)
        beyond = len(self._clients) - self.limits.connections
        if beyond > _REFUSED_IN_WORDS:
            client.abort()
        return beyond <= 0

    def closed(self, client: ClientConnection) -> None:
        self._clients.discard(client)
        if not self._clients:
            self._deserted.set()

    def admit(self, headers: dict[bytes, bytes]) -> None:
        """Whether the key is known, or the admin's token is right. Raises Refusal."""
        if b"x-turnout-admin" in headers:  # a replay comes without a key
            auth.require_admin(self.snapshot, headers)
        else:
            auth.owner(self.snapshot, headers)

    def unread(self, reason: str) -> None:
        self.metrics.unread[reason] += 1

    def handle(self, request: Request, client: ClientConnection) -> Responder | None:
        """Answer at once, or say who will."""
        try:
            if request.head.method == "POST" and request.head.path in wire.APIS:
                relay = Relay(self, request, client)
                self.relays.add(relay)
                return relay if relay.start() else None
            if request.method == "POST" and request.path == replay.PATH:
                replayed = replay.Replay(self, request, client)
                return replayed if replayed.start() else None
            if request.method == "GET" and request.path in _SCRAPES:
                return Scrape(self, client, each=request.path == _SCRAPES[1])
            status, body = self._answer(request)
            client.respond(status, body)
        except Refusal as refusal:
            client.decline(refusal)
        except Exception:
            log.exception("a request could not be handled")
            client.decline(internal_error())
        return None

    def append(self, record: ExchangeRecord) -> bool:
        """To the spool, and whether it is there. A loss is counted; the request goes on all the same."""
        self._number(record)
        try:
            written = self.spool.append(record)
            self.metrics.observe(record)
            return written
        except Exception:
            log.exception("exchange %s could not be recorded", record.exchange_id)
            self.spool.count_loss()
            return False

    def conclude(self, record: ExchangeRecord, relay: Relay) -> None:
        """An answer is whole: write its record, then let it go to the client.

        The first in a turn of the loop goes at once; what else comes within the turn is written together, so
        that the more there is to do, the less each record costs. No answer waits for another turn's.
        """
        self._number(record)
        if self._concluding:
            self._concluded.append((record, relay))
        else:
            self._concluding = True
            try:
                self._deliver([(record, relay)])
            finally:  # whatever becomes of this one, the others must not wait for ever
                self.loop.call_soon(self._conclude_turn)

    def _conclude_turn(self) -> None:
        self._concluding = False
        if self._concluded:
            concluded, self._concluded = self._concluded, []
            self._deliver(concluded)

    def _number(self, record: ExchangeRecord) -> None:
        """Give an experiment's row its number, so that the ledger sees which arm's rows have been lost."""
        experiment = record.experiment
        if experiment is not None and record.origin == "live":
            key = experiment, record.phase, record.assigned_arm or record.outside
            record.serial = next(self._serials[key])

    def _deliver(self, concluded: list[tuple[ExchangeRecord, Relay]]) -> None:
        try:
            self.spool.append_all([record for record, _ in concluded])
        except Exception:
            log.exception("%d exchanges could not be recorded", len(concluded))
            for _ in concluded:
                self.spool.count_loss()
        for record, relay in concluded:
            try:
                relay.deliver()
            except Exception:
                log.exception("the answer to %s could not be delivered", record.request_id)
                relay.abort()
        for record, _ in concluded:  # once nobody waits for it
            try:
                self.metrics.observe(record)
            except Exception:
                log.exception("the answer to %s could not be counted", record.request_id)

    # what is not hot

    def _answer(self, request: Request) -> tuple[int, bytes]:
        if request.path == "/v1/feedback" and request.method == "POST":
            return self._feedback(request)
        answer = self._get.get(request.path)
        if answer is None and request.path.startswith(_ONE_MODEL):
            answer = self._model
        if answer is None and request.path not in (*wire.APIS, "/v1/feedback", replay.PATH, *_SCRAPES):
            known = ", ".join((*wire.APIS, "/v1/feedback", *self._get, *_SCRAPES))
            message = f"No such path: {request.path[:200]!r}. Paths are {known}."
            raise Refusal(404, "path_not_found", message)
        if answer is None or request.method not in ("GET", "HEAD"):
            expected = "GET" if answer or request.path in _SCRAPES else "POST"
            message = f"{request.method} is not for {request.path[:200]}: use {expected}."
            raise Refusal(405, "method_not_allowed", message)
        return answer(request)

    def _health(self, request: Request) -> tuple[int, bytes]:
        return 200, b'{"ok":true}'

    def _ready(self, request: Request) -> tuple[int, bytes]:
        """Ready is who has a snapshot; what was lost and how old the news are is said as well."""
        contact = self.subscription.last_contact
        report = {
            "ready": self.snapshot.version > 0 and not self.draining,
            "worker": self.name,
            "snapshot": self.snapshot.version,
            "controller_seen_s": None if contact is None else round(self.loop.time() - contact, 1),
            "in_flight": len(self.relays),
            "breakers_open": self.breakers.open_ones(),
            "recorded": self.spool.written,
            "lost": self.spool.lost,
        }
        return 200 if report["ready"] else 503, orjson.dumps(report)

    def _models(self, request: Request) -> tuple[int, bytes]:
        auth.tenant(self.snapshot, request.head)
        models = [self._described(name) for name in sorted(self.snapshot.models)]
        return 200, orjson.dumps({"object": "list", "data": models})

    def _model(self, request: Request) -> tuple[int, bytes]:
        """One of them, as clients ask for it before they use it."""
        auth.tenant(self.snapshot, request.head)
        name = unquote(request.path.removeprefix(_ONE_MODEL))
        if name not in self.snapshot.models:
            raise unknown_model(name, self.snapshot.models)
        return 200, orjson.dumps(self._described(name))

    def _described(self, name: str) -> dict[str, object]:
        created = self.snapshot.published_ns // 1_000_000_000
        return {"id": name, "object": "model", "created": created, "owned_by": "turnout"}

    def _feedback(self, request: Request) -> tuple[int, bytes]:
        """What the application says of an answer, now or later."""
        tenant = auth.tenant(self.snapshot, request.head)
        most = self.limits.unit_characters
        record = feedback.read(request.body, tenant, request.started_ns, self.name, unit_characters=most)
        if not self.spool.append(record):
            raise Refusal(503, "not_recorded", "The feedback could not be stored; send it again later.")
        return 202, b'{"accepted":true}'

    # life

    async def run(
        self,
        listener: socket.socket,
        parent: int | None,
        readiness: int | None = None,
        *,
        alone: bool = False,
        at_once: bool = False,
    ) -> None:
        """Serve until SIGTERM or SIGINT, or until the parent process is gone; then drain and stop.

        `readiness` is a pipe that is written to once connections are taken; `alone`: no other worker shares
        the listener; `at_once`: none takes connections now, so those to providers alone wait for these.
        """
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, stop.set)
        background = [
            self.loop.create_task(self.subscription.run()),
            self.loop.create_task(self._seal_regularly()),
            self.loop.create_task(self.shadows.gauge.run()),
        ]
        if not self.subscription.load():
            # Requests are better off in the queue, or with another worker, than with one that knows no model.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._informed.wait(), UNINFORMED_SECONDS)
        if not at_once:
            await self._prepared(stop)
        doorway = Doorway(self.loop, listener, lambda: ClientConnection(self), alone=alone)
        gc.collect()
        gc.freeze()  # what is there now stays: collections look at requests only
        gc.set_threshold(*_GC_THRESHOLDS)
        if readiness is not None:
            with suppress(OSError):
                os.write(readiness, b"1")
            os.close(readiness)
        try:
            while not stop.is_set() and (parent is None or os.getppid() == parent):
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 1.0)
        finally:
            await self.stop(doorway, background)

    def poll_busily(self) -> None:
        """Never sleep from now on, so that no request waits for a core to wake and its caches to fill.

        What is always ready makes the loop look for events without waiting. Named after HAProxy's
        `busy-polling`.
        """
        self.loop.call_soon(self.poll_busily)

    async def _prepared(self, stop: asyncio.Event) -> None:
        """Until providers can be asked, or patience has ended, or this worker is to stop."""
        waiting = [
            self.loop.create_task(self.providers.ready(PREPARING_SECONDS)),
            self.loop.create_task(stop.wait()),
        ]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def _seal_regularly(self) -> None:
        while True:
            await asyncio.sleep(SEAL_SECONDS)
            self.spool.seal()
            self.saved()
            self._tell_losses()

    def _tell_losses(self) -> None:
        """Say in the log that rows are being lost, and why: once a minute, since each would fill it."""
        now = self.loop.time()
        if self.spool.lost > self._told_lost and now >= self._tell_again:
            self._tell_again = now + LOSSES_SECONDS
            lost, folder = self.spool.lost, self.data / "spool"
            log.error("%d records in all could not be written to %s: %s", lost, folder, self.spool.trouble)
            self._told_lost = lost

    def saved(self) -> WorkerState:
        """What this worker says of itself at this moment, left where the other workers find it, if that can
        be: they say what this one has done."""
        metrics = Metrics()
        metrics.add(self.metrics)
        gauges = Gauges(
            in_flight=len(self.relays),
            connections=len(self._clients),
            snapshot=self.snapshot.version,
            records_written=self.spool.written,
            records_lost=self.spool.lost,
            shadow_in_flight=self.shadows.in_flight,
            shadow_bytes=self.shadows.bytes,
            tasks=len(asyncio.all_tasks(self.loop)),
            open_files=open_files(),
            resident_bytes=resident_bytes(),
        )
        state = WorkerState(self.name, metrics, gauges)
        with suppress(OSError):
            save(self.data / "metrics", state)
        return state

    async def _until_deserted(self, seconds: float) -> None:
        """Until no client is connected, or for `seconds`."""
        self._deserted.clear()
        if self._clients:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._deserted.wait(), seconds)

    async def stop(self, doorway: Doorway, background: list[asyncio.Task[None]]) -> None:
        # 1. No new connections. Answers now say `connection: close`; what a client sends on a connection that
        #    does not know it yet is still answered, for closing under a request would fail it.
        self.draining = True
        await doorway.close()
        await self._until_deserted(self.limits.last_call_seconds)
        # 2. Idle connections are closed; what is in flight ends where it began, within the drain time.
        self.leaving = True
        for client in list(self._clients):
            client.close_if_idle()
        await self._until_deserted(self.limits.drain_seconds)
        for client in list(self._clients):
            client.abort()
        await self._until_deserted(1.0)  # each leaves its row before the spool is handed over
        # 3. Shadow copies are not waited for, but each leaves its row.
        await self.shadows.close()
        self.probes.close()
        await self.upstreams.close()
        await self.providers.close()
        # 4. Nobody can write a row any more: hand the spool over.
        self._deadlines.close()
        self._conclude_turn()
        self.saved()
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        self.spool.close()
