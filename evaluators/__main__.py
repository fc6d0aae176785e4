"""`python -m evaluators`: the process that gates new versions and scores recorded exchanges, until SIGTERM.

Keeps no state of its own: where a version stands is in the registry's tags, what was scored in the ledger.
Away services are waited for; it never stands between a user and an answer.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from evaluators.automation import FILE, Automation, OnlineRule, read_automation
from evaluators.errors import EvaluatorError
from evaluators.ledger import GoldenLedger
from evaluators.online import OnlineScorer
from evaluators.versiongate import Access, VersionGate
from experiments.client import ControlClient, ControlError

log = logging.getLogger("turnout.evaluators")

_EVERY_S: Final = 5.0
_AFTER_AN_ERROR_S: Final = 30.0


@dataclass(slots=True, kw_only=True)
class Loops:
    """What the file asks for, kept going; read again whenever the file changes."""

    path: Path
    api: ControlClient
    access: Access
    every_s: float = _EVERY_S
    _changed: float = -1.0
    _gates: list[VersionGate] = field(default_factory=list)
    _online: tuple[OnlineRule, ...] = ()
    #: What is wrong with each part, as it was told: it is tried again every few seconds.
    _troubles: dict[str, str] = field(default_factory=dict)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set."""
        while not stop.is_set():
            try:
                self._reload()
                self._troubles.pop("file", None)
            except OSError as error:
                self._trouble("file", str(self.path), error)
            failed = [not await self._gate(gate) for gate in self._gates]
            busy = [await self._score(rule, stop) for rule in self._online]
            pause = 0.0 if any(busy) else self.every_s
            if any(failed):
                pause = max(self.every_s, _AFTER_AN_ERROR_S)
            try:
                async with asyncio.timeout(pause):
                    await stop.wait()
            except TimeoutError:
                continue

    async def _gate(self, gate: VersionGate) -> bool:
        """Do what is to be done now; False after an error of the gate's own, which holds up no other part."""
        try:
            said = await gate.step()
            if said is not None:
                log.info("%s", said)
        except Exception as error:
            self._trouble(f"gate {gate.rule.model}", gate.rule.model, error)
            return isinstance(error, (ControlError, OSError))
        self._troubles.pop(f"gate {gate.rule.model}", None)
        return True

    async def _score(self, rule: OnlineRule, stop: asyncio.Event) -> bool:
        """Score for a while; whether something may still wait. Traffic may bring more than can be scored, and
        neither a changed file nor a new version waits for its end. A judge that may not be asked is told; the
        other rules go on."""
        until = asyncio.get_running_loop().time() + self.every_s
        ledger = GoldenLedger(self.api)
        judged = rule.golden.judge is not None
        try:
            subjects = [await asyncio.to_thread(ledger.subject, rule.model, "production")] if judged else []
            in_usd = rule.usd_per_day is not None
            async with self.access.services(rule.golden, subjects, ledger, in_usd=in_usd) as services:
                scorer = OnlineScorer(rule=rule, api=self.api, services=services)
                while not stop.is_set() and await scorer.step():
                    if asyncio.get_running_loop().time() >= until:
                        return True
        except Exception as error:
            self._trouble(f"online {rule.name}", rule.name, error)
            return False
        self._troubles.pop(f"online {rule.name}", None)
        return False

    def _trouble(self, part: str, name: str, error: Exception) -> None:
        """Say it once, not every few seconds; of a fault of ours, or of a plugin's, with its traceback. No
        other part of the process ends with it."""
        foreseen = isinstance(error, (EvaluatorError, ControlError, OSError))
        told = str(error) if foreseen else f"{type(error).__name__}: {error}"
        if self._troubles.get(part) != told:
            self._troubles[part] = told
            log.log(
                logging.WARNING if foreseen else logging.ERROR, "%s: %s", name, told, exc_info=not foreseen
            )

    def _reload(self) -> None:
        """A file that is wrong leaves what was good in force, and is told once."""
        try:
            changed = self.path.stat().st_mtime
        except FileNotFoundError:
            changed = 0.0
        if changed == self._changed:
            return
        first = self._changed < 0.0
        try:
            found = read_automation(self.path)
            self._changed = changed  # only now: what could not be read is read again
            self._keep()
        except EvaluatorError as error:
            self._changed = changed
            log.error("%s", error)
            if not first or not self._last_good.exists():
                return
            try:
                found = read_automation(self._last_good)
            except EvaluatorError as no_more:
                log.error("what was good last is so no more, and nothing is in force: %s", no_more)
                return
            log.warning("what was good last is in force: %s", self._last_good)
        self._gates = [VersionGate(rule=rule, api=self.api, access=self.access) for rule in found.gates]
        self._online = found.online
        self._troubles.clear()
        log.info("%s: %s", self.path, _told(found))

    @property
    def _last_good(self) -> Path:
        return self.path.with_suffix(f".last-good{self.path.suffix}")

    def _keep(self) -> None:
        """What is good now, for a start that finds the file torn. A full disk costs this copy only."""
        making = self._last_good.with_suffix(".new")
        try:
            if self.path.exists():
                making.write_bytes(self.path.read_bytes())
                making.replace(self._last_good)
            else:
                self._last_good.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s could not be written: %s", self._last_good, error)


def _told(found: Automation) -> str:
    gates = ", ".join(rule.model for rule in found.gates) or "none"
    online = ", ".join(rule.name for rule in found.online) or "nothing"
    return f"gates of {gates}; scoring {online}"


async def _run(loops: Loops) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    running = asyncio.ensure_future(loops.run(stop))
    waiting = asyncio.ensure_future(stop.wait())
    await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    running.cancel()  # in the middle of a run too: what was answered is stored, and is gone on with
    await asyncio.gather(running, waiting, return_exceptions=True)
    if not running.cancelled():
        running.result()  # an end that nobody has asked for says why


def main(argv: Sequence[str] | None = None) -> int:
    """The process; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m evaluators", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help=f"the folder with {FILE} and the token")
    parser.add_argument("--control-url", required=True)
    parser.add_argument("--proxy-url", required=True)
    parser.add_argument("--every", type=float, default=_EVERY_S, help="seconds between two looks")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        given = os.environ.get("TURNOUT_TOKEN", "").strip()
        token = given or (arguments.data / "token").read_text("utf-8").strip()
        api = ControlClient(arguments.control_url, token)
    except (OSError, ControlError) as error:
        log.error("the evaluators cannot start: %s", error)
        return 1
    with closing(api):
        loops = Loops(
            path=arguments.data / FILE,
            api=api,
            access=Access(
                proxy_url=arguments.proxy_url,
                token=token,
                data=arguments.data,
                api_key=os.environ.get("TURNOUT_API_KEY"),
            ),
            every_s=arguments.every,
        )
        asyncio.run(_run(loops))
    return 0


if __name__ == "__main__":
    sys.exit(main())
