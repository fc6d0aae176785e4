"""Several candidates of one model at once: each in an experiment of its own, on units of its own."""

from __future__ import annotations

from collections import Counter

import pytest

from experiments import views
from experiments.assignment import unit_id
from experiments.errors import Conflict, NotFound, Refused
from experiments.ledger import decisions
from experiments.ledger import events as ledger_events
from experiments.snapshot import Route, Snapshot
from registry import RegistryUnreachable
from registry.records import STATE

from .plane import AB, ADA, SHADOW, Plane


def part(name: str, candidate: int, low: int, high: int) -> str:
    """An A/B of its own on a part of one group's units."""
    units = f"exclusive: {{group: rivals, units: [{low}, {high}]}}\n"
    return AB.replace("faster", name).replace("candidate: 2", f"candidate: {candidate}") + units


def test_candidates_are_tried_side_by_side_on_parts_of_their_own(plane: Plane) -> None:
    plane.begin(part("second", 2, 0, 50))
    plane.begin(part("third", 3, 50, 80))
    before = plane.snapshot
    seen = Counter((route.experiment, route.endpoint.version) for route in routes(before, 4000))
    assert seen["second", 2] == pytest.approx(1000, abs=6 * 27)
    assert seen["third", 3] == pytest.approx(600, abs=6 * 23)
    assert seen["second", 1] == pytest.approx(1000 + 800, abs=6 * 32)  # the last fifth is in no experiment
    assert seen["third", 1] == pytest.approx(600, abs=6 * 23)
    plane.restart()
    assert routes(plane.snapshot, 500) == routes(before, 500)
    plane.controller.control.stop("second", ADA)
    assert {route.experiment for route in routes(plane.snapshot, 500)} == {"third"}


def routes(table: Snapshot, count: int) -> list[Route]:
    return [table.route("chat", unit_id(f"unit-{number}")) for number in range(count)]


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (AB, part("other", 3, 0, 50), "have both declare a part"),
        (part("one", 2, 0, 50), AB.replace("faster", "other"), "group: rivals"),
        (part("one", 2, 0, 50), part("other", 3, 50, 100).replace("rivals", "others"), "group: rivals"),
        (part("one", 2, 0, 50), part("other", 3, 50, 100) + "unit: session\n", "declare its unit, user"),
    ],
)
def test_what_would_be_in_two_experiments_is_refused(
    plane: Plane, first: str, second: str, says: str
) -> None:
    plane.begin(first)
    with pytest.raises(Conflict, match=says) as refused:
        plane.begin(second)
    assert refused.value.code == "experiment_running"


def test_a_rollback_releases_every_candidate_at_once(plane: Plane) -> None:
    plane.begin(part("second", 2, 0, 50))
    plane.begin(part("third", 3, 50, 100))
    would = plane.controller.promotion.rollback("chat", ADA, dry_run=True)
    assert [sentence[:9] for sentence in would.decision.changed] == ["version 2", "version 3"]
    version = plane.snapshot.version
    done = plane.controller.promotion.rollback("chat", ADA)
    assert plane.snapshot.version == version + 1
    assert not plane.candidate_has_traffic
    assert "experiment 'third' is rolled back" in done.decision.changed
    plane.restart()
    assert (plane.state("second"), plane.state("third")) == ("rolled_back", "rolled_back")
    assert plane.production == 1
    again = plane.controller.promotion.rollback("chat", ADA)
    assert "was released" in again.decision.changed[0]


def test_shares_are_told_as_what_they_are_of(plane: Plane) -> None:
    _, done = plane.controller.control.start(part("second", 2, 0, 40) + "holdout: 10\n", "spec.yaml", ADA)
    assert done.decision.changed[0].endswith("answers 50 % of the units that may enter (36 % of all)")
    summary = views.summary(plane.controller, plane.controller.junction.experiment("second"))
    assert (summary["entering_pct"], summary["arms"][1]["weight_pct"]) == (36.0, 50.0)


def test_one_of_them_may_be_released_alone(plane: Plane) -> None:
    plane.begin(part("second", 2, 0, 50))
    plane.begin(part("third", 3, 50, 100))
    promotion = plane.controller.promotion
    would = promotion.release("chat", "third", ADA, dry_run=True)
    assert would.decision.changed == ("version 3 of 'chat' would get no traffic",)
    done = promotion.release("chat", "third", ADA)
    assert (done.decision.action, done.decision.experiment) == ("rollback", "third")
    plane.settle()
    assert (plane.state("second"), plane.state("third")) == ("running", "rolled_back")
    assert {route.experiment for route in routes(plane.snapshot, 500)} == {"second"}
    assert not promotion.release("chat", "third", ADA).recorded
    plane.controller.control.stop("second", ADA)
    with pytest.raises(Conflict, match="nothing to take back"):
        promotion.release("chat", "second", ADA)
    with pytest.raises(NotFound, match="no experiment 'fourth'"):
        promotion.release("chat", "fourth", ADA)
    with pytest.raises(NotFound, match="is one of 'chat', not of 'code'"):
        promotion.release("code", "second", ADA)


def test_a_rollback_leaves_alone_what_waits(plane: Plane) -> None:
    """A draft has taken nobody anywhere: in trouble, it is production that one wants to leave."""
    plane.promote(2, force=True)
    plane.controller.control.start(AB.replace("candidate: 2", "candidate: 3"), "spec.yaml", ADA, draft=True)
    plane.controller.promotion.rollback("chat", ADA)
    plane.settle()
    assert plane.production == 1
    assert plane.state() == "rolled_back"  # its control is not production any more


def test_the_winner_is_promoted_and_its_rivals_lose_their_control(plane: Plane) -> None:
    plane.begin(part("second", 2, 0, 50))
    plane.begin(part("third", 3, 50, 100))
    plane.controller.control.conclude("second", ADA, plane.judged("ship", "second"))
    plane.promote(None)
    assert plane.production == 2
    assert (plane.state("second"), plane.state("third")) == ("promoted", "kept")
    assert plane.controller.junction.experiment("third").note == "version 2 became production"


def test_of_two_winners_the_operator_names_one(plane: Plane) -> None:
    plane.begin(part("second", 2, 0, 50))
    plane.begin(part("third", 3, 50, 100))
    for name in ("second", "third"):
        plane.controller.control.conclude(name, ADA, plane.judged("ship", name))
    with pytest.raises(Conflict, match="versions 2 and 3 of 'chat' have a passing verdict each"):
        plane.promote(None)
    plane.promote(3)
    assert plane.production == 3


def told(plane: Plane, name: str) -> list[tuple[str, str, str | None]]:
    """Of an experiment: what was decided, by whom and why, as the API lists it; the timeline agrees."""
    listed = decisions.listed(plane.controller.store, experiment=name)
    events = views.timeline(plane.controller, plane.controller.junction.experiment(name), 10)["events"]
    assert [one["action"] for one in reversed(events)] == [one.action for one in listed]
    streamed = ledger_events.after(plane.controller.store, 0, experiment=name)
    assert {one.decision.decision_id for one in streamed} == {one.decision_id for one in listed}
    return [(one.action, one.actor, one.reason) for one in listed]


def test_each_experiment_that_was_ended_with_others_tells_of_it(plane: Plane) -> None:
    for name, candidate, low in (("second", 2, 0), ("third", 3, 50)):
        plane.begin(part(name, candidate, low, low + 50))
    plane.controller.promotion.rollback("chat", ADA)
    plane.settle()
    for name in ("second", "third"):
        assert told(plane, name)[0] == ("rollback", "ada", "because")
        assert len(told(plane, name)) == 2


def test_a_rollback_of_production_tells_what_it_would_end_and_what_it_has_ended(plane: Plane) -> None:
    plane.promote(2, force=True)
    for name, candidate, low in (("first", 1, 0), ("third", 3, 50)):
        plane.begin(part(name, candidate, low, low + 50))
    promotion = plane.controller.promotion
    would = promotion.rollback("chat", ADA, production=True, dry_run=True)
    done = promotion.rollback("chat", ADA, production=True)
    assert would.decision.changed == done.decision.changed
    assert "experiment 'third' is rolled back" in would.decision.changed
    plane.restart()
    for name in ("first", "third"):
        assert told(plane, name)[0] == ("rollback", "ada", "because")


def test_a_promotion_is_told_by_those_that_it_ends_unless_it_failed(plane: Plane) -> None:
    for name, candidate, low in (("second", 2, 0), ("third", 3, 50)):
        plane.begin(part(name, candidate, low, low + 50))
    plane.controller.control.conclude("second", ADA, plane.judged("ship", "second"))
    plane.registry.away = True
    with pytest.raises(RegistryUnreachable):
        plane.promote(2)
    assert [action for action, _, _ in told(plane, "third")] == ["start"]
    experiment = plane.controller.junction.experiment("second")
    events = views.timeline(plane.controller, experiment, 10)["events"]
    assert [(one["action"], one["state"]) for one in events[-2:]] == [
        ("conclude", "done"),
        ("promote", "failed"),
    ]
    plane.registry.away = False
    plane.promote(2)
    assert told(plane, "third")[0] == ("promote", "ada", "because")
    ends = {
        name: views.experiment(plane.controller, plane.controller.junction.experiment(name))["pipeline"][-1]
        for name in ("second", "third")
    }
    assert ends["second"]["permission"] is not None
    assert ends["third"]["permission"] is None


def test_what_other_hands_move_in_the_registry_is_told_by_what_it_ends(plane: Plane) -> None:
    plane.begin(part("second", 2, 0, 50))
    plane.registry.promote("chat", 3)
    plane.controller.reconcile()
    assert told(plane, "second")[0][:2] == ("promote", "registry")


def test_what_is_under_way_beside_a_passing_verdict_does_not_hide_it(plane: Plane) -> None:
    plane.begin()
    plane.conclude("ship")
    plane.begin(SHADOW.replace("faster", "once-more"))
    waits = views.summary(plane.controller, plane.controller.junction.experiment("faster"))["waiting_for"]
    assert waits.startswith("`turnout promote chat --version 2`")
    plane.promote(2)
    assert plane.production == 2
    assert (plane.state("faster"), plane.state("once-more")) == ("promoted", "promoted")


def test_what_was_rolled_back_since_hides_a_passing_verdict(plane: Plane) -> None:
    plane.begin()
    plane.conclude("ship")
    plane.begin(SHADOW.replace("faster", "once-more"))
    backing = plane.judged("roll_back", "once-more")
    plane.controller.control.take_away("once-more", "roll_back", "rollback", ADA, backing)
    with pytest.raises(Refused, match="was rolled back in experiment 'once-more'"):
        plane.promote(2)


def test_a_version_bears_in_mlflow_what_is_under_way_with_it(plane: Plane) -> None:
    plane.begin()
    plane.begin(SHADOW.replace("faster", "once-more"))
    plane.controller.control.stop("once-more", ADA)
    plane.settle()
    assert plane.registry.model("chat").version(2).labels[STATE] == "running in faster"


def test_a_rehearsal_of_what_is_paused_looks_where_its_units_would_go(plane: Plane) -> None:
    plane.begin(part("second", 2, 0, 50))
    plane.begin(part("third", 3, 50, 100))
    for name in ("second", "third"):
        plane.controller.control.pause(name, ADA)
    done = plane.controller.rehearsal.rehearse("chat", ADA).decision
    assert (done.state, done.to_version) == ("done", 1)
