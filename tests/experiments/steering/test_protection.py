"""Traffic that is taken away without statistics: labelled as such, once, and only where nothing succeeds."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.errors import Unavailable
from experiments.ledger import decisions
from experiments.ledger.exchange import ExchangeRecord
from experiments.ledger.spool import SpoolWriter
from experiments.steering.control import Author

from ..plane import ADA, CANARY, SHADOW, Plane

ASSIGNED: dict[str, Any] = {
    "experiment": "faster", "phase": 1, "assigned_arm": "candidate", "assigned_version": 2,
}  # fmt: skip
TRIPPED = ASSIGNED | {
    "served_arm": "control", "served_version": 1, "arm_outcome": "shed", "error_code": "breaker_open",
}  # fmt: skip
FAILED = ASSIGNED | {"served_arm": "control", "served_version": 1, "arm_outcome": "upstream_error"}
LEFT = ASSIGNED | {"served_arm": "candidate", "served_version": 2, "outcome": "client_gone", "status": 0}
TEXT = b'{"choices":[{"text":"x","finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":5}}'
ANSWERED = ASSIGNED | {
    "served_arm": "candidate", "served_version": 2, "response": TEXT, "content_type": "application/json",
}  # fmt: skip


def collected(plane: Plane, *rows: dict[str, Any], worker: str = "w1") -> None:
    """Rows as a worker would have spooled them, now in the ledger."""
    spool = SpoolWriter(plane.data / "spool", worker)
    for row in rows:
        plane.now_ns += 1_000_000
        name = f"{plane.now_ns:032x}"
        fields = {"unit": name, "status": 200, **row}
        record = ExchangeRecord(
            exchange_id=name, request_id=name, started_ns=plane.now_ns, path="/v1/completions", model="chat",
            worker=worker, **fields,
        )  # fmt: skip
        assert spool.append(record)
    spool.close()
    plane.controller.collect()


def acts(plane: Plane) -> list[tuple[str, str]]:
    plane.controller.protection.look()
    plane.settle()
    found = decisions.listed(plane.controller.store)
    return sorted((one.actor, one.action) for one in found if one.actor in ("breaker", "budget"))


def test_where_nothing_succeeds_the_experiment_is_paused_by_the_breaker(plane: Plane) -> None:
    plane.begin(CANARY)
    collected(plane, *[FAILED] * 20, TRIPPED, TRIPPED)
    assert acts(plane) == [("breaker", "breaker"), ("breaker", "pause")]
    assert plane.state() == "paused"
    assert not plane.candidate_has_traffic
    (pause,) = [one for one in decisions.listed(plane.controller.store) if one.action == "pause"]
    assert pause.verdict_kind is None
    assert pause.reason is not None
    assert pause.reason.startswith("breaker: nothing succeeds at version 2 (20 failures")
    assert acts(plane) == [("breaker", "breaker"), ("breaker", "pause")]  # once
    plane.restart()
    assert acts(plane) == [("breaker", "breaker"), ("breaker", "pause")]


def test_one_that_hangs_is_told_by_those_who_left_it(plane: Plane) -> None:
    plane.begin(CANARY)
    collected(plane, *[LEFT] * 20, TRIPPED)
    acts(plane)
    (pause,) = [one for one in decisions.listed(plane.controller.store) if one.action == "pause"]
    assert "0 failures, 20 left by their clients before they were answered, in this phase" in pause.reason


def test_where_the_candidate_answers_others_it_is_noted_and_goes_on(plane: Plane) -> None:
    plane.begin(CANARY)
    collected(plane, *[FAILED] * 20, TRIPPED)
    collected(plane, ANSWERED, worker="w2")
    assert acts(plane) == [("breaker", "breaker")]
    assert plane.state() == "running"


def test_after_it_was_mended_and_resumed_old_rows_do_not_count(plane: Plane) -> None:
    plane.begin(CANARY)
    collected(plane, TRIPPED)
    acts(plane)
    plane.controller.control.resume("faster", ADA)
    collected(plane, ANSWERED | {"phase": 2}, worker="w2")
    acts(plane)
    assert plane.state() == "running"


def test_failures_alone_are_for_the_statistics(plane: Plane) -> None:
    plane.begin(CANARY)
    collected(plane, *[FAILED] * 100)
    assert acts(plane) == []


@pytest.mark.parametrize(
    ("budget", "copies", "paused"),
    [
        ("max_tokens: 100", 9, False),
        ("max_tokens: 100", 10, True),
        ("max_cost: 0.01, prices: {prompt: 100, completion: 50}", 13, False),
        ("max_cost: 0.01, prices: {prompt: 100, completion: 50}", 14, True),
    ],
)
def test_a_shadow_that_has_used_up_its_budget_is_paused(
    plane: Plane, budget: str, copies: int, paused: bool
) -> None:
    plane.begin(SHADOW.replace("{share: 20}", f"{{share: 20, {budget}}}"))
    usage = (
        b'{"choices":[{"text":"x","finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":5}}'
    )
    copy = ANSWERED | {"role": "shadow", "response": usage, "content_type": "application/json"}
    collected(plane, *[copy] * copies)
    assert (acts(plane) == [("budget", "pause")]) is paused
    assert plane.state() == ("paused" if paused else "running")


MIRRORED = SHADOW.replace("faster", "mirrored").replace("candidate: 2", "candidate: 3")
COPIED: dict[str, Any] = {
    "experiment": "mirrored", "phase": 1, "assigned_arm": "candidate", "assigned_version": 3,
    "served_version": 3, "role": "shadow", "response": TEXT, "content_type": "application/json",
}  # fmt: skip


def test_a_concluded_shadow_that_has_used_up_its_budget_is_over(plane: Plane) -> None:
    plane.begin(MIRRORED.replace("{share: 20}", "{share: 20, max_tokens: 10}"))
    plane.conclude("ship", "mirrored")
    collected(plane, COPIED)
    assert acts(plane) == [("budget", "stop")]
    assert plane.state("mirrored") == "kept"
    assert not plane.snapshot.models["chat"].mirrors


def test_what_cannot_be_protected_now_keeps_no_other_from_it(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.begin(CANARY)
    plane.begin(MIRRORED.replace("{share: 20}", "{share: 20, max_tokens: 10}"))
    collected(plane, COPIED, FAILED, TRIPPED)

    def refuse(name: str, author: Author) -> None:
        raise Unavailable("not now")

    with monkeypatch.context() as there:
        there.setattr(plane.controller.control, "pause", refuse)
        assert acts(plane) == [("breaker", "breaker"), ("breaker", "pause")]
    assert ("budget", "pause") in acts(plane)
