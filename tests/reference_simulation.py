"""How are the kinds about operating characteristics computed? By running the simulation in `bench`."""

from __future__ import annotations

import re
from collections.abc import Callable

from bench.operating import golden, rules
from bench.operating.rules import Rule
from bench.operating.streams import RATES, Stream
from tests.reference_kinds import Answer, Inputs, kind

#: How a rule is told in words, and which one that is; the first match counts.
_RULES: list[tuple[str, Callable[[float], Rule]]] = [
    (r"naive one-sided", lambda a: rules.naive(alpha=a, one_sided=True)),
    (r"naive.*every (\d+)", lambda a: rules.naive(alpha=a)),
    (r"naive", lambda a: rules.naive(alpha=a)),
    (r"hybrid", lambda a: rules.hybrid(running_alpha=a / 5, final_alpha=a * 4 / 5)),
    (r"group.sequential|GST", lambda a: rules.group_looks(20, alpha=a)),
    (r"mSPRT", lambda a: rules.mixture_ratio(alpha=a)),
    (r"one-sided.*(ACS|asymptotic)", lambda a: rules.harm_sequence(alpha=a, best_at=5000.0)),
    (r"pooled.*(ACS|asymptotic)", lambda a: rules.sequence(alpha=a, best_at=5000.0, by_request=True)),
    (r"ACS|asymptotic CS|Eppo", lambda a: rules.sequence(alpha=a, best_at=5000.0, by_request=True)),
    (r"Statsig", lambda a: rules.flat_boundary(alpha=a)),
    (r"TensorZero|GLR|track", lambda a: rules.best_arm_stop(delta=a)),
    (r"betting.*(IPW|ville)", lambda a: rules.betting_weighted(alpha=a)),
    (r"betting", lambda a: rules.betting_pairs(alpha=a)),
    (r"safe.?2x2", lambda a: rules.safe_tables(alpha=a)),
    (r"truncated|F9", lambda a: rules.failure_harm(alpha=a)),
    (r"DM", lambda a: rules.failure_imbalance(alpha=a)),
    (r"CMH|Mantel", lambda a: rules.stratified_test(alpha=a)),
    (r"inverse.variance", lambda a: rules.inverse_variance(alpha=a)),
    (r"pooled", lambda a: rules.pooled(alpha=a)),
    (r"fixed", lambda a: rules.fixed(alpha=a)),
    (r"Argo|Flagger", lambda a: rules.windows()),
]


def _rule(text: str, inputs: Inputs) -> Rule:
    alpha = float(inputs.get("alpha", 0.05))
    told = re.search(r"alpha\s*=?\s*(0?\.\d+)", text)
    alpha = float(told[1]) if told else alpha
    looks, every = re.search(r"(\d+) looks", text), re.search(r"every (\d+)", text)
    tuned, ratio = re.search(r"N\*?\s*=\s*(\d+)", text), re.search(r"RR\s*>?\s*(\d+\.\d+)", text)
    tau = re.search(r"tau\s*=?\s*(0?\.\d+)", text)
    for pattern, make in _RULES:
        if not re.search(pattern, text, re.IGNORECASE):
            continue
        if looks and "group" in pattern:
            return rules.group_looks(int(looks[1]), alpha=alpha)
        if every and pattern.startswith("naive.*"):
            return rules.naive(int(every[1]), alpha=alpha)
        if tuned and "asymptotic" in pattern and "one-sided" not in pattern:
            return rules.sequence(alpha=alpha, best_at=float(tuned[1]), by_request=True)
        if ratio and "truncated" in pattern:
            return rules.failure_harm(alpha=alpha, ratio=float(ratio[1]))
        if tau and pattern == "mSPRT":
            return rules.mixture_ratio(tau=float(tau[1]), alpha=alpha)
        if "Argo" in pattern:
            return _windows(text)
        return make(alpha)
    raise ValueError(f"no rule is called {text!r}")


def _windows(text: str) -> Rule:
    limit, size = re.search(r">\s*(\d+(?:\.\d+)?)\s*%", text), re.search(r"(\d+)[- ]req", text)
    failures, fails = re.search(r"failureLimit\s*(\d+)", text), re.search(r"(\d+) fails", text)
    checks = int(failures[1]) + 1 if failures else int(fails[1]) if fails else 1
    return rules.windows(
        size=int(size[1]) if size else 50,
        limit=float(limit[1]) / 100.0 if limit else 0.05,
        failed_checks=checks,
    )


def _stream(text: str, requests: int) -> Stream:
    if text.startswith("ramp"):
        return Stream(name="ramp", requests=requests)
    canary = re.match(r"canary(\d+)", text)
    if canary:
        errors = re.search(r"err=([\d.]+)\s*vs\s*([\d.]+)", text)
        pair = (float(errors[1]), float(errors[2])) if errors else (0.02, 0.02)
        return Stream(name="canary", share=int(canary[1]) / 100.0, error=pair, requests=requests)
    name, *options = text.split("|")
    told = dict(option.split("=") for option in options if "=" in option)
    if name not in (*RATES, "judge", "lat", "loglat", "users"):
        raise ValueError(f"no stream is called {name!r}")
    return Stream(
        name=name,  # type: ignore[arg-type]
        effect=float(told.get("eff", 0.0)),
        requests=requests,
    )


@kind("simulation/operating_characteristic")
def _(inputs: Inputs) -> Answer:
    text = inputs["stream"]
    burn = re.search(r"burn=(\d+)", text) or re.search(r"burn-in (\d+)", inputs["rule"])
    found = rules.characteristic(
        _rule(inputs["rule"], inputs),
        _stream(text, inputs.get("N", 5000)),
        replications=inputs.get("R", 2000),
        burn_in=int(burn[1]) if burn else 0,
    )
    median = found.exposed if text.startswith("canary") else found.median
    return Answer(
        values={
            "rate": found.rate,
            "monte_carlo_error": found.error,
            "median_n": median,
            "mean_n": found.mean,
        }
    )


@kind("simulation/golden_coverage")
def _(inputs: Inputs) -> Answer:
    found = golden.paired_coverage(
        inputs["n"],
        both=inputs["p_both"],
        only_control=inputs["p_only_control"],
        only_candidate=inputs["p_only_candidate"],
        replications=inputs.get("R", 40_000),
        alpha=inputs.get("alpha", 0.05),
    )
    return Answer(
        values={
            **{name: one.coverage for name, one in found.items()},
            "width": {
                ("unpaired" if name == "unpaired_newcombe" else name): one.width
                for name, one in found.items()
            },
        }
    )
