"""How does a changed turnout.yaml come into force, by an editor or by `turnout apply`, and who is told?

A file that is torn, empty or wrong changes nothing but the error that operators see; that, too, is a decision
row, and so an event. What an apply writes is a recoverable transaction: intent, file, snapshot, done. So is
what it writes to evaluators.yaml, which the evaluators take up by themselves.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..config import Config, Declared, differences, read_config
from ..decision import EVALUATORS_FILE, SETTINGS_FILE, Action, Decision, DecisionState, Done
from ..errors import Unavailable
from ..ledger import decisions
from ..ledger.store import Connection, DatabaseError, Store
from ..replacing import digest, digest_of, replace_whole
from .control import Author
from .junction import Junction

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
            return self._put(self.config.file, text, author, changed, self.config.replace, self._publish)

    def replace_evaluators(self, text: str, author: Author) -> Done:
        """Put a text in the place of evaluators.yaml. Raises Unavailable; then all is as it was."""
        file = self.evaluators
        changed = (f"the file {file.name} is put in its place: the evaluators take it up within seconds",)
        with self._one_at_a_time:
            return self._put(file, text, author, changed, partial(replace_whole, file), lambda: None)

    def _put(
        self,
        file: Path,
        text: str,
        author: Author,
        changed: tuple[str, ...],
        write: Callable[[str], None],
        come_into_force: Callable[[], None],
    ) -> Done:
        intent = self._decision(author, "intent", changed, sha256=digest(text), file=file.name)
        self._record(intent)
        self._at("settings intent")
        try:
            write(text)
        except OSError as error:
            self._settle(intent, "failed")
            message = f"{file} cannot be written ({error}): what it said stays in force"
            raise Unavailable(message, code="settings_unwritable") from error
        self._at("settings written")
        come_into_force()
        self._at("settings in force")
        made = replace(intent, state="done")
        self._record(made)
        return Done(decision=made, snapshot=self._junction.publication.version)

    def recover(self) -> None:
        """What an earlier controller began is done if the file is there, and failed if not."""
        for intent in decisions.intents(self._store):
            if intent.action == ACTION:
                there = digest_of(self.config.file.with_name(intent.detail.get("file", SETTINGS_FILE)))
                self._settle(intent, "done" if there == intent.detail.get("sha256") else "failed")

    @property
    def evaluators(self) -> Path:
        """Where evaluators.yaml is, whether it is there or not."""
        return self.config.file.with_name(EVALUATORS_FILE)

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
