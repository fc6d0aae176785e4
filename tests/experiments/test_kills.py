"""Killed between any two steps, a promotion, a rollback or a start is finished or undone."""

from __future__ import annotations

import pytest

from .plane import AB, Killed, Plane, shipped


@pytest.mark.parametrize(("step", "production"), [("intent", 1), ("alias", 2), ("snapshot", 2), ("done", 2)])
@pytest.mark.parametrize("registry_away", [False, True])
def test_a_promotion_killed_anywhere_is_finished_or_undone(
    plane: Plane, step: str, production: int, registry_away: bool
) -> None:
    shipped(plane)
    version = plane.snapshot.version
    plane.dies_at(step, plane.promote)
    seen = plane.snapshot.version
    plane.registry.away = registry_away
    plane.restart()
    assert plane.snapshot.version > seen >= version
    if registry_away:  # then what was in force stays in force until it answers
        route = plane.snapshot.models["chat"]
        assert (not route.splits) == (route.production == 2)
        plane.registry.away = False
        plane.settle()
    assert plane.production == production
    assert plane.state() == ("promoted" if production == 2 else "concluded")
    assert plane.candidate_has_traffic == (production == 1)
    assert plane.rows()[-1] == ("ada", "promote", "done" if production == 2 else "failed")
    assert not [row for row in plane.rows() if row[2] == "intent"]
    if production == 1:  # undone, not forbidden
        plane.promote()
        assert plane.production == 2


@pytest.mark.parametrize("step", ["owed", "published"])
def test_a_release_killed_anywhere_is_finished(plane: Plane, step: str) -> None:
    plane.begin()
    plane.dies_at(step, plane.rollback)
    plane.restart()
    assert plane.production == 1
    assert plane.state() == "rolled_back"
    assert not plane.candidate_has_traffic
    assert plane.rows()[-1] == ("ada", "rollback", "done")


@pytest.mark.parametrize("step", ["records"])
def test_a_release_killed_while_it_is_written_is_finished(plane: Plane, step: str) -> None:
    plane.begin()
    plane.rollback()
    plane.dies_at(step, plane.settle)
    plane.restart()
    assert plane.state() == "rolled_back"
    assert not plane.candidate_has_traffic
    assert plane.rows().count(("ada", "rollback", "done")) == 1


@pytest.mark.parametrize("step", ["owed", "published"])
@pytest.mark.parametrize("registry_away", [False, True])
def test_a_rollback_of_production_killed_anywhere_is_finished(
    plane: Plane, step: str, registry_away: bool
) -> None:
    plane.promote(2, force=True)
    plane.dies_at(step, plane.rollback)
    plane.registry.away = registry_away
    plane.restart()
    assert plane.snapshot.models["chat"].production == 1
    plane.registry.away = False
    plane.settle()
    assert plane.production == 1
    assert plane.rows()[-1] == ("ada", "rollback", "done")


@pytest.mark.parametrize("step", ["records", "alias"])
def test_a_rollback_of_production_killed_while_it_is_written_is_finished(plane: Plane, step: str) -> None:
    plane.promote(2, force=True)
    plane.rollback()
    plane.dies_at(step, plane.settle)
    plane.restart()
    assert plane.production == 1
    assert plane.rows().count(("ada", "rollback", "done")) == 1
    assert not [row for row in plane.rows() if row[2] == "intent"]


@pytest.mark.parametrize("alone", [False, True])
def test_a_promotion_whose_model_was_deleted_meanwhile_holds_up_nothing(plane: Plane, alone: bool) -> None:
    """Where it was the only model, its traffic goes on as it was: production has not moved."""
    if not alone:
        plane.registry.register("other", None)
    plane.dies_at("intent", lambda: plane.promote(2, force=True))
    with plane.registry._mlflow.asking("delete the model") as client:
        client.delete_registered_model("chat")
    plane.restart()
    assert plane.controller.registry_condition().ok
    left = {model.name: model.production for model in plane.controller.junction.models()}
    assert left == ({"chat": 1} if alone else {"other": None})
    assert plane.rows() == [("ada", "promote", "failed")]


@pytest.mark.parametrize("production", [False, True])
def test_a_promotion_that_a_rollback_has_overtaken_is_not_finished_after_a_kill(
    plane: Plane, production: bool
) -> None:
    plane.promote(3, force=True)
    plane.now_ns += 10**9
    if not production:  # then the candidate is what is rolled back
        plane.begin(AB.replace("candidate: 2", "candidate: 2\ncontrol: 3"))

    def overtake(step: str) -> None:
        if step == "alias":
            plane.rollback(production=production)
            raise Killed(step)

    plane.controller.promotion._at = overtake
    with pytest.raises(Killed):
        plane.promote(2, force=True)
    before = plane.snapshot.models["chat"].production
    plane.restart_without_settling()
    assert plane.snapshot.models["chat"].production == before == (1 if production else 3)
    plane.settle()
    assert plane.production == before
    assert ("ada", "promote", "failed") in plane.rows()
    assert not [row for row in plane.rows() if row[2] == "intent"]


@pytest.mark.parametrize("step", ["recorded", "published"])
def test_a_start_killed_anywhere_has_begun(plane: Plane, step: str) -> None:
    plane.dies_at(step, plane.begin)
    plane.restart()
    assert plane.state() == "running"
    assert plane.candidate_has_traffic


def test_a_kill_is_no_ordinary_exception() -> None:
    assert not issubclass(Killed, Exception)


def test_a_rollback_to_a_version_that_was_deleted_meanwhile_is_given_up(plane: Plane) -> None:
    plane.promote(2, force=True)
    plane.registry.away = True
    plane.rollback()
    plane.settle()
    assert plane.snapshot.models["chat"].production == 1
    plane.registry.away = False
    with plane.registry._mlflow.asking("delete version 1") as client:
        client.delete_model_version("chat", "1")
    plane.settle()
    plane.settle()
    assert plane.production == 2, "what the registry names is better than no answer"
    assert plane.controller.settlement.debts == []
    plane.promote(3, force=True)
    assert plane.production == 3
    assert ("ada", "rollback", "failed") in plane.rows()
