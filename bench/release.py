"""How often does the release engine roll back a healthy canary, or promote what is no better?

    python -m bench.release healthy [--runs 200] [--alpha 0.05] [--seed 1]
    python -m bench.release aa [--runs 200] [--alpha 0.05] [--seed 1]
    python -m bench.release bad [--runs 200] [--seed 1]

Simulated experiments under a virtual clock, decided by the code that decides in production: the spec's
reader, `conclude`, `respond`, the lifecycle's phases and ranges. Only the ledger's SQL is left out (its sums
are made here as requests come), because a look every second of 200 experiments would be a day of queries.
`healthy`: canaries equal to control, looked at every second, counted when rolled back. `aa`: A/B tests of
equal versions, looked at ten times between any two planned looks, counted when promoted. `bad`: errors go
from 2 % to 10 % at a share of 10 %, and the candidate's units are counted until the rollback: the design's
simulation of the same rule (F9 with a margin of 1.25, alpha 5 %) says 71 in the median. Exit code 1 if a rate
is above its declared alpha by more than luck explains, or the median is not within 25 % of that.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from random import Random
from statistics import median

from experiments.assignment import arm_at, point, unit_id
from experiments.evidence import ArmCount, Evidence, MetricSums
from experiments.lifecycle import Experiment, advance, begin
from experiments.response import Findings, respond
from experiments.spec import analysis_of, read_spec
from experiments.statistics.proportion import wilson
from experiments.verdict import Look, conclude, look_taken

SECOND = 10**9
#: The candidate's units until the rollback at a share of 10 %: the median, and how near it must be.
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
  guardrails: [{{metric: error_rate, tolerated_ratio: 1.25}}]
analysis: {{rollback_alpha: 5%, horizon: 100000, looks: 5}}
"""


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
    candidate_error_rate: float = 0.02
    error_rate: float = 0.02
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
        rate = self.candidate_error_rate if arm == "candidate" else self.error_rate
        failed = self.random.random() < rate
        self._add("error_rate", phase.number, arm, float(failed), failed=failed)
        if not failed:
            self._add("latency", phase.number, arm, self.random.gauss(6.0, 0.8))

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
                for metric in ("error_rate", "latency"):
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

    @property
    def candidate_units(self) -> int:
        return sum(
            one.units for (m, _, arm), one in self.sums.items() if m == "error_rate" and arm == "candidate"
        )


def trial(text: str, seed: int, candidate_error_rate: float = 0.02) -> Trial:
    spec = read_spec(text)
    made = begin(spec, text, control_version=1, candidate_version=2, now_ns=START)
    return Trial(experiment=made, random=Random(seed), candidate_error_rate=candidate_error_rate)


def healthy(seed: int, alpha: float) -> str:
    """A canary equal to control, six requests and one look a second, to its end."""
    one = trial(CANARY.format(seed=seed, alpha=alpha, ratio=1.25), seed)
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


def bad(seed: int) -> tuple[str, int]:
    """Errors of 10 % against 2 %, from the first request on; the candidate's units until it is released."""
    one = trial(BAD.format(seed=seed), seed, candidate_error_rate=0.10)
    while one.units < 5000:
        one.now_ns += SECOND
        one.request()
        if one.look() == "roll_back":
            return "roll_back", one.candidate_units
    return "none", one.candidate_units


def main() -> int:
    asked = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asked.add_argument("what", choices=("healthy", "aa", "bad"))
    asked.add_argument("--runs", type=int, default=200)
    asked.add_argument("--alpha", type=float, default=0.05)
    asked.add_argument("--seed", type=int, default=1)
    given = asked.parse_args()
    began = time.monotonic()
    seeds = range(given.seed * 10_000, given.seed * 10_000 + given.runs)
    if given.what == "bad":
        ended = [bad(seed) for seed in seeds]
        caught = [units for action, units in ended if action == "roll_back"]
        found = median(caught)
        print(
            f"{len(caught)} of {given.runs} rolled back; median candidate units {found:.0f}, predicted "
            f"{PREDICTED} ({found / PREDICTED - 1:+.0%})"
        )
        return int(abs(found / PREDICTED - 1) > WITHIN)
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
