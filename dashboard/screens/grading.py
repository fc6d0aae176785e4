"""What does somebody say of the drawn answers, one at a time and without knowing whose they are?

A page that no menu names: a comparison on the page of golden runs leads here. What is stored is what
`turnout golden label` stores, and either goes on where the other stopped. Nothing here says which version
answered, nor what a judge or another person made of it.
"""

import shlex
import time
from dataclasses import dataclass
from typing import Any, TypeVar

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from .. import figures
from ..client import ControlApiError, Refused, path
from ..inert import label, one_line
from ..live import NO_TOKEN, Loaded, api, guarded, load, token, usable
from ..worddiff import Stretch
from ..worksheet import LabelDraw, LabelTask, PersonsLabel, Progress, Worksheet, new_draw, new_label
from .panes import pane

#: More labels than a set has; the control API gives no more at once.
MOST_LABELS = 100_000
MAX_NAME = 200
MAX_NOTE = 4_000
#: A text beyond this stalls a browser: the terminal shows all of it.
MAX_READ = 200_000
#: A longer text scrolls by itself, so that all of a task stands on one screen.
LONG, HEIGHT = 1_500, 420
#: A grade that comes sooner after its answer is a key held down, or a second click.
HASTE_S = 0.4

# Kept for a browser session: who grades, the worksheet, and what was said by the last press of a button.
NAME, SHEET, REMARK = "_labeller", "_worksheet", "_grading_remark"
# Kept for one worksheet: the task on the screen and since when; one that was graded and is looked at again;
# what was put off; whether to ask also what others have graded.
SHOWN, AGAIN, LATER, OTHERS = "_shown_task", "_again", "_later", "_others"

T = TypeVar("T")


def here() -> StreamlitPage:
    """This page, as a target for links."""
    return st.Page(page, title="Grading", url_path="grading", visibility="hidden")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Of which two runs, and by which check, answers are graded."""

    control_run: str
    candidate_run: str
    check: str

    @property
    def query(self) -> dict[str, str]:
        """As the page's URL has it."""
        return {"control_run": self.control_run, "candidate_run": self.candidate_run, "check": self.check}

    @property
    def asked(self) -> dict[str, str | int]:
        """As the control API is asked."""
        runs = {"control_run": self.control_run, "candidate_run": self.candidate_run}
        return {**runs, "evaluator": self.check}


def command(
    verb: str, set_name: str | None, model: str | None, control: int | None, candidate: int | None, *more: str
) -> str:
    """What to type for two versions. The set's folder is looked for by its name."""
    words = ("turnout", "golden", verb, set_name or "SET", "--model", model or "MODEL")
    return shlex.join((*words, "--candidate", str(candidate), "--control", str(control), *more))


def page() -> None:
    """Draw the page. `?control_run=`, `?candidate_run=` and `?check=` say what is graded."""
    _body()


@guarded
def _body() -> None:
    names = ("control_run", "candidate_run", "check")
    given = {name: value for name in names if (value := st.query_params.get(name))}
    if len(given) < len(names):
        st.info(
            "Nothing is chosen to be graded. On the page Golden runs, a comparison with a judge says how far "
            "its labels are, and leads here.",
            icon=":material/grading:",
        )
        return
    subject = Subject(**given)
    draws: Loaded[tuple[LabelDraw, ...]] = load(tuple[LabelDraw, ...], path("golden", "draws"), subject.asked)
    declared = _usable(draws, "The draw")
    if declared is None:
        return
    sheet = _sheet(subject, max((draw.size for draw in declared), default=0))
    if sheet is None:
        return
    _title(sheet)
    if token() is None:
        st.info(f"{NO_TOKEN} Or grade in the terminal:", icon=":material/lock:")
        _type(sheet, "label")
        return
    said: Loaded[tuple[PersonsLabel, ...]] = load(tuple[PersonsLabel, ...], *_labels(sheet))
    labels = _usable(said, "What is graded already")
    if labels is None:
        return
    if (remark := st.session_state.pop(REMARK, None)) is not None:
        st.warning(label(remark, 600), icon=":material/info:")
    if NAME not in st.session_state:
        _ask_name(labels)
        return
    draw = sheet.draw_in_force(declared)
    if draw is None:
        _ask_draw(sheet)
        return
    _grade(Progress(sheet=sheet, draw=draw, labels=labels, labeller=st.session_state[NAME]))


def _title(sheet: Worksheet) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"**{label(sheet.set_name)}** · {label(sheet.evaluator)}", width="content")
        if NAME in st.session_state:
            st.caption(f"You are {label(st.session_state[NAME], 60)}.", width="content")
            st.button("Not you?", key="other-name", type="tertiary", on_click=_other_name)


def _usable(loaded: Loaded[T], what: str) -> T | None:
    found = usable(loaded, what)
    if loaded.error is not None:
        st.button("Try again", icon=":material/refresh:", key=f"retry-{what}")
    return found


def _sheet(subject: Subject, declared: int) -> Worksheet | None:
    """The worksheet, asked for once: it is long, and what it says of a task never changes."""
    known: tuple[Subject, Worksheet | None] = st.session_state.get(SHEET, (None, None))
    if known[0] != subject:
        for name in (SHOWN, AGAIN, LATER, OTHERS):
            st.session_state.pop(name, None)
    elif known[1] is not None and known[1].holds(declared):
        return known[1]
    loaded: Loaded[Worksheet] = load(Worksheet, path("golden", "worksheet"), subject.asked)
    if isinstance(loaded.error, Refused) and loaded.error.code == "unknown_golden_run":
        st.warning(
            "These runs are not in the ledger: nothing of them can be graded. Compare the versions again.",
            icon=":material/search_off:",
        )
        return None
    if isinstance(loaded.error, Refused) and loaded.error.code == "unknown_worksheet":
        st.info(
            f"Nothing of these runs is handed out to be graded for {label(subject.check, 80)}. "
            "`turnout golden compare` hands it out, where answers differ that a judge graded, and "
            "`turnout golden label` does so for a comparison that is there already.",
            icon=":material/grading:",
        )
        return None
    sheet = _usable(loaded, "The worksheet")
    if sheet is not None:
        st.session_state[SHEET] = (subject, sheet)
    return sheet


def _labels(sheet: Worksheet) -> tuple[str, dict[str, str | int]]:
    """Where the set's labels are. A label counts wherever its task comes up: also one of another check."""
    return path("golden", "labels"), {"set_name": sheet.set_name, "limit": MOST_LABELS}


def _type(sheet: Worksheet, verb: str) -> None:
    more = ("--check", sheet.evaluator) if verb == "label" else ()
    versions = (sheet.control_version, sheet.candidate_version)
    st.code(command(verb, sheet.set_name, sheet.model, *versions, *more), language=None, wrap_lines=True)


def _ask_name(labels: tuple[PersonsLabel, ...]) -> None:
    with st.form("who", width=480):
        st.text_input("Who grades?", key="labeller-name", max_chars=MAX_NAME, placeholder="Your name")
        if known := sorted({one.labeller for one in labels}):
            names = ", ".join(known)
            st.caption(label(f"Have graded this set: {names}. Whoever goes on takes the same name.", 400))
        st.form_submit_button("Begin", type="primary", icon=":material/login:", on_click=_take_name)


def _take_name() -> None:
    name = one_line(str(st.session_state.get("labeller-name") or ""), MAX_NAME)
    if name:
        st.session_state[NAME] = name
    else:
        st.session_state[REMARK] = "A grade has a name to it: agreement between people is shown. Give yours."


def _other_name() -> None:
    for name in (NAME, AGAIN, LATER, OTHERS):
        st.session_state.pop(name, None)


def _ask_draw(sheet: Worksheet) -> None:
    if sheet.items < sheet.needed:
        st.warning("The texts are too long to be graded here. In the terminal:", icon=":material/terminal:")
        _type(sheet, "label")
        return
    st.info(
        f"Nothing is drawn yet. The answers to {figures.count(sheet.open)} items differ. Which of them are "
        "graded is drawn at random, and nobody can choose; how many is declared now, before the first grade. "
        "Nothing is concluded before all of them are graded, and whoever asks for more later pays with half "
        "of alpha.",
        icon=":material/casino:",
    )
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        size = st.number_input(
            "Items to grade", min_value=sheet.needed, max_value=sheet.items, value=sheet.needed, width=180
        )
        st.button(
            "Draw", type="primary", icon=":material/casino:", on_click=_declare, args=(sheet, int(size))
        )


def _declare(sheet: Worksheet, size: int) -> None:
    """Runs before the page is drawn again, once per press."""
    draw = new_draw(sheet, size, declared_by=st.session_state[NAME])
    try:
        api().post(dict[str, Any], path("golden", "draws"), draw)
    except Refused as error:
        drawn = error.code == "labels_drawn"
        said = "Somebody has declared it meanwhile, and that stands" if drawn else "Nothing was drawn"
        st.session_state[REMARK] = f"{said}: {error}"
    except ControlApiError as error:
        st.session_state[REMARK] = f"Nothing was drawn: {error}"


def _grade(now: Progress) -> None:
    again = next((task for task in now.sample if task.hash == st.session_state.get(AGAIN)), None)
    later: list[str] = st.session_state.get(LATER, [])
    asked = now.waiting or (now.others if OTHERS in st.session_state else ())
    put_off = {task: place for place, task in enumerate(later, 1)}
    task = again or min(asked, key=lambda task: put_off.get(task.hash, 0), default=None)
    _how_far(now)
    if task is None:
        _end(now)
        return
    if st.session_state.get(SHOWN, (None,))[0] != task.hash:
        st.session_state[SHOWN] = (task.hash, time.monotonic())
    _buttons(now, task, again=again is not None)
    _texts(task)


def _how_far(now: Progress) -> None:
    whole, mine = len(now.sample), len(now.mine)
    done = mine if OTHERS in st.session_state and now.whole else whole - len(now.waiting)
    words = f"{figures.count(done)} of {figures.count(whole)} answers graded, {figures.count(mine)} by you"
    st.progress(done / whole if whole else 0.0, text=words)


def _undo_button(now: Progress) -> None:
    st.button(
        "Undo",
        key="undo",
        icon=":material/undo:",
        shortcut="B",
        disabled=_before(now) is None,
        help="Back to what you graded before. The next grade takes the place of that one.",
        on_click=_undo,
        args=(now,),
    )


def _before(now: Progress) -> str | None:
    """What was graded before the task on the screen."""
    mine = [task.hash for task in now.mine]
    again = st.session_state.get(AGAIN)
    rest = mine[: mine.index(again)] if again in mine else mine
    return rest[-1] if rest else None


def _undo(now: Progress) -> None:
    st.session_state[AGAIN] = _before(now)


def _buttons(now: Progress, task: LabelTask, *, again: bool) -> None:
    key = task.hash[-16:]  # another answer, other buttons: a late click on these grades nothing else
    with st.container(border=True, gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            for number, grade in enumerate(task.menu):
                st.button(
                    label(f"{grade} is better" if task.is_pair and grade != "tie" else grade, 60),
                    key=f"grade-{number}-{key}",
                    type="primary",
                    shortcut=str(number + 1) if number < 9 else None,
                    on_click=_give,
                    args=(now, task, grade),
                )
            st.button(
                "Cannot tell", key=f"cannot-{key}", shortcut="U", on_click=_give, args=(now, task, None)
            )
            if again:
                st.button("Leave it", key=f"leave-{key}", shortcut="S", on_click=_leave)
            else:
                st.button("Later", key=f"later-{key}", shortcut="S", on_click=_put_off, args=(task,))
            _undo_button(now)
            st.text_input(
                "Note",
                key=f"note-{key}",
                max_chars=MAX_NOTE,
                placeholder="Note (optional)",
                label_visibility="collapsed",
                width=320,
            )
        st.caption(
            "You have graded this before. The next grade takes the place of that one."
            if again
            else "By the criterion alone: which version answered, and what a judge said of it, is not shown."
        )


def _put_off(task: LabelTask) -> None:
    later = [one for one in st.session_state.get(LATER, []) if one != task.hash]
    st.session_state[LATER] = [*later, task.hash]


def _leave() -> None:
    st.session_state.pop(AGAIN, None)


def _give(now: Progress, task: LabelTask, grade: str | None) -> None:
    """Runs before the page is drawn again, once per press."""
    seen, since = st.session_state.get(SHOWN, (None, 0.0))
    if seen != task.hash or time.monotonic() - since < HASTE_S:
        st.session_state[REMARK] = "That came sooner than anybody reads, and was not stored: grade it again."
        return
    note = str(st.session_state.get(f"note-{task.hash[-16:]}") or "").strip()
    given = new_label(task, now.draw, labeller=now.labeller, grade=grade, note=note[:MAX_NOTE])
    try:
        if st.session_state.get(AGAIN) != task.hash:
            said = api().get(tuple[PersonsLabel, ...], *_labels(now.sheet))
            if any((one.task, one.labeller) == (task.hash, now.labeller) for one in said):
                st.session_state[REMARK] = (
                    f"{now.labeller} has graded this one elsewhere meanwhile, and that grade stands. "
                    "Undo leads back to it."
                )
                return
        api().post(dict[str, Any], path("golden", "labels"), {"labels": [given]})
    except ControlApiError as error:
        st.session_state[REMARK] = f"Not stored, grade it again: {error}"
        return
    st.session_state.pop(AGAIN, None)


def _texts(task: LabelTask) -> None:
    """What there is to read. All of it was written by others."""
    left, right = st.columns([2, 3], gap="medium")
    with left:
        _text("The question", task.question)
        if task.reference:
            _text("A right answer, for reference", task.reference)
        _text("The criterion", task.criterion)
    with right:
        if not task.is_pair:
            _text("The answer", task.answers[0])
            return
        for place, column in enumerate(st.columns(2, gap="small")):
            with column:
                _text(("The first answer", "The second answer")[place], task.answers[place])


def _text(title: str, text: str) -> None:
    long = len(text) > LONG or text.count("\n") > HEIGHT // 20
    with st.container(gap="xsmall"):
        st.caption(title)
        with st.container(height=HEIGHT if long else "content", border=False):
            if text:
                pane([Stretch(text[:MAX_READ], False)])
            else:
                st.text("(empty)")
            if len(text) > MAX_READ:
                rest = figures.count(len(text) - MAX_READ)
                st.caption(f"{rest} further characters are too long for a page: the terminal shows them.")


def _end(now: Progress) -> None:
    """Nothing waits: what follows."""
    _undo_button(now)
    items = figures.count(min(now.draw.size, now.sheet.open))
    if not now.handed_out:
        st.warning(
            f"{figures.count(now.sheet.items)} of {items} declared items can be graded here, and are. "
            "The others in the terminal:",
            icon=":material/terminal:",
        )
        _type(now.sheet, "label")
        return
    st.success(
        f"The sample is whole: of all {items} drawn items the answers are graded. "
        "To see what follows, compare again:",
        icon=":material/check_circle:",
    )
    _type(now.sheet, "compare")
    st.caption("A version that waits at a gate is judged anew by itself, within five minutes.")
    if now.others and OTHERS not in st.session_state:
        st.button(
            f"Grade also the {figures.count(len(now.others))} answers that only others have graded",
            key="others",
            icon=":material/group:",
            help="Grades of two people are averaged, and their agreement is shown.",
            on_click=st.session_state.update,
            args=({OTHERS: True},),
        )
