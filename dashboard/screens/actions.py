"""Promote, roll back, pause, resume, stop: what will change, who says so and why, and only then the deed.

Every deed goes through the control API, which checks it again: this page never decides what is allowed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import streamlit as st

from .. import chips, figures
from ..answers import ArmAnswer, Decision, Experiment, ModelAnswer
from ..client import ControlApiError, Malformed, Refused, Unreachable, path
from ..inert import label, prose
from ..live import NO_TOKEN, Loaded, api, guarded, load, token

ACTOR = "dashboard"
# What the controller answered to a deed, kept until the dialog is closed: nobody shall confirm twice.
DONE = "_deed_done"
FAILED = "_deed_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """Something a person can do to an experiment or its model."""

    key: str
    button: str
    icon: str
    meaning: str
    route: tuple[str, ...]
    body: Mapping[str, Any]
    dry_run: bool
    may_force: bool = False


def deeds(one: Experiment, model: ModelAnswer | None = None) -> list[Deed]:
    """The deeds that make sense in the experiment's and its model's present state, the likeliest first."""
    if one.state in chips.OVER:
        return [*_promote(one, model), *_take_back(one, model)]
    return [*_promote(one, model), *_release(one), *_pause(one), _stop(one)]


def _promote(one: Experiment, model: ModelAnswer | None) -> list[Deed]:
    version = one.candidate.version if one.candidate is not None else None
    is_production = model is not None and model.production == version
    # What a shadow copied, nobody has seen: its verdict carries no promotion, and the controller refuses it.
    if version is None or is_production or one.state == "rolled_back" or one.mode == "shadow":
        return []
    return [
        Deed(
            key="promote",
            button=f"Promote {figures.version(version)}",
            icon=":material/arrow_upward:",
            meaning="The candidate becomes production; the present version is remembered as former.",
            route=("models", one.model, "promote"),
            body={"version": version},
            dry_run=True,
            may_force=True,
        )
    ]


def _release(one: Experiment) -> list[Deed]:
    """Of a candidate that has units; of no other, whatever runs beside it."""
    holds = one.state == "paused" or (one.candidate is not None and (one.candidate.weight_pct or 0.0) > 0.0)
    if one.mode == "shadow" or not holds:
        return []
    return [
        Deed(
            key="rollback",
            button="Roll back",
            icon=":material/undo:",
            meaning="The candidate is released: all units go to production with the next request, "
            "and the experiment ends.",
            route=("models", one.model, "rollback"),
            body={"experiment": one.name},
            dry_run=True,
        )
    ]


def _take_back(one: Experiment, model: ModelAnswer | None) -> list[Deed]:
    """After the end: back to the former version, if this experiment's candidate is what is in production."""
    candidate = one.candidate.version if one.candidate is not None else None
    if model is None or model.former is None or model.production != candidate:
        return []
    return [
        Deed(
            key="rollback",
            button=f"Roll back to {figures.version(model.former)}",
            icon=":material/undo:",
            meaning="Production returns to the former version, for every request from now on.",
            route=("models", one.model, "rollback"),
            body={"production": True},
            dry_run=True,
        )
    ]


def _pause(one: Experiment) -> list[Deed]:
    if one.state == "running":
        return [
            Deed(
                key="pause",
                button="Pause",
                icon=":material/pause:",
                meaning="The candidate gets no traffic until the experiment is resumed; "
                "then every unit gets its arm back.",
                route=("experiments", one.name, "pause"),
                body={},
                dry_run=False,
            )
        ]
    if one.state == "paused":
        return [
            Deed(
                key="resume",
                button="Resume",
                icon=":material/play_arrow:",
                meaning="The candidate gets its traffic back, every unit the arm that it had.",
                route=("experiments", one.name, "resume"),
                body={},
                dry_run=False,
            )
        ]
    return []


def _stop(one: Experiment) -> Deed:
    return Deed(
        key="stop",
        button="Stop",
        icon=":material/stop:",
        meaning="The experiment ends without a decision. All its units go to control with the next request.",
        route=("experiments", one.name, "stop"),
        body={},
        dry_run=False,
    )


@guarded
def bar(name: str) -> None:
    """The row of buttons. It stands outside the live parts, so that a refresh never closes an open dialog."""
    loaded: Loaded[Experiment] = load(Experiment, path("experiments", name))
    one = loaded.value
    if one is None:
        return  # the panel above has said why
    model: Loaded[ModelAnswer] = load(ModelAnswer, path("models", one.model))
    reason = NO_TOKEN if token() is None else None
    with st.container(horizontal=True, gap="small", vertical_alignment="center", width="content"):
        for deed in deeds(one, model.value):
            primary = deed.key == "promote" and one.verdict is not None and one.verdict.kind == "ship"
            urgent = deed.key == "rollback" and one.verdict is not None and one.verdict.kind == "roll_back"
            pressed = st.button(
                deed.button,
                icon=deed.icon,
                key=f"do-{deed.key}",
                type="primary" if (primary or urgent) and one.state not in chips.OVER else "secondary",
                disabled=reason is not None,
                help=reason or deed.meaning,
            )
            if pressed:
                st.session_state.pop(DONE, None)
                _open(deed, one)
        if reason is not None:
            st.caption(
                ":material/lock: Read only: started without a token. Set TURNOUT_TOKEN, or use `turnout up`."
            )


def _open(deed: Deed, one: Experiment) -> None:
    # Streamlit wants a dialog's title when it is made, and it reads Markdown: only our own words go in.
    st.dialog(deed.button, width="medium", icon=deed.icon)(_dialog)(deed, one)


#: As many elements as a dialog has at most before it is confirmed. They are written over: Streamlit takes
#: away what was there once a fragment has run, but forgets to where a refresh comes right behind it.
_ASKED: Final = 12


@guarded
def _dialog(deed: Deed, one: Experiment) -> None:
    if DONE in st.session_state:
        _result(st.session_state[DONE])
        for _ in range(_ASKED):
            st.empty()
        return
    st.text(deed.meaning)
    force = False
    if deed.may_force:
        force = _ask_force(one)
    possible = _dry_run(deed, one, force)
    reason = st.text_input("Reason (goes into the audit trail)", key=f"reason-{deed.key}", max_chars=500)
    st.caption("To confirm, type the model's name:")
    st.code(one.model, language=None)
    typed = st.text_input(
        "Model name", key=f"typed-{deed.key}", label_visibility="collapsed", autocomplete="off"
    )
    ready = possible and typed.strip() == one.model and bool(reason.strip())
    st.button(
        deed.button,
        icon=deed.icon,
        key=f"confirm-{deed.key}",
        type="primary",
        disabled=not ready,
        on_click=_carry_out,
        args=(deed, one, reason.strip(), force),
    )
    if FAILED in st.session_state:
        st.error(prose(st.session_state.pop(FAILED), 600), icon=":material/block:")
    if not ready and possible:
        missing = [
            what
            for what, there in (
                ("a reason", reason.strip()),
                ("the model's name", typed.strip() == one.model),
            )
            if not there
        ]
        st.caption(f"Still needed: {' and '.join(missing)}.")


def _ask_force(one: Experiment) -> bool:
    if one.verdict is not None and one.verdict.kind == "ship":
        return False
    st.warning(
        "The verdict does not say ship. Promoting now is recorded as forced.", icon=":material/warning:"
    )
    return st.checkbox("Promote without a passing verdict", key="force-promote")


def _dry_run(deed: Deed, one: Experiment, force: bool) -> bool:
    """Show what would change; False if the controller would refuse."""
    if not deed.dry_run:
        rows = [
            {
                "Arm": arm.arm,
                "Version": figures.version(arm.version),
                "Before": figures.weight(arm.weight_pct),
                "After": figures.weight(after(deed, one, arm)),
            }
            for arm in one.arms
        ]
        st.dataframe(rows, hide_index=True)
        return True
    body = {**deed.body, "dry_run": True, "reason": "dry run", "actor": ACTOR}
    if deed.may_force:
        body["force"] = force
    try:
        answer: Decision = api().post(Decision, path(*deed.route), body)
    except Refused as error:
        st.error(prose(error, 600), icon=":material/block:")
        return False
    except ControlApiError as error:
        st.warning(prose(error, 600), icon=":material/cloud_off:")
        return False
    with st.container(border=True, gap="xsmall"):
        st.caption("What will change")
        if answer.to_version is not None:  # a rehearsed rollback says it in words alone
            before, then = (figures.version(one) for one in (answer.from_version, answer.to_version))
            st.markdown(
                f"**Production {before} → {then}**" if before != then else f"**Production stays {then}**"
            )
        for sentence in answer.changed:
            st.text(f"· {sentence}")
        if not answer.changed:
            st.text("Nothing: it is so already.")
    return True


def after(deed: Deed, one: Experiment, arm: ArmAnswer) -> float | None:
    """The weight of an arm once the deed is done, in percent."""
    share = (one.candidate_pct if deed.key == "resume" else 0.0) or 0.0
    if arm.arm != "control":
        return share
    return 100.0 if one.mode == "shadow" else 100.0 - share


def _carry_out(deed: Deed, one: Experiment, reason: str, force: bool) -> None:
    """Runs before the dialog is drawn again, once per press."""
    body = {**deed.body, "reason": reason, "actor": ACTOR}
    if deed.dry_run:
        body["dry_run"] = False
    if deed.may_force:
        body["force"] = force
    try:
        answer: dict[str, Any] = api().post(dict[str, Any], path(*deed.route), body)
    except ControlApiError as error:
        st.session_state[FAILED] = f"{error}{_PERHAPS if perhaps_done(error) else ''}"
        return
    st.session_state[DONE] = answer


_PERHAPS = " It may have been done all the same: see the page Decisions before you press again."


def perhaps_done(error: ControlApiError) -> bool:
    """May the deed have been done, although no answer says so?"""
    return isinstance(error, Malformed) or (isinstance(error, Unreachable) and error.sent)


def _result(answer: Mapping[str, Any]) -> None:
    if answer.get("decision_id", "") is None:  # somebody else was first
        st.info("Nothing was done: it was so already.", icon=":material/check_circle:")
    else:
        st.success("Done. It stands in the audit trail, page Decisions.", icon=":material/check_circle:")
    changed = answer.get("changed")
    for sentence in changed if isinstance(changed, list) else []:
        st.text(f"· {sentence}")
    waiting = answer.get("unacknowledged")
    if isinstance(waiting, list) and waiting:
        st.warning(
            f"{len(waiting)} proxy workers have not confirmed the new snapshot yet.",
            icon=":material/hourglass_top:",
        )
    pending = answer.get("pending")
    for debt in pending if isinstance(pending, list) else []:
        st.warning(label(f"Still to be written, and retried by itself: {debt}", 300), icon=":material/sync:")
    elapsed = answer.get("elapsed_ms")
    if isinstance(elapsed, int | float):
        st.caption(f"Took {figures.milliseconds(elapsed)}.")
    if st.button("Close", key="close-deed"):
        del st.session_state[DONE]
        st.rerun()
