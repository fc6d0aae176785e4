"""One key a grade: what each key does, what is shown, and what becomes of a label that is not taken."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from evaluators.labels.draw import Draw
from evaluators.labels.label import Label
from evaluators.labels.task import Task, grading, preferring
from evaluators.labels.worksheet import Pen
from tests.evaluators.sets import make_set, row, said
from turnout.label_session import LabelSession

CHECK = {"type": "judge", "key": "kind", "rubric": "It helps."}
DRAW = Draw(draw_id="d", control_run="a", candidate_run="b", evaluator="kind", seed="s", size=3)


class Keys:
    """A keyboard with all its keys pressed beforehand; then the terminal goes."""

    def __init__(self, keys: str, lines: tuple[str, ...] = ()) -> None:
        self.keys, self.typed = list(keys), list(lines)
        self.gave_back = 0

    def key(self) -> str:
        return self.keys.pop(0) if self.keys else ""

    def line(self, prompt: str) -> str:
        return self.typed.pop(0)

    @contextmanager
    def lines(self) -> Iterator[None]:
        self.gave_back += 1
        yield


class Session:
    """A session over three answers."""

    def __init__(
        self, folder: Path, keys: str, *lines: str, answers: tuple[str, ...] = ("a0", "a1", "a2")
    ) -> None:
        golden = make_set(folder, [row("q", checks=[{"type": "exact"}, CHECK])], "judge: {model: examiner}\n")
        item = golden.items[0]
        self.tasks = [grading(item, item.checks[1], said(text)) for text in answers]
        self.stored: list[Label] = []
        self.refuse = 0
        self.screen = io.StringIO()
        self.keyboard = Keys(keys, lines)
        self.said = LabelSession(
            tasks=self.tasks,
            pen=Pen(golden=golden, draw=DRAW, labeller="ann", judge="examiner@1"),
            save=self.save,
            console=Console(file=self.screen, width=80, force_terminal=False),
            keyboard=self.keyboard,
        )

    def save(self, label: Label) -> None:
        if self.refuse:
            self.refuse -= 1
            raise OSError("no controller answers")
        self.stored.append(label)

    def grades(self) -> list[tuple[str, str | None]]:
        """Which task got which grade, in the order in which they were stored."""
        places = {task.hash: f"a{n}" for n, task in enumerate(self.tasks)}
        return [(places[label.task], label.grade) for label in self.stored]


@pytest.mark.parametrize(
    ("keys", "grades"),
    [
        ("211", [("a0", "pass"), ("a1", "fail"), ("a2", "fail")]),
        ("2q", [("a0", "pass")]),
        ("2", [("a0", "pass")]),
        ("u2", [("a0", None), ("a1", "pass")]),
        ("s22s1", [("a1", "pass"), ("a2", "pass"), ("a0", "fail")]),
        ("2b1", [("a0", "pass"), ("a0", "fail")]),
        ("bx93\x1b[A2", [("a0", "pass")]),
        ("2\x032", [("a0", "pass")]),
    ],
)
def test_keys(tmp_path: Path, keys: str, grades: list[tuple[str, str | None]]) -> None:
    session = Session(tmp_path, keys)
    assert session.said.run() == len(grades)
    assert session.grades() == grades


def test_a_note_goes_with_its_grade_and_no_further(tmp_path: Path) -> None:
    session = Session(tmp_path, "n22", "  half of it ")
    session.said.run()
    assert [label.note for label in session.stored] == ["half of it", None]


def test_what_the_ledger_does_not_take_is_asked_again(tmp_path: Path) -> None:
    session = Session(tmp_path, "21")
    session.refuse = 1
    session.said.run()
    assert session.grades() == [("a0", "fail")]
    assert "not stored, grade it again: no controller answers" in session.screen.getvalue()


def test_nothing_shown_tells_the_version_or_the_judge(tmp_path: Path) -> None:
    session = Session(tmp_path, "222")
    session.said.run()
    shown = session.screen.getvalue()
    assert "It helps." in shown
    assert "a right answer, for reference" in shown
    assert not any(word in shown.lower() for word in ("version", "candidate", "control", "examiner", "run-"))


def test_a_long_text_is_cut_and_shown_whole_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "\n".join(f"line {n}" for n in range(500)) + "\x1b]0;owned\x07"
    paged: list[str] = []
    monkeypatch.setattr("rich.pager.SystemPager.show", lambda self, content: paged.append(content))
    session = Session(tmp_path, "m", answers=(text,))
    session.said.run()
    assert "[m] shows the rest" in session.screen.getvalue()
    assert "line 499" not in session.screen.getvalue()
    assert "line 499" in paged[0]
    assert "\x1b]0" not in paged[0], "an answer does not steer the terminal"
    assert session.keyboard.gave_back == 1


def test_of_a_pair_the_better_one_is_named(tmp_path: Path) -> None:
    golden = make_set(
        tmp_path, [row("q", checks=[{"type": "exact"}, {"type": "pairwise"}])], "judge: {model: examiner}\n"
    )
    item = golden.items[0]
    task = preferring(item, item.checks[1], said("x"), said("y"))
    stored: list[Label] = []
    screen = io.StringIO()
    LabelSession(
        tasks=[task],
        pen=Pen(golden=golden, draw=DRAW, labeller="ann"),
        save=stored.append,
        console=Console(file=screen, width=80),
        keyboard=Keys("3"),
    ).run()
    assert [label.grade for label in stored] == ["first"]
    assert "the second answer" in screen.getvalue()


def test_a_menu_of_twenty_grades_has_a_key_each(tmp_path: Path) -> None:
    grades = {f"g{n:02}": n / 19 for n in range(20)}
    golden = make_set(
        tmp_path,
        [row("q", checks=[{"type": "exact"}, {**CHECK, "grades": grades}])],
        "judge: {model: examiner}\n",
    )
    item = golden.items[0]
    stored: list[Label] = []
    task: Task = grading(item, item.checks[1], said("x"))
    LabelSession(
        tasks=[task],
        pen=Pen(golden=golden, draw=DRAW, labeller="ann"),
        save=stored.append,
        console=Console(file=io.StringIO()),
        keyboard=Keys("J"),
    ).run()
    assert [label.grade for label in stored] == ["g19"]
