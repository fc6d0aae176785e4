"""Every page draws every story without a traceback, says what it must say, and says so when it cannot."""

import re

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import chips
from dashboard.answers import Decision, Experiment, Metric
from dashboard.screens import decisions, overview, scorecard
from dashboard.start import TOKEN, TOKEN_FILE

from .conftest import PAGES, STORIES, OpenPage, redraw, texts
from .fake_control_api import FAULTS, FakeControlApi
from .fake_control_api import TOKEN as SECRET
from .trials import experiments

# A tab, and what only it says when there is something to say.
TABS = {
    "Scorecard": "Difference",
    "Over time": "What was done",
    "Outputs": "pairs, newest first",
    "Accounting": "Each request counts for the arm",
    "Spec": "guardrails: [{metric: error_rate",
}


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("control", sorted(STORIES), indirect=True)
def test_every_page_draws_every_story(control: FakeControlApi, open_page: OpenPage, page: str) -> None:
    assert texts(open_page(page))


@pytest.mark.parametrize("view", sorted(TABS))
@pytest.mark.parametrize("control", ["rich", "nulls", "hostile"], indirect=True)
def test_every_tab_draws_every_story(control: FakeControlApi, open_page: OpenPage, view: str) -> None:
    app = open_page("experiment", view=view)
    said = texts(app)
    if control.story["experiments"][0]["name"] == "faster-chat" and control.story["experiments"][0]["units"]:
        assert [other for other, sign in TABS.items() if sign in said] == [view]


@pytest.mark.parametrize("control", ["rich"], indirect=True)
def test_what_was_done_says_by_whom_and_why(control: FakeControlApi, open_page: OpenPage) -> None:
    said = texts(open_page("experiment", view="Over time"))
    assert all(part in said for part in ("by ada", "by controller", "guardrails hold"))


@pytest.mark.parametrize("control", ["rich"], indirect=True)
def test_what_was_not_done_is_not_told_as_done(control: FakeControlApi, open_page: OpenPage) -> None:
    undone = {"intent": "not done yet", "failed": "failed"}
    assert not any(words in texts(open_page("experiment", view="Over time")) for words in undone.values())
    for state, words in undone.items():
        control.story["timeline"]["events"][-1]["state"] = state
        assert words in texts(open_page("experiment", view="Over time"))


@pytest.mark.parametrize("control", ["rich"], indirect=True)
def test_after_the_end_nothing_is_still_to_come(control: FakeControlApi, open_page: OpenPage) -> None:
    over = next(one for one in control.story["experiments"] if len(one.get("pipeline") or ()) > 2)
    for state, words in (("running", "to come"), ("rolled_back", "not reached")):
        over["state"] = state
        said = texts(open_page("experiment", name=over["name"]))
        assert [one for one in ("to come", "not reached") if one in said] == [words]


def test_what_the_verdict_says_is_not_said_again_as_what_is_waited_for() -> None:
    def awaited(words: str, state: str = "running") -> str | None:
        story = {**experiments()[0], "waiting_for": words, "state": state}
        return chips.waiting(Experiment.model_validate(story))

    assert awaited("a word from Ada") == "a word from Ada"
    assert awaited("a word from Ada", state="kept") is None
    assert awaited(experiments()[0]["verdict"]["sentence"]) is None


@pytest.mark.parametrize(
    ("role", "upper", "judged", "words"),
    [
        ("guardrail", 0.10, {"z": 0.3, "z_bound": 1.6}, "no difference seen"),
        ("guardrail", 0.01, {"z": 1.5, "z_bound": 1.6}, "no difference seen"),
        ("guardrail", 0.01, {"z": 1.7, "z_bound": 1.6}, "within margin"),
        ("guardrail", 0.10, {"z": 0.3}, "no difference seen"),
        ("guardrail", 0.01, {"z": 3.0}, "within margin"),
        ("success", 0.10, {"z": 0.3, "z_bound": 1.6}, "no difference seen"),
        ("success", 0.01, {"z": 0.3, "z_bound": 1.6}, "within margin"),
    ],
)
def test_within_its_margin_is_said_only_where_it_was_shown(
    role: str, upper: float, judged: dict[str, float], words: str
) -> None:
    found = {"metric": "error_rate", "kind": "binary", "direction": "decrease", "state": "ok", "margin": 0.02}
    effect = {"scale": "difference", "estimate": 0.0, "lower": -0.1, "upper": upper}
    card = Metric.model_validate({**found, "role": role, "effect": effect, "band": effect, **judged})
    assert scorecard.state_chip(card).words == words


@pytest.mark.parametrize("control", ["rich"], indirect=True)
def test_a_models_card_says_how_many_more_are_tried_beside_each_other(
    control: FakeControlApi, open_page: OpenPage
) -> None:
    first = control.story["experiments"][0]
    others = [{**first, "name": f"beside-{number}", "state": "running"} for number in range(3)]
    control.story["experiments"] = others
    assert "and 1 more under way, below" in texts(open_page("overview"))


def test_a_rollback_of_several_candidates_is_none_of_production() -> None:
    several = Decision(decision_id="1", action="rollback", model="chat", to_version=1)
    assert decisions.moved(several).startswith("units")
    assert decisions.moved(several.model_copy(update={"from_version": 2})).startswith("production")
    amended = Decision(decision_id="2", action="amend", experiment="e", from_version=1, to_version=2)
    assert decisions.moved(amended) == "v1 and v2"
    assert decisions.moved(amended.model_copy(update={"action": "conclude"})) == "v1 and v2"


@pytest.mark.parametrize("page", PAGES)
def test_an_absent_controller_is_said_in_words(
    open_page: OpenPage, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURNOUT_CONTROL_URL", "http://127.0.0.1:1")
    said = texts(open_page(page))
    assert "Nothing answers at http://127.0.0.1:1" in said
    assert "Controller away" in said


@pytest.mark.parametrize("fault", sorted(FAULTS))
@pytest.mark.parametrize("page", PAGES)
def test_a_broken_controller_is_said_in_words(
    control: FakeControlApi, open_page: OpenPage, page: str, fault: str
) -> None:
    control.fault = fault
    assert "cannot be shown now" in texts(open_page(page))


def test_the_last_good_figures_stay_when_the_controller_fails(
    control: FakeControlApi, open_page: OpenPage
) -> None:
    app = open_page("overview")
    control.fault = "500"
    said = texts(redraw(app))
    assert "s ago. the ledger could not be read." in said.replace("\\", "")
    assert "as it was" in said
    assert "No usable answer" in said
    assert "Controller away" not in said
    assert "Ship v3" in said


def test_overview_shows_verdict_sentence_coverage_and_no_p_value(
    control: FakeControlApi, open_page: OpenPage
) -> None:
    said = texts(open_page("overview"))
    assert "Invalid\\: the arms do not hold the share" in said
    assert "99.88\u202f%" in said
    assert "7\\,990 recorded\\, 10 lost" in said
    assert not re.search(r"\bp[ -]?(value|=|<)", said)
    assert "e-value" not in said


def test_overview_puts_what_waits_for_a_person_first(control: FakeControlApi, open_page: OpenPage) -> None:
    said = texts(open_page("overview"))
    places = [
        said.rindex(sentence)  # the cards, below the models
        for sentence in ("Ship v3", "Invalid\\:", "No data has arrived", "Roll back\\: v2")
    ]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("recorded", "lost", "text"),
    [(100, 0, "100\u202f%"), (99_999, 1, "99.99\u202f%"), (0, 0, "no data"), (0, 5, "0.00\u202f%")],
)
def test_coverage_never_rounds_up_to_all(recorded: int, lost: int, text: str) -> None:
    one = Experiment.model_validate(experiments()[0] | {"accounting": {"recorded": recorded, "lost": lost}})
    assert overview.coverage(one)[0] == text


def test_reasons_stand_in_order_of_precedence(control: FakeControlApi, open_page: OpenPage) -> None:
    said = texts(open_page("experiment", name="tone-of-voice")).replace("\\", "")
    assert said.index("Sample-ratio mismatch: 1,410") < said.index("shown for diagnosis only")


def colours(app: AppTest) -> set[str]:
    """Colours of the badges of the scorecard: what says better, worse, crossed."""
    return set(
        re.findall(
            r":(\w+)-badge\[(?:[^\]]*(?:better|margin|worse|pp|%))",
            "\n".join(str(m.value) for m in app.markdown),
        )
    )


def test_an_invalid_verdict_takes_the_colours_from_the_scorecard(
    control: FakeControlApi, open_page: OpenPage
) -> None:
    assert "green" in colours(open_page("experiment", name="faster-chat"))
    blocked = open_page("experiment", name="tone-of-voice")
    assert colours(blocked) == set()
    assert any("without colours" in error.value for error in blocked.error)


def test_every_metric_shows_n_and_missing_and_says_what_it_lacks(
    control: FakeControlApi, open_page: OpenPage
) -> None:
    said = texts(open_page("experiment", name="faster-chat")).replace("\\", "")
    assert said.count("n = ") == 10
    assert "n = 431, missing 3,189" in said
    assert "no data: no answer has been recorded in either arm" in said
    assert "95\u202f% any time: −14.1 … −6.9\u202f%" in said


def test_the_scorecard_says_by_which_number_and_by_which_instrument(
    control: FakeControlApi, open_page: OpenPage
) -> None:
    said = texts(open_page("experiment", name="faster-chat")).replace("\\", "")
    assert "this look: z 8.41 of 2.03 needed" in said
    assert "evidence of harm: e 3.1, rolled back at 20" in said
    assert "adjusted p: 0.412" in said
    assert "measured by judge-7b" in said
    assert "no correction for multiplicity" not in said


def test_an_unknown_experiment_in_the_url_is_said(control: FakeControlApi, open_page: OpenPage) -> None:
    app = open_page("experiment", name="no-such")
    assert "no experiment called no\\-such" in texts(app)
    assert not app.button, "another experiment can be promoted in its stead"
    app.selectbox(key="name").select("tone-of-voice")
    assert "Invalid" in texts(redraw(app))


def test_outputs_are_filtered_and_their_differing_words_marked(
    control: FakeControlApi, open_page: OpenPage
) -> None:
    app = open_page("experiment", name="faster-chat", view="Outputs", filter="Failed")
    shown = [str(block.value) for block in app.get("html")]
    assert any("Entropy of an" in block for block in shown)
    assert "reset my password" not in texts(app)
    assert any("<mark" in block for block in shown)
    assert not [block for block in app.markdown if "Entropy" in str(block.value)]


def test_newly_failing_items_are_named(control: FakeControlApi, open_page: OpenPage) -> None:
    app = open_page("golden")
    assert [box.label for box in app.expander] == ["Preferences", "Judges", "6 items newly failing"]
    assert "support/001" in texts(app)
    marked = [str(block.value) for block in app.get("html") if "<mark" in str(block.value)]
    assert any("within 30 days." in text for text in marked), "what the passing answer has beyond it"


def test_judges_are_shown_beside_what_people_say_of_them(
    control: FakeControlApi, open_page: OpenPage
) -> None:
    app = open_page("golden")
    [judged] = [frame.value for frame in app.dataframe if "Judge alone" in frame.value.columns]
    row, waiting = judged.to_dict("records")
    assert waiting["Labelled items"] == "12 of 30"
    assert (row["Judge"], row["Labelled items"], row["People agree"]) == (
        "examiner@4",
        "22 of 22",
        "82\u202f%",
    )
    assert row["Judge alone"] == "+11.0 (+3.0 to +19.0)"
    assert row["Corrected by labels"] == "+1.0 (−4.0 to +6.0)"
    assert "ann and bob agree with kappa +0.77" in texts(app).replace("\\", "")


def test_preferences_have_an_interval_and_say_how_far_the_order_decided(
    control: FakeControlApi, open_page: OpenPage
) -> None:
    app = open_page("golden")
    [rows] = [frame.value for frame in app.dataframe if "Win rate" in frame.value.columns]
    [row] = rows.to_dict("records")
    assert row["Win rate"] == "62.5\u202f% (45.0\u202f% to 80.0\u202f%)"
    assert row["Wins less losses"] == "+25.0 (−10.0 to +60.0)"
    assert (row["Candidate preferred"], row["Ties"], row["Control preferred"]) == ("10", "10", "4")
    assert (row["Flips"], row["Leaning"]) == ("9 (45.0\u202f%)", "p = 0.004")
    said = texts(app).replace("\\", "")
    assert "examiner@4 leans towards a place (p = 0.004)" in said.replace("\u200b", "")
    assert "support/007 · better: both orders: control. It names the term." in said
    assert "support/008" not in said


def test_labels_that_are_missing_come_with_the_command_that_asks_for_them(
    control: FakeControlApi, open_page: OpenPage
) -> None:
    app = open_page("golden")
    said = texts(app).replace("\\", "")
    assert "helpful: all 22 drawn items are labelled by ann, bob, 1 of them undecided." in said
    assert "better: 12 of 30 drawn items were labelled." in said
    assert "By now 30 items are declared, and of 2 an answer is graded" in said
    command = "turnout golden label support --model chat --candidate 3 --control 1 --check better"
    assert command in [block.value for block in app.code]


def test_without_a_token_the_buttons_explain_themselves(control: FakeControlApi, open_page: OpenPage) -> None:
    app = open_page("experiment", name="faster-chat")
    assert [button.disabled for button in app.button] == [True, True, True]
    assert "without a token" in texts(app)
    assert "TURNOUT_TOKEN" in app.button[0].help


def test_a_shadow_offers_no_promotion_which_the_controller_refuses(
    control: FakeControlApi, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, SECRET)
    app = open_page("experiment", name="summarise-shadow")
    assert [button.key for button in app.button] == ["do-pause", "do-stop"]


def test_a_command_that_is_waited_for_stands_there_as_one(
    control: FakeControlApi, open_page: OpenPage
) -> None:
    waits = {"state": "concluded", "waiting_for": "`turnout promote chat`, or the end of it"}
    control.story["experiments"][0] |= waits
    for page in ("experiment", "overview"):
        app = open_page(page, name=control.story["experiments"][0]["name"])
        assert " `turnout promote chat`" in texts(app), page


@pytest.fixture
def promoting(control: FakeControlApi, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv(TOKEN, SECRET)
    app = open_page("experiment", name="faster-chat")
    app.button(key="do-promote").click()
    return redraw(app)


def test_promote_shows_the_dry_run_and_asks_for_name_and_reason(
    control: FakeControlApi, promoting: AppTest
) -> None:
    assert control.posted == [
        ("models/chat/promote",
         {"version": 3, "dry_run": True, "reason": "dry run", "actor": "dashboard", "force": False},
         f"Bearer {SECRET}")
    ]  # fmt: skip
    assert "alias production v1 → v3" in texts(promoting)
    assert promoting.button(key="confirm-promote").disabled
    promoting.text_input(key="typed-promote").input("chat")
    assert redraw_dialog(promoting).button(key="confirm-promote").disabled, "a reason is mandatory"


def redraw_dialog(app: AppTest) -> AppTest:
    """AppTest reruns the whole page, which closes a dialog: press what opens it again."""
    app.button(key="do-promote").click()
    return redraw(app)


def test_a_confirmed_promotion_is_sent_once_with_its_reason(
    control: FakeControlApi, promoting: AppTest
) -> None:
    promoting.text_input(key="typed-promote").input("chat")
    promoting.text_input(key="reason-promote").input("latency is better")
    app = redraw_dialog(promoting)
    assert not app.button(key="confirm-promote").disabled
    app.button(key="confirm-promote").click()
    redraw_dialog(app)
    real = [body for _, body, _ in control.posted if not body["dry_run"]]
    assert real == [
        {"version": 3, "dry_run": False, "reason": "latency is better", "actor": "dashboard", "force": False}
    ]


@pytest.mark.parametrize(("decision", "done"), [("d-1", True), (None, False)])
def test_what_somebody_else_did_first_is_not_said_to_be_done(decision: str | None, done: bool) -> None:
    answer = {"decision_id": decision, "changed": ["nothing to change"]}
    app = redraw(AppTest.from_string(f"from dashboard.screens import actions\nactions._result({answer})"))
    assert (bool(app.success), bool(app.info)) == (done, not done)


def test_a_refused_promotion_cannot_be_confirmed(
    control: FakeControlApi, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    control.story["refuse_promote"] = True
    monkeypatch.setenv(TOKEN, SECRET)
    app = open_page("experiment", name="tone-of-voice")
    app.button(key="do-promote").click()
    app = redraw(app)
    assert any("no passing verdict" in error.value for error in app.error)
    assert app.button(key="confirm-promote").disabled


def test_the_token_may_lie_in_a_file(
    control: FakeControlApi, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    file = f"{tmp_path}/token"
    monkeypatch.setenv(TOKEN_FILE, file)
    assert open_page("experiment").button[0].disabled, "the file is not there yet"
    with open(file, "w") as out:
        out.write(SECRET + "\n")
    assert not open_page("experiment").button[0].disabled


def test_health_complains_about_what_is_wrong(control: FakeControlApi, open_page: OpenPage) -> None:
    assert not open_page("health").warning
    control.story["health"] |= {
        "losses": 7,
        "workers": [{"worker": "proxy-1", "snapshot": 16, "last_seen_s": 1.0}],
        "collector": {"lag_s": 95.0},
        "registry": {"ok": False, "error": "timed out", "last_ok_s": 300.0},
        "traces": {"endpoint": "tempo:4318", "behind": 40, "error": "tempo:4318 takes no spans"},
        "troubles": ["decisions are not told to a.example: status 500"],
    }
    said = texts(open_page("health")).replace("\\", "")
    for complaint in (
        "7 exchanges were answered but not recorded",
        "1\u202fmin behind",
        "1 of 1 workers",
        "timed out",
        "40 exchanges are untold",
        "Decisions are not told to a.example: status 500.",
    ):
        assert complaint in said


def test_old_data_without_anything_waiting_is_no_traffic_and_no_fault(
    control: FakeControlApi, open_page: OpenPage
) -> None:
    control.story["health"]["collector"] = {"lag_s": 300.0, "segments_waiting": 0}
    app = open_page("health")
    assert "no traffic for 5" in texts(app)
    assert not app.warning
    control.story["health"]["collector"]["segments_waiting"] = 40
    late = open_page("health")
    assert "Data 5" in texts(late)
    assert late.warning


def test_of_hundreds_of_experiments_and_models_a_page_is_drawn(
    control: FakeControlApi, open_page: OpenPage
) -> None:
    story = control.story
    kept, model = story["experiments"][-1], story["models"][0]
    story["experiments"] += [kept | {"name": f"kept-{number}"} for number in range(300)]
    story["models"] += [model | {"name": f"model-{number}"} for number in range(60)]
    app = open_page("overview")
    assert texts(app).count("Ran for") == overview.PER_PAGE
    assert len(app.metric) <= 3 * overview.PER_PAGE
    assert "302 ended" in texts(app)
    app.session_state["ended-page"] = 31
    last = texts(redraw(app))
    assert last.count("Ran for") == 2


@pytest.mark.parametrize(
    ("state", "late"), [("running", True), ("invalid", True), ("paused", False), ("concluded", False)]
)
def test_data_is_late_only_where_some_is_awaited(state: str, late: bool) -> None:
    one = Experiment.model_validate(experiments()[0] | {"state": state, "data_age_s": 3_600.0})
    assert ("late" in overview.freshness(one)) is late


def test_of_a_part_of_the_units_shares_are_told_as_that() -> None:
    one = Experiment.model_validate(
        experiments()[0]
        | {
            "state": "running",
            "mode": "ab",
            "entering_pct": 40.0,
            "arms": [
                {"arm": "control", "version": 1, "weight_pct": 50.0},
                {"arm": "candidate", "version": 2, "weight_pct": 50.0},
            ],
        }
    )
    assert overview.share(one).replace("\u202f", " ") == "A/B on 20 % of users"
    assert overview.split_lines(one)[1].replace("\u202f", " ").endswith("candidate v2 · in 40 % of the units")
    whole = one.model_copy(update={"entering_pct": 100.0})
    assert "of the units" not in chips.split(whole)


def test_the_page_turned_to_in_one_experiments_outputs_is_not_another_ones(
    control: FakeControlApi, open_page: OpenPage
) -> None:
    app = open_page("experiment", name="faster-chat", view="Outputs", filter="All")
    for place in ("pairs-all", "pairs-all-faster-chat"):
        app.session_state[place] = 3
    assert "Question number 26" in texts(redraw(app))
    control.story["pairs"] = control.story["pairs"][:12]
    app.selectbox(key="name").select("tone-of-voice")
    said = texts(redraw(app))
    assert "No pair matches" not in said
    assert "How do I reset my password" in said


def test_a_deed_whose_answer_was_lost_is_not_said_to_have_failed(
    control: FakeControlApi, promoting: AppTest
) -> None:
    promoting.text_input(key="typed-promote").input("chat")
    promoting.text_input(key="reason-promote").input("latency is better")
    app = redraw_dialog(promoting)
    control.lost = True
    app.button(key="confirm-promote").click()
    control_said = "\n".join(error.value for error in redraw_dialog(app).error).replace("\\", "")
    assert "broke off amid its answer" in control_said
    assert "may have been done all the same" in control_said


def test_a_golden_run_that_is_over_is_read_once_and_one_that_cannot_be_read_is_said(
    control: FakeControlApi, open_page: OpenPage
) -> None:
    app = open_page("golden")
    asked = [route for route in control.asked if "/golden/runs/" in route]
    assert len(asked) == 3
    redraw(app)
    assert [route for route in control.asked if "/golden/runs/" in route] == asked
    control.story["runs"].append(control.story["runs"][-1] | {"run_id": "run 4", "version": 4})
    control.unreadable = "/golden/runs/run%204"
    said = texts(redraw(app))
    assert "The run of v4 cannot be shown now" in said


@pytest.mark.parametrize("control", ["rich"], indirect=True)
def test_what_was_done_is_drawn_to_its_end_also_after_hundreds_of_decisions(
    control: FakeControlApi, open_page: OpenPage
) -> None:
    one = control.story["timeline"]["events"][0]
    control.story["timeline"]["events"] = [{**one, "text": f"deed {n} was done"} for n in range(500)]
    app = open_page("experiment", view="Over time")
    assert "deed 499 was done" in texts(app)
    assert texts(app).count("was done") < 100
    app.session_state["events-faster-chat"] = 20
    assert "deed 0 was done" in texts(app.run())
