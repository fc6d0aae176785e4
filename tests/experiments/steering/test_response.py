"""What follows from the evidence: every kind of it, in every state that may be acted on."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from experiments.lifecycle import (
    Experiment,
    VerdictKind,
    advance,
    begin,
    enter_next_stage,
    follow,
    next_step,
)
from experiments.spec import read_spec
from experiments.steering.response import Findings, admission, respond

from ..plane import AB, CANARY, CHAIN, SHADOW

NOW = 1_800_000_000_000_000_123
MINUTE = 60 * 10**9


def started(text: str = CANARY) -> Experiment:
    return begin(read_spec(text), text, control_version=1, candidate_version=2, now_ns=NOW)


def findings(
    kind: VerdictKind = "keep_running", units: int = 100, guardrail: str = "ok", *troubles: str
) -> Findings:
    guardrails = {"error_rate": guardrail}
    return Findings(kind=kind, label="why", phase_units=units, guardrails=guardrails, troubles=troubles)


@pytest.mark.parametrize(
    ("kind", "on_ship", "action"),
    [
        ("roll_back", "hold", "roll_back"),
        ("invalid", "promote", "invalidate"),
        ("ship", "hold", "conclude"),
        ("ship", "promote", "promote"),
        ("inconclusive", "promote", "keep"),
        ("keep_running", "promote", "none"),
    ],
)
def test_what_follows_from_a_verdict(kind: VerdictKind, on_ship: str, action: str) -> None:
    experiment = started(AB + f"on_ship: {on_ship}\n")
    assert respond(experiment, findings(kind), NOW + MINUTE).action == action


@pytest.mark.parametrize("kind", get_args(VerdictKind))
def test_a_held_ship_can_only_be_rolled_back(kind: VerdictKind) -> None:
    held = follow(started(AB + "on_ship: promote\n"), "conclude", NOW, verdict="ship")
    wanted = "roll_back" if kind == "roll_back" else "none"
    assert respond(held, findings(kind), NOW).action == wanted
    paused = follow(started(AB), "pause", NOW)
    assert respond(paused, findings(kind), NOW).action == "none"


def test_a_ramp_waits_for_units_for_time_and_for_guardrails_with_figures() -> None:
    experiment = started()
    due = respond(experiment, findings(units=10), NOW + MINUTE)
    assert (due.action, due.weight_ppm) == ("advance", 250_000)
    for held, words in (
        (respond(experiment, findings(units=9), NOW + MINUTE), "9 of 10"),
        (respond(experiment, findings(units=10), NOW + MINUTE - 10**9), "59 of 60 s"),
        (
            respond(experiment, findings(units=10), NOW - 60 * MINUTE),
            "the clock has been set back: this phase began 1h from now",
        ),
        (respond(experiment, findings(units=10, guardrail="no_data"), NOW + MINUTE), "held by error_rate"),
        (respond(experiment, findings(units=10, guardrail="crossed"), NOW + MINUTE), "held by error_rate"),
    ):
        assert held.action == "none"
        assert words in held.reason


def test_a_ramp_ends_at_its_last_step() -> None:
    last = advance(advance(started(), 250_000, NOW), 500_000, NOW)
    assert next_step(last) is None
    assert respond(last, findings(), NOW + MINUTE).action == "none"


def test_a_candidate_that_is_better_on_a_guardrail_ramps_on() -> None:
    assert respond(started(), findings(units=10, guardrail="better"), NOW + MINUTE).action == "advance"
    assert respond(started(), findings(units=10, guardrail="worse"), NOW + MINUTE).action == "none"


def test_an_invalid_comparison_holds_unless_a_guardrail_is_crossed() -> None:
    assert respond(started(), findings("invalid"), NOW).action == "invalidate"
    response = respond(started(), findings("invalid", guardrail="crossed"), NOW)
    assert response.action == "roll_back"
    assert "error_rate crossed" in response.reason


# -- policies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "policy"),
    [
        ("sample_ratio_mismatch", "sample_ratio"),
        ("units_in_two_arms", "sample_ratio"),
        ("missing_differs", "missing_outcomes"),
        ("judge_changed", "judge_changed"),
        ("no_traffic", "no_traffic"),
    ],
)
@pytest.mark.parametrize(
    ("choice", "action"), [("hold", "invalidate"), ("roll_back", "roll_back"), ("warn", "advance")]
)
def test_each_trouble_has_its_declared_policy(code: str, policy: str, choice: str, action: str) -> None:
    experiment = started(CANARY + f"policies: {{{policy}: {choice}}}\n")
    kind: VerdictKind = "keep_running" if code == "no_traffic" else "invalid"
    assert respond(experiment, findings(kind, 100, "ok", code), NOW + MINUTE).action == action


def test_the_strictest_policy_wins_and_an_unnamed_trouble_is_held() -> None:
    experiment = started(CANARY + "policies: {no_traffic: roll_back, missing_outcomes: warn}\n")
    both = findings("invalid", 100, "ok", "missing_differs", "no_traffic")
    assert respond(experiment, both, NOW).action == "roll_back"
    assert respond(experiment, findings("invalid", 100, "ok", "something_new"), NOW).action == "invalidate"


def test_a_warning_never_ships() -> None:
    experiment = started(AB + "on_ship: promote\npolicies: {sample_ratio: warn}\n")
    found = findings("invalid", 100, "ok", "sample_ratio_mismatch")
    assert respond(experiment, found, NOW).action == "none"


def test_what_is_held_goes_on_when_the_evidence_can_be_used_again() -> None:
    held = follow(started(), "invalidate", NOW)
    assert respond(held, findings("invalid"), NOW + MINUTE).action == "none"
    assert respond(held, findings("ship"), NOW + MINUTE).action == "revalidate"
    assert respond(held, findings("roll_back"), NOW + MINUTE).action == "roll_back"


@pytest.mark.parametrize("kind", ["invalid", "inconclusive"])
def test_what_is_held_when_its_time_is_over_keeps_production(kind: VerdictKind) -> None:
    held = follow(started(), "invalidate", NOW)
    over = replace(findings(kind, 0, "no_data", "no_traffic"), over=True)
    assert respond(held, over, NOW).action == "keep"


# -- stages ------------------------------------------------------------------------------------------------


def test_each_stage_passes_on_to_the_next_and_only_the_last_one_promotes() -> None:
    experiment = started(CHAIN + "on_ship: promote\n")
    seen = []
    while respond(experiment, findings("ship"), NOW).action == "stage":
        seen.append(experiment.stage.mode)
        experiment = enter_next_stage(experiment, NOW)
    assert (*seen, experiment.stage.mode) == ("shadow", "canary", "ab")
    assert respond(experiment, findings("ship"), NOW).action == "promote"
    assert respond(experiment, findings("inconclusive"), NOW).action == "keep"


@pytest.mark.parametrize("kind", sorted(set(get_args(VerdictKind)) - {"ship"}))
def test_nothing_but_a_ship_leads_to_the_next_stage(kind: VerdictKind) -> None:
    assert respond(started(CHAIN), findings(kind), NOW).action != "stage"


def test_a_lone_shadow_never_promotes() -> None:
    shadow = started(SHADOW + "on_ship: promote\n")
    assert respond(shadow, findings("ship"), NOW).action == "conclude"


def test_a_ramp_waits_for_its_operator_where_that_is_declared() -> None:
    text = CANARY.replace("ramp: [5, 25, 50]", "ramp: [5, 25, 50], hold_at: [25]")
    experiment = started(text)
    assert respond(experiment, findings(), NOW + MINUTE).weight_ppm == 250_000
    held = respond(advance(experiment, 250_000, NOW), findings(), NOW + MINUTE)
    assert (held.action, held.reason) == ("none", "waits for `turnout experiment advance faster`")


def test_preflight_waits_for_the_golden_set_and_for_the_model() -> None:
    waiting = begin(
        read_spec(CHAIN), CHAIN, control_version=1, candidate_version=2, now_ns=NOW, state="preflight"
    )
    assert (waiting.split(), waiting.mirror(), waiting.phase.number) == (None, None, 0)
    assert admission(waiting, "pass", None).action == "admit"
    assert admission(waiting, "fail", None).action == "keep"
    for golden, why_not in ((None, None), ("inconclusive", None), ("pass", "another one routes")):
        assert admission(waiting, golden, why_not).action == "none"
