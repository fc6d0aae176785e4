"""A folder of files: planned, applied whole or not at all, killed at every step, and applied again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.declared import File
from experiments.errors import Conflict, DocumentError, ExperimentsError
from experiments.ledger import decisions
from experiments.ledger.store import DatabaseError
from experiments.steering.control import Author
from experiments.steering.enactment import Outline, Partial

from ..plane import AB, ADA, CANARY, SHADOW, Plane

BOB = Author(actor="bob", reason="turnout apply of 1a2b3c", detail={"reference": "1a2b3c"})
SETTINGS = "models:\n  chat: {recording: numbers}\n"


def file(name: str, text: str) -> File:
    return File(path=f"deploy/{name}", text=text)


CANARY_FILE = file("canary.yaml", CANARY)
SHADOW_FILE = file("shadow.yaml", SHADOW.replace("faster", "unseen").replace("candidate: 2", "candidate: 3"))
SETTINGS_FILE = file("turnout.yaml", SETTINGS)
ALL = (SETTINGS_FILE, CANARY_FILE, SHADOW_FILE)


def outline(plane: Plane, *files: File, prune: bool = False) -> Outline:
    return plane.controller.enactment.outline(files, prune=prune)


def verbs(found: Outline) -> dict[str, str]:
    return {step.name: step.verb for step in found.steps}


def apply(plane: Plane, *files: File, prune: bool = False, plan: str | None = None) -> None:
    plan = plan or outline(plane, *files, prune=prune).digest()
    plane.controller.enactment.apply(files, BOB, plan=plan, prune=prune)


def actions(plane: Plane) -> list[str]:
    return [action for _, action, state in plane.rows() if state == "done"]


# -- the plan ----------------------------------------------------------------------------------------------


def test_a_plan_says_what_would_change_and_changes_nothing(plane: Plane) -> None:
    found = outline(plane, *ALL)
    assert verbs(found) == {"turnout.yaml": "configure", "faster": "create", "unseen": "create"}
    settings, canary, _ = found.changing
    assert settings.sentences == ("recording of 'chat': full -> numbers",)
    assert canary.sentences == ("experiment 'faster' runs: version 2 of 'chat' answers 5 % of the units",)
    assert "+mode: canary" in canary.diff
    assert outline(plane, *ALL).digest() == found.digest()
    assert plane.rows() == []
    assert not (plane.data / "turnout.yaml").exists()


def test_applied_twice_it_does_nothing_the_second_time(plane: Plane) -> None:
    apply(plane, *ALL)
    assert actions(plane) == ["apply", "configure", "start", "start"]
    assert plane.state() == plane.state("unseen") == "running"
    assert (plane.data / "turnout.yaml").read_text() == SETTINGS
    assert plane.snapshot.models["chat"].recording == "numbers"
    rows = plane.rows()
    again = outline(plane, *ALL)
    assert set(verbs(again).values()) == {"unchanged"}
    apply(plane, *ALL)
    assert plane.rows() == rows


def test_comments_and_layout_are_no_change(plane: Plane) -> None:
    apply(plane, *ALL)
    spaced = [file(one.name, "# a comment\n" + one.text.replace("1m", "60s")) for one in ALL]
    assert outline(plane, *spaced).changing == ()


def test_every_step_is_on_the_record_with_its_author_and_its_commit(plane: Plane) -> None:
    apply(plane, *ALL)
    for row in decisions.listed(plane.controller.store):
        assert (row.actor, row.reason) == ("bob", "turnout apply of 1a2b3c")
        assert row.detail["reference"] == "1a2b3c"


def test_every_problem_of_every_file_is_told_and_nothing_is_applied(plane: Plane) -> None:
    wrong = (
        file("turnout.yaml", SETTINGS.replace("numbers", "number")),
        file("a.yaml", AB.replace("weight: 50", "weight: 500")),
        file("b.yaml", AB[: AB.index("metrics")]),
        file("good.yaml", SHADOW.replace("faster", "unseen")),
        file("twice.yaml", SHADOW.replace("faster", "unseen")),
        file("empty.yaml", ""),
        file("evaluators.yaml", "judges: []\n"),
    )
    with pytest.raises(DocumentError) as refused:
        outline(plane, *wrong)
    assert refused.value.code == "invalid_files"
    found = {(problem.file, problem.line, problem.field) for problem in refused.value.problems}
    assert found == {
        ("deploy/turnout.yaml", 2, "models.chat.recording"),
        ("deploy/a.yaml", 5, "traffic.weight"),
        ("deploy/b.yaml", 1, "metrics"),
        ("deploy/twice.yaml", None, "experiment"),
        ("deploy/empty.yaml", None, ""),
        ("deploy/evaluators.yaml", 1, "judges"),
    }
    with pytest.raises(DocumentError):
        apply(plane, *wrong, plan="0" * 64)
    assert plane.rows() == []


EVALUATORS = "gate:\n  chat: {set: goldens/support}\n"


def test_the_evaluators_file_is_put_in_its_place_once_its_golden_sets_are_there(plane: Plane) -> None:
    wanted = file("evaluators.yaml", EVALUATORS)
    there = plane.data / "evaluators.yaml"
    refused = outline(plane, wanted)
    assert verbs(refused) == {"evaluators.yaml": "refused"}
    assert str(plane.data / "goldens" / "support") in refused.refused[0].sentences[0]
    (plane.data / "goldens" / "support").mkdir(parents=True)
    assert "+gate:" in outline(plane, wanted).steps[0].diff
    apply(plane, wanted)
    assert there.read_text() == EVALUATORS
    assert actions(plane) == ["apply", "configure"]
    assert verbs(outline(plane, wanted)) == {"evaluators.yaml": "unchanged"}
    there.write_text("gate: {}\n")  # by other hands
    assert verbs(outline(plane, wanted)) == {"evaluators.yaml": "configure"}
    there.unlink()
    there.symlink_to(plane.data / "elsewhere.yaml")
    assert "symbolic link" in outline(plane, wanted).refused[0].sentences[0]


@pytest.mark.parametrize(
    "text", ["", "gate:\n  chat: {set: goldens", "[]", "judges: []\n", "gate: {}\n# \x00"]
)
def test_a_torn_or_empty_evaluators_file_replaces_nothing(plane: Plane, text: str) -> None:
    there = plane.data / "evaluators.yaml"
    there.write_text(EVALUATORS)
    with pytest.raises(DocumentError):
        apply(plane, file("evaluators.yaml", text), plan="0" * 64)
    assert there.read_text() == EVALUATORS


@pytest.mark.parametrize("step", ["settings intent", "settings written"])
def test_an_evaluators_file_that_was_being_put_in_its_place_is_there_or_not(plane: Plane, step: str) -> None:
    wanted = file("evaluators.yaml", "online: []\n")
    plane.dies_at(step, lambda: apply(plane, wanted))
    plane.restart()
    there = (plane.data / "evaluators.yaml").exists()
    assert there == (step == "settings written")
    row = next(row for row in decisions.listed(plane.controller.store) if row.action == "configure")
    assert row.state == ("done" if there else "failed")
    assert not decisions.intents(plane.controller.store)


def test_no_file_is_no_wish(plane: Plane) -> None:
    apply(plane, *ALL)
    with pytest.raises(DocumentError, match="Is it the right folder"):
        outline(plane, prune=True)


def test_what_cannot_be_is_refused_with_all_the_rest(plane: Plane) -> None:
    for text, why in (
        (AB.replace("candidate: 2", "candidate: 9"), "no version 9"),
        (AB.replace("model: chat", "model: other"), "no model 'other'"),
        (AB.replace("candidate: 2", "candidate: 1"), "are both version 1"),
        (AB + "golden: {require: pass, set: support}\n", "needs a passed comparison"),
    ):
        files = (SETTINGS_FILE, SHADOW_FILE, file("ab.yaml", text))
        found = outline(plane, *files)
        assert verbs(found) == {"turnout.yaml": "configure", "unseen": "create", "faster": "refused"}
        assert why in found.refused[0].sentences[0]
        with pytest.raises(Conflict, match="nothing was changed") as refused:
            apply(plane, *files)
        assert refused.value.code == "plan_refused"
    assert plane.rows() == []


def test_two_that_would_route_one_model_are_seen_before_either_starts(plane: Plane) -> None:
    other = file("other.yaml", AB.replace("faster", "other"))
    found = outline(plane, CANARY_FILE, other)
    assert verbs(found) == {"faster": "create", "other": "refused"}
    assert "already routes the traffic" in found.refused[0].sentences[0]


# -- changes -----------------------------------------------------------------------------------------------


def test_what_no_verdict_follows_from_may_change(plane: Plane) -> None:
    apply(plane, CANARY_FILE)
    splits, text = plane.snapshot.models["chat"].splits, CANARY
    for before, after, said in (
        ("mode: canary", "mode: canary\non_ship: promote", "on_ship: the default -> promote"),
        ("min_units: 10", "min_units: 20", "traffic.min_units: 10 -> 20"),
        ("min_duration: 1m", "min_duration: 2m", "traffic.min_duration: 1m -> 2m"),
        ("min_units: 20", "min_units: 20, hold_at: [25]", "traffic.hold_at: the default -> [25]"),
        ("mode: canary", "mode: canary\npolicies: {no_traffic: warn}", "no_traffic: the default -> warn"),
    ):
        text = text.replace(before, after)
        changed = file("canary.yaml", text)
        found = outline(plane, changed)
        assert verbs(found) == {"faster": "change"}
        assert said in found.changing[0].sentences[0]
        apply(plane, changed)
        assert plane.snapshot.models["chat"].splits == splits
        assert outline(plane, changed).changing == ()
        row = decisions.listed(plane.controller.store, experiment="faster", limit=1)[0]
        assert row.action == "amend"
        assert said in row.changed[0]
    plane.restart()
    assert outline(plane, changed).changing == ()
    assert plane.state() == "running"


def test_what_was_declared_before_the_first_unit_stays(plane: Plane) -> None:
    apply(plane, CANARY_FILE)
    for before, after, field in (
        ("candidate: 2", "candidate: 3", "candidate"),
        ("ramp: [5, 25, 50]", "ramp: [5, 50]", "traffic.ramp"),
        ("tolerated_ratio: 1.25", "tolerated_ratio: 2", "metrics.guardrails"),
        ("mode: canary", "mode: canary\nunit: session", "unit"),
        ("mode: canary", "mode: canary\nholdout: 5", "holdout"),
        ("mode: canary", "mode: canary\nanalysis: {horizon: 100}", "analysis.horizon"),
        ("mode: canary", "mode: canary\nanalysis: {alpha: 20%}", "analysis.alpha"),
        ("mode: canary", "mode: canary\nexclude: {tenants: [acme]}", "exclude"),
    ):
        changed = file("canary.yaml", CANARY.replace(before, after))
        found = outline(plane, changed)
        assert verbs(found) == {"faster": "refused"}
        said = found.refused[0].sentences[0]
        assert said.startswith(f"experiment 'faster' declared {field}")
        assert "turnout experiment stop faster" in said
        assert len(found.refused[0].diff) > 3
        with pytest.raises(Conflict):
            apply(plane, changed)
    assert plane.controller.junction.experiment("faster").spec_yaml == CANARY


def test_a_budget_of_copies_is_raised_at_once(plane: Plane) -> None:
    budgeted = SHADOW_FILE.text.replace("{share: 20}", "{share: 20, max_tokens: 1000}")
    apply(plane, file("shadow.yaml", budgeted))
    apply(plane, file("shadow.yaml", budgeted.replace("1000", "2000")))
    assert plane.snapshot.models["chat"].mirrors[0].max_tokens == 2000


def test_what_is_over_stays_over(plane: Plane) -> None:
    apply(plane, CANARY_FILE)
    plane.controller.control.stop("faster", ADA)
    found = outline(plane, CANARY_FILE)
    assert verbs(found) == {"faster": "unchanged"}
    assert found.steps[0].sentences == ("over: production is kept",)
    changed = outline(plane, file("canary.yaml", CANARY + "on_ship: promote\n"))
    assert verbs(changed) == {"faster": "refused"}
    assert "under another name" in changed.refused[0].sentences[0]


def test_a_pause_of_an_operator_is_not_undone(plane: Plane) -> None:
    apply(plane, CANARY_FILE)
    plane.controller.control.pause("faster", ADA)
    plane.settle()
    assert outline(plane, CANARY_FILE).changing == ()
    assert plane.state() == "paused"


# -- what is in no file ------------------------------------------------------------------------------------


def test_what_is_in_no_file_is_left_alone_unless_pruned(plane: Plane) -> None:
    apply(plane, CANARY_FILE, SHADOW_FILE)
    found = outline(plane, SHADOW_FILE)
    assert verbs(found) == {"unseen": "unchanged", "faster": "missing"}
    apply(plane, SHADOW_FILE)
    assert plane.state() == "running"
    pruned = outline(plane, SHADOW_FILE, prune=True)
    assert verbs(pruned) == {"unseen": "unchanged", "faster": "stop"}
    assert pruned.digest() != found.digest()
    apply(plane, SHADOW_FILE, prune=True)
    plane.settle()
    assert plane.state() == "kept"
    assert not plane.candidate_has_traffic
    assert outline(plane, SHADOW_FILE, prune=True).changing == ()


def test_what_was_started_by_hand_is_never_pruned(plane: Plane) -> None:
    plane.begin(AB)
    found = outline(plane, SHADOW_FILE, prune=True)
    assert verbs(found) == {"unseen": "create", "faster": "missing"}
    apply(plane, SHADOW_FILE, prune=True)
    assert plane.state() == "running"


def test_one_takes_the_place_of_another(plane: Plane) -> None:
    apply(plane, CANARY_FILE)
    following = file("next.yaml", AB.replace("faster", "next"))
    assert verbs(outline(plane, following)) == {"faster": "missing", "next": "refused"}
    apply(plane, following, prune=True)
    plane.settle()
    assert (plane.state(), plane.state("next")) == ("kept", "running")


# -- two operators -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "meanwhile",
    [
        lambda plane: apply(plane, CANARY_FILE),
        lambda plane: (plane.data / "turnout.yaml").write_text("models: {}\n"),
        lambda plane: plane.registry.promote("chat", 3) and plane.controller.reconcile(),
    ],
    ids=["another apply", "an editor", "another production version"],
)
def test_a_plan_that_has_been_overtaken_is_refused(
    plane: Plane, meanwhile: Callable[[Plane], object]
) -> None:
    files = (SETTINGS_FILE, CANARY_FILE)
    plan = outline(plane, *files).digest()
    meanwhile(plane)
    before = plane.rows()
    with pytest.raises(Conflict, match="look at the new plan") as refused:
        apply(plane, *files, plan=plan)
    assert refused.value.code == "stale_plan"
    assert plane.rows() == before
    apply(plane, *files)


def test_of_two_at_once_one_wins_and_the_other_is_told(plane: Plane) -> None:
    plan = outline(plane, *ALL).digest()
    together, told = threading.Barrier(2), []

    def operator() -> None:
        together.wait()
        try:
            apply(plane, *ALL, plan=plan)
            told.append("applied")
        except ExperimentsError as error:
            told.append(error.code)

    operators = [threading.Thread(target=operator) for _ in range(2)]
    for one in operators:
        one.start()
    for one in operators:
        one.join()
    assert "applied" in told
    assert set(told) - {"applied"} <= {"apply_running", "stale_plan"}
    assert len(told) == 2
    assert told.count("applied") == 1
    assert actions(plane) == ["apply", "configure", "start", "start"]


# -- what goes wrong on the way ----------------------------------------------------------------------------

STEPS = [
    "before configure turnout.yaml", "settings intent", "settings written", "settings in force",
    "before create faster", "before create unseen",
]  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_it_goes_on_with_the_rest(plane: Plane, step: str) -> None:
    plane.dies_at(step, lambda: apply(plane, *ALL))
    plane.restart()
    left = outline(plane, *ALL)
    assert left.cut_short is not None
    taken = 3 - len(left.changing)
    assert left.cut_short.changed[-1] == f"cut short after {taken} of 3 steps: the controller ended"
    assert decisions.intents(plane.controller.store) == []
    apply(plane, *ALL)
    assert plane.controller.config.recordings() == {"chat": "numbers"}
    assert plane.state() == plane.state("unseen") == "running"
    assert [one for one in actions(plane) if one != "apply"] == ["configure", "start", "start"]
    assert outline(plane, *ALL).cut_short is None


def test_a_torn_file_is_never_what_is_in_force(plane: Plane) -> None:
    """Killed before the rename, what lies beside the file is not the file."""
    apply(plane, SETTINGS_FILE)
    longer = file("turnout.yaml", SETTINGS + "  code: {recording: numbers}\n")
    plane.dies_at("settings intent", lambda: apply(plane, longer))
    (plane.data / "turnout.yaml.new").write_text(longer.text[:30])
    plane.restart()
    assert plane.controller.config.error is None
    assert plane.controller.config.recordings() == {"chat": "numbers"}
    apply(plane, longer)
    assert set(plane.controller.config) == {"chat", "code"}


def test_a_step_that_fails_says_which_were_taken(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    start = plane.controller.control.start

    def full(spec: str, path: str, author: Author) -> object:
        if "unseen" in spec:
            raise DatabaseError("the disk is full")
        return start(spec, path, author)

    monkeypatch.setattr(plane.controller.control, "start", full)
    with pytest.raises(Partial, match=r"2 of 3 steps were taken \(turnout.yaml, faster\), then: the disk"):
        apply(plane, *ALL)
    monkeypatch.undo()
    left = outline(plane, *ALL)
    assert verbs(left) == {"turnout.yaml": "unchanged", "faster": "unchanged", "unseen": "create"}
    assert left.cut_short is not None
    apply(plane, *ALL)
    assert outline(plane, *ALL).cut_short is None


def test_a_file_that_cannot_be_written_leaves_the_settings(plane: Plane) -> None:
    (plane.data / "turnout.yaml.new").mkdir()
    with pytest.raises(ExperimentsError, match="cannot be written") as refused:
        apply(plane, *ALL)
    assert refused.value.code == "settings_unwritable"
    assert plane.controller.config.recordings() == {}
    assert not plane.controller.junction.has("faster")
    assert [(action, state) for _, action, state in plane.rows()] == [
        ("apply", "failed"), ("configure", "failed"),
    ]  # fmt: skip


def test_a_bad_file_in_force_is_mended_by_a_good_one_that_says_the_same(plane: Plane) -> None:
    apply(plane, SETTINGS_FILE)
    (plane.data / "turnout.yaml").write_text(SETTINGS[:20])
    plane.controller.pulse()
    assert plane.controller.config.error
    found = outline(plane, SETTINGS_FILE)
    assert verbs(found) == {"turnout.yaml": "configure"}
    apply(plane, SETTINGS_FILE)
    assert plane.controller.config.error is None
    assert (plane.data / "turnout.yaml").read_text() == SETTINGS


def test_a_link_is_somebody_elses(plane: Plane, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_text("models: {}\n")
    (plane.data / "turnout.yaml").symlink_to(elsewhere)
    found = outline(plane, SETTINGS_FILE)
    assert "symbolic link" in found.refused[0].sentences[0]


# -- a file that an editor changes -------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["", SETTINGS[:25], "models: {chat: {recording: all}}\n"])
def test_a_bad_file_is_an_event_and_changes_nothing(plane: Plane, bad: str) -> None:
    apply(plane, SETTINGS_FILE)
    before = plane.snapshot
    (plane.data / "turnout.yaml").write_text(bad)
    for _ in range(3):
        plane.controller.pulse()
    assert plane.snapshot == before
    assert plane.controller.config.recordings() == {"chat": "numbers"}
    refused = [row for row in decisions.listed(plane.controller.store) if row.state == "failed"]
    assert len(refused) == 1
    assert refused[0].action == "configure"
    assert "turnout.yaml" in str(refused[0].reason)
    (plane.data / "turnout.yaml").write_text("models: {chat: {recording: full}}\n")
    plane.controller.pulse()
    row = decisions.listed(plane.controller.store, limit=1)[0]
    assert (row.actor, row.state) == ("turnout.yaml", "done")
    assert row.changed == ("recording of 'chat': numbers -> full",)
    assert plane.snapshot.models["chat"].recording == "full"


def test_a_full_disk_delays_the_record_and_not_the_settings(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(work: object) -> None:
        raise DatabaseError("no space left")

    monkeypatch.setattr(plane.controller.store, "write", full)
    (plane.data / "turnout.yaml").write_text(SETTINGS)
    plane.controller.adoption.take_up()
    assert plane.snapshot.models["chat"].recording == "numbers"
    monkeypatch.undo()
    assert plane.rows() == []
    plane.controller.pulse()
    assert plane.rows() == [("turnout.yaml", "configure", "done")]
