"""How does a changed turnout.yaml come into force, by an editor or by `turnout apply`, and who is told?

A file that is torn, empty or wrong changes nothing but the error that operators see; that, too, is a decision
row, and so an event. What an apply writes is a recoverable transaction: intent, file, snapshot, done.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

from .config import Config, Declared, differences, read_config
from .control import Author
from .decision import SETTINGS_FILE, Action, Decision, DecisionState, Done
from .errors import Unavailable
from .junction import Junction
from .ledger import decisions
from .ledger.store import Connection, DatabaseError, Store

log = logging.getLogger("turnout.config")

ACTION: Action = "configure"
#: A file may have hundreds of problems; a row of the audit shows the first ones.
_SHOWN = 2000


class Adoption:
    """The settings' way into force. Safe to use from threads."""

    def __init__(
        self,
        config: Config,
        junction: Junction,
        store: Store,
        *,
        publish: Callable[[], None],
        at: Callable[[str], None] = lambda step: None,
    ) -> None:
        self.config = config
        self._junction = junction
        self._store = store
        self._publish = publish
        self._at = at
        self._one_at_a_time = threading.Lock()
        self._refused: str | None = None
        self._unrecorded: list[Decision] = []

    def take_up(self) -> None:
        """Take the file up if an editor has changed it.

        In force first, recorded afterwards: a full disk must not keep redaction from being switched on.
        """
        with self._one_at_a_time:
            before = self.config.declared
            if self.config.reload():
                self._publish()
                self._unrecorded.append(self._by_hand(before))
            if self.config.error not in (None, self._refused):
                self._unrecorded.append(self._refusal(str(self.config.error)))
            self._refused = self.config.error
            try:
                while self._unrecorded:
                    self._record(self._unrecorded[0])
                    del self._unrecorded[0]
            except DatabaseError as error:
                log.warning("what became of %s must be recorded later: %s", SETTINGS_FILE, error)

    def replace(self, text: str, author: Author) -> Done:
        """Put a text in the file's place and in force. Raises DocumentError, Unavailable; then all is as it
        was.
        """
        with self._one_at_a_time:
            coming = read_config(text, str(self.config.file))
            changed = differences(self.config.declared, coming) or (
                f"the file {SETTINGS_FILE} is put in its place",
            )
            intent = self._decision(author, "intent", changed, sha256=digest(text))
            self._record(intent)
            self._at("settings intent")
            try:
                self.config.replace(text)
            except OSError as error:
                self._settle(intent, "failed")
                message = f"{self.config.file} cannot be written ({error}): the settings stay as they were"
                raise Unavailable(message, code="settings_unwritable") from error
            self._at("settings written")
            self._publish()
            self._at("settings in force")
            made = replace(intent, state="done")
            self._record(made)
        return Done(decision=made, snapshot=self._junction.publication.version)

    def recover(self) -> None:
        """What an earlier controller began is done if the file is there, and failed if not."""
        for intent in decisions.intents(self._store):
            if intent.action == ACTION:
                there = self.on_disk == intent.detail.get("sha256")
                self._settle(intent, "done" if there else "failed")

    @property
    def on_disk(self) -> str | None:
        """The digest of the file as it is, good or not; None without one."""
        try:
            return sha256(self.config.file.read_bytes()).hexdigest()
        except FileNotFoundError:
            return None

    def _by_hand(self, before: Declared) -> Decision:
        author = Author(actor=SETTINGS_FILE, reason="the file was changed by other hands")
        changed = differences(before, self.config.declared)
        log.info("%s is in force: %s", self.config.file, "; ".join(changed) or "nothing is different")
        return self._decision(author, "done", changed)

    def _refusal(self, error: str) -> Decision:
        author = Author(actor=SETTINGS_FILE, reason=error[:_SHOWN])
        return self._decision(author, "failed", ("the settings stay as they were",))

    def _decision(
        self, author: Author, state: DecisionState, changed: tuple[str, ...], **detail: str
    ) -> Decision:
        return Decision(
            at_ns=self._junction.now_ns(),
            actor=author.actor,
            action=ACTION,
            model="",
            reason=author.reason,
            state=state,
            changed=changed,
            detail={**author.detail, **detail},
        )

    def _record(self, made: Decision) -> None:
        self._store.write(lambda connection: decisions.record(connection, made))

    def _settle(self, intent: Decision, state: DecisionState) -> None:
        def write(connection: Connection) -> None:
            decisions.settle(connection, intent.decision_id, state)

        try:
            self._store.write(write)
        except DatabaseError as error:
            log.warning("that %s is %s must be recorded at the next start: %s", SETTINGS_FILE, state, error)


def digest(text: str) -> str:
    """What a file with this text has as its digest."""
    return sha256(text.encode()).hexdigest()
