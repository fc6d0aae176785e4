"""What does the controller hold to be true right now, and how does a change of it reach the proxies?

The experiments and the catalogue in memory: the snapshot follows from them and from nothing else, so that
traffic can be turned without asking a database, a disk or a registry. Whoever changes them holds `lock`,
which is never held across I/O other than publishing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from ..errors import NotFound
from ..ledger.exchange import Recording
from ..lifecycle import Experiment, open_on
from ..routing import CatalogModel, Table, table
from ..snapshot import Snapshot
from .publication import Publication


class Junction:
    """Memory, and its publication. Safe to use from threads."""

    def __init__(
        self,
        publication: Publication,
        *,
        admin_sha256: str = "",
        recordings: Callable[[], Mapping[str, Recording]] = dict,
        keys: Callable[[], Mapping[str, str]] = dict,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.lock = threading.RLock()
        self.publication = publication
        self.now_ns = now_ns
        self._admin_sha256 = admin_sha256
        self._recordings = recordings
        self._keys = keys
        self._experiments: dict[str, Experiment] = {}
        self._catalog: dict[str, CatalogModel] = {}
        self._table: Table | None = None
        self._rollbacks: dict[str, int] = {}

    # -- reading -----------------------------------------------------------------------------------------

    def experiments(self) -> list[Experiment]:
        """Every experiment, the newest first."""
        with self.lock:
            return sorted(self._experiments.values(), key=lambda one: (-one.created_ns, one.name))

    def experiment(self, name: str) -> Experiment:
        """The experiment of that name. Raises NotFound."""
        with self.lock:
            found = self._experiments.get(name)
            if found is None:
                known = ", ".join(sorted(self._experiments)) or "none"
                message = f"no experiment {name!r}; there are: {known}"
                raise NotFound(message, code="unknown_experiment", param="experiment")
            return found

    def has(self, name: str) -> bool:
        """Whether there is or was an experiment of that name."""
        with self.lock:
            return name in self._experiments

    def promoted(self, model: str, version: int | None) -> list[Experiment]:
        """The experiment whose promotion made a version production (the latest, if several did), or none."""
        found = (
            one
            for one in self.experiments()
            if (one.model, one.candidate_version, one.state) == (model, version, "promoted")
        )
        return sorted(found, key=lambda one: one.ended_ns or 0)[-1:]

    def open_on(self, model: str) -> list[Experiment]:
        """The model's experiments that have not ended, oldest first."""
        with self.lock:
            return open_on(self._experiments.values(), model)

    def still_open(self, ended: Sequence[Experiment]) -> list[Experiment]:
        """Those that a decision is about to end; the others had ended before it."""
        with self.lock:
            return [one for one in ended if self._experiments[one.name].is_open]

    def models(self) -> list[CatalogModel]:
        """Every model, by name."""
        with self.lock:
            return sorted(self._catalog.values(), key=lambda model: model.name)

    def model(self, name: str) -> CatalogModel:
        """The model of that name. Raises NotFound."""
        with self.lock:
            found = self._catalog.get(name)
            if found is None:
                known = ", ".join(sorted(self._catalog)) or "none"
                message = (
                    f"no model {name!r} is registered; there are: {known}. "
                    f"Register it: `turnout models register {name} --replica http://host:port`"
                )
                raise NotFound(message, code="unknown_model", param="model")
            return found

    @property
    def left_out(self) -> tuple[str, ...]:
        """What could not be routed in the snapshot in force, in words."""
        with self.lock:
            return self._table.left_out if self._table else ()

    def unserved(self, experiment: str) -> str | None:
        """Why an experiment that asks for traffic gets none, in words; None where it does."""
        with self.lock:
            return self._table.unserved.get(experiment) if self._table else None

    # -- changing ----------------------------------------------------------------------------------------

    def put(self, *experiments: Experiment) -> None:
        """Take experiments as they are given; not published yet."""
        with self.lock:
            self._experiments.update((one.name, one) for one in experiments)

    def note_rollback(self, model: str) -> None:
        """Somebody rolls this model back: whatever else is under way on it has been overtaken."""
        with self.lock:
            self._rollbacks[model] = self.rollbacks(model) + 1

    def rollbacks(self, model: str) -> int:
        """How often the model was rolled back since the start: equal before and after means not meanwhile."""
        with self.lock:
            return self._rollbacks.get(model, 0)

    def put_model(self, model: CatalogModel) -> None:
        """Take a model as it is given; not published yet."""
        with self.lock:
            self._catalog[model.name] = model

    def keep_models(self, names: set[str]) -> None:
        """Forget every model but these; not published yet."""
        with self.lock:
            self._catalog = {name: model for name, model in self._catalog.items() if name in names}

    def publish(self, *, even_if_same: bool = True) -> int:
        """Put in force what follows from memory now; the snapshot's version.

        With `even_if_same` False nothing happens when the routing table is what it was.
        """
        with self.lock:
            coming = table(self._catalog, self._experiments.values(), self._recordings(), self._keys())
            if not even_if_same and coming == self._table:
                return self.publication.version
            self._table = coming
            return self.publication.publish(self._snapshot).version

    def _snapshot(self, version: int) -> Snapshot:
        assert self._table is not None
        return Snapshot(
            version=version,
            published_ns=self.now_ns(),
            models=self._table.models,
            endpoints=self._table.endpoints,
            admin_sha256=self._admin_sha256,
            keys=self._table.keys,
        )
