"""What the evidence says is carried out without anybody asking, and once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from experiments import views
from experiments.controller import Controller
from experiments.evidence import AnalysisSpec, Evidence
from experiments.ledger import decisions, trials
from experiments.ledger.spool import SpoolWriter
from experiments.ledger.tally import Tally
from experiments.steering.watch import AGAIN_NS, Watch
from experiments.verdict import Reason, Verdict, VerdictKind

from ..ledger.samples import record
from ..plane import AB, ADA, CANARY, Plane, verdict

Judge = Callable[..., Verdict]


def judge(kind: VerdictKind) -> Judge:
    def conclude(spec: AnalysisSpec, evidence: Evidence, **_: Any) -> Verdict:
        return verdict(spec.experiment, kind, evidence.as_of_ns)

    return conclude


def watched(plane: Plane, kind: VerdictKind) -> Watch:
    controller = plane.controller
    return Watch(controller.control, controller.promotion, judge=judge(kind))


def test_silence_is_what_the_controller_has_heard_itself(plane: Plane) -> None:
    """Not what a clock says that jumped, or a controller that slept while requests came and lie in the
    spool."""
    plane.begin(AB + "policies: {no_traffic: roll_back, no_traffic_after: 60s}\n")
    arrived = 1
    tally = cast(Tally, SimpleNamespace(requests=lambda name: arrived))
    controller = plane.controller
    watch = Watch(controller.control, controller.promotion, judge=judge("keep_running"), tally=tally)

    def look(seconds: int, times: int = 1) -> str:
        for _ in range(times):
            plane.now_ns += seconds * 10**9
            watch.look()
        plane.settle()
        return plane.state()

    assert look(0) == "running"
    assert look(86_400) == "running"  # ahead a day, or asleep for one
    assert look(-90_000) == "running"  # and back
    assert look(3, times=10) == "running"
    arrived += 1  # of an hour ago, by its clock
    assert look(3, times=19) == "running"
    assert look(3, times=2) == "rolled_back"


PARTS_OF_SCIPY = ("scipy.optimize", "scipy.special", "scipy.stats")


def test_a_controller_answers_before_it_loads_what_takes_seconds() -> None:
    program = "import sys, experiments.__main__; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(told.stdout.split())
    assert {"experiments.controller", "scipy"} <= loaded, "else this shows nothing"
    assert not loaded & {*PARTS_OF_SCIPY, "mlflow", "pandas", "litellm", "streamlit"}


PREPARED = f"""
import sys
from pathlib import Path
from types import SimpleNamespace as Some
from experiments.ledger.store import Store
from experiments.steering.watch import Watch
with Store(Path(sys.argv[1])) as store:
    for experiments in ((), (Some(is_open=False),), (Some(is_open=True),)):
        Watch(Some(store=store, junction=Some(experiments=lambda: experiments)), None).prepare()
        print(*(part in sys.modules for part in {PARTS_OF_SCIPY}))
"""


def test_no_formula_waits_for_a_part_of_scipy_once_there_is_something_to_judge(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PREPARED, str(tmp_path / "ledger.duckdb")]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == ["False False False"] * 2 + ["True True True"]


def test_a_crossed_guardrail_rolls_back_by_itself(plane: Plane) -> None:
    plane.begin()
    watched(plane, "roll_back").look()
    assert not plane.candidate_has_traffic
    plane.settle()
    assert plane.state() == "rolled_back"
    assert plane.rows()[-1] == ("controller", "rollback", "done")
    watched(plane, "roll_back").look()
    plane.settle()
    assert plane.rows().count(("controller", "rollback", "done")) == 1


def test_a_ship_waits_for_its_operator(plane: Plane) -> None:
    plane.begin()
    watched(plane, "ship").look()
    assert plane.state() == "concluded"
    assert plane.candidate_has_traffic
    assert plane.production == 1
    plane.promote(None)  # the verdict that was kept is the permission
    assert plane.production == 2


@pytest.mark.parametrize("later", ["inconclusive", "keep_running"])
def test_a_ship_that_waits_is_not_taken_back_by_later_looks_without_alpha(
    plane: Plane, later: VerdictKind
) -> None:
    plane.begin()
    watched(plane, "ship").look()
    plane.now_ns += 10**10
    after = watched(plane, later)
    after.look()
    assert after.seen("faster") is None
    kept = trials.last_verdict(plane.controller.store, "faster")
    assert kept is not None
    assert kept["kind"] == "ship"
    plane.promote(None)
    assert plane.production == 2


def test_a_ship_that_waits_is_still_rolled_back_when_it_turns_bad(plane: Plane) -> None:
    plane.begin()
    watched(plane, "ship").look()
    plane.now_ns += 10**10
    watched(plane, "roll_back").look()
    assert not plane.candidate_has_traffic
    plane.settle()
    assert plane.state() == "rolled_back"


def test_a_ship_is_promoted_where_that_was_declared(plane: Plane) -> None:
    plane.begin(AB + "on_ship: promote\n")
    watched(plane, "ship").look()
    assert plane.production == 2
    assert plane.state() == "promoted"
    assert plane.rows()[-1] == ("controller", "promote", "done")


def test_a_ship_against_a_control_that_is_not_production_is_not_promoted(plane: Plane) -> None:
    plane.begin(AB.replace("candidate: 2", "candidate: 2\ncontrol: 3") + "on_ship: promote\n")
    watched(plane, "ship").look()
    assert plane.production == 1
    assert plane.state() == "concluded"


PROMOTES = AB + "on_ship: promote\n"


def stand_in_the_way(plane: Plane, what: str) -> None:
    plane.registry.away = what == "registry"
    plane.controller.promotion._busy = {"chat"} if what == "promotion" else set()
    down = {"former": 1, "candidate": 2}.get(what)
    plane.down = {} if down is None else {down: "connection refused"}


@pytest.mark.parametrize("what", ["candidate", "former", "registry", "promotion"])
def test_a_promotion_that_cannot_be_carried_out_now_is_carried_out_later(plane: Plane, what: str) -> None:
    plane.begin(PROMOTES)
    stand_in_the_way(plane, what)
    watch = watched(plane, "ship")
    watch.look()
    assert plane.state() == "concluded"  # the ship stands, production too
    assert plane.snapshot.models["chat"].production == 1
    assert plane.candidate_has_traffic
    told = watch.waiting_for(plane.controller.junction.experiment("faster")) or ""
    why = {"registry": "MLflow does not answer", "promotion": "another promotion"}
    assert why.get(what, "connection refused") in told
    tried = len(plane.rows())
    watch.look()  # not at every look
    assert len(plane.rows()) == tried
    plane.now_ns += AGAIN_NS
    watch.look()  # still in the way: the next wait is longer
    stand_in_the_way(plane, "nothing")
    plane.down = {}
    plane.now_ns += AGAIN_NS
    watch.look()
    assert plane.production == 1
    plane.now_ns += AGAIN_NS
    watch.look()
    assert (plane.state(), plane.production) == ("promoted", 2)
    assert plane.rows()[-1] == ("controller", "promote", "done")
    watch.look()
    assert plane.rows().count(("controller", "promote", "done")) == 1


def test_a_clock_that_was_set_back_holds_up_no_promotion_that_was_put_off(plane: Plane) -> None:
    plane.begin(PROMOTES)
    plane.down = {2: "connection refused"}
    watch = watched(plane, "ship")
    watch.look()
    plane.down = {}
    plane.now_ns -= 3600 * 10**9
    watch.look()
    assert (plane.state(), plane.production) == ("promoted", 2)


def test_a_promotion_that_was_put_off_outlives_the_controller(plane: Plane) -> None:
    plane.begin(PROMOTES)
    plane.down = {2: "connection refused"}
    watched(plane, "ship").look()
    plane.kill()
    plane.down = {}
    plane.start()
    watched(plane, "keep_running").look()
    assert (plane.state(), plane.production) == ("promoted", 2)


def test_a_promotion_that_was_put_off_is_not_carried_out_over_a_production_that_has_moved(
    plane: Plane,
) -> None:
    plane.begin(PROMOTES.replace("candidate: 2", "candidate: 2\ncontrol: 1"))
    plane.down = {2: "connection refused"}
    watch = watched(plane, "ship")
    watch.look()
    plane.registry.promote("chat", 3)  # by other hands
    plane.controller.reconcile()
    plane.down = {}
    plane.now_ns += AGAIN_NS
    watch.look()
    assert plane.production == 3
    assert ("controller", "promote", "done") not in plane.rows()


def test_a_promotion_that_was_put_off_gives_way_to_a_rollback(plane: Plane) -> None:
    plane.begin(PROMOTES)
    plane.down = {2: "connection refused"}
    watched(plane, "ship").look()
    plane.down = {}
    plane.now_ns += AGAIN_NS
    watched(plane, "roll_back").look()
    plane.settle()
    assert (plane.state(), plane.production) == ("rolled_back", 1)


@pytest.mark.parametrize(
    ("policy", "state"), [("hold", "invalid"), ("roll_back", "rolled_back"), ("warn", "running")]
)
def test_a_changed_judge_has_its_policy(plane: Plane, policy: str, state: str) -> None:
    plane.begin(PROMOTES + f"policies: {{judge_changed: {policy}}}\n")
    why = Reason(code="judge_changed", severity="block", text="The judge was changed.")

    def conclude(spec: AnalysisSpec, evidence: Evidence, **_: Any) -> Verdict:
        return replace(verdict(spec.experiment, "invalid", evidence.as_of_ns), reasons=(why,))

    watch = Watch(plane.controller.control, plane.controller.promotion, judge=conclude)
    watch.look()
    watch.look()
    plane.settle()
    assert (plane.state(), plane.production) == (state, 1)
    action = {"hold": "invalidate", "roll_back": "rollback", "warn": "warn"}[policy]
    assert plane.rows().count(("controller", action, "done")) == 1


@pytest.mark.parametrize(
    ("kind", "state"), [("inconclusive", "kept"), ("invalid", "invalid"), ("keep_running", "running")]
)
def test_what_is_no_answer_keeps_production(plane: Plane, kind: VerdictKind, state: str) -> None:
    plane.begin(AB + "on_ship: promote\n")
    watched(plane, kind).look()
    assert plane.production == 1
    assert plane.state() == state
    assert plane.candidate_has_traffic == (state != "kept")
    if state == "kept":  # its units went back to control, and the audit row says so
        [ended] = decisions.listed(plane.controller.store, experiment="faster", limit=1)
        assert (ended.from_version, ended.to_version) == (2, 1)


def test_a_paused_experiment_is_left_alone(plane: Plane) -> None:
    plane.begin()
    plane.controller.control.pause("faster", ADA)
    watched(plane, "roll_back").look()
    plane.settle()
    assert plane.state() == "paused"


def test_verdicts_are_kept_when_they_say_something_new_and_now_and_then(plane: Plane) -> None:
    plane.begin()
    watch = Watch(plane.controller.control, plane.controller.promotion, judge=unscheduled)
    for _ in range(5):
        plane.now_ns += 10**9
        watch.look()
    assert len(trials.verdicts(plane.controller.store, "faster")) == 1
    plane.now_ns += 10**10
    watch.look()
    assert len(trials.verdicts(plane.controller.store, "faster")) == 2


def test_the_longer_a_phase_lasts_the_less_often_a_verdict_that_says_nothing_new_is_kept(
    plane: Plane,
) -> None:
    """Each ten seconds were a gigabyte for five experiments in a week."""
    plane.begin()
    watch = Watch(plane.controller.control, plane.controller.promotion, judge=unscheduled)
    plane.now_ns += 5 * 86_400 * 10**9
    store = plane.controller.store
    watch.look()
    for _ in range(20):
        plane.now_ns += 60 * 10**9
        watch.look()
    assert len(trials.verdicts(store, "faster")) == 1
    for _ in range(2):  # once, however often what follows from it is asked for
        watch.keep("faster")
    seen = watch.seen("faster")
    assert seen is not None
    assert [one["as_of_ns"] for one in trials.verdicts(store, "faster")][1:] == [seen.document["as_of_ns"]]
    plane.now_ns += 3600 * 10**9
    watch.look()
    assert len(trials.verdicts(store, "faster")) == 3


def test_the_course_of_weeks_is_drawn_from_its_beginning(plane: Plane) -> None:
    plane.begin()
    begun_ns, store = plane.now_ns, plane.controller.store
    made = [verdict("faster", "keep_running", begun_ns + hour * 3600 * 10**9) for hour in range(1, 1001)]
    store.write(lambda connection: [trials.save_look(connection, one) for one in made])
    drawn = [one["as_of_ns"] for one in trials.verdicts(store, "faster", limit=100)]
    assert drawn == sorted(drawn)
    assert 100 <= len(drawn) <= 101
    assert drawn[0] - begun_ns <= 10 * 3600 * 10**9
    assert drawn[-1] == made[-1].as_of_ns
    assert max(b - a for a, b in pairwise(drawn)) <= 11 * 3600 * 10**9


def unscheduled(spec: AnalysisSpec, evidence: Evidence, **_: Any) -> Verdict:
    made = verdict(spec.experiment, "keep_running", evidence.as_of_ns)
    return replace(made, look=replace(made.look, scheduled=False))


def test_past_looks_are_the_scheduled_ones(plane: Plane) -> None:
    plane.begin()
    given: list[int] = []

    def counting(spec: AnalysisSpec, evidence: Evidence, *, past_looks: tuple[Any, ...]) -> Verdict:
        given.append(len(past_looks))
        return (unscheduled if len(given) % 2 else judge("keep_running"))(spec, evidence)

    watch = Watch(plane.controller.control, plane.controller.promotion, judge=counting)
    for _ in range(4):
        plane.now_ns += 10**9
        watch.look()
    assert given == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("unit", "words"), [("user", "the field `user`"), ("header:x-team", "name no x-team: send that header")]
)
def test_an_experiment_whose_requests_name_no_unit_says_what_they_lack(
    plane: Plane, unit: str, words: str
) -> None:
    """It would wait for ever, at 0 units, and only the accounting would know why."""
    experiment = plane.begin(f"{CANARY}unit: {unit}\n")
    writer = SpoolWriter(plane.data / "spool", "w")
    for number in range(10):
        outside = {"outside": "no_unit"} if number < 6 else {"assigned_arm": "control", "unit": f"u{number}"}
        made = record(number, started_ns=plane.now_ns, experiment="faster", phase=1, **outside)
        assert writer.append(made)
    writer.close()
    plane.controller.collect()
    plane.controller.watch.look()
    told = views.experiment(plane.controller, experiment)["waiting_for"]
    assert "6 of 10 requests are in no arm" in told
    assert words in told
    assert ".;" not in told


def test_the_real_judge_finds_no_data_and_does_nothing(plane: Plane) -> None:
    plane.begin(CANARY)
    plane.controller.watch.look()
    seen = plane.controller.watch.seen("faster")
    assert seen is not None
    assert seen.document["kind"] == "keep_running"
    assert "0 of 10 candidate units" in seen.waiting_for
    assert plane.candidate_has_traffic


def test_an_experiment_that_cannot_be_judged_holds_up_no_other(
    plane: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    plane.begin()
    plane.begin(
        AB.replace("faster", "shadowed")
        .replace("mode: ab", "mode: shadow")
        .replace("weight: 50", "share: 20")
    )

    def fails(spec: AnalysisSpec, evidence: Evidence, **_: Any) -> Verdict:
        if spec.experiment == "shadowed":
            raise LookupError("no figures")
        return verdict(spec.experiment, "roll_back", evidence.as_of_ns)

    watch = Watch(plane.controller.control, plane.controller.promotion, judge=fails)
    watch.look()
    watch.look()
    plane.settle()
    assert plane.state("faster") == "rolled_back"
    assert plane.state("shadowed") == "running"
    assert caplog.text.count("no figures") == 1  # said once, not every second


def test_the_last_verdict_before_an_ending_by_hand_is_kept(plane: Plane) -> None:
    plane.begin()
    watch = Watch(plane.controller.control, plane.controller.promotion, judge=unscheduled)
    for _ in range(3):
        watch.look()
        plane.now_ns += 2 * 10**9
    last = watch.seen("faster")
    assert last is not None
    plane.controller.control.stop("faster", ADA)
    watch.look()
    kept = trials.last_verdict(plane.controller.store, "faster")
    assert kept is not None
    assert kept["as_of_ns"] == last.document["as_of_ns"]


@pytest.mark.parametrize(("took", "waits"), [(0.0, 1.0), (0.3, 0.7), (0.5, 0.5), (4.0, 4.0)])
def test_every_second_is_every_second_and_a_long_look_leaves_half_of_the_time(
    monkeypatch: pytest.MonkeyPatch, took: float, waits: float
) -> None:
    clock = iter((10.0, 10.0 + took))
    monkeypatch.setattr("experiments.controller.time", SimpleNamespace(monotonic=lambda: next(clock)))
    stopping = Stopping()
    loops = Controller.__new__(Controller)
    loops._stopping = stopping  # type: ignore[assignment]
    loops._repeat("look", lambda: None, 1.0, yields=True)
    assert stopping.waited == [pytest.approx(waits)]


class Stopping:
    def __init__(self) -> None:
        self.waited: list[float] = []

    def is_set(self) -> bool:
        return bool(self.waited)

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
