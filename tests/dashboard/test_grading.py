"""People grade on a page what they would grade in the terminal: the same draw, the same answers, the same
label, and nothing that tells whose answer it is. Against the real control API."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from dashboard.screens import grading
from dashboard.start import CONTROL_URL, TOKEN, TOKEN_FILE
from dashboard.worksheet import LabelDraw, LabelTask, PersonsLabel, Progress, Worksheet
from evaluators.comparison import compare
from evaluators.golden import GoldenSet
from evaluators.labels.cases import Cases, cases_to_label
from evaluators.labels.correction import sample_of
from evaluators.labels.label import Label, People
from evaluators.labels.ledger import LabelLedger
from evaluators.labels.task import Task
from evaluators.labels.worksheet import Pen, waiting
from evaluators.summary import RunResults
from experiments.client import ControlClient
from tests.evaluators import test_preferences
from tests.evaluators.labelled import KEY, judged_run, judged_set
from tests.experiments.plane import TOKEN as SECRET
from tests.experiments.plane import Plane

from .conftest import OpenPage, redraw, texts
from .fake_control_api import FakeControlApi
from .real_control import serving

FAKE = {"control_run": "run-1", "candidate_run": "run-3", "check": "better"}


@pytest.fixture(scope="module")
def url(stocked_mlflow: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(Plane(tmp_path_factory.mktemp("control") / "data", stocked_mlflow)) as (_, url):
        yield url


@pytest.fixture
def api(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ControlClient]:
    """The real control API, as the terminal speaks to it; the dashboard is pointed to it too."""
    monkeypatch.setenv(CONTROL_URL, url)
    monkeypatch.setenv(TOKEN, SECRET)
    monkeypatch.delenv(TOKEN_FILE, raising=False)
    monkeypatch.setattr(grading, "HASTE_S", 0.0)
    client = ControlClient(url, SECRET)
    yield client
    client.close()
    st.cache_resource.clear()


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Two runs in the ledger whose answers differ, and what the terminal knows of them."""

    api: ControlClient
    golden: GoldenSet
    control: RunResults
    candidate: RunResults
    check: str = KEY

    @property
    def query(self) -> dict[str, str]:
        return {
            "control_run": self.control.run_id,
            "candidate_run": self.candidate.run_id,
            "check": self.check,
        }

    @property
    def cases(self) -> Cases:
        return cases_to_label(self.golden, self.check, self.control, self.candidate)

    @property
    def ledger(self) -> LabelLedger:
        return LabelLedger(self.api)

    @property
    def people(self) -> People:
        return self.ledger.people(self.golden, self.control.run_id, self.candidate.run_id)

    @property
    def labels(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.api.get("/api/golden/labels", {"set_name": self.golden.name})
        return found

    def hand_out(self) -> None:
        self.ledger.hand_out(self.golden.name, self.control.run_id, self.candidate.run_id, self.cases)

    def tasks(self, name: str) -> list[Task]:
        """What the terminal would ask somebody now."""
        people, cases = self.people, self.cases
        draws = people.draws_of(self.check, cases.seed)
        return waiting(sample_of(cases, draws), people, name, cases.seed)

    def in_the_terminal(self, task: str, name: str, grade: str = "pass") -> Label:
        [draw] = self.people.draws_of(self.check, self.cases.seed)
        found = next(one for one in self.every_task() if one.hash == task)
        pen = Pen(golden=self.golden, draw=draw, labeller=name, judge=", ".join(self.cases.judges) or None)
        label = pen.label(found, grade)
        self.ledger.add([label])
        return label

    def every_task(self) -> list[Task]:
        return [term.task for case in self.cases.open.values() for term in case.terms]


def enter(api: ControlClient, golden: GoldenSet, run: RunResults) -> RunResults:
    """The run under a name that no other test has, in the ledger."""
    named = replace(run, run_id=uuid.uuid4().hex)
    about = {"set_name": golden.name, "set_hash": golden.hash, "model": "chat", "version": run.version}
    api.post("/api/golden/runs", {"run_id": named.run_id, **about})
    return named


@pytest.fixture
def trial(api: ControlClient, tmp_path: Path) -> Trial:
    """Four items, all answers differ; handed out, and nothing drawn."""
    golden = judged_set(tmp_path, 4, f"judge: {{model: examiner}}\nmargin: 0.15\nname: {uuid.uuid4().hex}\n")
    runs = [
        enter(
            api, golden, judged_run(golden, [f"{says} {n}" for n in range(4)], ["pass"] * 4, version=version)
        )
        for version, says in ((1, "good"), (2, "kindly"))
    ]
    made = Trial(api=api, golden=golden, control=runs[0], candidate=runs[1])
    made.hand_out()
    return made


@pytest.fixture
def pairs(api: ControlClient, tmp_path: Path) -> Trial:
    """Three items whose answers a judge of pairs compares."""
    golden = test_preferences.golden_set(tmp_path, 3, f"\nname: {uuid.uuid4().hex}\n")
    runs = [
        enter(api, golden, test_preferences.answers(golden, says, version=version))
        for version, says in ((1, test_preferences.wrong), (2, test_preferences.right))
    ]
    made = Trial(api=api, golden=golden, control=runs[0], candidate=runs[1], check="pairwise")
    made.hand_out()
    return made


def press(app: AppTest, name: str) -> AppTest:
    """Press the button that is called so."""
    [button] = [one for one in app.button if one.label.replace("\\", "") == name]
    button.click()
    return redraw(app)


def log_in(app: AppTest, name: str) -> AppTest:
    app.text_input(key="labeller-name").input(name)
    return press(app, "Begin")


def shown(app: AppTest) -> str:
    """The one answer on the page, as the texts of the tests go."""
    blocks = [str(block.value) for block in app.get("html")]
    return blocks[-1]


def said(app: AppTest) -> str:
    return texts(app).replace("\\", "").replace("\u200b", "")


@pytest.fixture
def begun(trial: Trial, open_page: OpenPage) -> AppTest:
    """ann has declared all four items and sees the first answer."""
    return press(log_in(open_page("grading", **trial.query), "ann"), "Draw")


def task_on(app: AppTest) -> str:
    found: tuple[str, float] = app.session_state[grading.SHOWN]
    return found[0]


# -- the whole way


def test_what_is_graded_here_is_what_the_terminal_would_have_stored(
    trial: Trial, open_page: OpenPage
) -> None:
    app = log_in(open_page("grading", **trial.query), "  ann ")
    assert "Nothing is drawn yet. The answers to 4 items differ" in said(app)
    app = press(app, "Draw")
    asked = {task.hash: task for task in trial.tasks("ann")}
    [draw] = trial.people.draws_of(KEY, trial.cases.seed)
    assert (draw.size, draw.declared_by, len(asked)) == (4, "ann", 8)
    given: dict[str, str | None] = {}
    for n in range(8):
        assert f"{n} of 8 answers graded, {n} by you" in next(one.proto.text for one in app.get("progress"))
        task = asked[task_on(app)]
        assert task.answers[0].text in shown(app)
        given[task.hash] = "pass" if "good" in shown(app) else "fail"
        if n == 3:
            app.text_input(key=f"note-{task.hash[-16:]}").input("hm")
            given[task.hash] = None
        app = press(app, given[task.hash] or "Cannot tell")
    assert "The sample is whole: of all 4 drawn items" in said(app)
    assert f"turnout golden compare {trial.golden.name} --model chat --candidate 2 --control 1" in said(app)
    assert set(given) == set(asked)
    pen = Pen(golden=trial.golden, draw=draw, labeller="ann", judge="examiner@1")
    notes = [label["note"] for label in trial.labels]
    assert notes.count("hm") == 1
    for label in trial.labels:
        typed = pen.label(asked[label["task"]], given[label["task"]], label["note"]).to_json()
        same = {name: value for name, value in typed.items() if name != "label_id"}
        assert {name: label[name] for name in same} == same
    found = compare(trial.golden, trial.control, trial.candidate, people=trial.people)
    [judged] = found.corrections
    assert (judged.labelled, judged.drawn, judged.undecided) == (4, 4, 1)
    assert judged.effect is not None


def test_nothing_on_the_page_says_whose_answer_it_is_or_what_the_judge_said(
    trial: Trial, begun: AppTest
) -> None:
    page = said(begun)
    for secret in ("v1", "v2", "version 1", "version 2", "candidate", "production", "examiner", "run-"):
        assert secret not in page
    assert "a judge said of it, is not shown" in page
    assert {one.label for one in begun.button} >= {"fail", "pass", "Cannot tell", "Later"}


def test_of_a_pair_the_first_answer_is_the_terminals_first(pairs: Trial, open_page: OpenPage) -> None:
    app = press(log_in(open_page("grading", **pairs.query), "ann"), "Draw")
    assert [one.label for one in app.button if one.key and one.key.startswith("grade-")] == [
        "first is better", "tie", "second is better",
    ]  # fmt: skip
    for _ in range(3):
        task = next(one for one in pairs.every_task() if one.hash == task_on(app))
        first, second = (str(block.value) for block in app.get("html")[-2:])
        assert task.answers[0].text in first
        assert task.answers[1].text in second
        better = "first" if test_preferences.RIGHT in task.answers[0].text else "second"
        app = press(app, f"{better} is better")
    found = compare(pairs.golden, pairs.control, pairs.candidate, people=pairs.people)
    [judged] = found.corrections
    assert judged.effect is not None
    assert judged.effect.estimate == 1.0, "every preference was for the candidate"


# -- with others, and with the terminal


def test_the_terminal_goes_on_where_the_page_stopped_and_the_other_way_round(
    trial: Trial, begun: AppTest
) -> None:
    first = task_on(begun)
    app = press(begun, "pass")
    rest = trial.tasks("ann")
    assert len(rest) == 7
    assert first not in {task.hash for task in rest}
    for task in rest[:-1]:
        trial.in_the_terminal(task.hash, "ann")
    app = redraw(app)
    assert task_on(app) == rest[-1].hash
    assert "The sample is whole" in said(press(app, "fail"))


def test_a_grade_given_in_the_terminal_meanwhile_stands(trial: Trial, begun: AppTest) -> None:
    seen = task_on(begun)
    label = trial.in_the_terminal(seen, "ann", "fail")
    app = press(begun, "pass")
    assert "ann has graded this one elsewhere meanwhile, and that grade stands" in said(app)
    assert [one["label_id"] for one in trial.labels] == [label.label_id]
    assert task_on(app) != seen
    press(press(app, "Undo"), "pass")
    assert [(one["task"], one["grade"]) for one in trial.labels] == [(seen, "pass")], "Undo leads back to it"


def test_two_people_share_the_work_and_may_grade_what_the_other_did(
    trial: Trial, begun: AppTest, open_page: OpenPage
) -> None:
    theirs = open_page("grading", **trial.query)
    assert "Have graded this set" not in said(theirs)
    theirs = log_in(theirs, "bob")
    pages, n = [begun, theirs], 0
    while "The sample is whole" not in said(pages[n % 2]):
        pages[n % 2] = press(pages[n % 2], "pass")
        n += 1
    by_both = [one["labeller"] for one in trial.labels]
    assert min(by_both.count("ann"), by_both.count("bob")) > 0
    assert len({one["task"] for one in trial.labels}) == 8
    assert "by you" in next(one.proto.text for one in begun.get("progress"))
    mine = redraw(pages[0])
    rest = len(trial.tasks("ann"))
    assert rest
    mine = press(mine, f"Grade also the {rest} answers that only others have graded")
    for _ in range(rest):
        mine = press(mine, "fail")
    assert trial.tasks("ann") == []
    assert "The sample is whole" in said(mine)
    assert "Have graded this set: ann, bob" in said(press(mine, "Not you?"))


def test_each_labeller_has_an_order_of_their_own_in_the_same_sample() -> None:
    def task(place: int) -> LabelTask:
        return LabelTask(place=place, label={"task": str(place)}, answers=("a",), grades=("fail",))

    sheet = Worksheet(
        control_run="a", candidate_run="b", evaluator="kind", seed="s", needed=30, open=40, items=40,
        tasks=tuple(task(place) for place in range(40) for _ in "ab"),
    )  # fmt: skip

    def order(name: str) -> list[int]:
        now = Progress(sheet=sheet, draw=LabelDraw(draw_id="d", size=30, seed="s"), labels=(), labeller=name)
        return [task.place for task in now.sample]

    assert order("ann") == order("ann") != order("bob")
    assert sorted(order("ann")) == sorted(order("bob")) == sorted([*range(30), *range(30)])
    assert all(order("ann")[n] == order("ann")[n + 1] for n in range(0, 60, 2)), "both answers to one item"


def test_somebody_has_declared_meanwhile(trial: Trial, open_page: OpenPage) -> None:
    app = log_in(open_page("grading", **trial.query), "ann")
    terminal = open_page("grading", **trial.query)
    press(log_in(terminal, "bob"), "Draw")
    app = press(app, "Draw")
    assert "Somebody has declared it meanwhile, and that stands" in said(app)
    [draw] = trial.people.draws
    assert draw.declared_by == "bob"
    press(app, "pass")
    assert len(trial.labels) == 1


def test_a_sample_that_is_greater_than_what_is_handed_out(
    trial: Trial, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluators.labels.ledger._OFFERED", 3)
    trial.hand_out()
    app = open_page("grading", **trial.query)
    assert "The texts are too long" in said(log_in(app, "ann")), "needed are four"
    draw = {"draw_id": uuid.uuid4().hex, "seed": trial.cases.seed, "size": 4, "evaluator": KEY}
    runs = {name: trial.query[name] for name in ("control_run", "candidate_run")}
    trial.api.post("/api/golden/draws", draw | runs)
    app = redraw(app)
    for _ in range(6):
        app = press(app, "pass")
    assert "3 of 4 declared items can be graded here" in said(app)
    assert "turnout golden label" in said(app)
    trial.hand_out()  # as the terminal does: all that is declared
    app = press(press(redraw(app), "pass"), "pass")
    assert "The sample is whole" in said(app)


def test_a_draw_with_a_seed_that_somebody_chose_is_none(trial: Trial, open_page: OpenPage) -> None:
    runs = {name: trial.query[name] for name in ("control_run", "candidate_run")}
    draw = {"draw_id": uuid.uuid4().hex, "seed": "luckier", "size": 4, "evaluator": KEY}
    trial.api.post("/api/golden/draws", draw | runs)
    app = press(log_in(open_page("grading", **trial.query), "ann"), "Draw")
    assert "with the seed luckier" in said(app)
    assert not [one for one in app.button if one.label == "pass"]


# -- second thoughts


def test_undo_leads_back_and_the_next_grade_takes_its_place(trial: Trial, begun: AppTest) -> None:
    assert begun.button(key="undo").disabled
    first = task_on(begun)
    app = press(begun, "pass")
    second = task_on(app)
    app = press(app, "pass")
    third = task_on(app)
    app = press(press(app, "Undo"), "Undo")
    assert task_on(app) == first
    assert app.button(key="undo").disabled
    assert "The next grade takes the place of that one" in said(app)
    assert task_on(press(app, "Leave it")) == third
    app = press(press(app, "Undo"), "fail")
    grades = {one["task"]: one["grade"] for one in trial.labels}
    assert grades == {first: "pass", second: "fail"}
    assert task_on(app) == third


def test_what_is_put_off_comes_last(trial: Trial, begun: AppTest) -> None:
    first = task_on(begun)
    app = press(begun, "Later")
    assert task_on(app) != first
    for _ in range(7):
        assert task_on(app) != first
        app = press(app, "pass")
    assert task_on(app) == first
    assert trial.labels


def test_a_key_held_down_grades_nothing_unseen(
    trial: Trial, begun: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grading, "HASTE_S", 60.0)
    seen = task_on(begun)
    app = press(begun, "pass")
    assert "sooner than anybody reads" in said(app)
    assert (trial.labels, task_on(app)) == ([], seen)


def test_who_grades_is_asked_once_and_kept(trial: Trial, open_page: OpenPage) -> None:
    app = press(open_page("grading", **trial.query), "Begin")
    assert "A grade has a name to it" in said(app)
    app = log_in(app, "ann")
    assert "You are ann" in said(app)
    app.query_params["check"] = "another"
    app = redraw(app)
    app.query_params["check"] = trial.check
    assert "You are ann" in said(press(redraw(app), "Draw"))


# -- what may be missing


def test_runs_that_are_gone_a_check_that_was_not_handed_out_and_no_choice(
    trial: Trial, open_page: OpenPage
) -> None:
    assert "not in the ledger" in said(open_page("grading", **trial.query | {"control_run": "0" * 32}))
    assert "is handed out to be graded for other" in said(
        open_page("grading", **trial.query | {"check": "other"})
    )
    assert "Nothing is chosen" in said(open_page("grading"))


def test_without_a_token_it_is_said_how_to_grade(
    trial: Trial, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN)
    page = said(open_page("grading", **trial.query))
    assert "started without a token" in page
    assert (
        f"turnout golden label {trial.golden.name} --model chat --candidate 2 --control 1 --check kind"
        in page
    )


Broken = Callable[[pytest.MonkeyPatch], None]


def away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONTROL_URL, "http://127.0.0.1:1")


def wrong_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "another")


@pytest.mark.parametrize(
    ("broken", "why"), [(away, "Nothing answers at"), (wrong_token, "needs the control token")]
)
def test_a_grade_that_is_not_stored_is_asked_again(
    trial: Trial, begun: AppTest, monkeypatch: pytest.MonkeyPatch, broken: Broken, why: str
) -> None:
    seen = task_on(begun)
    with monkeypatch.context() as changed:
        broken(changed)
        app = press(begun, "pass")
    page = said(app)
    assert (
        f"Not stored, grade it again: {'this changes state and ' if broken is wrong_token else ''}{why}"
        in page
    )
    assert ("Try again" in {one.label for one in app.button}) == (broken is away)
    assert (trial.labels, task_on(app)) == ([], seen)
    press(app, "pass")
    assert [one["task"] for one in trial.labels] == [seen]


@pytest.mark.parametrize("broken", [away, wrong_token])
def test_a_draw_that_is_not_stored_is_none(
    trial: Trial, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch, broken: Broken
) -> None:
    app = log_in(open_page("grading", **trial.query), "ann")
    with monkeypatch.context() as changed:
        broken(changed)
        app = press(app, "Draw")
    assert "Nothing was drawn" in said(app)
    assert trial.people.draws == ()


@pytest.mark.parametrize("fault", ["500", "text", "wrong_shape"])
def test_a_broken_controller_is_said_in_words(
    control: FakeControlApi, open_page: OpenPage, fault: str
) -> None:
    control.fault = fault
    page = said(open_page("grading", **FAKE))
    assert "cannot be shown now" in page
    control.fault = None


@pytest.mark.parametrize(
    "change", [{"tasks": []}, {"items": 0}, {"tasks": None}, {"needed": 9}, {"seed": "other"}, {"open": 50}]
)
def test_a_worksheet_of_another_shape_breaks_no_page(
    control: FakeControlApi, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    monkeypatch.setenv(TOKEN, SECRET)
    control.story["worksheet"] |= change
    app = open_page("grading", **FAKE)
    if change != {"tasks": None}:
        log_in(app, "ann")


def test_a_comparison_leads_to_its_page(control: FakeControlApi, open_page: OpenPage) -> None:
    links = [link.proto for link in open_page("golden").get("page_link")]
    assert [(link.label, link.page) for link in links] == [("Grade answers for better", "grading")]
    assert set(FAKE.values()) <= set(links[0].query_string.replace("&", "=").split("="))


def test_labels_of_an_older_controller_have_no_task() -> None:
    assert PersonsLabel.model_validate({"draw_id": "d", "item_id": "i"}).task == ""
