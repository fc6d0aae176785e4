"""How often does the release engine roll back a healthy canary, or promote what is no better, and how soon
does it catch a bad one?

    python -m bench.release healthy [--runs 200] [--alpha 0.05] [--seed 1]
    python -m bench.release aa [--runs 200] [--alpha 0.05] [--seed 1]
    python -m bench.release errors|latency|quality|failing-quality [--runs 50] [--scored 1.0] [--seed 1]

Simulated experiments under a virtual clock, decided by the code that decides in production: the spec's
reader, `conclude`, `respond`, the lifecycle's phases and ranges. Only the ledger's SQL is left out (its sums
are made here as requests come), because a look every second of 200 experiments would be a day of queries.
`healthy`: canaries equal to control, looked at every second, counted when rolled back. `aa`: A/B tests of
equal versions, looked at ten times between any two planned looks, counted when promoted.

The others are bad canaries at a share of 10 %, bad from the first request on; the candidate's units are
counted until the rollback. `errors`: 2 % become 10 %; the design's simulation of the same rule (F9 with a
margin of 1.25, alpha 5 %) says 71 in the median. `latency`: twice as long. `quality`: of answers that a judge
passes, 90 % become 80 %, told by the mean of its scores; `failing-quality` by the share of users with an
answer that it fails. For these three the prediction is that of `turnout plan`, from the control's own users.
`--scored` is the share of the answers that the judge is shown; users count who were judged.

Exit code 1 if a rate is above its declared alpha by more than luck explains, if a bad canary is not caught,
or if the median is not within 25 % of its prediction.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random
from statistics import median
from typing import Any

from experiments.assignment import arm_at, point, unit_id
from experiments.evidence import ArmCount, Evidence, MetricSums
from experiments.history import History, UnitTotals
from experiments.lifecycle import Experiment, advance, begin
from experiments.planning import caught_after
from experiments.spec import analysis_of, read_spec
from experiments.statistics.proportion import wilson
from experiments.steering.response import Findings, respond
from experiments.verdict import Look, conclude, look_taken

SECOND = 10**9
#: The candidate's units until the rollback, errors from 2 % to 10 % at a share of 10 %: the median; and how
#: near it must be.
PREDICTED, WITHIN = 71, 0.25
START = 1_800_000_000 * SECOND

CANARY = """
experiment: e{seed}
model: chat
mode: canary
candidate: 2
traffic: {{ramp: [1, 5, 10, 25, 50], min_units: 10, min_duration: 1m}}
metrics:
  guardrails:
    - {{metric: error_rate, tolerated_ratio: {ratio}}}
    - {{metric: latency, margin: 10%}}
    - {{metric: 'score:judge', margin: 5%}}
analysis: {{rollback_alpha: {alpha}, horizon: 3000, looks: 5}}
"""
AB = """
experiment: e{seed}
model: chat
mode: ab
candidate: 2
metrics:
  success: [{{metric: latency}}]
  guardrails: [{{metric: error_rate, tolerated_ratio: 1.25}}]
analysis: {{alpha: {alpha}, horizon: 2000, looks: 5}}
on_ship: promote
"""
BAD = """
experiment: e{seed}
model: chat
mode: canary
candidate: 2
traffic: {{ramp: [10], min_units: 1000000, min_duration: 7d}}
metrics:
  guardrails: [{guardrail}]
analysis: {{rollback_alpha: 5%, horizon: {horizon}, looks: 5}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What a version is like: the share of requests that fail, the mean log latency, and the share of the
    answers that a judge passes.
    """

    error_rate: float = 0.02
    log_latency: float = 6.0
    passed: float = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """A bad candidate, and the guardrail that is to catch it. `factor` is on the guardrail's level."""

    candidate: Behaviour
    guardrail: str
    factor: float
    horizon: int = 100_000
    #: Requests between two looks: one where every unit of the median counts.
    per_look: int = 1


HARMS = {
    "errors": Harm(
        candidate=Behaviour(error_rate=0.10),
        guardrail="{metric: error_rate, tolerated_ratio: 1.25}",
        factor=5.0,
    ),
    "latency": Harm(
        candidate=Behaviour(log_latency=6.0 + math.log(2.0)),
        guardrail="{metric: latency, margin: 10%}",
        factor=2.0,
        horizon=5000,
    ),
    "quality": Harm(
        candidate=Behaviour(passed=0.8),
        guardrail="{metric: 'score:judge', margin: 5%}",
        factor=0.8 / 0.9,
        horizon=20_000,
        per_look=6,
    ),
    "failing-quality": Harm(
        candidate=Behaviour(passed=0.8),
        guardrail="{metric: 'score:judge<0.5', tolerated_ratio: 1.25}",
        factor=2.0,
        horizon=20_000,
        per_look=6,
    ),
}
CONTROL = Behaviour()
JUDGED = ("score:judge", "score:judge<0.5")


def answer(random: Random, version: Behaviour, scored: float) -> list[tuple[str, float, bool]]:
    """What becomes of one request: metric, value, and whether a binary metric's event occurred."""
    failed = random.random() < version.error_rate
    found = [("error_rate", 0.0, failed)]
    if not failed:
        found.append(("latency", random.gauss(version.log_latency, 0.8), False))
        if random.random() < scored:
            passes = random.random() < version.passed
            found += [("score:judge", float(passes), False), ("score:judge<0.5", 0.0, not passes)]
    return found


@dataclass(slots=True)
class Sums:
    """One metric's sums of one arm and phase, each unit with one request."""

    units: int = 0
    y: float = 0.0
    yy: float = 0.0
    failing: int = 0


@dataclass(slots=True)
class Trial:
    """One simulated experiment: requests in, the controller's looks over them."""

    experiment: Experiment
    random: Random
    candidate: Behaviour = Behaviour()
    scored: float = 0.0
    sums: dict[tuple[str, int, str], Sums] = field(default_factory=lambda: defaultdict(Sums))
    shares: dict[int, float] = field(default_factory=dict)
    looks: list[Look] = field(default_factory=list)
    units: int = 0
    now_ns: int = START

    def request(self) -> None:
        """A request of a new unit: assigned as the proxy does it, failed or answered."""
        phase = self.experiment.phase
        self.shares[phase.number] = phase.candidate_ppm / 1e6
        arm = arm_at(self.experiment.ranges, point(self.experiment.salt, unit_id(f"u{self.units}")))
        self.units += 1
        version = self.candidate if arm == "candidate" else CONTROL
        for metric, value, failed in answer(self.random, version, self.scored):
            self._add(metric, phase.number, arm, value, failed=failed)

    def _add(self, metric: str, phase: int, arm: str, value: float, *, failed: bool = False) -> None:
        found = self.sums[metric, phase, arm]
        found.units += 1
        found.y += value
        found.yy += value * value
        found.failing += failed

    def evidence(self) -> Evidence:
        arms, sums = [], []
        for phase, share in self.shares.items():
            for arm, expected in (("control", 1.0 - share), ("candidate", share)):
                units = self.sums["error_rate", phase, arm].units
                arms.append(
                    ArmCount(phase=phase, arm=arm, expected_share=expected, units=units, exchanges=units)
                )
                for metric in ("error_rate", "latency", *JUDGED):
                    made = self.sums[metric, phase, arm]
                    sums.append(
                        MetricSums(
                            metric=metric,
                            phase=phase,
                            arm=arm,
                            units=made.units,
                            exchanges=units,
                            missing=0,
                            y=made.y,
                            m=made.units,
                            yy=made.yy,
                            mm=made.units,
                            ym=made.y,
                            failing_units=made.failing,
                        )
                    )
        return Evidence(
            experiment=self.experiment.name, as_of_ns=self.now_ns, started_ns=self.experiment.started_ns,
            arms=tuple(arms), sums=tuple(sums), recorded=self.units,
        )  # fmt: skip

    def look(self) -> str:
        """One look of the controller; what it does."""
        spec = analysis_of(self.experiment.spec, control_version=1, candidate_version=2)
        verdict = conclude(spec, self.evidence(), past_looks=tuple(self.looks))
        document = verdict.document()
        taken = look_taken(document)
        if taken is not None:
            self.looks.append(taken)
        findings = Findings(
            kind=verdict.kind,
            label=verdict.label,
            phase_units=self.sums["error_rate", self.experiment.phase.number, "candidate"].units,
            guardrails={
                one["metric"]: one["state"] for one in document["metrics"] if one["role"] == "guardrail"
            },
            troubles=("sample_ratio_mismatch",) if verdict.kind == "invalid" else (),
            over=verdict.look.final,
        )
        response = respond(self.experiment, findings, self.now_ns)
        if response.action == "advance":
            self.experiment = advance(self.experiment, response.weight_ppm, self.now_ns)
        return response.action

    def candidate_units(self, metric: str) -> int:
        """The candidate's units with a value of the metric."""
        return sum(one.units for (m, _, arm), one in self.sums.items() if (m, arm) == (metric, "candidate"))


def trial(text: str, seed: int, **more: Any) -> Trial:
    spec = read_spec(text)
    made = begin(spec, text, control_version=1, candidate_version=2, now_ns=START)
    return Trial(experiment=made, random=Random(seed), **more)


def healthy(seed: int, alpha: float) -> str:
    """A canary equal to control, six requests and one look a second, to its end."""
    one = trial(CANARY.format(seed=seed, alpha=alpha, ratio=1.25), seed, scored=1.0)
    while one.units < 3600:
        one.now_ns += SECOND
        for _ in range(6):
            one.request()
        action = one.look()
        if action not in ("none", "advance"):
            return action
    return "none"


def a_a(seed: int, alpha: float) -> str:
    """An A/B test of equal versions, looked at every 40 units: ten times for each planned look."""
    one = trial(AB.format(seed=seed, alpha=alpha), seed)
    while one.units < 2400:
        one.now_ns += 40 * SECOND
        for _ in range(40):
            one.request()
        action = one.look()
        if action != "none":
            return action
    return "none"


def bad(harm: Harm, seed: int, scored: float) -> tuple[str, int]:
    """Bad from the first request on; what came of it, and the candidate's measured units until then."""
    horizon = round(harm.horizon / scored)
    text = BAD.format(seed=seed, guardrail=harm.guardrail, horizon=horizon)
    one = trial(text, seed, candidate=harm.candidate, scored=scored)
    metric, action = one.experiment.spec.metrics.guardrails[0].metric, "none"
    while one.units < horizon and action in ("none", "invalidate", "revalidate"):
        one.now_ns += SECOND
        for _ in range(harm.per_look):
            one.request()
        action = one.look()
    return action, one.candidate_units(metric)


def predicted(harm: Harm, scored: float) -> int:
    """What `turnout plan` would have said of such a candidate, of the history of 20,000 units of control."""
    text = BAD.format(seed=0, guardrail=harm.guardrail, horizon=round(harm.horizon / scored))
    spec = analysis_of(read_spec(text), control_version=1, candidate_version=2)
    name, random = spec.goals[0].metric.name, Random(0)
    units = [{m: rest for m, *rest in answer(random, CONTROL, scored)}.get(name) for _ in range(20_000)]
    totals = UnitTotals(
        y=tuple(0.0 if unit is None else unit[0] for unit in units),
        m=tuple(float(unit is not None) for unit in units),
        failed=tuple(unit is not None and bool(unit[1]) for unit in units),
    )
    known = History(
        model="chat", exchanges=20_000, units=20_000, without_unit=0, seconds=86_400, totals={name: totals}
    )
    found = caught_after(spec, spec.goals[0], known, harm.factor, 0.1)
    assert found.measured is not None, "not caught within the horizon by plan"
    return found.measured


def show_bad(what: str, runs: int, seeds: Iterable[int], scored: float) -> int:
    harm = HARMS[what]
    expected = PREDICTED if what == "errors" else predicted(harm, scored)
    ended = [bad(harm, seed, scored) for seed in seeds]
    caught = sorted(units for action, units in ended if action == "roll_back")
    found = median(caught)
    print(
        f"{what}: {len(caught)} of {runs} rolled back; candidate's measured units until then: median "
        f"{found:.0f}, nine in ten by {caught[9 * len(caught) // 10]}, predicted {expected} "
        f"({found / expected - 1:+.0%})"
    )
    return int(len(caught) < runs or abs(found / expected - 1) > WITHIN)


def main() -> int:
    asked = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asked.add_argument("what", choices=("healthy", "aa", *HARMS))
    asked.add_argument("--runs", type=int, default=200)
    asked.add_argument("--alpha", type=float, default=0.05)
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--scored", type=float, default=1.0, help="the share of the answers that is judged")
    given = asked.parse_args()
    began = time.monotonic()
    seeds = range(given.seed * 10_000, given.seed * 10_000 + given.runs)
    if given.what in HARMS:
        return show_bad(given.what, given.runs, seeds, given.scored)
    run, error = (healthy, "roll_back") if given.what == "healthy" else (a_a, "promote")
    actions = Counter(run(seed, given.alpha) for seed in seeds)
    interval = wilson(actions[error], given.runs)
    print(
        f"{given.what}: {actions[error]} of {given.runs} {error} = {actions[error] / given.runs:.3f} "
        f"[{interval.lower:.3f}, {interval.upper:.3f}], declared alpha {given.alpha}; "
        f"all ends: {dict(actions)}; {time.monotonic() - began:.0f} s"
    )
    return int(interval.lower > given.alpha)


if __name__ == "__main__":
    sys.exit(main())
