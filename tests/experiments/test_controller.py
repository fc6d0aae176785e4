"""Loops and answers that overlap: what one of them does is not half seen, nor done twice, by another."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from experiments import views
from experiments.ledger.collector import QUARANTINE, Collected

from .plane import Plane, amid_the_next_write, verdict
from .steering.test_protection import ANSWERED, collected


def test_the_last_round_of_collecting_waits_for_one_that_is_under_way(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow machine the loop's round outlives the ten seconds that its end is waited for."""
    store = plane.controller.store
    last = threading.Thread(target=plane.controller.collect)
    amid_the_next_write(store, monkeypatch, last)
    collected(plane, ANSWERED)
    last.join(10)
    assert store.read("SELECT count(*) AS rows FROM exchanges") == [{"rows": 1}]
    assert not (plane.data / "spool" / QUARANTINE).exists()


def test_the_first_look_is_at_all_that_came_while_no_controller_ran(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An experiment whose time was over meanwhile would end without it."""
    steps, take_in = [], threading.Event()
    collect = plane.controller.collector.collect_once

    def slowly() -> Collected:
        take_in.wait(10)
        steps.append("taken in")
        return collect()

    monkeypatch.setattr(plane.controller.collector, "collect_once", slowly)
    monkeypatch.setattr(plane.controller.watch, "look", lambda: steps.append("looked"))
    plane.controller.start()
    threading.Event().wait(0.3)
    take_in.set()
    for _ in range(100):
        if "looked" in steps:
            break
        threading.Event().wait(0.05)
    plane.controller.stop()
    assert steps[0] == "taken in"
    assert "looked" in steps


def test_an_answer_about_an_experiment_is_of_one_look(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    plane.begin()
    looks = iter(range(100, 200))

    def looked_meanwhile(name: str) -> dict[str, Any]:
        made = replace(verdict(name, "keep_running", plane.now_ns), units=next(looks))
        return made.document()

    monkeypatch.setattr(plane.controller.watch, "latest", looked_meanwhile)
    found = views.experiment(plane.controller, plane.controller.junction.experiment("faster"))
    assert found["units"] == found["verdict"]["units"]
