"""Who owns the ledger, the registry's client and the snapshot, and keeps everything going?

Wiring and loops, each in a thread of its own: collect, reconcile, look and act, settle, tidy. A loop that
fails says so once and goes on; nothing here is awaited by traffic.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from registry import Registry, RegistryError

from .accounting import accounting_of
from .config import Config, Declared
from .erasure import Erasure
from .errors import NotFound
from .golden_log import GoldenLog
from .ledger import decisions, traffic, trials
from .ledger.accounts import Accounts
from .ledger.collector import Collected, Collector
from .ledger.forgetting import Forgotten
from .ledger.recording import RecordingPolicy
from .ledger.retention import Retention
from .ledger.standings import Standings
from .ledger.store import Connection, Store
from .ledger.tally import Tally
from .lifecycle import Experiment
from .notices import Notices
from .readiness import Probe, answers
from .recorded import selection_of
from .routing import catalog_of
from .snapshot import Snapshot
from .steering.adoption import Adoption
from .steering.control import Control
from .steering.enactment import Enactment
from .steering.journal import Journal
from .steering.junction import Junction
from .steering.promotion import Promotion
from .steering.protection import Protection
from .steering.publication import Publication
from .steering.reconciliation import Reconciliation
from .steering.rehearsal import Rehearsal
from .steering.settlement import SETBACKS, Settlement
from .steering.watch import Watch

if TYPE_CHECKING:
    from .spans import Tracing

log = logging.getLogger("turnout.controller")

SNAPSHOT_SETTING: Final = "snapshot_version"
#: More snapshots than can be published between two records of their number.
UNRECORDED_VERSIONS: Final = 1000
#: How long a controller without any model waits for the registry's first answer (MLflow's tables are made).
FIRST_ANSWER_S: Final = 30.0
#: However many hints come, the registry is not asked more often than this because of them.
HINTS_APART_S: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerOptions:
    """What a controller is told. Periods are seconds."""

    data: Path
    tracking_uri: str
    token: str
    collect_every_s: float = 0.25
    reconcile_every_s: float = 3.0
    look_every_s: float = 1.0
    tidy_every_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryCondition:
    """Whether the registry answers; `last_ok_s` is None if it never has since the start."""

    ok: bool
    error: str | None
    last_ok_s: float | None


class Controller:
    """One per data folder. `start` before the first request, `stop` once; both block."""

    def __init__(
        self,
        options: ControllerOptions,
        *,
        registry: Registry | None = None,
        at: Callable[[str], None] = lambda step: None,
        now_ns: Callable[[], int] = time.time_ns,
        probe: Probe = answers,
    ) -> None:
        options.data.mkdir(parents=True, exist_ok=True)
        self.options = options
        self.store = Store(options.data / "ledger.duckdb")
        try:
            self.registry = registry or Registry(options.tracking_uri)
            self.publication = Publication(options.data / "snapshot.json")
            self.config = Config(options.data / "turnout.yaml", _in_force(self.publication.last))
            self.junction = Junction(
                self.publication,
                admin_sha256=sha256(options.token.encode()).hexdigest(),
                recordings=self.config.recordings,
                keys=self.config.keys_in_force,
                now_ns=now_ns,
            )
            journal = Journal(options.data / "rollback.journal")
            self.settlement = Settlement(self.junction, self.store, self.registry, journal, at=at)
            self.control = Control(self.junction, self.store, self.settlement, at=at)
            publish = partial(self._publish, even_if_same=False)
            self.adoption = Adoption(self.config, self.junction, self.store, publish=publish, at=at)
            self.enactment = Enactment(self.control, self.adoption, at=at)
            self.promotion = Promotion(self.control, self.registry, probe=probe)
            self.rehearsal = Rehearsal(self.control, self.promotion, probe=probe)
            self.reconciliation = Reconciliation(self.control, self.registry, self.promotion)
            self.golden_log = GoldenLog(self.store, self.registry)
            tally, self.standings = Tally(self.store), Standings(self.store)
            self.watch = Watch(
                self.control,
                self.promotion,
                revision=lambda: self.revision,
                tally=tally,
                standings=self.standings,
            )
            self.protection = Protection(self.control, revision=lambda: self.revision, tally=tally)
            self.notices = Notices(self.store, self.config.webhooks, now_ns=now_ns)
            self.tracing = _tracing(self.store, now_ns)
            self.retention = Retention(self.store)
            self._collecting = threading.Lock()
            self.forgotten = Forgotten(options.data / "forgotten.json")
            self.collector = Collector(self.store, options.data / "spool", self.config, self.forgotten)
            self.erasure = Erasure(
                self.junction, self.store, self.forgotten, collecting=self._collecting, data=options.data
            )
        except BaseException:
            self.store.close()
            raise
        self.collected = Collected()
        self._stopping = threading.Event()
        self._hinted = threading.Event()
        self._asked = threading.Event()
        self._taken_in = threading.Event()
        self._accounts: dict[str, Accounts] = {}
        self._accounts_lock = threading.Lock()
        self.revision = 0
        self._threads: list[threading.Thread] = []
        self._registry_error: str | None = "not asked yet"
        self._registry_ok_at: float | None = None
        self._saved_version = 0

    # -- start and stop ----------------------------------------------------------------------------------

    def start(self, *, loops: bool = True) -> None:
        """Take the state up where it was left, publish it, and begin the loops."""
        recorded = int(decisions.setting(self.store, SNAPSHOT_SETTING) or 0)
        if recorded and self.publication.last is None:
            # What was published after the last record stood in the file that is torn or gone: no worker may
            # meet one of those numbers again with another table behind it.
            recorded += UNRECORDED_VERSIONS
        self.publication.raise_version(recorded)
        self.junction.put(*trials.load(self.store).values())
        if self.publication.last is not None:
            for model in catalog_of(self.publication.last).values():
                self.junction.put_model(model)
        self.settlement.adopt_journal()
        # What was owed and moves production is ahead of what the last snapshot on disk may say.
        for debt in self.settlement.debts:
            self._adopt_production(debt.decision.model, debt.alias)
        self.reconciliation.anticipate()
        self.adoption.recover()
        self.enactment.recover()
        self._publish()
        if not loops:
            self.reconcile()
        else:
            self._begin("collect", self.collect, self.options.collect_every_s, yields=False)
            self._begin("reconcile", self.reconcile, self.options.reconcile_every_s)
            self._begin("heed", self.heed, HINTS_APART_S)
            self._begin("look", self.look, self.options.look_every_s)
            self._begin("protect", self.protection.look, self.options.look_every_s)
            self._begin("tell", self.notices.tell, self.options.look_every_s)
            if self.tracing is not None:
                self._begin("trace", self.tracing.tell, self.options.look_every_s)
            self._begin("tidy", self.tidy, self.options.tidy_every_s)
            self._begin("pulse", self.pulse, 0.5)
            settle = threading.Thread(
                target=self.settlement.work, args=(self._stopping,), name="turnout-settle", daemon=True
            )
            settle.start()
            self._threads.append(settle)
            # Known models can be served at once; before there are any, there is nothing to serve.
            if self.publication.last is None or not self.publication.last.models:
                self._asked.wait(FIRST_ANSWER_S)

    def _adopt_production(self, model: str, version: int | None) -> None:
        try:
            if version is not None:
                self.reconciliation.adopt(self.junction.model(model), version)
        except NotFound:
            log.warning("the journal speaks of a model %r that is not known yet", model)

    def stop(self) -> None:
        """End the loops, collect what lies in the spool, give the ledger up. Safe to repeat."""
        self._stopping.set()
        self.settlement.wake()
        self.publication.release()
        if self.tracing is not None:
            self.tracing.close()
        for thread in self._threads:
            thread.join(timeout=10)
        self._threads.clear()
        try:
            self.collect()
            self._save_version()
        except SETBACKS as error:
            log.warning("at the end: %s", error)
        self.store.close()

    def _begin(self, name: str, step: Callable[[], object], every_s: float, *, yields: bool = True) -> None:
        thread = threading.Thread(
            target=self._repeat, args=(name, step, every_s, yields), name=f"turnout-{name}", daemon=True
        )
        thread.start()
        self._threads.append(thread)

    def _repeat(self, name: str, step: Callable[[], object], every_s: float, yields: bool) -> None:
        told = ""
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                step()
                told = ""
            except Exception as error:
                # A loop that ends is worse than a loop that fails: the next round may find things mended.
                trouble = f"{type(error).__name__}: {error}"
                if trouble != told:
                    log.warning("%s: %s", name, trouble, exc_info=not isinstance(error, SETBACKS))
                told = trouble
                if self.store.lost:
                    log.critical("the ledger has to be opened anew: the controller ends, to be started again")
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
            # Every second means every second, however long the step took; but one that takes long (a look at
            # millions of rows) leaves half of the time to everyone else. Not so collecting: its work is done
            # once.
            took = time.monotonic() - began
            self._stopping.wait(max(every_s - took, took) if yields else every_s)

    # -- the loops' steps --------------------------------------------------------------------------------

    def collect(self) -> None:
        """Take in what lies in the spool; at the end after a round that is still under way."""
        try:
            with self._collecting:
                self.collected = self.collector.collect_once()
        finally:
            self._taken_in.set()
        if self.collected.segments:
            self.revision += 1

    def look(self) -> None:
        """Judge, but not before what lay in the spool at the start is in the ledger: an experiment whose time
        is over by now must not end without what came while no controller ran."""
        if self._taken_in.wait(1.0):
            self.watch.look()

    def reconcile(self) -> None:
        """Take up what the registry says, finish or undo what was begun. The registry may be away."""
        try:
            # Ahead of MLflow's client, which loads parts of the same packages: in two threads at once either
            # could meet half of one.
            self.watch.prepare()
            self.reconciliation.recover()
            self.reconciliation.reconcile()
            self.reconciliation.label()
            self.golden_log.catch_up()
        except RegistryError as error:
            if self._registry_error is None:
                log.warning("the registry does not answer, the last known versions stay: %s", error)
            self._registry_error = str(error)
            return
        finally:
            self._asked.set()
        self._registry_error = None
        self._registry_ok_at = time.monotonic()

    def hint(self) -> None:
        """Somebody says that the registry has changed: look soon, whoever says it and however often."""
        self._hinted.set()

    def heed(self) -> None:
        """Wait a while for a hint; what it says is not believed, the registry is asked."""
        if self._hinted.wait(1.0):
            self._hinted.clear()
            self.reconcile()

    def pulse(self) -> None:
        """What should not wait: settings that changed, a snapshot not on disk yet, a worker that is ahead."""
        self.adoption.take_up()
        self.publication.save()
        ahead = self.publication.ahead()
        if ahead:
            log.warning("workers have a newer snapshot than this controller (%s): going on from there", ahead)
            self.publication.raise_version(max(ahead.values()))
            self._publish()
        self._save_version()

    def _publish(self, *, even_if_same: bool = True) -> None:
        """Publish, unless nothing is known: without a last snapshot, and before the registry has answered,
        "no models" would be a guess, and the workers, who know better, would believe it."""
        if self.publication.last is not None:
            self.junction.publish(even_if_same=even_if_same)

    def _save_version(self) -> None:
        version = self.publication.version
        if version == self._saved_version:
            return

        def write(connection: Connection) -> None:
            decisions.set_setting(connection, SNAPSHOT_SETTING, str(version))

        self.store.write(write)
        self._saved_version = version

    def tidy(self) -> None:
        """Delete the bodies that are no longer to be kept, and who was forgotten long enough ago."""
        with self._collecting:
            self.forgotten.expire(self.junction.now_ns())
        if not self._taken_in.is_set():
            return  # which segments cannot be deleted is known once the spool was looked through
        self.retention.prune(dict(self.config), now_ns=self.junction.now_ns(), stuck=self.collector.stuck)

    def accounting(self, experiment: Experiment) -> dict[str, Any]:
        """What became of an experiment's requests by now, in all its stages, and of a replay, where its
        recorded requests stand; of the rows only what is new is read."""
        return self.accountings([experiment])[experiment.name]

    def accountings(self, experiments: Sequence[Experiment]) -> dict[str, dict[str, Any]]:
        """The same of several, by name, for which the ledger is asked together."""
        with self._accounts_lock:
            books = {one.name: self._accounts.setdefault(one.name, Accounts(one.name)) for one in experiments}
            lost = traffic.take_in(self.store, books)
            counted = {
                name: asdict(accounting_of(accounts.found(), lost=lost[name]))
                for name, accounts in books.items()
            }
        for one in experiments:
            selection = selection_of(one)
            if selection is not None:
                counted[one.name]["replay"] = asdict(self.standings.of(selection))
        return counted

    # -- condition ---------------------------------------------------------------------------------------

    def registry_condition(self) -> RegistryCondition:
        """Whether the registry answered when it was last asked."""
        since = None if self._registry_ok_at is None else round(time.monotonic() - self._registry_ok_at, 1)
        return RegistryCondition(ok=self._registry_error is None, error=self._registry_error, last_ok_s=since)


def _in_force(last: Snapshot | None) -> Declared | None:
    """What a snapshot holds of the settings: whose keys are good, and how much is recorded."""
    if last is None:
        return None
    recordings = {name: RecordingPolicy(recording=route.recording) for name, route in last.models.items()}
    return Declared(policies=recordings, keys=last.keys)


def _tracing(store: Store, now_ns: Callable[[], int]) -> Tracing | None:
    """Who tells of exchanges as OpenTelemetry's variables say, None if nobody.

    It refuses some of what they may say, in part when it is imported: a controller starts all the same.
    """
    try:
        from .spans import of_environment

        return of_environment(store, now_ns)
    except Exception as error:
        log.error("no spans are told, for one of OpenTelemetry's variables is wrong: %s", error)
        return None
