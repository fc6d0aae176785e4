"""What do a proxy's workers say together when Prometheus asks one of them?

Every worker leaves its sums in a file of its own each second, DATA/metrics/<worker>.json; whoever is asked
adds them up. Those of workers that have ended are kept in `ended.json`, so that no counter goes back when a
worker is replaced. Reading and adding up is nothing for the loop that relays.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from .application import Responder
from .errors import internal_error
from .metrics import DURATION_US, GAP_US, Gauges, Labels, Metrics

if TYPE_CHECKING:
    from .server import ClientConnection
    from .worker import Worker

log = logging.getLogger("turnout.proxy")

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
_ENDED: Final = "ended.json"
#: So many names of ended workers are remembered: a file is never added twice while it is being removed.
_REMEMBERED: Final = 64


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What one worker has said of itself; the ended ones together have no gauges."""

    worker: str
    metrics: Metrics
    gauges: Gauges | None


def open_files() -> int:
    """How many descriptors this process has open; 0 where the system does not tell."""
    try:
        return len(os.listdir("/dev/fd")) - 1  # the listing itself has one
    except OSError:
        return 0


def resident_bytes() -> int:
    """How much of this process is in RAM; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def save(folder: Path, state: WorkerState) -> None:
    """Leave a worker's sums where the others find them. Raises OSError."""
    gauges = None if state.gauges is None else state.gauges._asdict()
    _write(
        folder / f"{state.worker}.json",
        {"worker": state.worker, "metrics": state.metrics.document(), "gauges": gauges},
    )


def retire(folder: Path, pid: int) -> None:
    """Add the last sums of a worker that has ended to those of all that have. Never raises."""
    for path in folder.glob(f"*-{pid}-*.json"):
        if path.stem.split("-")[-2] != str(pid):  # a number in the host's name
            continue
        try:
            raw = orjson.loads((folder / _ENDED).read_bytes())
        except (OSError, ValueError):
            raw = {"includes": [], "metrics": Metrics().document()}
        try:
            total = Metrics.of(raw["metrics"])
            total.add(_read(path).metrics)
            includes = [*raw["includes"], path.name][-_REMEMBERED:]
            _write(folder / _ENDED, {"includes": includes, "metrics": total.document()})
            path.unlink()
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("the last numbers of %s could not be kept: %s", path.stem, error)


def clear(folder: Path) -> None:
    """Begin anew: counters start at zero with the supervisor."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in folder.glob("*.json*"):
        with suppress(OSError):
            path.unlink()


def _write(path: Path, document: Any) -> None:
    making = path.with_suffix(f".json.{os.getpid()}")
    making.write_bytes(orjson.dumps(document))
    making.replace(path)


def _read(path: Path) -> WorkerState:
    raw = orjson.loads(path.read_bytes())
    return WorkerState(raw["worker"], Metrics.of(raw["metrics"]), Gauges.of(raw["gauges"]))


def _states(folder: Path, own: WorkerState) -> Iterator[WorkerState]:
    """All workers', the asked one's own at first hand. What cannot be read is left out."""
    yield own
    others: dict[str, WorkerState] = {}
    for path in sorted(folder.glob("*.json")):
        if path.name not in (_ENDED, f"{own.worker}.json"):
            with suppress(OSError, ValueError, TypeError, KeyError):
                others[path.name] = _read(path)
    # The ended ones last: a file that has gone meanwhile is among them, and one that was read may be too.
    with suppress(OSError, ValueError, TypeError, KeyError):
        raw = orjson.loads((folder / _ENDED).read_bytes())
        yield WorkerState("ended", Metrics.of(raw["metrics"]), None)
        for name in raw["includes"]:
            others.pop(name, None)
    yield from others.values()


class Scrape(Responder):
    """An answer to Prometheus, made in a thread: it reads the other workers' files.

    What this one says it has left for the others before: killed at once, no counter of it goes back.
    """

    def __init__(self, worker: Worker, client: ClientConnection, *, each: bool) -> None:
        self._client = client
        state, metrics, spool = worker.saved(), worker.data / "metrics", worker.data / "spool"
        making = worker.loop.run_in_executor(None, lambda: expose(metrics, spool, state, each=each))
        making.add_done_callback(self._made)

    def _made(self, making: asyncio.Future[bytes]) -> None:
        error = making.exception()
        if error is None:
            self._client.answer(200, b"content-type: %b\r\n" % CONTENT_TYPE, making.result())
        else:
            log.error("the metrics could not be told", exc_info=error)
            self._client.decline(internal_error())

    def client_gone(self) -> None:
        """What is being made is thrown away."""


def expose(folder: Path, spool: Path, own: WorkerState, *, each: bool) -> bytes:
    """The text for Prometheus: sums over all workers, or with `each` one series per worker."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.registry import Collector

    states = list(_states(folder, own))
    if each:
        counted = [(state.worker, state.metrics) for state in states]
    else:
        together = Metrics()
        for state in states:
            together.add(state.metrics)
        counted = [("", together)]

    class Everything(Collector):
        def collect(self) -> Iterator[Any]:
            yield from _exchanges(counted, each=each)
            yield _unread(counted, each=each)
            yield from _workers(states)
            yield from _spool(spool)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Everything())
    return generate_latest(registry)


_LABELS: Final = ("model", "version", "experiment", "arm", "role")


def _values(labels: Labels) -> list[str]:
    return ["" if value is None else str(value) for value in labels]


def _exchanges(counted: list[tuple[str, Metrics]], *, each: bool) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    names = (*_LABELS, "worker") if each else _LABELS
    exchanges = CounterMetricFamily(
        "turnout_exchanges", "Exchanges by how they ended.", labels=(*names, "outcome")
    )
    duration = HistogramMetricFamily(
        "turnout_exchange_duration_seconds", "From the whole request to the end of the answer.", labels=names
    )
    first = HistogramMetricFamily(
        "turnout_time_to_first_chunk_seconds",
        "From the whole request to a stream's first bytes.",
        labels=names,
    )
    gaps = HistogramMetricFamily(
        "turnout_chunk_gap_seconds",
        "Between two pieces of a stream, as they came from the engine.",
        labels=names,
    )
    shed = CounterMetricFamily(
        "turnout_copies_shed", "Copies not sent, or refused by a limit, by why.", labels=(*names, "reason")
    )
    for worker, metrics in counted:
        for labels, numbers in metrics.numbers.items():
            values = [*_values(labels), worker] if each else _values(labels)
            for outcome, count in sorted(numbers.outcomes.items()):
                exchanges.add_metric([*values, outcome], count)
            for reason, count in sorted(numbers.shed.items()):
                shed.add_metric([*values, reason], count)
            _histogram(duration, values, DURATION_US, numbers.duration, numbers.duration_us)
            if any(numbers.first):
                _histogram(first, values, DURATION_US, numbers.first, numbers.first_us)
                _histogram(gaps, values, GAP_US, numbers.gaps, numbers.gaps_us)
    yield from (exchanges, shed, duration, first, gaps)


def _unread(counted: list[tuple[str, Metrics]], *, each: bool) -> Any:
    from prometheus_client.core import CounterMetricFamily

    told = "Requests without a row: of strangers, refused while they were read, or left by their client."
    family = CounterMetricFamily(
        "turnout_requests_unread", told, labels=("worker", "reason") if each else ("reason",)
    )
    for worker, metrics in counted:
        for reason, count in sorted(metrics.unread.items()):
            family.add_metric([worker, reason] if each else [reason], count)
    return family


def _histogram(family: Any, values: list[str], bounds: tuple[int, ...], counts: list[int], us: int) -> None:
    edges = [*(f"{bound / 1e6:g}" for bound in bounds), "+Inf"]
    family.add_metric(values, list(zip(edges, accumulate(counts), strict=True)), us / 1e6)


_GAUGES: Final = {
    "in_flight": "Requests under way.",
    "connections": "Clients connected.",
    "snapshot": "Version of the routing table in force.",
    "shadow_in_flight": "Mirrored copies under way.",
    "shadow_bytes": "Bytes that mirrored copies hold.",
    "tasks": "Tasks of the event loop.",
    "open_files": "File descriptors that are open.",
    "resident_bytes": "Memory of the process that is in RAM.",
}
_COUNTERS: Final = {
    "records_written": "Records handed to the spool.",
    "records_lost": "Records that could not be written; the ledger says when.",
}


def _workers(states: list[WorkerState]) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    alive = [(state.worker, state.gauges) for state in states if state.gauges is not None]
    for kind, told in ((GaugeMetricFamily, _GAUGES), (CounterMetricFamily, _COUNTERS)):
        for name, meaning in told.items():
            family = kind(f"turnout_{name}", meaning, labels=("worker",))
            for worker, gauges in alive:
                family.add_metric([worker], getattr(gauges, name))
            yield family


def _spool(spool: Path) -> Iterator[Any]:
    """How much waits to be collected: all of it would be late in the ledger, none of it is lost."""
    from prometheus_client.core import GaugeMetricFamily

    sizes = []
    for path in spool.glob("*/*.seg"):
        with suppress(OSError):
            sizes.append(path.stat().st_size)
    yield GaugeMetricFamily("turnout_spool_segments", "Sealed segments not yet collected.", value=len(sizes))
    yield GaugeMetricFamily("turnout_spool_bytes", "Bytes in sealed segments.", value=sum(sizes))
