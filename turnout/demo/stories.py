"""What happens in the demo? Three candidates, three endings; each told by what the control API answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

from evaluators.comparison import Comparison
from evaluators.loading import load_golden_set
from evaluators.runner import RunLimits
from evaluators.runs import Effort
from experiments.client import ControlError
from turnout.golden_commands import Places
from turnout.scorecard import metric_text

from .shop import Shop
from .stage import MODEL, Stage

Json = dict[str, Any]

CANARY: Final = """\
experiment: {name}
model: {model}
mode: canary
candidate: {version}
unit: user
traffic: {{ramp: [20, 50], min_units: 150, min_duration: 2s}}
metrics:
  guardrails:
    - {{metric: error_rate, tolerated_ratio: 1.25}}
analysis: {{rollback_alpha: 0.01, horizon: 3000, looks: 5, min_duration: 0s, max_duration: 1h}}
golden: {{require: pass, set: support}}
"""

SHADOW: Final = """\
experiment: {name}
model: {model}
mode: shadow
candidate: {version}
unit: user
traffic: {{share: 100, tools: send, max_in_flight: 64}}
metrics:
  guardrails:
    - {{metric: error_rate, tolerated_ratio: 1.25}}
    - {{metric: latency, margin: 20%}}
analysis: {{horizon: 300, looks: 2, min_duration: 0s, max_duration: 1h}}
golden: {{require: pass, set: support}}
"""

AB: Final = """\
experiment: {name}
model: {model}
mode: ab
candidate: {version}
unit: user
traffic: {{weight: 50}}
metrics:
  success:
    - {{metric: "feedback:helped", mde: 5%}}
  guardrails:
    - {{metric: error_rate, tolerated_ratio: 1.25}}
    - {{metric: latency, margin: 10%}}
analysis: {{horizon: 1500, looks: 3, min_duration: 0s, max_duration: 1h}}
golden: {{require: pass, set: support}}
"""

#: Customers that a stage of a story waits for at most: twice what its horizon needs.
_AT_MOST: Final = {"canary": 4000, "shadow": 800, "ab": 3500}


@dataclass(slots=True)
class Line:
    """One row of the closing table."""

    version: int
    stage: str
    n: str
    metrics: list[str]
    verdict: str
    decision: str
    as_expected: bool


@dataclass(frozen=True, slots=True)
class Teller:
    """Tells the stories on a stage. `bar` shows a step's progress while it lasts."""

    stage: Stage
    shop: Shop
    say: Callable[[str], None]
    bar: Callable[[str, int], AbstractContextManager[Callable[[int], None]]]

    async def quality_drop(self) -> list[Line]:
        """The golden set stops a worse candidate before it gets traffic."""
        comparison = await self._compare(2)
        refused = await self._refused(2)
        self.say(refused)
        return [self._golden_line(2, comparison, "kept out: no traffic" if refused else "let in")]

    async def failing(self) -> list[Line]:
        """What no golden set sees, the canary does: the candidate fails under load and is rolled back."""
        comparison = await self._compare(3)
        await asyncio.to_thread(self.stage.degrade, 3, 0.25)
        view = await self._experiment("canary-v3", CANARY, 3, "canary")
        decision = "rolled back by itself" if view["state"] == "rolled_back" else view["state"]
        expected = view["state"] == "rolled_back" and view["verdict"]["kind"] == "roll_back"
        line = self._experiment_line(3, "canary", view, decision, expected)
        return [self._golden_line(3, comparison, "let into a canary"), line]

    async def better(self) -> list[Line]:
        """A better candidate passes golden set, shadow and A/B, and is promoted."""
        comparison = await self._compare(4)
        shadow = await self._experiment("shadow-v4", SHADOW, 4, "shadow")
        passed = shadow["verdict"]["kind"] == "ship"
        lines = [
            self._golden_line(4, comparison, "let into a shadow"),
            self._experiment_line(4, "shadow", shadow, "let into an A/B" if passed else "stopped", passed),
        ]
        if not passed:
            return lines
        await self._call("post", "/api/experiments/shadow-v4/stop", {"reason": "passed", "actor": "demo"})
        ab = await self._experiment("ab-v4", AB, 4, "ab")
        decision, promoted = await self._promote(4)
        lines.append(self._experiment_line(4, "A/B", ab, decision, promoted))
        return lines

    # the steps

    async def _compare(self, candidate: int) -> Comparison:
        self.say(f"turnout golden compare support --model {MODEL} --candidate {candidate}")
        settings = self.stage.settings
        golden_set = load_golden_set(self.stage.golden)
        places = Places(
            proxy_url=settings.proxy_address,
            control_url=settings.control_address,
            token=settings.read_token(),
        )
        with places.desk(8, 30.0) as desk:
            ledger = desk.ledger
            subjects = [
                await asyncio.to_thread(ledger.subject, MODEL, v) for v in ("production", str(candidate))
            ]
            effort = Effort(repeats=1, reuse=True, resume=True, limits=RunLimits(concurrency=8))
            runs, comparison = await desk.both(golden_set, subjects, effort)
            await asyncio.to_thread(ledger.save, MODEL, comparison, runs[0].run, runs[1].run)
        self.say(comparison.sentence)
        return comparison

    async def _refused(self, version: int) -> str:
        """Try to give it traffic all the same; the refusal, or an empty text if there was none."""
        try:
            await self._start("canary-v2", CANARY, version)
        except ControlError as error:
            if error.code == "golden_required":
                return str(error)
            raise
        return ""

    async def _start(self, name: str, spec: str, version: int) -> Json:
        text = spec.format(name=name, model=MODEL, version=version)
        body = {"spec_yaml": text, "filename": f"{name}.yaml", "actor": "demo"}
        return await self._call("post", "/api/experiments", body)

    async def _experiment(self, name: str, spec: str, version: int, mode: str) -> Json:
        """Start it and send customers until it has an ending."""
        await self._start(name, spec, version)
        self.say(f"turnout experiment start {name}.yaml")
        horizon = (await self._view(name))["horizon"]
        with self.bar(f"{name}: customers", horizon) as advance:
            view = await self._traffic(name, _AT_MOST[mode], advance)
        self.say(view["verdict"]["sentence"] if view["verdict"] else "no verdict")
        return view

    async def _traffic(self, name: str, at_most: int, advance: Callable[[int], None]) -> Json:
        """Customers come until the experiment has ended, or all have been; its last view."""
        closed = asyncio.Event()

        async def watch() -> Json:
            while True:
                view = await self._view(name)
                advance(view["units"])
                if view["state"] != "running" or closed.is_set():
                    return view
                await asyncio.sleep(0.3)

        watching = asyncio.ensure_future(watch())
        await self.shop.open(watching.done, at_most)
        # Ended, or: the last answers are on their way into the ledger, and the next looks may end it.
        for _ in range(20):
            if watching.done():
                break
            await asyncio.sleep(0.5)
        closed.set()
        return await watching

    async def _promote(self, version: int) -> tuple[str, bool]:
        self.say(f"turnout promote {MODEL}")
        body = {"version": version, "force": False, "reason": None, "dry_run": False, "actor": "demo"}
        try:
            done = await self._call("post", f"/api/models/{MODEL}/promote", body)
        except ControlError as error:
            return str(error), False
        for sentence in done["changed"]:
            self.say(sentence)
        model = await self._call("get", f"/api/models/{MODEL}")
        return "promoted", model["production"] == version

    async def _view(self, name: str) -> Json:
        return await self._call("get", f"/api/experiments/{name}")

    async def _call(self, verb: str, path: str, *arguments: Any) -> Json:
        answer: Json = await asyncio.to_thread(getattr(self.stage.api, verb), path, *arguments)
        return answer

    # the table

    def _golden_line(self, version: int, comparison: Comparison, decision: str) -> Line:
        effect = comparison.gate.effect
        assert comparison.gate.control is not None
        assert comparison.gate.candidate is not None
        shares = (
            f"{100 * comparison.gate.candidate:.0f} % right, production {100 * comparison.gate.control:.0f} %"
        )
        points = "" if effect is None else f" [{100 * effect.lower:+.0f}, {100 * effect.upper:+.0f}] points"
        expected = (comparison.verdict == "fail") == (version == 2)
        return Line(
            version,
            "golden set",
            str(comparison.gate.n),
            [shares + points],
            comparison.verdict,
            decision,
            expected,
        )

    def _experiment_line(self, version: int, stage: str, view: Json, decision: str, expected: bool) -> Line:
        verdict = view["verdict"] or {"kind": "none", "metrics": []}
        metrics = [metric_text(metric) for metric in verdict["metrics"]]
        return Line(version, stage, str(view["units"]), metrics, verdict["kind"], decision, expected)
