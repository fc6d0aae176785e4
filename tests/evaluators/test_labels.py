"""Which answers people grade, what their grades are worth, and what they make of a judge."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.comparison import compare
from evaluators.errors import EvaluatorError
from evaluators.golden import GoldenSet
from evaluators.labels.cases import cases_of
from evaluators.labels.correction import correction, sample_of
from evaluators.labels.draw import in_order, level, seed_of
from evaluators.labels.label import People
from evaluators.labels.ledger import LabelLedger, hand_out
from evaluators.labels.task import Task, grading, preferring
from evaluators.labels.worksheet import CANNOT_TELL, Pen, document, read, waiting, write
from evaluators.ledger import GoldenLedger
from evaluators.loading import load_golden_set
from evaluators.models import Services
from evaluators.preferences import judged_pairs
from evaluators.score import Output
from evaluators.summary import RunResults

from .attacks import RIGHT, Gullible
from .fakes import FakeTurnout, Reply
from .labelled import KEY, YAML, by_people, cases, draws, judged_run, judged_set, labelled
from .sets import one_item, said
from .test_preferences import answers, golden_set, right

N = 80
GOOD = ["good a"] * N


def truly(text: str) -> str:
    """What people say."""
    return "pass" if text.startswith("good") else "fail"


def two_runs(
    golden: GoldenSet, candidate: list[str | Output], judge: list[str | None] | None = None
) -> tuple[RunResults, RunResults]:
    """A control whose every answer is good, with a judge that passes everything of the candidate's, and nine
    of ten of the control's."""
    n = len(golden.items)
    grades: list[str | None] = ["fail" if k % 10 == 0 else "pass" for k in range(n)]
    control = judged_run(golden, ["good a"] * n, grades, version=1)
    return control, judged_run(golden, candidate, judge or ["pass"] * n, version=2)


@pytest.fixture
def golden(tmp_path: Path) -> GoldenSet:
    return judged_set(tmp_path, N)


# the draw


@given(st.lists(st.uuids().map(str), unique=True, min_size=1, max_size=40), st.integers(1, 40))
def test_the_sample_is_the_same_whoever_draws_and_a_greater_one_holds_it(ids: list[str], size: int) -> None:
    seed = seed_of("one", "two", "kind")
    order = in_order(seed, ids)
    assert order == in_order(seed, reversed(ids))
    assert sorted(order) == sorted(ids)
    others = [name for name in ids if name != order[0]]
    assert in_order(seed, others) == order[1:], "what another item does moves nobody"


def test_every_item_is_drawn_equally_often() -> None:
    ids = [f"q{k}" for k in range(10)]
    drawn = [name for run in range(2000) for name in in_order(seed_of(str(run), "b", "kind"), ids)[:3]]
    assert all(abs(drawn.count(name) - 600) < 100 for name in ids)  # 5 standard deviations


def test_another_check_or_run_is_another_draw() -> None:
    assert (
        len({seed_of("a", "b", "x"), seed_of("a", "b", "y"), seed_of("a", "c", "x"), seed_of("c", "b", "x")})
        == 4
    )


def test_each_further_declaration_halves_the_level() -> None:
    assert [level(0.05, n) for n in (0, 1, 2, 3)] == [0.05, 0.05, 0.025, 0.0125]


# tasks


def test_a_task_is_what_is_shown_and_nothing_else(tmp_path: Path) -> None:
    item = one_item(tmp_path, {"type": "exact"}, {"type": "judge", "key": KEY, "rubric": "It helps."})
    check = item.checks[1]
    task = grading(item, check, said("yes"))
    quicker = grading(item, check, Output(text="yes", latency_ms=3.0, request_id="q9", usage={"a": 1}))
    assert task.hash == quicker.hash
    assert grading(replace(item, hash="other", checks=(check,)), check, said("yes")).hash == task.hash
    assert grading(item, check, said("no")).hash != task.hash
    other = one_item(
        tmp_path / "b", {"type": "exact"}, {"type": "judge", "key": KEY, "rubric": "It is kind."}
    )
    assert grading(item, other.checks[1], said("yes")).hash != task.hash
    assert "latency_ms" not in vars_of(quicker.answers[0])


def vars_of(output: Output) -> dict[str, object]:
    """What an answer holds beyond the default of each field."""
    return {
        name: value
        for name in Output.__dataclass_fields__
        if (value := getattr(output, name)) != getattr(Output(), name)
    }


def test_of_two_answers_the_place_does_not_tell_the_version(tmp_path: Path) -> None:
    item = one_item(tmp_path, {"type": "exact"}, {"type": "pairwise"})
    check = item.checks[1]
    one, other = (preferring(item, check, said(a), said(b)) for a, b in (("x", "y"), ("y", "x")))
    assert (one.hash, one.answers) == (other.hash, other.answers)
    assert (one.worth("first"), one.worth("tie"), one.worth("second")) == (1.0, 0.5, 0.0)


def test_a_grade_is_worth_what_the_check_makes_of_it(tmp_path: Path) -> None:
    check = {"type": "judge", "rubric": "It is rude.", "not": True}
    item = one_item(tmp_path, {"type": "exact"}, check)
    task = grading(item, item.checks[1], said("x"))
    assert (task.worth("pass"), task.worth("fail")) == (0.0, 1.0)


# what needs no label


def test_equal_answers_and_failures_need_nobody(golden: GoldenSet) -> None:
    cut = Output(text="", outcome="timeout")
    candidate: list[str | Output] = ["good a", cut, *["good b"] * (N - 2)]
    control, other = two_runs(golden, candidate)
    found = cases(golden, control, other)
    assert sorted(found.open) == [f"q{k:03}" for k in range(1, N)]
    assert len(found.open["q001"].terms) == 1, "what timed out is worth 0"
    failed = [judged_run(golden, [cut] * N, ["pass"] * N, version=version) for version in (1, 2)]
    assert cases(golden, *failed).open == {}


def test_two_versions_that_say_the_same_pass_without_a_label(golden: GoldenSet) -> None:
    control, candidate = two_runs(golden, list(GOOD))
    found = compare(golden, control, candidate)
    assert found.verdict == "pass", found.sentence
    assert found.corrections[0].open == 0


def test_where_few_answers_differ_all_of_them_are_labelled_and_the_judge_is_not_needed(
    golden: GoldenSet,
) -> None:
    control, candidate = two_runs(golden, [*GOOD[:70], *["good b"] * 10])
    assert compare(golden, control, candidate).verdict == "inconclusive"
    found = by_people(golden, control, candidate, truly, 30)
    assert found.verdict == "pass", found.sentence
    judged = found.corrections[0]
    assert (judged.needed, judged.drawn, judged.labelled, judged.open) == (10, 10, 10, 10)
    assert judged.effect is not None
    assert judged.effect.method == "paired-bounded", "zeros and labels alone"


# what the labels make of a judge


def test_the_judge_decides_nothing_until_the_sample_is_whole(golden: GoldenSet) -> None:
    control, candidate = two_runs(golden, ["good b"] * N)
    declared = draws(control, candidate, 30)
    labels = labelled(golden, cases(golden, control, candidate), declared, truly)
    for some in (labels[:0], labels[:-1]):
        found = compare(golden, control, candidate, people=People.of(declared, some))
        assert (found.verdict, found.reasons[-1].code) == ("inconclusive", "judge_unlabelled")
        assert found.corrections[0].effect is None, "not even a number to look at"
    assert "30 drawn items, of which 1 are missing" in found.sentence
    assert compare(golden, control, candidate, people=People.of(declared, labels)).verdict == "pass"


def test_ten_labels_are_not_thirty_whatever_was_declared(golden: GoldenSet) -> None:
    control, candidate = two_runs(golden, ["good b"] * N)
    found = by_people(golden, control, candidate, truly, 10)
    assert found.reasons[-1].code == "judge_unlabelled"
    assert "of which 20 are missing" in found.sentence


def test_labels_of_answers_that_somebody_picked_do_not_count(golden: GoldenSet) -> None:
    control, candidate = two_runs(golden, ["good b"] * N)
    declared = draws(control, candidate, 30)
    found = cases(golden, control, candidate)
    everything = labelled(golden, found, draws(control, candidate, N), truly)
    drawn = {case.item.id for case in sample_of(found, declared)}
    picked = [label for label in everything if label.item_id not in drawn]
    assert len(picked) == 2 * (N - 30)
    judged = correction(found, People.of(declared, picked), alpha=0.05)
    assert (judged.labelled, judged.effect) == (0, None)
    chosen = [replace(draw, seed="0" * 16) for draw in declared]
    judged = correction(found, People.of(chosen, everything), alpha=0.05)
    assert (judged.declarations, judged.effect) == (0, None), "nor is a seed that somebody chose a draw"


def test_a_leaning_judge_is_set_right(golden: GoldenSet) -> None:
    bad: list[str | Output] = [f"{'good' if k % 2 else 'bad'} b" for k in range(N)]
    control, candidate = two_runs(golden, bad)
    found = by_people(golden, control, candidate, truly, 40)
    assert found.verdict == "fail", found.sentence
    own = next(one for one in found.metrics if one.evaluator == KEY)
    assert own.effect is not None
    assert own.effect.estimate == pytest.approx(0.1), "by the judge alone it is better"
    judged = found.corrections[0]
    assert judged.effect is not None
    assert judged.effect.lower < -0.5 < judged.effect.upper
    assert judged.agreement is not None
    assert judged.agreement.kappa is not None
    assert judged.agreement.kappa < 0.3


def test_a_label_holds_in_another_comparison_and_under_another_judge(golden: GoldenSet) -> None:
    control, candidate = two_runs(golden, ["good b"] * N)
    declared = draws(control, candidate, 30)
    labels = labelled(golden, cases(golden, control, candidate), declared, truly)
    strict = judged_run(golden, ["good b"] * N, ["fail"] * N, version=2)
    found = compare(golden, control, strict, people=People.of(declared, labels)).corrections[0]
    assert found.labelled == 30
    assert found.agreement is not None
    assert found.agreement.raw is not None
    assert found.agreement.raw < 0.6, "the agreement is this judge's own"


def test_another_rubric_asks_something_else(golden: GoldenSet, tmp_path: Path) -> None:
    control, candidate = two_runs(golden, ["good b"] * N)
    declared = draws(control, candidate, 30)
    labels = labelled(golden, cases(golden, control, candidate), declared, truly)
    file = tmp_path / "items.jsonl"
    file.write_text(file.read_text().replace("It helps.", "It rhymes."))
    changed = load_golden_set(tmp_path)
    runs = two_runs(changed, ["good b"] * N)
    assert correction(cases(changed, *runs), People.of(declared, labels), alpha=0.05).labelled == 0


def test_what_nobody_can_tell_counts_at_its_worst(golden: GoldenSet) -> None:
    control, candidate = two_runs(golden, ["good b"] * N)
    declared = draws(control, candidate, 60)
    found = cases(golden, control, candidate)
    labels = labelled(golden, found, declared, truly)
    some = [replace(label, grade=None) if k < 20 else label for k, label in enumerate(labels)]
    result = compare(golden, control, candidate, people=People.of(declared, some))
    assert (result.verdict, result.reasons[-1].code) == ("inconclusive", "missing_decides")
    assert result.corrections[0].undecided == 10


def test_a_judge_without_a_verdict_is_an_error_that_labels_correct(golden: GoldenSet) -> None:
    silent: list[str | None] = [None if k % 3 else "pass" for k in range(N)]
    control, candidate = two_runs(golden, ["good b"] * N, silent)
    found = by_people(golden, control, candidate, truly, 45)
    assert found.verdict == "pass", found.sentence
    assert found.corrections[0].items == N


def test_two_judges_are_no_comparison(golden: GoldenSet) -> None:
    control, candidate = two_runs(golden, ["good b"] * N)
    rows = {
        item: tuple(replace(row, detail={"judge": "examiner@2"} if row.detail else None) for row in found)
        for item, found in candidate.rows.items()
    }
    found = by_people(golden, control, replace(candidate, rows=rows), truly, 40)
    assert (found.verdict, found.reasons[-1].code) == ("inconclusive", "judge_unlabelled")
    assert "examiner@1 and by examiner@2" in found.sentence


def test_looking_again_with_more_labels_costs_level(golden: GoldenSet) -> None:
    control, candidate = two_runs(golden, ["good b"] * N)
    levels = [
        found.corrections[0].effect.level
        for sizes in ((40,), (30, 40))
        if (found := by_people(golden, control, candidate, truly, *sizes)).corrections[0].effect
    ]
    assert levels == [0.95, 0.975]


def test_two_labellers_are_averaged_and_held_against_each_other(golden: GoldenSet) -> None:
    control, candidate = two_runs(golden, ["good b"] * N)
    declared, found = draws(control, candidate, N), cases(golden, control, candidate)
    ann = labelled(golden, found, declared, truly)
    bob = labelled(golden, found, declared, lambda text: "fail" if text.endswith("b") else "pass", name="bob")
    judged = correction(found, People.of(declared, [*ann, *bob]), alpha=0.05)
    assert judged.effect is not None
    assert judged.effect.estimate == pytest.approx(-0.5), "half of them say that the candidate lost them all"
    [pair] = judged.among
    assert (pair.raters, pair.n, pair.raw) == (("ann", "bob"), 2 * N, 0.5)
    assert judged.labellers == ("ann", "bob")


def test_the_last_word_of_a_labeller_counts(golden: GoldenSet) -> None:
    control, candidate = two_runs(golden, ["good b"] * N)
    declared, found = draws(control, candidate, N), cases(golden, control, candidate)
    first = labelled(golden, found, declared, lambda text: "fail")
    people = People.of(declared, [*first, *labelled(golden, found, declared, truly)])
    assert all(set(said) == {"ann"} for said in people.said.values())
    assert {label.grade for said in people.said.values() for label in said.values()} == {"pass"}


def test_thirty_labels_do_not_show_ten_points_for_want_of_a_loss(tmp_path: Path) -> None:
    """One in ten lost in the whole shows none of them among thirty in four samples of a hundred."""
    for labels, verdict in ((30, "inconclusive"), (40, "pass")):
        golden = judged_set(tmp_path / verdict, N, YAML.replace("0.15", "0.1"))
        control, candidate = two_runs(golden, ["good b"] * N)
        found = by_people(golden, control, candidate, truly, labels)
        effect = found.corrections[0].effect
        assert effect is not None
        assert effect.lower == pytest.approx(0.025 ** (1 / labels) - 1.0, abs=0.02)
        assert found.verdict == verdict, found.sentence


# pairs


async def test_a_judge_of_pairs_is_set_right_too(tmp_path: Path) -> None:
    """It ties whatever it sees, by its place; people prefer the candidate in two of three."""
    golden = golden_set(tmp_path, N, "metrics: {pairwise: {margin: 0.1}}\n", gate=True)
    control = answers(golden, right, version=1)
    candidate = answers(golden, lambda n, r: f"{'better' if n % 3 else 'worse'} {n}", version=2)
    services = Services(judge=Gullible(prefers_first=1.0))
    preferences = await judged_pairs(golden, control, candidate, services=services)
    found = cases_of("pairwise", golden.items, control, candidate, golden.policy, preferences)
    assert {case.judged for case in found.cases} == {0.0}
    blind = cases_of("pairwise", golden.items, control, candidate, golden.policy)
    assert list(blind.open) == list(found.open), "the sample is the same, whatever the judge says"
    declared = [
        replace(draw, evaluator="pairwise", seed=found.seed) for draw in draws(control, candidate, 40)
    ]
    pen = Pen(golden=golden, draw=declared[0], labeller="ann")

    def preferred(task: Task) -> str:
        (ours,) = (place for place, one in enumerate(task.answers) if not one.text.startswith(RIGHT))
        good = task.answers[ours].text.startswith("better")
        return ("first", "second")[ours if good else 1 - ours]

    tasks = [case.terms[0].task for case in sample_of(found, declared)]
    people = People.of(declared, [pen.label(task, preferred(task)) for task in tasks])
    judged = correction(found, people, alpha=0.05)
    assert judged.effect is not None
    assert judged.effect.lower < 1 / 3 < judged.effect.upper, "two of three won, one of three lost"
    verdict = compare(golden, control, candidate, preferences, people)
    assert verdict.verdict == "pass", verdict.sentence


def test_the_better_answer_is_the_candidates_or_the_controls(tmp_path: Path) -> None:
    golden = golden_set(tmp_path, 2, gate=True)
    control = answers(golden, lambda n, r: ("x", "y")[n], version=1)
    candidate = answers(golden, lambda n, r: ("y", "x")[n], version=2)
    found = cases_of("pairwise", golden.items, control, candidate, golden.policy)
    assert [case.terms[0].task.answers[0].text for case in found.cases] in (["x", "x"], ["y", "y"])
    for grade, signs in (("first", (-1.0, 1.0)), ("tie", (0.0, 0.0)), ("second", (1.0, -1.0))):
        draw = draws(control, candidate, 2)[0]
        pen = Pen(golden=golden, draw=draw, labeller="ann")
        people = People.of([draw], [pen.label(case.terms[0].task, grade) for case in found.cases])
        ends = [case.ends(people) for case in found.cases]
        if found.cases[0].terms[0].task.answers[0].text == "y":
            ends = ends[::-1]
        assert ends == [(sign, sign) for sign in signs]


# worksheets


def sheet(golden: GoldenSet, path: Path) -> tuple[Pen, list[str]]:
    control, candidate = two_runs(golden, [f"=HYPERLINK({k})" for k in range(N)])
    declared, found = draws(control, candidate, 30), cases(golden, control, candidate)
    pen = Pen(golden=golden, draw=declared[0], labeller="ann")
    tasks = waiting(sample_of(found, declared), People(), "ann", declared[0].seed)
    write(path, tasks)
    return pen, [task.hash for task in tasks]


@pytest.mark.parametrize("name", ["sheet.csv", "sheet.jsonl"])
@pytest.mark.parametrize("text", ["a\u2028b\x85c {}", "long " * 40_000 + "{}"])
def test_a_worksheet_of_any_answers_comes_back(
    golden: GoldenSet, tmp_path: Path, name: str, text: str
) -> None:
    path = tmp_path / name
    control, candidate = two_runs(golden, [text.format(k) for k in range(N)])
    declared, found = draws(control, candidate, 30), cases(golden, control, candidate)
    pen = Pen(golden=golden, draw=declared[0], labeller="ann")
    tasks = waiting(sample_of(found, declared), People(), "ann", declared[0].seed)
    write(path, tasks)
    assert read(path, tasks, pen) == ([], [])


@pytest.mark.parametrize("name", ["sheet.csv", "sheet.jsonl"])
def test_a_worksheet_is_never_written_over_what_people_have_filled_in(
    golden: GoldenSet, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_text("hours of grades")
    with pytest.raises(EvaluatorError, match=f"--from {path}"):
        sheet(golden, path)
    assert path.read_text() == "hours of grades"


@pytest.mark.parametrize("name", ["sheet.csv", "sheet.jsonl"])
def test_a_worksheet_comes_back_as_labels_and_what_is_wrong_is_listed(
    golden: GoldenSet, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    pen, hashes = sheet(golden, path)
    if path.suffix == ".csv":
        rows = list(csv.DictReader(path.read_text("utf-8-sig").splitlines()))
        assert not any(row["answer"].startswith("=") for row in rows), "no formula for a spreadsheet"
    else:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["task"] for row in rows] == hashes
    assert not any("version" in row or "run" in " ".join(row) for row in rows)
    given = ["pass", "fail", CANNOT_TELL, "maybe", ""]
    for row, grade in zip(rows, given, strict=False):
        row["grade"] = grade
    rows = [*rows[:5], {**rows[5], "task": "sha256:0", "grade": "pass"}, {**rows[0], "grade": "fail"}]
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    control, candidate = two_runs(golden, [f"=HYPERLINK({k})" for k in range(N)])
    found = cases(golden, control, candidate)
    tasks = waiting(sample_of(found, [pen.draw]), People(), "ann", pen.draw.seed)
    labels, refused = read(path, tasks, pen)
    assert [(label.task, label.grade) for label in labels] == list(
        zip(hashes, ["pass", "fail", None], strict=False)
    )
    assert [one.row for one in refused] == [4, 6, 7]
    assert "'maybe' is none of fail, pass, cannot tell" in refused[0].why


@pytest.mark.parametrize("text", ["", "{", "[1]\n", '{"task": "x"}\n'])
def test_what_is_no_worksheet_is_told(golden: GoldenSet, tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(text)
    pen = Pen(golden=golden, draw=draws(*two_runs(golden, list(GOOD)), 30)[0], labeller="ann")
    if not text:
        assert read(path, [], pen) == ([], [])
        return
    with pytest.raises(EvaluatorError, match="no worksheet"):
        read(path, [], pen)


# the ledger


def test_what_the_ledger_is_handed_is_what_the_terminal_asks(golden: GoldenSet) -> None:
    control, candidate = two_runs(golden, [f"kindly {k}" for k in range(N)])
    found = cases(golden, control, candidate)
    sheet = document(found, 40, golden.name)
    assert (sheet["seed"], sheet["needed"], sheet["open"], sheet["items"]) == (found.seed, 30, N, 40)
    [draw] = draws(control, candidate, 30)
    tasks = waiting(sample_of(found, [draw]), People(), "ann", draw.seed)
    asked = [row for row in sheet["tasks"] if row["place"] < draw.size]
    assert [row["label"]["task"] for row in asked] == [task.hash for task in tasks]
    assert len(sheet["tasks"]) == 80 > len(asked) == 60
    pen = Pen(golden=golden, draw=draw, labeller="ann", judge="examiner@1")
    own = {"label_id", "labeller", "grade", "note", "draw_id"}
    for row, task in zip(asked, tasks, strict=True):
        given = pen.label(task, "pass").to_json()
        assert row["label"] == {name: value for name, value in given.items() if name not in own}
        assert row["answers"] == [task.answers[0].text]
        assert (row["grades"], row["criterion"]) == (["fail", "pass"], "It helps.")
        assert set(row) == {"place", "label", "question", "reference", "answers", "criterion", "grades"}
    places = {row["label"]["item_id"]: row["place"] for row in sheet["tasks"]}
    assert sorted(places, key=places.__getitem__) == in_order(found.seed, found.open)[:40]


def test_a_worksheet_that_is_too_long_to_be_sent_ends_with_a_whole_item(
    golden: GoldenSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = cases(golden, *two_runs(golden, [f"kindly {k}" for k in range(N)]))
    whole = document(found, N, golden.name)["tasks"]
    size = sum(len(json.dumps(row)) for row in whole)
    for most in (size // 2, size // 3, size // 7):
        monkeypatch.setattr("evaluators.labels.worksheet._MOST_BYTES", most)
        sheet = document(found, N, golden.name)
        rows = sheet["tasks"]
        assert sheet["items"] == len(rows) // 2
        assert 0 < len(rows) < len(whole)
        assert [row["place"] for row in rows] == [n for n in range(len(rows) // 2) for _ in "ab"]


@pytest.mark.parametrize(("declared", "items"), [((), 100), ((30,), 100), ((30, 110), 110)])
def test_handed_out_is_all_that_was_declared(tmp_path: Path, declared: tuple[int, ...], items: int) -> None:
    golden = judged_set(tmp_path, 120)
    control, candidate = two_runs(golden, ["bad"] * 120)
    api = FakeTurnout(lambda text, version: Reply())
    api.draws = [draw.to_json() for draw in draws(control, candidate, *declared)]
    hand_out(GoldenLedger(api), golden, control, candidate)
    sheet = api.worksheets[KEY]
    assert (sheet["control_run"], sheet["candidate_run"]) == (control.run_id, candidate.run_id)
    assert len({row["place"] for row in sheet["tasks"]}) == items
    api.worksheets.clear()
    hand_out(GoldenLedger(api), golden, control, control)
    assert api.worksheets == {}, "where nothing differs there is nothing to grade"


class Api:
    """The control API's labels, and the draws of the one comparison."""

    def __init__(self, *label_ids: str, draws: tuple[str, ...] = ()) -> None:
        self.label_ids, self.draws, self.asked = label_ids, draws, 0

    def get(self, path: str, params: object = None) -> list[dict[str, str]]:
        self.asked += 1
        if path == "/api/golden/comparisons":
            return [{"control_run": "a", "candidate_run": "b"}]
        if path == "/api/golden/draws":
            assert params == {"control_run": "a", "candidate_run": "b"}
            return [{"draw_id": draw_id} for draw_id in self.draws]
        return [{"label_id": label_id} for label_id in self.label_ids]

    def post(self, path: str, body: object) -> None:
        raise AssertionError("nothing is to be changed")


def test_the_gate_of_a_version_notices_new_labels_and_draws_where_a_judge_gates(
    golden: GoldenSet, tmp_path: Path
) -> None:
    def mark(api: Api, golden: GoldenSet = golden) -> list[str]:
        return LabelLedger(api).mark(golden, "chat", 1, 2)

    marks = [mark(Api(*ids)) for ids in ((), ("a",), ("a", "b"), ("a", "b"))]
    assert marks[0] != marks[1] != marks[2] == marks[3]
    assert mark(Api("a", draws=("c",))) not in marks, "labels that are there may count by a draw"
    shown = judged_set(tmp_path / "shown", 3, YAML, checks=lambda k: [{"type": "exact"}])
    api = Api("a")
    assert (mark(api, shown), api.asked) == ([], 0)
