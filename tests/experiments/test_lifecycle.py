"""States, transitions, ramps: pure rules, so every one of them is tried."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.assignment import PPM, arm_at
from experiments.lifecycle import (
    CANDIDATE,
    LIVE,
    OPEN,
    TRANSITIONS,
    Event,
    Experiment,
    NoSuchTransition,
    State,
    advance,
    begin,
    follow,
    next_step,
)
from experiments.spec import read_spec

from .plane import AB, CANARY, SHADOW

NOW = 1_800_000_000_000_000_123


def started(text: str = CANARY) -> Experiment:
    return begin(read_spec(text), text, control_version=1, candidate_version=2, now_ns=NOW)


def test_an_ended_experiment_stays_ended() -> None:
    ended = set(get_args(State)) - OPEN
    assert ended == {"promoted", "rolled_back", "kept"}
    assert not [state for state, _ in TRANSITIONS if state in ended]


@pytest.mark.parametrize("state", get_args(State))
@pytest.mark.parametrize("event", get_args(Event))
def test_every_transition_is_made_or_refused_in_words(state: State, event: Event) -> None:
    from dataclasses import replace

    there = replace(started(), state=state)
    if (state, event) in TRANSITIONS:
        assert follow(there, event, NOW).state == TRANSITIONS[state, event]
        return
    with pytest.raises(NoSuchTransition) as refused:
        follow(there, event, NOW)
    assert f"is {state}, which does not allow {event}" in str(refused.value)


@given(st.lists(st.sampled_from(get_args(Event))))
def test_no_history_gives_traffic_to_a_candidate_that_is_not_running_or_shipped(history: list[Event]) -> None:
    experiment = started()
    for event in history:
        try:
            experiment = follow(experiment, event, NOW, verdict="inconclusive")
        except NoSuchTransition:
            continue
        assert (experiment.split() is not None) == (experiment.state in LIVE)
        assert (experiment.ended_ns is not None) == (not experiment.is_open)


def test_a_ship_keeps_its_traffic_until_the_operator_decides_and_no_other_conclusion_does() -> None:
    shipped = follow(started(), "conclude", NOW, verdict="ship")
    assert shipped.weight_ppm == 50_000
    assert follow(started(), "conclude", NOW, verdict="inconclusive").weight_ppm == 0


def test_a_ramp_moves_units_from_control_to_the_candidate_and_none_back() -> None:
    experiment = started()
    before = {at: arm_at(experiment.ranges, at) for at in range(0, PPM, 997)}
    while (step := next_step(experiment)) is not None:
        experiment = advance(experiment, step, NOW)
        after = {at: arm_at(experiment.ranges, at) for at in before}
        moved = {(before[at], after[at]) for at in before if before[at] != after[at]}
        assert moved == {("control", CANDIDATE)}
        before = after
    assert experiment.phase.number == 3
    assert experiment.phase.candidate_ppm == 500_000
    with pytest.raises(NoSuchTransition):
        advance(follow(experiment, "pause", NOW), 600_000, NOW)


def test_resuming_gives_every_unit_its_arm_back_in_a_new_phase() -> None:
    experiment = advance(started(), 250_000, NOW)
    paused = follow(experiment, "pause", NOW)
    assert paused.split() is None
    resumed = follow(paused, "resume", NOW)
    assert resumed.ranges == experiment.ranges
    assert resumed.salt == experiment.salt
    assert resumed.phase.number == 3
    assert resumed.phase.candidate_ppm == 250_000


def test_the_salt_survives_a_ledger_that_keeps_microseconds() -> None:
    assert started().created_ns % 1000 == 0


def test_a_shadow_mirrors_and_never_routes() -> None:
    shadow = started(SHADOW)
    mirror = shadow.mirror()
    assert shadow.split() is None
    assert mirror is not None
    assert (mirror.share_ppm, mirror.version, mirror.tools) == (200_000, 2, "skip")
    assert follow(shadow, "pause", NOW).mirror() is None
    assert follow(follow(shadow, "pause", NOW), "resume", NOW).phase.share_ppm == 200_000
    assert started(AB).mirror() is None
