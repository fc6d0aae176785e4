"""When does a candidate lose its traffic without any statistics?

When nothing succeeds there (the workers' breakers say so, in the rows), and when a shadow has used up what it
may. Both are told apart from verdicts by who did it: `breaker`, `budget`. Both pause: an operator who has
mended the cause resumes, and every unit gets its arm back. A shadow that has concluded has nothing to resume:
its copies end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from ..decision import Decision
from ..ledger import decisions, traffic
from ..ledger.tally import Tally, Trip
from ..lifecycle import Experiment
from ..spec import ShadowTraffic
from .control import Author, Control
from .settlement import SETBACKS

log = logging.getLogger("turnout.protection")

#: Actors of decisions that stand on no verdict.
BREAKER: Final = "breaker"
BUDGET: Final = "budget"


class Protection:
    """One thread calls `look`, every second or so."""

    def __init__(
        self,
        control: Control,
        *,
        revision: Callable[[], int],
        tally: Tally,
    ) -> None:
        self._control = control
        self._revision = revision
        self._tally = tally
        self._looked: int | None = None
        self._told: set[str] = set()

    def look(self) -> None:
        """Take the traffic of every candidate that must not have it; nothing to do without new rows."""
        revision = self._revision()
        if revision == self._looked:
            return
        missed = False
        for experiment in self._control.junction.experiments():
            if not experiment.has_traffic:
                continue
            try:
                if experiment.routes:
                    self._breakers(experiment)
                else:
                    self._budget(experiment)
            except SETBACKS as error:
                log.warning("experiment %s: not protected now: %s", experiment.name, error)
                missed = True  # looked at again, with new rows or without
        if not missed:
            self._looked = revision

    def _breakers(self, experiment: Experiment) -> None:
        store, phase = self._control.store, experiment.phase.number
        trips = self._tally.trips(experiment.name, phase)
        for trip in trips:
            self._note(experiment, trip)
        if not trips:
            return
        version = experiment.candidate_version
        answered, _, _ = traffic.candidate_ends(store, experiment.name, phase, version, trips[0].since_ns)
        if answered or experiment.state != "running":
            return  # elsewhere, or again, it answers: the statistics and the breakers' own probes go on
        _, failures, given_up = traffic.candidate_ends(store, experiment.name, phase, version, 0)
        workers = ", ".join(trip.worker for trip in trips)
        left = f", {given_up} left by their clients before they were answered," if given_up else ""
        reason = (
            f"breaker: nothing succeeds at version {version} ({failures} failures{left} in this phase, no "
            f"answer since the breaker of {workers} opened); no statistics. Mend it, then resume"
        )
        self._control.take_away(experiment.name, "pause", "pause", Author(actor=BREAKER, reason=reason))
        log.warning("experiment %s is paused: %s", experiment.name, reason)

    def _note(self, experiment: Experiment, trip: Trip) -> None:
        """One row for each worker and phase, however often this is looked at, or by how many controllers."""
        name = f"{BREAKER}/{experiment.name}/{experiment.created_ns}/{experiment.phase.number}/{trip.worker}"
        identity = sha256(name.encode()).hexdigest()[:32]
        if identity in self._told:
            return
        decision = Decision(
            decision_id=identity,
            at_ns=trip.since_ns,
            actor=BREAKER,
            action="breaker",
            model=experiment.model,
            experiment=experiment.name,
            from_version=experiment.candidate_version,
            to_version=experiment.control_version,
            reason="nothing succeeded there: a worker's breaker, no statistics",
            changed=(
                f"worker {trip.worker} sends the units of version {experiment.candidate_version} to version "
                f"{experiment.control_version}",
            ),
            detail={"phase": experiment.phase.number, "worker": trip.worker},
        )
        self._control.store.write(lambda connection: decisions.record(connection, decision))
        self._told.add(identity)

    def _budget(self, experiment: Experiment) -> None:
        caps = experiment.spec.traffic
        if not isinstance(caps, ShadowTraffic) or not (caps.max_tokens or caps.max_cost):
            return
        prompt, completion = self._tally.copied_tokens(experiment.name)
        used = ""
        if caps.max_tokens and prompt + completion >= caps.max_tokens:
            used = f"{prompt + completion} of {caps.max_tokens} tokens"
        if caps.max_cost and caps.prices:
            cost = (prompt * caps.prices.prompt + completion * caps.prices.completion) / 1e6
            if cost >= caps.max_cost:
                used = f"{cost:.4g} of {caps.max_cost:.4g} in money"
        if used:
            author = Author(actor=BUDGET, reason=f"budget: the copies have used {used}")
            if experiment.state == "concluded":
                self._control.stop(experiment.name, author)
            else:
                self._control.pause(experiment.name, author)
