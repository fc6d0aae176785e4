"""Any history of an experiment and of production, with the process killed between any two steps.

Rules are what operators, evidence, other hands and failing parts do. After every rule: one production
version in the snapshot, and versions that only grow in every worker. Whenever everything is in reach and had
its time: registry, memory, snapshot and disk agree, the ledger says what memory says, nothing is half done.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from experiments.errors import ExperimentsError
from experiments.ledger import decisions, trials
from experiments.lifecycle import LIVE
from experiments.steering.watch import Watch
from experiments.verdict import VerdictKind
from registry import Registry, RegistryError
from tests.registry.server import MlflowServer

from .memory_registry import MemoryRegistry
from .plane import AB, ADA, CANARY, CHAIN, SHADOW, FlakyRegistry, Killed, Plane, stock, verdict

STEPS = ("intent", "noted", "moved", "alias", "snapshot", "done", "owed", "published", "records", "recorded")
KINDS: tuple[VerdictKind, ...] = ("invalid", "roll_back", "ship", "keep_running", "inconclusive")
REFUSALS = (ExperimentsError, RegistryError, duckdb.Error, OSError)


class MemoryPlane(Plane):
    """The control plane on a registry in memory, which outlives its kills as MLflow does."""

    def __init__(self, data: Path) -> None:
        data.mkdir()
        self._begin(data, MemoryRegistry(self._at))  # type: ignore[arg-type]


class ServedPlane(Plane):
    """The control plane on an MLflow server, where `chat` begins anew."""

    def __init__(self, data: Path, server: MlflowServer) -> None:
        data.mkdir()
        client = MlflowClient(server.url)
        with suppress(MlflowException):  # the first history finds nothing
            client.delete_registered_model("chat")
        stock(Registry(server.url))
        self._begin(data, FlakyRegistry(server.url, self._at))


class Histories(RuleBasedStateMachine):
    """One history."""

    #: How many histories this process has told, and how many kills were in them.
    told = 0
    kills = 0

    def __init__(self, plane: Callable[[Path], Plane] = MemoryPlane) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="turnout-history-"))
        self.plane = plane(self.folder / "data")
        self.names = 0
        self.seen = {"worker-1": 0, "worker-2": 0}
        self.disk_full = False
        type(self).told += 1

    @initialize()
    def begin_history(self) -> None:
        self.plane.start()

    def teardown(self) -> None:
        try:
            if hasattr(self.plane, "controller"):
                self.everything_in_reach()
        finally:
            with suppress(Exception):
                self.plane.kill()
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- doing it, perhaps killed ------------------------------------------------------------------------

    def do(self, action: Callable[[], Any], crash_at: str | None) -> None:
        """Refusals are answers; a kill is followed by a restart."""
        plane = self.plane
        plane.crash_at = crash_at
        try:
            action()
        except Killed:
            type(self).kills += 1
            self.mend_disk()
            plane.restart_without_settling()
        except REFUSALS:
            pass
        finally:
            plane.crash_at = None

    maybe = st.one_of(st.none(), st.sampled_from(STEPS))

    @rule(
        spec=st.sampled_from((AB, CANARY, SHADOW, CHAIN)),
        candidate=st.sampled_from((1, 2, 3)),
        on_ship=st.sampled_from(("hold", "promote")),
        draft=st.booleans(),
        part=st.sampled_from((None, "0, 40", "40, 80", "60, 100")),
        crash=maybe,
    )
    def start(
        self, spec: str, candidate: int, on_ship: str, draft: bool, part: str | None, crash: str | None
    ) -> None:
        self.names += 1
        text = spec.replace("faster", f"e{self.names}").replace("candidate: 2", f"candidate: {candidate}")
        text = text.replace("  golden: {require: pass, set: support}\n", "") + f"on_ship: {on_ship}\n"
        if part is not None:
            text += f"exclusive: {{group: rivals, units: [{part}]}}\n"
        self.do(lambda: self.plane.controller.control.start(text, "spec.yaml", ADA, draft=draft), crash)

    @rule(kind=st.sampled_from(KINDS), crash=maybe)
    def evidence(self, kind: VerdictKind, crash: str | None) -> None:
        """One look of the controller at every experiment, with this verdict on each."""
        self.plane.now_ns += 120 * 10**9
        controller = self.plane.controller

        def judge(spec: Any, evidence: Any, **_: Any) -> Any:
            return verdict(spec.experiment, kind, evidence.as_of_ns)

        watch = Watch(controller.control, controller.promotion, judge=judge)
        self.do(watch.look, crash)

    @rule(
        verb=st.sampled_from(("pause", "resume", "stop", "submit", "advance")),
        age=st.integers(0, 2),
        crash=maybe,
    )
    def operate(self, verb: str, age: int, crash: str | None) -> None:
        """On the newest experiment, or on one that began before it."""
        known = self.plane.controller.junction.experiments()[age:]
        if known:
            self.do(lambda: getattr(self.plane.controller.control, verb)(known[0].name, ADA), crash)

    @rule(version=st.sampled_from((None, 1, 2, 3)), force=st.booleans(), crash=maybe)
    def promote(self, version: int | None, force: bool, crash: str | None) -> None:
        self.plane.now_ns += 10**9
        self.do(lambda: self.plane.promote(version, force=force), crash)

    @rule(production=st.booleans(), crash=maybe)
    def rollback(self, production: bool, crash: str | None) -> None:
        self.plane.now_ns += 90 * 10**9
        self.do(lambda: self.plane.rollback(production=production), crash)

    @rule(crash=maybe)
    def the_loops_turn(self, crash: str | None) -> None:
        self.do(self.plane.settle, crash)

    @rule(crash=maybe)
    def killed(self, crash: str | None) -> None:
        """Killed when nothing is under way, and perhaps again while it takes up what it finds."""
        type(self).kills += 1
        self.mend_disk()
        self.plane.kill()

        def come_back() -> None:
            self.plane.start()
            self.plane.settle()

        self.do(come_back, crash)

    # -- parts that fail, other hands --------------------------------------------------------------------

    @rule(version=st.sampled_from((1, 2, 3)))
    def other_hands(self, version: int) -> None:
        with suppress(RegistryError):
            self.plane.registry.promote("chat", version)

    @rule()
    def registry_goes_or_comes(self) -> None:
        self.plane.registry.away = not self.plane.registry.away

    @precondition(lambda self: not self.disk_full)
    @rule()
    def disk_is_full(self) -> None:
        self.disk_full = True

        def refuse(change: object) -> object:
            raise duckdb.IOException("Could not write: No space left on device")

        self.plane.controller.store.write = refuse  # type: ignore[method-assign,assignment]

    @rule()
    def mend_disk(self) -> None:
        if self.disk_full:
            self.disk_full = False
            del self.plane.controller.store.write

    @rule(worker=st.sampled_from(("worker-1", "worker-2")))
    def worker_asks(self, worker: str) -> None:
        version = self.plane.controller.publication.version
        assert version >= self.seen[worker], "a worker would be taken back"
        self.seen[worker] = version

    # -- what always holds -------------------------------------------------------------------------------

    @invariant()
    def one_production_version(self) -> None:
        controller = getattr(self.plane, "controller", None)
        if controller is None or controller.publication.last is None:
            return
        route = controller.publication.last.models["chat"]
        assert route.production in (1, 2, 3)
        for one in controller.junction.experiments():
            if not one.is_open:
                assert one.name not in {split.experiment for split in route.splits}
                assert one.name not in {mirror.experiment for mirror in route.mirrors}

    @rule()
    def everything_in_reach(self) -> None:
        """Then nothing is half done."""
        plane = self.plane
        self.mend_disk()
        plane.registry.away = False
        plane.settle()
        plane.settle()
        controller = plane.controller
        controller.pulse()
        assert plane.production == plane.registry.production
        assert controller.settlement.debts == []
        assert decisions.intents(controller.store) == []
        kept = trials.load(controller.store)
        for one in controller.junction.experiments():
            stored = kept[one.name]
            assert (stored.state, stored.phase, stored.ranges if one.routes and one.is_open else None) == (
                one.state, one.phase, one.ranges if one.routes and one.is_open else None,
            )  # fmt: skip
        routing = [one for one in controller.junction.open_on("chat") if one.routes and one.state in LIVE]
        parts = sorted(one.spec.exclusive.units if one.spec.exclusive else [0.0, 100.0] for one in routing)
        assert all(one[1] <= other[0] for one, other in pairwise(parts)), "a unit in two experiments"
        assert [split.experiment for split in plane.snapshot.models["chat"].splits] == [
            one.name for one in controller.junction.open_on("chat") if one.routes and one.has_traffic
        ]
