"""How is a person forgotten who asks for it (article 17 of the GDPR)?

What Turnout keeps of some units is found, under whatever unit it was counted, and everything in words goes:
from the ledger, from what was set aside, from what is still in a spool, and then from the ledger's file.
Numbers stay, under a name drawn by lot, so that every verdict follows from the ledger as before. The audit
says that it was done, by whom and how much it was; not of whom.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from .assignment import point, unit_id
from .decision import Decision
from .ledger import decisions
from .ledger.collector import QUARANTINE
from .ledger.forgetting import Alias, Forgotten, Found, forget, naming
from .ledger.recorded import Gate
from .ledger.schema import LedgerError
from .ledger.store import Connection, Store
from .recorded import selection_of
from .steering.control import Author
from .steering.junction import Junction

#: The proxy cuts a unit's name here before it hashes it.
UNIT_CHARACTERS: Final = 512
#: Draws of a name that falls into the samples of past replays as the one that it stands for did.
_DRAWS: Final = 200_000

#: Where else a person's words may lie: nothing that Turnout could reach, or would know for theirs.
ELSEWHERE: Final = (
    "golden sets, reports, exports and worksheets in folders of your own: items made by `turnout golden add` "
    "name their exchange (source.exchange_id)",
    "MLflow's artefacts of golden runs, and what was told to a tracing backend or to webhooks",
    "other people's requests that speak of them, and notes, reasons and labels that your own people wrote",
    "the engines' and providers' own logs, and copies (backups) of the data folder",
)


#: Judges' words about golden answers, by a digest that tells nobody whose; asked again where they are needed.
JUDGE_CACHE: Final = "judge-cache.sqlite"


class _Rehearsed(Exception):
    """Nothing of it is to be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What was there, and whether the ledger's file is rid of it; `pending` says why not yet."""

    decision: Decision
    found: Found
    pending: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Over the API."""
        return {
            **self.decision.document(),
            "found": asdict(self.found),
            "pending": list(self.pending),
            "elsewhere": list(ELSEWHERE),
        }


class Erasure:
    """Forgets units. Safe to use from threads; `collecting` is held by whoever takes in the spool."""

    def __init__(
        self,
        junction: Junction,
        store: Store,
        forgotten: Forgotten,
        *,
        collecting: threading.Lock,
        data: Path,
    ) -> None:
        self._junction = junction
        self._store = store
        self._forgotten = forgotten
        self._collecting = collecting
        self._data = data

    def forget(self, raw: Sequence[str], author: Author, *, dry_run: bool = False) -> Erased:
        """Forget units by the names that applications give them. Safe to repeat: a second time finds what
        was under way at the first. Waits for the ledger to be written anew."""
        units = frozenset(unit_id(name[:UNIT_CHARACTERS]) for name in raw)
        with self._collecting:  # nothing comes into the ledger between the search and the end
            now = self._junction.now_ns()
            aliases = {unit: Alias(name=self._alias(unit), at_ns=now) for unit in sorted(units)}
            names = {unit: alias.name for unit, alias in aliases.items()}
            named = naming(self._store, units)
            if dry_run:
                return self._rehearsed(names, named, author)
            self._forgotten.add(aliases)
            done: list[Decision] = []

            def then(connection: Connection, found: Found) -> None:
                done.append(self._decision(found, len(units), author))
                decisions.record(connection, done[0])

            found = self._store.write(forget(names, named, then=then))
            self._store.outdate()
            self._forgotten.clean(self._data / "spool" / QUARANTINE)
            if found.golden_answers:
                _empty(self._data / JUDGE_CACHE)
        try:
            self._store.rewrite()
        except LedgerError as error:
            return Erased(
                decision=done[0], found=found, pending=(f"{error}; `turnout forget` again does it",)
            )
        return Erased(decision=done[0], found=found)

    def _rehearsed(self, names: Mapping[str, str], named: Sequence[str], author: Author) -> Erased:
        seen: list[Found] = []

        def then(connection: Connection, found: Found) -> None:
            seen.append(found)
            raise _Rehearsed

        with suppress(_Rehearsed):
            self._store.write(forget(names, named, then=then))
        return Erased(decision=self._decision(seen[0], len(names), author), found=seen[0])

    def _decision(self, found: Found, units: int, author: Author) -> Decision:
        return Decision(
            at_ns=self._junction.now_ns(),
            actor=author.actor,
            action="forget",
            model="",
            reason=author.reason,
            changed=(
                f"{units} unit{'s' if units != 1 else ''} forgotten: {found.bodies} bodies, "
                f"{found.explanations} judges' explanations and {found.golden_answers} golden answers went",
                f"the numbers of {found.exchanges} exchanges and {found.feedback} feedback rows stay, "
                "under a name drawn by lot",
            ),
            detail={"found": asdict(found)},
        )

    def _alias(self, unit: str) -> str:
        """The name that its rows get: the one they have got if it was forgotten a short time ago."""
        known = self._forgotten.get(unit)
        if known is not None:
            return known.name
        gates = list(self._sampled())
        wanted = [low <= point(salt, unit) < high for salt, low, high in gates]
        name = secrets.token_hex(8)
        for _ in range(_DRAWS):
            if [low <= point(salt, name) < high for salt, low, high in gates] == wanted:
                break
            name = secrets.token_hex(8)
        return name

    def _sampled(self) -> list[Gate]:
        """The parts of the hash that replays took: what they selected must stay what it was."""
        found: set[Gate] = set()
        for experiment in self._junction.experiments():
            selection = selection_of(experiment)
            if selection is not None:
                found.update(selection.gates)
                if selection.by_unit:
                    found.add((selection.salt, 0, selection.share_ppm))
        return sorted(found)


def _empty(cache: Path) -> None:
    """Where it is used at this moment, or no database, it stays: then it is for the operator to delete."""
    if not cache.exists():
        return
    with suppress(sqlite3.Error), closing(sqlite3.connect(cache, timeout=10.0, isolation_level=None)) as made:
        made.execute("DELETE FROM scores")
        made.execute("VACUUM")
        made.execute("PRAGMA wal_checkpoint(TRUNCATE)")
