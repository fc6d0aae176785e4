"""How does a new version come to be allowed traffic, by itself?

    seen ─▶ fingerprinted ─▶ preflight ─▶ golden ─▶ passed | failed | inconclusive
                                 └─▶ failed

A version is worked on when it is newer than production or bears the alias, and is served somewhere. Where it
stands is in its tags in the registry (`gate.*`), so that a restart goes on and a person sees it in MLflow;
the passed comparison in the ledger is what an experiment with `golden: {require: pass}` asks for. What was
concluded stands until one of the things it was concluded from changes: then the version is seen anew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from evaluators.automation import GateRule
from evaluators.canonical import content_hash
from evaluators.comparison import Comparison, compare
from evaluators.golden import GoldenSet
from evaluators.journal import JOURNAL_FOLDER
from evaluators.judges.cache import CACHE_FILE
from evaluators.judges.services import open_services
from evaluators.labels.ledger import LabelLedger, hand_out, people_of
from evaluators.ledger import ControlApi, GoldenLedger, Subject
from evaluators.loading import load_golden_set
from evaluators.models import Services
from evaluators.preferences import judged_pairs
from evaluators.preflight import Asker, NotServed, Report, Side, fingerprint_of, preflight, record, side
from evaluators.runner import RunLimits
from evaluators.runs import Effort, FinishedRun, finished_run
from evaluators.summary import Gate
from evaluators.target import ProxyTarget

log = logging.getLogger("turnout.evaluators")

_CONCLUDED: Final = frozenset(("passed", "failed", "inconclusive"))
_STATES: Final[dict[Gate, str]] = {"pass": "passed", "fail": "failed", "inconclusive": "inconclusive"}
#: An engine can be restarted with other files at the same address: look again after so long, in seconds.
_LOOK_AGAIN_S: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The proxy, what opens it, and the data folder: what was answered or judged is kept there."""

    proxy_url: str
    token: str
    data: Path
    api_key: str | None = None

    def services(
        self, golden: GoldenSet, subjects: Sequence[Subject], ledger: GoldenLedger, *, in_usd: bool = False
    ) -> AbstractAsyncContextManager[Services]:
        """The models that the set's evaluators may ask about these subjects; `in_usd`: only a judge of which
        it is known what it costs."""
        return open_services(
            golden,
            subjects,
            ledger,
            proxy_url=self.proxy_url,
            token=self.token,
            api_key=self.api_key,
            cache=self.data / CACHE_FILE,
            in_usd=in_usd,
        )


@dataclass(slots=True, kw_only=True)
class VersionGate:
    """The gate of one model. `step` does what is to be done next, and says what it did."""

    rule: GateRule
    api: ControlApi
    access: Access
    _settled: dict[int, tuple[str, float]] = field(default_factory=dict)

    async def step(self) -> str | None:
        """Bring the first version that waits to its conclusion; None if none does. By then another may be
        first, or in production. Raises EvaluatorError and ControlError when something is away or wrong; the
        next step begins where this one ended."""
        view = await asyncio.to_thread(self.api.get, f"/api/models/{self.rule.model}")
        production = view.get("production")
        if production is None:
            return None
        golden = load_golden_set(self.rule.set)
        for version in waiting(view, self.rule.alias):
            said = await self._bring(view, int(production), version, golden)
            if said is not None:
                return said
        return None

    async def _bring(
        self, view: Mapping[str, Any], production: int, version: Mapping[str, Any], golden: GoldenSet
    ) -> str | None:
        number = int(version["version"])
        served = {int(one["version"]): one.get("endpoint") for one in view["versions"]}
        known = content_hash([production, served.get(production), served[number], *self._judged_by(golden)])
        before, looked = self._settled.get(number, ("", 0.0))
        if before == known and time.monotonic() - looked < _LOOK_AGAIN_S:
            return None
        try:
            control, candidate = await asyncio.to_thread(self._sides, production, number)
        except NotServed:
            return None  # production has no endpoint just now: nothing to hold it against
        prints = [await fingerprint_of(one) or "unknown" for one in (control, candidate)]
        people = LabelLedger(self.api)
        labels = await asyncio.to_thread(people.mark, golden, self.rule.model, production, number)
        key = content_hash([known, prints, *labels]).removeprefix("sha256:")[:16]
        tags = version.get("tags") or {}
        said = None
        if tags.get("gate.key") != key or tags.get("gate.state") not in _CONCLUDED:
            await self._note(number, "seen", key=key)
            await self._note(number, "fingerprinted", fingerprint=prints[1])
            said = await self._judge(control, candidate, golden)
        self._settled[number] = (known, time.monotonic())
        return said

    def _judged_by(self, golden: GoldenSet) -> list[Any]:
        """The rule and the set: its hash is of the questions alone, how they are judged stands beside it."""
        rule, judge = self.rule, golden.judge
        policy = [golden.evaluators, asdict(golden.policy), None if judge is None else asdict(judge)]
        return [golden.hash, *policy, list(rule.accept), rule.repeats]

    async def _judge(self, control: Side, candidate: Side, golden: GoldenSet) -> str:
        number, model = candidate.version, self.rule.model
        await self._note(number, "preflight")
        report = await self._preflight(control, candidate)
        if report.verdict != "pass":
            verdict = f"{report.verdict} {content_hash(report.to_json())}"
            await self._note(number, _STATES[report.verdict], verdict=verdict)
            return f"{model} version {number}: preflight: {report.sentence}"
        await self._note(number, "golden", golden=golden.hash)
        comparison = await self._compare(control.version, number, golden)
        verdict = f"{comparison.verdict} {content_hash(comparison.to_json())}"
        await self._note(number, _STATES[comparison.verdict], verdict=verdict)
        return f"{model} version {number}: {golden.name}: {comparison.sentence}"

    async def _preflight(self, control: Side, candidate: Side) -> Report:
        asker = Asker(
            base_url=self.access.proxy_url,
            model=self.rule.model,
            token=self.access.token,
            api_key=self.access.api_key,
        )
        async with asker:
            found = await preflight(self.rule.model, control, candidate, self.api, asker)
        report = found.accepting(self.rule.accept)
        await asyncio.to_thread(record, self.api, report)
        return report

    async def _compare(self, control: int, candidate: int, golden: GoldenSet) -> Comparison:
        ledger = GoldenLedger(self.api)
        model = self.rule.model
        subjects = [await asyncio.to_thread(ledger.subject, model, str(one)) for one in (control, candidate)]
        async with self.access.services(golden, subjects, ledger) as services:
            runs = [await self._run(ledger, subject, golden, services) for subject in subjects]
            control_run, candidate_run = (run.results for run in runs)
            limits = RunLimits(concurrency=self.rule.concurrency)
            found = await judged_pairs(golden, control_run, candidate_run, services=services, limits=limits)
            people = await asyncio.to_thread(people_of, ledger, golden, control_run, candidate_run)
        comparison = compare(golden, control_run, candidate_run, found, people)
        await asyncio.to_thread(ledger.save, self.rule.model, comparison, runs[0].run, runs[1].run)
        await asyncio.to_thread(hand_out, ledger, golden, control_run, candidate_run)
        return comparison

    async def _run(
        self, ledger: GoldenLedger, subject: Subject, golden: GoldenSet, services: Services
    ) -> FinishedRun:
        """Production's run is reused where it asked the same; a candidate's too, if it stands unchanged."""
        limits = RunLimits(concurrency=self.rule.concurrency)
        target = ProxyTarget(
            base_url=self.access.proxy_url,
            model=self.rule.model,
            version=subject.version,
            token=self.access.token,
            api_key=self.access.api_key,
            concurrency=self.rule.concurrency,
        )
        async with target:
            journal = self.access.data / JOURNAL_FOLDER
            effort = Effort(repeats=self.rule.repeats, reuse=True, limits=limits, journal=journal)
            return await finished_run(golden, subject, ledger, target, effort, services=services)

    def _sides(self, control: int, candidate: int) -> tuple[Side, Side]:
        model = self.rule.model
        return side(self.api, model, str(control)), side(self.api, model, str(candidate))

    async def _note(self, version: int, state: str, **values: str) -> None:
        path = f"/api/models/{self.rule.model}/versions/{version}/gate"
        await asyncio.to_thread(self.api.post, path, {"state": state, **values})
        log.info("%s version %s: %s", self.rule.model, version, state)


def waiting(view: Mapping[str, Any], alias: str) -> list[Mapping[str, Any]]:
    """The versions that could get traffic next: served, and with the alias or newer than production; that
    with the alias first, then the newest."""
    production = int(view["production"])
    found = [
        version
        for version in view["versions"]
        if version.get("endpoint")
        and int(version["version"]) != production
        and (alias in version.get("aliases", ()) or int(version["version"]) > production)
    ]
    return sorted(found, key=lambda one: (alias not in one.get("aliases", ()), -int(one["version"])))
