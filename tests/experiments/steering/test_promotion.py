"""Promote and rollback leave one production version, whatever is away and whoever acts at once."""

from __future__ import annotations

import threading
from pathlib import Path

import duckdb
import pytest

from experiments.errors import Conflict, NotFound, Refused
from experiments.ledger import decisions, trials
from experiments.routing import CatalogModel
from registry import RegistryUnreachable

from ..plane import AB, ADA, SHADOW, Plane, shipped

# -- promote -----------------------------------------------------------------------------------------------


def test_a_shipped_candidate_becomes_production(plane: Plane) -> None:
    shipped(plane)
    before = plane.snapshot.version
    done = plane.promote(None)
    assert plane.production == 2
    assert plane.state() == "promoted"
    assert not plane.candidate_has_traffic
    assert plane.snapshot.version > before
    assert done.decision.state == "done"
    assert done.decision.changed == (
        "production of 'chat': version 1 -> 2",
        "experiment 'faster' is promoted",
    )
    assert plane.rows()[-1] == ("ada", "promote", "done")
    row = decisions.listed(plane.controller.store)[0]
    assert (row.from_version, row.to_version, row.verdict_kind, row.forced) == (1, 2, "ship", False)
    assert row.verdict_hash


def test_promoting_what_is_production_changes_nothing(plane: Plane) -> None:
    shipped(plane)
    plane.promote()
    rows, version = plane.rows(), plane.snapshot.version
    done = plane.promote()
    assert not done.recorded
    assert "nothing to change" in done.decision.changed[0]
    assert (plane.rows(), plane.snapshot.version) == (rows, version)


@pytest.mark.parametrize("kind", ["keep_running", "inconclusive", "invalid", "roll_back"])
def test_no_verdict_but_ship_promotes(plane: Plane, kind: str) -> None:
    plane.begin()
    plane.judged(kind)  # type: ignore[arg-type]
    with pytest.raises(Refused, match=kind) as refused:
        plane.promote()
    assert refused.value.code == "promotion_refused"
    assert plane.production == 1
    assert plane.state() == "running"


def test_what_was_never_tried_is_not_promoted(plane: Plane) -> None:
    with pytest.raises(Refused, match="never tried"):
        plane.promote(3)
    with pytest.raises(Refused, match="no version of 'chat' has a passing verdict"):
        plane.promote(None)
    with pytest.raises(NotFound, match="it has: 1, 2, 3"):
        plane.promote(9)


def test_a_verdict_against_another_production_does_not_count(plane: Plane) -> None:
    shipped(plane)
    plane.promote(3, force=True)
    with pytest.raises(Refused, match="compared with version 1, but production is version 3"):
        plane.promote(2)


def test_a_candidate_that_was_rolled_back_is_not_promoted_on_its_earlier_verdict(plane: Plane) -> None:
    shipped(plane)
    plane.rollback()
    with pytest.raises(Refused, match="rolled back"):
        plane.promote(2)


def test_force_needs_a_reason_and_is_recorded(plane: Plane) -> None:
    with pytest.raises(Refused, match="needs a reason"):
        plane.controller.promotion.promote("chat", 3, type(ADA)(actor="ada", reason="  "), force=True)
    plane.promote(3, force=True)
    assert plane.production == 3
    row = decisions.listed(plane.controller.store)[0]
    assert (row.forced, row.reason, row.verdict_kind) == (True, "because", None)


def test_a_dry_run_says_what_would_change_and_changes_nothing(plane: Plane) -> None:
    shipped(plane)
    version = plane.snapshot.version
    done = plane.controller.promotion.promote("chat", 2, ADA, dry_run=True)
    assert "version 1 -> 2" in done.decision.changed[0]
    assert not done.recorded
    back = plane.controller.promotion.rollback("chat", ADA, dry_run=True)
    assert "would get no traffic" in back.decision.changed[0]
    assert plane.production == 1
    assert plane.snapshot.version == version
    assert plane.candidate_has_traffic


def test_an_experiment_that_loses_its_control_is_stopped(plane: Plane) -> None:
    plane.begin()
    plane.promote(3, force=True)
    assert plane.state() == "kept"
    assert not plane.candidate_has_traffic


def test_a_registry_that_is_away_refuses_the_promotion_and_production_stays(plane: Plane) -> None:
    shipped(plane)
    plane.registry.away = True
    with pytest.raises(RegistryUnreachable):
        plane.promote()
    plane.registry.away = False
    plane.settle()
    assert plane.production == 1
    assert plane.rows()[-1] == ("ada", "promote", "failed")
    assert plane.candidate_has_traffic


def test_two_operators_at_once_one_wins_and_the_other_is_told(plane: Plane) -> None:
    shipped(plane)
    inside, go_on = threading.Event(), threading.Event()
    plane.controller.promotion._at = lambda step: (
        (inside.set(), go_on.wait(10))[0] if step == "intent" else None
    )  # type: ignore[assignment,func-returns-value]
    first = threading.Thread(target=plane.promote)
    first.start()
    assert inside.wait(10)
    with pytest.raises(Conflict) as refused:
        plane.promote(3, force=True)
    go_on.set()
    first.join(10)
    assert refused.value.code == "promotion_running"
    assert plane.production == 2


def test_a_rollback_overtakes_a_promotion_that_hangs_in_the_registry(plane: Plane) -> None:
    """The candidate is released at once, and the promotion that comes back later is undone."""
    shipped(plane)
    inside, go_on = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def hang(step: str) -> None:
        if step == "alias":
            inside.set()
            assert go_on.wait(10)

    plane.controller.promotion._at = hang

    def promote() -> None:
        try:
            plane.promote()
        except Conflict as error:
            errors.append(error)

    thread = threading.Thread(target=promote)
    thread.start()
    assert inside.wait(10)
    plane.rollback()
    assert not plane.candidate_has_traffic
    assert plane.snapshot.models["chat"].production == 1
    go_on.set()
    thread.join(10)
    assert [getattr(error, "code", None) for error in errors] == ["overtaken"]
    plane.settle()
    assert plane.production == 1
    assert plane.state() == "rolled_back"
    assert ("ada", "promote", "failed") in plane.rows()
    assert not [row for row in plane.rows() if row[2] == "intent"]


# -- rollback ----------------------------------------------------------------------------------------------


def test_a_rollback_releases_the_candidate_of_a_running_experiment(plane: Plane) -> None:
    plane.begin()
    assert plane.candidate_has_traffic
    done = plane.rollback()
    assert not plane.candidate_has_traffic
    assert done.pending == ("the records in the ledger",)  # nobody has paid yet
    plane.settle()
    assert plane.production == 1
    assert plane.state() == "rolled_back"
    assert plane.rows()[-1] == ("ada", "rollback", "done")


def test_a_rollback_releases_the_candidate_that_has_traffic_and_not_an_older_draft(plane: Plane) -> None:
    drafted = AB.replace("experiment: faster", "experiment: drafted")
    plane.controller.control.start(drafted, "drafted.yaml", ADA, draft=True)
    plane.now_ns += 1_000_000_000
    plane.begin(AB)
    assert plane.candidate_has_traffic
    plane.rollback()
    assert not plane.candidate_has_traffic
    assert plane.controller.junction.experiment("drafted").state == "draft"


@pytest.mark.parametrize(("faster", "production"), [("promote", 2), ("rollback", 1)])
def test_a_rollback_starts_from_what_is_production_when_it_turns_traffic(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, faster: str, production: int
) -> None:
    """Another operator's decision comes between its first look and its lock."""
    plane.promote(2, force=True)
    plane.now_ns += 10**9
    junction = plane.controller.junction
    look = junction.model

    def overtaken(name: str) -> CatalogModel:
        found = look(name)
        monkeypatch.setattr(junction, "model", look)
        if faster == "promote":
            plane.promote(3, force=True)
        else:
            plane.rollback()
        return found

    monkeypatch.setattr(junction, "model", overtaken)
    plane.rollback()
    plane.settle()
    assert plane.production == production
    assert plane.rows().count(("ada", "rollback", "done")) == 1


def test_pressing_rollback_twice_does_not_roll_production_back_as_well(plane: Plane) -> None:
    plane.promote(3, force=True)
    plane.now_ns += 10**9
    plane.begin(AB.replace("candidate: 2", "candidate: 2\ncontrol: 3"))
    plane.now_ns += 10**9
    plane.rollback()
    done = plane.rollback()
    assert not done.recorded
    assert "--production" in done.decision.changed[0]
    plane.settle()
    assert plane.production == 3
    plane.rollback(production=True)
    plane.settle()
    assert plane.production == 1


def test_a_clock_that_was_set_back_makes_no_rollback_a_repetition(plane: Plane) -> None:
    plane.promote(3, force=True)
    plane.now_ns += 3600 * 10**9  # an hour ahead, until it is noticed
    plane.begin(AB.replace("candidate: 2", "candidate: 2\ncontrol: 3"))
    plane.rollback()
    plane.settle()
    plane.now_ns -= 3590 * 10**9
    done = plane.rollback()
    plane.settle()
    assert plane.production == 1, done.decision.changed


def test_production_goes_back_to_the_former_version_and_no_further(plane: Plane) -> None:
    plane.promote(2, force=True)
    plane.promote(3, force=True)
    plane.rollback()
    plane.settle()
    assert plane.production == 2
    again = plane.rollback()
    assert not again.recorded
    assert "already" in again.decision.changed[0]
    plane.settle()
    assert plane.production == 2


def test_an_experiment_tells_that_what_it_promoted_was_taken_back(plane: Plane) -> None:
    shipped(plane)
    plane.promote()
    name = plane.controller.junction.experiment("faster").name
    assert plane.controller.junction.experiment("faster").note is None
    done = plane.rollback()
    plane.settle()
    assert done.decision.changed == ("production of 'chat': version 2 -> 1",)
    assert (plane.state(), plane.controller.junction.experiment("faster").note) == (
        "promoted",
        "version 2 was taken back: production went back to version 1",
    )
    told = decisions.listed(plane.controller.store, experiment=name)
    assert [one.action for one in told][:2] == ["rollback", "promote"]
    assert (
        trials.load(plane.controller.store)[name].note == plane.controller.junction.experiment("faster").note
    )
    again = plane.promote(2, force=True)
    assert again.decision.changed == ("production of 'chat': version 1 -> 2",)  # it had been promoted before
    assert (plane.state(), plane.controller.junction.experiment("faster").note) == ("promoted", None)


def test_there_may_be_nothing_to_go_back_to(plane: Plane) -> None:
    with pytest.raises(Conflict, match="no version of 'chat' was in production before version 1"):
        plane.rollback()
    with pytest.raises(NotFound, match="there are: chat"):
        plane.controller.promotion.rollback("chart", ADA)


def test_a_shadow_does_not_stand_in_the_way_of_production(plane: Plane) -> None:
    plane.promote(3, force=True)
    plane.begin(SHADOW.replace("candidate: 2", "candidate: 2\ncontrol: 3"))
    plane.rollback()
    plane.settle()
    assert plane.production == 1
    assert plane.state() == "kept"
    assert plane.snapshot.models["chat"].mirrors == ()


def test_rollback_needs_no_registry(plane: Plane) -> None:
    plane.promote(2, force=True)
    plane.registry.away = True
    done = plane.rollback()
    assert plane.snapshot.models["chat"].production == 1
    assert "alias production -> 1 in MLflow" in done.pending
    plane.settle()
    assert plane.snapshot.models["chat"].production == 1
    assert plane.rows()[-1] == ("ada", "rollback", "intent")
    with pytest.raises(Conflict) as refused:
        plane.promote(3, force=True)
    assert refused.value.code == "move_pending"
    plane.registry.away = False
    plane.settle()
    assert plane.production == 1
    assert plane.rows()[-1] == ("ada", "rollback", "done")


def test_rollback_needs_no_registry_even_over_a_restart(plane: Plane) -> None:
    plane.promote(2, force=True)
    plane.registry.away = True
    plane.rollback()
    plane.restart()
    assert plane.snapshot.models["chat"].production == 1
    plane.registry.away = False
    plane.settle()
    assert plane.production == 1
    assert plane.rows()[-1] == ("ada", "rollback", "done")


def test_rollback_needs_no_disk(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the ledger nor the snapshot can be written, only the journal: its blocks are there already."""
    plane.begin()
    full = True

    def write(change: object) -> object:
        if full:
            raise duckdb.IOException("Could not write: No space left on device")
        return real(change)  # type: ignore[arg-type]

    real = plane.controller.store.write
    monkeypatch.setattr(plane.controller.store, "write", write)
    publication = plane.controller.publication
    monkeypatch.setattr(publication, "_file", Path("/nowhere/at/all/snapshot.json"))
    done = plane.rollback()
    assert not plane.candidate_has_traffic
    assert done.pending == ("the records in the ledger",)
    plane.settle()
    assert publication.unsaved
    full = False
    monkeypatch.setattr(publication, "_file", plane.data / "snapshot.json")
    plane.settle()
    plane.controller.pulse()
    assert plane.state() == "rolled_back"
    assert not publication.unsaved
    assert plane.production == 1


def test_rollback_without_a_disk_survives_a_restart(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    plane.begin()

    def write(change: object) -> object:
        raise duckdb.IOException("Could not write: No space left on device")

    monkeypatch.setattr(plane.controller.store, "write", write)
    plane.rollback()
    plane.restart()
    assert not plane.candidate_has_traffic
    assert plane.state() == "rolled_back"
    assert plane.rows()[-1] == ("ada", "rollback", "done")
