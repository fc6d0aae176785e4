"""Starting, ramping, pausing and stopping: what is checked, what is recorded, what traffic follows."""

from __future__ import annotations

import threading
from pathlib import Path

import duckdb
import pytest

from experiments import views
from experiments.assignment import point, unit_id
from experiments.decision import Backing
from experiments.errors import Conflict, DocumentError, NotFound, Refused, Unavailable
from experiments.ledger import golden, trials
from experiments.ledger.store import instant
from experiments.steering.journal import Journal

from ..plane import AB, ADA, CANARY, CHAIN, SHADOW, Plane, amid_the_next_write

GOLDEN = AB + "golden: {require: pass, set: support}\n"


def compared(
    plane: Plane, verdict: str, *, control: int = 1, candidate: int = 2, set_name: str = "support"
) -> None:
    """A golden comparison, as `turnout golden compare` leaves it."""
    at = instant(plane._tick())
    plane.controller.store.write(
        lambda connection: golden.save_comparison(
            connection,
            {
                "comparison_id": f"{at.timestamp()}",
                "set_name": set_name,
                "set_hash": "golden@sha256:0",
                "model": "chat",
                "control_run": "c",
                "candidate_run": "d",
                "control_version": control,
                "candidate_version": candidate,
                "verdict": verdict,
                "result": {},
            },
            at=at,
        )
    )


def test_a_start_gives_the_candidate_its_share_and_is_recorded(plane: Plane) -> None:
    experiment = plane.begin()
    (split,) = plane.snapshot.models["chat"].splits
    assert (split.experiment, split.phase, split.unit) == ("faster", 1, "user")
    assert {arm.name: arm.version for arm in split.arms} == {"control": 1, "candidate": 2}
    assert plane.rows() == [("ada", "start", "done")]
    assert trials.load(plane.controller.store)["faster"] == experiment


def test_the_same_units_land_in_the_same_arm_after_a_restart(plane: Plane) -> None:
    plane.begin(CANARY)
    plane.controller.control.ramp("faster", 250_000, ADA)
    before = plane.snapshot.models["chat"].splits
    plane.restart()
    assert plane.snapshot.models["chat"].splits == before


def test_the_same_spec_again_changes_nothing(plane: Plane) -> None:
    plane.begin()
    version = plane.snapshot.version
    again, done = plane.controller.control.start(AB + "# again\n", "spec.yaml", ADA)
    assert again.state == "running"
    assert not done.recorded
    assert plane.snapshot.version == version


def test_a_name_stands_for_one_declaration(plane: Plane) -> None:
    plane.begin()
    with pytest.raises(Conflict, match="a name stands for one declaration"):
        plane.begin(AB.replace("50", "40"))
    plane.controller.control.stop("faster", ADA)
    with pytest.raises(Conflict, match=r"already \(kept\)"):
        plane.begin()


def test_one_experiment_routes_a_model_and_shadows_run_beside_it(plane: Plane) -> None:
    plane.begin()
    with pytest.raises(Conflict) as refused:
        plane.begin(CANARY.replace("faster", "another").replace("candidate: 2", "candidate: 3"))
    assert refused.value.code == "experiment_running"
    plane.begin(SHADOW.replace("faster", "beside").replace("candidate: 2", "candidate: 3"))
    route = plane.snapshot.models["chat"]
    assert route.splits
    assert [mirror.version for mirror in route.mirrors] == [3]


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        ("model: chat", "model: chart", NotFound, "there are: chat"),
        ("candidate: 2", "candidate: 7", NotFound, "it has: 1, 2, 3"),
        ("candidate: 2", "candidate: next", NotFound, "no alias 'next'"),
        ("candidate: 2", "candidate: 1", Conflict, "both version 1"),
        ("candidate: 2", "candidate: nine lives", DocumentError, "spec.yaml:4"),
    ],
)
def test_what_cannot_be_started_is_refused_before_anything_is_written(
    plane: Plane, old: str, new: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        plane.begin(AB.replace(old, new))
    assert plane.rows() == []
    assert trials.load(plane.controller.store) == {}


def test_a_version_without_an_endpoint_gets_no_traffic(plane: Plane) -> None:
    plane.registry.set_endpoint("chat", 2, None)
    plane.settle()
    with pytest.raises(Conflict) as refused:
        plane.begin()
    assert refused.value.code == "no_endpoint"


def test_what_was_paused_is_not_resumed_without_an_endpoint(plane: Plane) -> None:
    plane.begin()
    plane.controller.control.take_away("faster", "pause", "pause", ADA)
    plane.registry.set_endpoint("chat", 2, None)
    plane.settle()
    with pytest.raises(Conflict, match="version 2 of 'chat' has no endpoint"):
        plane.controller.control.resume("faster", ADA)
    assert plane.state() == "paused"
    plane.controller.control.stop("faster", ADA)
    with pytest.raises(Conflict, match="does not allow resume"):
        plane.controller.control.resume("faster", ADA)


def test_a_golden_set_that_must_be_passed_must_have_been_passed(plane: Plane) -> None:
    with pytest.raises(Refused, match="there is none"):
        plane.begin(GOLDEN)
    compared(plane, "pass", candidate=3)
    compared(plane, "pass", control=3)
    compared(plane, "pass", set_name="other")
    with pytest.raises(Refused, match="there is none"):
        plane.begin(GOLDEN)
    compared(plane, "pass")
    compared(plane, "fail")
    with pytest.raises(Refused, match="it is fail"):  # the newest counts
        plane.begin(GOLDEN)
    compared(plane, "pass")
    assert plane.begin(GOLDEN).state == "running"


def test_a_ledger_that_cannot_be_written_refuses_the_start(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(change: object) -> None:
        raise duckdb.IOException("No space left on device")

    monkeypatch.setattr(plane.controller.store, "write", write)
    with pytest.raises(Unavailable, match="nothing was changed"):
        plane.begin()
    assert not plane.candidate_has_traffic


def test_a_ramp_opens_a_phase(plane: Plane) -> None:
    plane.begin(CANARY)
    plane.controller.control.ramp(
        "faster", 250_000, ADA, Backing(kind="keep_running", digest="d", experiment="faster")
    )
    (split,) = plane.snapshot.models["chat"].splits
    assert split.phase == 2
    rows = trials.phases(plane.controller.store, "faster")
    assert [(row["phase"], row["candidate_ppm"], row["ended_at"] is None) for row in rows] == [
        (1, 50_000, False),
        (2, 250_000, True),
    ]


def test_pausing_takes_the_traffic_and_resuming_gives_it_back(plane: Plane) -> None:
    plane.begin()
    (before,) = plane.snapshot.models["chat"].splits
    plane.controller.control.pause("faster", ADA)
    assert not plane.candidate_has_traffic
    plane.settle()
    assert plane.state() == "paused"
    plane.restart()
    assert not plane.candidate_has_traffic
    plane.controller.control.resume("faster", ADA)
    (after,) = plane.snapshot.models["chat"].splits
    assert after.arms == before.arms
    assert after.phase == 2
    assert plane.state() == "running"


def test_stopping_twice_changes_nothing_more(plane: Plane) -> None:
    plane.begin()
    plane.controller.control.stop("faster", ADA)
    plane.settle()
    assert plane.state() == "kept"
    rows = plane.rows()
    assert not plane.controller.control.stop("faster", ADA).recorded
    plane.settle()
    assert plane.rows() == rows
    with pytest.raises(Conflict, match="nothing more can be done"):
        plane.controller.control.resume("faster", ADA)


def test_a_stop_that_comes_between_a_ramp_and_its_record_wins(plane: Plane) -> None:
    plane.begin(CANARY)

    def stop(step: str) -> None:
        if step == "recorded":
            plane.controller.control.at = lambda step: None
            plane.controller.control.stop("faster", ADA)

    plane.controller.control.at = stop
    with pytest.raises(Conflict) as refused:
        plane.controller.control.ramp("faster", 250_000, ADA)
    assert refused.value.code == "overtaken"
    assert not plane.candidate_has_traffic
    plane.restart()
    assert plane.state() == "kept"
    assert not plane.candidate_has_traffic


def test_a_ramp_that_a_pause_overtakes_leaves_nothing_behind(plane: Plane) -> None:
    plane.begin(CANARY)
    control = plane.controller.control

    def pause(step: str) -> None:
        if step == "recorded":
            control.at = lambda step: None
            control.pause("faster", ADA)

    control.at = pause
    with pytest.raises(Conflict) as refused:
        control.ramp("faster", 250_000, ADA)
    assert refused.value.code == "overtaken"
    assert ("ada", "ramp", "failed") in plane.rows()
    plane.settle()
    control.resume("faster", ADA)
    before = plane.controller.junction.experiment("faster")
    plane.restart()
    after = plane.controller.junction.experiment("faster")
    assert (after.phase, after.ranges) == (before.phase, before.ranges)


def test_the_late_record_of_a_pause_is_not_written_over_that_of_the_resumption(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.begin()
    control, store = plane.controller.control, plane.controller.store
    control.pause("faster", ADA)
    resuming = threading.Thread(target=control.resume, args=("faster", ADA))
    amid_the_next_write(store, monkeypatch, resuming)
    plane.controller.settlement.pay_all()
    resuming.join(10)
    assert plane.state() == "running"


def test_a_note_says_why_it_is_in_this_state_and_ends_with_it(plane: Plane) -> None:
    plane.begin()
    plane.controller.control.pause("faster", ADA)
    assert plane.controller.junction.experiment("faster").note == ADA.reason
    plane.controller.control.resume("faster", ADA)
    assert plane.controller.junction.experiment("faster").note is None


def test_a_pause_that_the_journal_kept_is_not_repeated_after_the_resumption(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.begin()
    plane.controller.control.pause("faster", ADA)

    def refuse(file: Journal, key: str, value: str) -> None:
        raise OSError("input/output error")

    with monkeypatch.context() as there:
        there.setattr(Journal, "remove", refuse)
        plane.settle()
    plane.controller.control.resume("faster", ADA)
    plane.restart()
    assert plane.state() == "running"
    assert plane.candidate_has_traffic
    assert Journal(plane.data / "rollback.journal").entries == []


@pytest.mark.parametrize(("kind", "traffic"), [("ship", True), ("inconclusive", False)])
def test_a_conclusion_is_remembered_with_its_verdict(plane: Plane, kind: str, traffic: bool) -> None:
    plane.begin()
    plane.conclude(kind)  # type: ignore[arg-type]
    assert plane.candidate_has_traffic == traffic
    plane.restart()
    assert plane.state() == ("concluded" if traffic else "kept")
    assert plane.candidate_has_traffic == traffic
    controller = plane.controller
    awaited = views.summary(controller, controller.junction.experiment("faster"))["waiting_for"]
    assert (awaited is not None and "turnout promote" in awaited) == traffic


def test_snapshot_versions_grow_over_restarts_even_without_the_file(plane: Plane) -> None:
    plane.begin()
    plane.controller.pulse()
    before = plane.snapshot.version
    plane.kill()
    (plane.data / "snapshot.json").unlink()
    plane.start()
    assert plane.snapshot.version > before


def test_who_knows_no_model_publishes_nothing_until_the_registry_has_answered(plane: Plane) -> None:
    """The last snapshot is torn and MLflow is away: "no models" would take them from the workers."""
    plane.controller.pulse()
    plane.kill()
    version = plane.snapshot.version
    (plane.data / "snapshot.json").write_bytes(b'{"version": 3, "mod')
    plane.registry.away = True
    controller = plane.start()
    controller.pulse()
    assert controller.publication.last is None
    plane.registry.away = False
    controller.reconcile()
    assert plane.snapshot.models["chat"].production == 1
    assert plane.snapshot.version > version


def test_an_inconclusive_ending_makes_way_for_the_next_experiment(plane: Plane) -> None:
    control = plane.controller.control
    control.start(AB, "ab.yaml", ADA)
    name = plane.controller.junction.experiments()[0].name
    control.conclude(name, ADA, Backing(kind="inconclusive", digest="d", experiment=name))
    started, _ = control.start(AB.replace(name, "another"), "ab.yaml", ADA)
    assert started.state == "running"


def test_resuming_what_runs_changes_nothing(plane: Plane) -> None:
    control = plane.controller.control
    started, _ = control.start(AB, "ab.yaml", ADA)
    done = control.resume(started.name, ADA)
    assert "running already" in done.decision.changed[0]
    assert plane.controller.junction.experiment(started.name).phase.number == 1


def test_taking_traffic_away_is_recorded_from_the_candidate_to_control(plane: Plane) -> None:
    control = plane.controller.control
    started, _ = control.start(AB, "ab.yaml", ADA)
    done = control.stop(started.name, ADA)
    assert (done.decision.from_version, done.decision.to_version) == (
        started.candidate_version,
        started.control_version,
    )


# -- drafts, preflight, stages -----------------------------------------------------------------------------


def test_a_draft_gets_no_traffic_until_it_is_submitted(plane: Plane) -> None:
    control = plane.controller.control
    control.start(CHAIN, "spec.yaml", ADA, draft=True)
    assert plane.state() == "draft"
    plane.controller.watch.look()
    assert plane.state() == "draft"
    control.submit("faster", ADA)
    plane.controller.watch.look()
    assert plane.state() == "preflight"
    plane.restart()
    assert plane.state() == "preflight"
    assert plane.snapshot.models["chat"].mirrors == ()


def test_preflight_ends_when_the_golden_set_passes(plane: Plane) -> None:
    plane.begin(CHAIN)
    compared(plane, "pass")
    plane.controller.watch.look()
    assert plane.state() == "running"
    assert [mirror.share_ppm for mirror in plane.snapshot.models["chat"].mirrors] == [200_000]
    assert plane.rows()[-2:] == [("ada", "preflight", "done"), ("controller", "start", "done")]
    plane.restart()
    assert plane.controller.junction.experiment("faster").phase.number == 1


def test_a_golden_set_that_fails_meanwhile_keeps_production(plane: Plane) -> None:
    plane.begin(CHAIN)
    compared(plane, "fail")
    plane.controller.watch.look()
    assert plane.state() == "kept"


def test_preflight_waits_while_another_experiment_routes_the_model(plane: Plane) -> None:
    plane.begin(AB.replace("faster", "first"))
    plane.begin(CHAIN)
    compared(plane, "pass")
    plane.controller.watch.look()
    assert plane.state() == "preflight"
    plane.controller.control.stop("first", ADA)
    plane.controller.watch.look()
    assert plane.state() == "running"


def test_the_stages_of_a_chain_follow_each_other_and_survive_restarts(plane: Plane) -> None:
    compared(plane, "pass")
    plane.begin(CHAIN)
    seen = []
    for _ in range(3):
        there = plane.controller.junction.experiment("faster")
        seen.append((there.stage.mode, there.phase.number, there.first_phase))
        if there.next_stage:
            plane.controller.control.next_stage("faster", ADA, plane.judged("ship"))
            plane.restart()
    assert seen == [("shadow", 1, 1), ("canary", 2, 2), ("ab", 3, 3)]
    assert plane.candidate_has_traffic
    assert plane.snapshot.models["chat"].mirrors == ()


def test_a_stage_that_passed_is_no_permission_to_promote(plane: Plane) -> None:
    compared(plane, "pass")
    plane.begin(CHAIN)
    plane.judged("ship")
    with pytest.raises(Refused, match="only passed the stage shadow"):
        plane.promote(2)
    plane.controller.control.next_stage("faster", ADA, plane.judged("ship"))
    plane.controller.control.next_stage("faster", ADA, plane.judged("ship"))
    with pytest.raises(Refused, match="no verdict yet"):  # the ab stage has none of its own
        plane.promote(2)


def test_the_operator_may_advance_a_ramp(plane: Plane) -> None:
    plane.begin(CANARY)
    control = plane.controller.control
    control.advance("faster", ADA)
    control.advance("faster", ADA)
    assert plane.controller.junction.experiment("faster").weight_ppm == 500_000
    with pytest.raises(Conflict, match="last step"):
        control.advance("faster", ADA)


def test_experiments_of_a_group_have_no_unit_in_common(plane: Plane) -> None:
    plane.begin(SHADOW + "exclusive: {group: checkout, units: [0, 60]}\n")
    other = AB.replace("faster", "other") + "exclusive: {group: checkout, units: [50, 100]}\n"
    with pytest.raises(Conflict) as refused:
        plane.begin(other)
    assert refused.value.code == "units_taken"
    plane.begin(other.replace("50, 100", "60, 100"))
    route = plane.snapshot.models["chat"]
    snapshot = plane.snapshot
    for number in range(500):
        unit = unit_id(f"unit-{number}")
        mirrored = bool(snapshot.mirrors("chat", unit, "r"))
        assigned = snapshot.route("chat", unit).arm is not None
        assert not (mirrored and assigned)
    assert route.splits


def test_who_is_held_out_is_in_no_experiment(plane: Plane) -> None:
    plane.begin(AB + "holdout: 20\n")
    units = [unit_id(f"unit-{number}") for number in range(4000)]
    outside = {unit for unit in units if plane.snapshot.route("chat", unit).outside == "holdout"}
    assert abs(len(outside) - 800) < 100
    plane.controller.control.stop("faster", ADA)
    plane.begin(AB.replace("faster", "next") + "holdout: 30\n")
    later = {unit for unit in units if plane.snapshot.route("chat", unit).outside == "holdout"}
    assert outside < later


def test_the_documented_query_finds_where_a_unit_lies(plane: Plane) -> None:
    page = (Path(__file__).parents[3] / "docs/reference/assignment.md").read_text("utf-8")
    query = page.partition("```sql\n")[2].partition("```")[0].replace("chat-v2-canary", "faster")
    begun, unit = plane.begin(), unit_id("ada")
    one = f"SELECT 'r' AS request_id, 'control' AS assigned_arm, '{unit}' AS unit, 'faster' AS experiment"
    [row] = plane.controller.store.read(f"WITH exchanges AS ({one}) {query}")
    assert row["point"] == point(begun.salt, unit)
