"""A control plane in one process, that can be killed between any two steps and started again."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from experiments.controller import Controller, ControllerOptions
from experiments.decision import Backing
from experiments.ledger import decisions, trials
from experiments.ledger.store import Store
from experiments.lifecycle import Experiment
from experiments.snapshot import Snapshot
from experiments.steering.control import Author
from experiments.verdict import LookState, Verdict, VerdictKind
from registry import EndpointSpec, Move, RegisteredModel, Registry, RegistryUnreachable

TOKEN = "a-token"
ADA = Author(actor="ada", reason="because")

AB = """\
experiment: faster
model: chat
mode: ab
candidate: 2
traffic: {weight: 50}
metrics: {success: [{metric: latency}], guardrails: [{metric: error_rate, tolerated_ratio: 1.25}]}
"""
CANARY = AB.replace("mode: ab", "mode: canary").replace(
    "{weight: 50}", "{ramp: [5, 25, 50], min_units: 10, min_duration: 1m}"
)
CHAIN = """\
experiment: faster
model: chat
candidate: 2
stages:
  golden: {require: pass, set: support}
  shadow: {share: 20, analysis: {horizon: 200, looks: 1}}
  canary: {ramp: [5, 25, 50], min_units: 10, min_duration: 1m, analysis: {horizon: 1000, looks: 2}}
  ab: {weight: 50}
metrics: {success: [{metric: latency}], guardrails: [{metric: error_rate, tolerated_ratio: 1.25}]}
analysis: {horizon: 2000, looks: 3}
"""
SHADOW = AB.replace("mode: ab", "mode: shadow").replace("{weight: 50}", "{share: 20}")


class Killed(BaseException):
    """The process ends here: nothing that stands in an `except Exception` may run."""


class FlakyRegistry(Registry):
    """The real one, with a plug that can be pulled. `at` is called between the two writes of a move."""

    away = False

    def __init__(self, tracking_uri: str, at: Callable[[str], None] = lambda step: None) -> None:
        super().__init__(tracking_uri)
        self.at = at

    @property
    def production(self) -> int | None:
        """What the alias says, reachable or not for the controller."""
        return super().model("chat").production

    def _note(self, model: str, version: int, key: str, number: int) -> None:
        super()._note(model, version, key, number)
        self.at("noted")

    def _move_production(self, model: str, version: int) -> None:
        super()._move_production(model, version)
        self.at("moved")

    def models(self) -> list[RegisteredModel]:
        self._ask()
        return super().models()

    def model(self, name: str) -> RegisteredModel:
        self._ask()
        return super().model(name)

    def promote(self, model: str, version: int) -> Move:
        self._ask()
        return super().promote(model, version)

    def rollback(self, model: str) -> Move:
        self._ask()
        return super().rollback(model)

    def tag_version(self, model: str, version: int, key: str, value: str) -> None:
        self._ask()
        super().tag_version(model, version, key, value)

    def label(self, model: str, version: int, labels: Mapping[str, str]) -> None:
        self._ask()
        super().label(model, version, labels)

    def _ask(self) -> None:
        if self.away:
            raise RegistryUnreachable("MLflow does not answer")


def amid_the_next_write(store: Store, monkeypatch: pytest.MonkeyPatch, other: threading.Thread) -> None:
    """Let the other thread begin when the next change is about to be written."""
    write = store.write

    def overlapped(change: Any) -> Any:
        monkeypatch.setattr(store, "write", write)
        other.start()
        other.join(0.2)  # through at once, or held until this is written
        return write(change)

    monkeypatch.setattr(store, "write", overlapped)


def restock(stocked: Path, used: Path) -> None:
    """Put MLflow's tables as they are in `stocked` into `used`. The file stays the same one: MLflow keeps an
    engine for each, and SQLAlchemy makes every statement anew for each engine, which takes half a second."""
    with closing(sqlite3.connect(stocked)) as first, closing(sqlite3.connect(used)) as there:
        first.backup(there)


class Plane:
    """Model `chat` with three versions, the first one production. `crash_at` names the step to die at."""

    def __init__(self, data: Path, stocked_mlflow: Path) -> None:
        """One at a time in a process: all have their MLflow in the same file."""
        data.mkdir()
        (data / "ledger.duckdb").write_bytes(empty_ledger())
        self.stocked_mlflow = stocked_mlflow
        self.database = stocked_mlflow.with_name(f"in-use-{os.getpid()}.db")
        self.restock()
        self._begin(data, FlakyRegistry(f"sqlite:///{self.database}", self._at))

    def restock(self) -> None:
        """MLflow's tables are as they were at first."""
        restock(self.stocked_mlflow, self.database)

    def _begin(self, data: Path, registry: FlakyRegistry) -> None:
        self.data = data
        self.registry = registry
        self.crash_at: str | None = None
        self.steps: list[str] = []
        self.now_ns = 1_800_000_000_000_000_000
        #: Why a version's endpoint does not answer.
        self.down: dict[int, str] = {}

    def start(self) -> Controller:
        options = ControllerOptions(data=self.data, tracking_uri=self.registry.tracking_uri, token=TOKEN)
        self.controller = Controller(
            options,
            registry=self.registry,
            at=self._at,
            now_ns=self._tick,
            probe=lambda endpoint: self.down.get(endpoint.version),
        )
        self.controller.start(loops=False)
        return self.controller

    def _tick(self) -> int:
        """A clock on which no two things happen at once."""
        self.now_ns += 1_000_000
        return self.now_ns

    def _at(self, step: str) -> None:
        self.steps.append(step)
        if step == self.crash_at:
            raise Killed(step)

    def kill(self) -> None:
        """Nothing is finished; what DuckDB has committed stays, as after SIGKILL."""
        self.controller.store.close()

    def restart(self) -> None:
        """A new controller on what the dead one left, which then has the time that it needs."""
        self.restart_without_settling()
        self.settle()

    def restart_without_settling(self) -> None:
        """A new controller on what the dead one left. If the registry is away, that is no hindrance."""
        self.crash_at = None
        self.kill()
        self.start()

    def settle(self) -> None:
        """What the loops do in the background, once."""
        self.controller.settlement.pay_all()
        self.controller.reconcile()

    def dies_at(self, step: str, action: Callable[[], Any]) -> None:
        """Run an action that must be killed at a step."""
        self.crash_at = step
        try:
            action()
        except Killed:
            return
        raise AssertionError(f"never came to {step!r}, only to {self.steps}")

    # -- doing -------------------------------------------------------------------------------------------

    def begin(self, spec: str = AB) -> Experiment:
        return self.controller.control.start(spec, "spec.yaml", ADA)[0]

    def judged(self, kind: VerdictKind, name: str = "faster") -> Backing:
        """A verdict of that kind, as the watch would have kept it."""
        self.now_ns += 1_000_000_000
        made = verdict(name, kind, self.now_ns)
        self.controller.store.write(lambda connection: trials.save_look(connection, made))
        return Backing(kind=kind, digest=made.digest(), experiment=name)

    def conclude(self, kind: VerdictKind, name: str = "faster") -> None:
        self.controller.control.conclude(name, ADA, self.judged(kind, name))

    def promote(self, version: int | None = 2, *, force: bool = False) -> Any:
        return self.controller.promotion.promote("chat", version, ADA, force=force)

    def rollback(self, *, production: bool = False) -> Any:
        return self.controller.promotion.rollback("chat", ADA, production=production)

    # -- looking -----------------------------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot:
        found = self.controller.publication.last
        assert found is not None
        return found

    @property
    def on_disk(self) -> Snapshot:
        return Snapshot.from_json((self.data / "snapshot.json").read_bytes())

    @property
    def production(self) -> int:
        """The version that is production: in the registry, in memory, in the snapshot and on disk alike."""
        told = {
            "registry": self.registry.model("chat").production,
            "memory": self.controller.junction.model("chat").production,
            "snapshot": self.snapshot.models["chat"].production,
            "disk": self.on_disk.models["chat"].production,
        }
        assert len(set(told.values())) == 1, told
        only = told["registry"]
        assert only is not None
        return only

    def state(self, name: str = "faster") -> str:
        """The experiment's state, in memory and in the ledger alike."""
        memory = self.controller.junction.experiment(name).state
        assert trials.load(self.controller.store)[name].state == memory
        return memory

    @property
    def candidate_has_traffic(self) -> bool:
        return bool(self.snapshot.models["chat"].splits)

    def rows(self) -> list[tuple[str, str, str]]:
        """(actor, action, state) of every decision, oldest first."""
        found = decisions.listed(self.controller.store)
        return [(one.actor, one.action, one.state) for one in reversed(found)]


@cache
def empty_ledger() -> bytes:
    """A ledger with its tables and nothing in them, which takes a quarter of a second to make."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "ledger.duckdb")
        Store(file).close()
        return file.read_bytes()


def stock(registry: Registry) -> None:
    """Model `chat` with three versions, the first one production."""
    for number in (1, 2, 3):
        endpoint = EndpointSpec(replicas=(f"http://127.0.0.1:900{number}",), served_name="chat")
        registry.register("chat", endpoint, aliases=["production"] if number == 1 else [])


def shipped(plane: Plane) -> None:
    """An experiment that came to `ship`."""
    plane.begin()
    plane.conclude("ship")


def verdict(experiment: str, kind: VerdictKind, as_of_ns: int) -> Verdict:
    """A verdict that says what it is told to."""
    return Verdict(
        experiment=experiment,
        kind=kind,
        label=kind,
        sentence=f"It is {kind}.",
        reasons=(),
        metrics=(),
        srm={},
        look=LookState(
            planned=5,
            done=1,
            scheduled=True,
            final=False,
            units=100,
            effective=100.0,
            information=0.2,
            z_bound=None,
        ),
        units=100,
        horizon=5000,
        days_left=None,
        as_of_ns=as_of_ns,
    )
