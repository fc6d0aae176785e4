"""A rehearsal does all of a rollback but for moving requests, and says what would go wrong."""

from __future__ import annotations

import pytest

from experiments.entries import Endpoint
from experiments.errors import Conflict, Refused
from experiments.readiness import answers
from registry.records import FINGERPRINT, GOLDEN, STATE, VERDICT
from tests.dripping import BODY, HEAD, dripping

from ..plane import AB, ADA, Plane


def test_a_rehearsal_publishes_what_is_in_force_and_is_recorded(plane: Plane) -> None:
    plane.begin()
    before = plane.snapshot
    done = plane.controller.rehearsal.rehearse("chat", ADA)
    assert done.decision.state == "done"
    assert plane.snapshot.version == before.version + 1
    assert plane.snapshot.models == before.models
    assert plane.candidate_has_traffic
    assert plane.rows()[-1] == ("ada", "rehearse", "done")
    assert "version 1 answers" in done.decision.changed
    assert plane.controller.settlement.debts == []


def test_a_rehearsal_finds_a_former_version_that_is_down(plane: Plane) -> None:
    plane.promote(2, force=True)
    plane.down[1] = "connection refused"
    done = plane.controller.rehearsal.rehearse("chat", ADA)
    assert done.decision.state == "failed"
    assert "version 1 does not answer: connection refused" in done.decision.changed
    assert plane.production == 2


def test_without_a_way_back_there_is_nothing_to_rehearse(plane: Plane) -> None:
    with pytest.raises(Conflict, match="no version of 'chat' was in production before"):
        plane.controller.rehearsal.rehearse("chat", ADA)


def test_what_has_come_back_already_is_not_rehearsed(plane: Plane) -> None:
    plane.promote(2, force=True)
    plane.rollback()
    with pytest.raises(Conflict, match="came back from version 2 already and is version 1"):
        plane.controller.rehearsal.rehearse("chat", ADA)
    assert "rehearse" not in {action for _, action, _ in plane.rows()}


def test_a_rehearsal_that_is_killed_leaves_no_debt(plane: Plane) -> None:
    plane.controller.settlement._journal.add({"id": "x", "rehearsal": True})
    plane.restart()
    assert plane.controller.settlement.debts == []
    assert plane.controller.settlement._journal.entries == []


@pytest.mark.parametrize(("down", "what"), [(2, "it cannot be production"), (1, "a rollback would fail")])
def test_no_promotion_without_both_endpoints_unless_forced(plane: Plane, down: int, what: str) -> None:
    plane.begin()
    plane.conclude("ship")
    plane.down[down] = "connection refused"
    with pytest.raises(Refused, match=what) as refused:
        plane.promote()
    assert refused.value.code == "endpoint_down"
    assert plane.production == 1
    plane.promote(force=True)
    assert plane.production == 2


@pytest.mark.parametrize(("beginning", "says"), [(HEAD, "TimeoutError"), (BODY, None)])
def test_an_endpoint_whose_answer_does_not_end_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, beginning: bytes, says: str | None
) -> None:
    monkeypatch.setattr("experiments.readiness.PATIENCE_S", 0.3)
    with dripping(beginning) as url:
        found = answers(
            Endpoint(model="chat", version=1, replicas=(url,) * 20, served_name="chat", engine="vllm")
        )
    assert found == (says and "; ".join(f"{url}: {says}" for _ in range(20)))


def test_what_turnout_knows_of_a_version_stands_on_it_in_mlflow(plane: Plane) -> None:
    plane.begin()
    backing = plane.judged("ship")
    plane.controller.control.conclude("faster", ADA, backing)
    plane.settle()
    versions = {one.version: one.labels for one in plane.registry.model("chat").versions}
    assert versions[1][STATE] == "production"
    assert versions[2][STATE] == "concluded in faster"
    assert versions[2][VERDICT] == backing.digest
    assert versions[3][STATE] == "registered"
    assert GOLDEN not in versions[2]
    assert len({labels[FINGERPRINT] for labels in versions.values()}) == 3
    plane.promote()
    plane.registry.label("chat", 2, {STATE: "somebody's invention"})
    plane.settle()
    plane.settle()
    versions = {one.version: one.labels for one in plane.registry.model("chat").versions}
    assert (versions[1][STATE], versions[2][STATE]) == ("former production", "production")


def test_labels_that_are_there_are_not_written_again(plane: Plane) -> None:
    plane.begin(AB)
    plane.settle()
    written: list[int] = []
    plane.registry.label = lambda model, version, labels: written.append(version)  # type: ignore[method-assign]
    plane.settle()
    assert written == []
