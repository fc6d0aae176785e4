"""How does a state look: which words, icon and colour stand for it?

One table per vocabulary, so that a state looks alike on every page. It must not know where it is shown.
"""

from dataclasses import dataclass
from typing import Literal

import streamlit as st

from . import figures
from .answers import Experiment, GoldenComparison, Preflight, Verdict
from .inert import badge, label

Colour = Literal["red", "orange", "yellow", "blue", "green", "violet", "gray", "grey", "primary"]


@dataclass(frozen=True, slots=True)
class Chip:
    """Words, icon and colour of a state."""

    words: str
    icon: str
    colour: Colour


VERDICTS = {
    "ship": Chip("Ship", ":material/check_circle:", "green"),
    "roll_back": Chip("Roll back", ":material/undo:", "red"),
    "invalid": Chip("Invalid", ":material/report:", "orange"),
    "keep_running": Chip("Keep running", ":material/hourglass_top:", "blue"),
    "inconclusive": Chip("Inconclusive", ":material/balance:", "gray"),
}
NO_VERDICT = Chip("No verdict yet", ":material/hourglass_empty:", "gray")

STATES = {
    "running": Chip("running", ":material/play_arrow:", "gray"),
    "paused": Chip("paused", ":material/pause:", "orange"),
    "concluded": Chip("waiting for you", ":material/front_hand:", "blue"),
    "promoted": Chip("promoted", ":material/arrow_upward:", "green"),
    "rolled_back": Chip("rolled back", ":material/undo:", "red"),
    "draft": Chip("draft", ":material/edit_note:", "gray"),
    "preflight": Chip("preflight", ":material/fact_check:", "blue"),
    "invalid": Chip("held: evidence invalid", ":material/report:", "orange"),
    "kept": Chip("production kept", ":material/shield:", "gray"),
}
#: Of an experiment that has ended.
OVER = ("promoted", "rolled_back", "kept")
MODES = {
    "ab": Chip("A/B", ":material/call_split:", "gray"),
    "canary": Chip("canary", ":material/trending_up:", "gray"),
    "shadow": Chip("shadow", ":material/content_copy:", "gray"),
}
REPLAY = Chip("recorded requests", ":material/replay:", "violet")
GUARDRAILS = {
    "ok": Chip("ok", ":material/check:", "green"),
    "better": Chip("ok", ":material/check:", "green"),
    "worse": Chip("worse", ":material/warning:", "orange"),
    "crossed": Chip("crossed", ":material/close:", "red"),
    "no_data": Chip("no data", ":material/remove:", "gray"),
    "insufficient_data": Chip("not enough data", ":material/hourglass_empty:", "gray"),
}
METRIC_STATES = {
    "ok": Chip("within margin", ":material/check:", "green"),
    "crossed": Chip("margin crossed", ":material/close:", "red"),
    "better": Chip("better", ":material/check:", "green"),
    "equivalent": Chip("the same", ":material/equal:", "green"),
    "worse": Chip("worse", ":material/warning:", "red"),
    "no_data": Chip("no data", ":material/remove:", "gray"),
    "insufficient_data": Chip("not enough data", ":material/hourglass_empty:", "gray"),
}
SEVERITIES = {
    "block": Chip("blocks", ":material/block:", "red"),
    "warn": Chip("warning", ":material/warning:", "orange"),
    "note": Chip("note", ":material/info:", "gray"),
}
GOLDEN = {
    "pass": Chip("pass", ":material/check_circle:", "green"),
    "fail": Chip("fail", ":material/cancel:", "red"),
    "inconclusive": Chip("inconclusive", ":material/balance:", "gray"),
}
FINDINGS = {
    "ok": Chip("as before", ":material/check:", "green"),
    "note": Chip("note", ":material/info:", "gray"),
    "warn": Chip("warning", ":material/warning:", "orange"),
    "fail": Chip("fail", ":material/cancel:", "red"),
    "unchecked": Chip("not checked", ":material/visibility_off:", "violet"),
}
DEEDS = {
    "intent": Chip("not done yet", ":material/hourglass_top:", "orange"),
    "failed": Chip("failed", ":material/error:", "red"),
}
# What is unhealthy is said before what was measured: a figure from a broken experiment is no news.
SEVERITY_ORDER = ("block", "warn", "note")


def chip_of(table: dict[str, Chip], state: str | None) -> Chip:
    """The chip of `state`; an unknown state is shown by its own name in grey."""
    return table.get(state or "") or Chip(badge(state or "unknown", 40), ":material/help:", "gray")


def show(chip: Chip, prefix: str = "") -> None:
    """Draw it. `prefix` is foreign text (a metric's name) and is made inert."""
    st.badge(f"{badge(prefix)} {chip.words}" if prefix else chip.words, icon=chip.icon, color=chip.colour)


def unfinished(state: str | None) -> Chip | None:
    """The chip of a decision that has not been carried out, None of one that has been."""
    return None if state in (None, "done") else chip_of(DEEDS, state)


def verdict_chip(verdict: Verdict | None) -> Chip:
    """The chip of a verdict, or of its absence."""
    return NO_VERDICT if verdict is None else chip_of(VERDICTS, verdict.kind)


def blocked(verdict: Verdict | None) -> bool:
    """Must the scorecard stay without colours, because its figures cannot be trusted?"""
    if verdict is None:
        return False
    srm_broken = verdict.srm is not None and verdict.srm.state == "crossed"
    return verdict.kind == "invalid" or srm_broken


def sentence(experiment: Experiment) -> str:
    """What to read first about an experiment, never empty."""
    verdict = experiment.verdict
    if verdict is None:
        return "No data has arrived yet: nothing can be said."
    return verdict.sentence or verdict.label or chip_of(VERDICTS, verdict.kind).words


def waiting(experiment: Experiment) -> str | None:
    """What is waited for, where the sentence above does not say that already."""
    awaited = experiment.waiting_for if experiment.state not in OVER else None
    return None if awaited == sentence(experiment) else awaited


def split(experiment: Experiment) -> str:
    """Which version gets, or got, how much: control v1 50 %, candidate v2 50 %."""
    over = experiment.state in OVER
    parts = []
    for arm in experiment.arms:
        part = arm.weight_pct
        if over or (experiment.mode == "shadow" and arm.arm == "control"):
            # Nobody is split any more: say what was tried, not who gets what since.
            part = experiment.candidate_pct if over and arm.arm != "control" else None
        words = f"{arm.arm} {figures.version(arm.version)}"
        parts.append(words + (f" {figures.weight(part)}" if figures.known(part) else ""))
    return " · ".join((*parts, *entering(experiment))) or figures.DASH


def entering(experiment: Experiment) -> tuple[str, ...]:
    """Of whom the shares are, where that is not everybody."""
    part = experiment.entering_pct
    return () if part >= 100 else (f"in {figures.weight(part)} of the units",)


def fact(title: str, value: str, note: str = "") -> None:
    """A labelled figure: small title, value, and what qualifies it (n, missing, age). All inert."""
    with st.container(gap=None):
        st.caption(label(title))
        st.text(value)
        if note:
            st.caption(label(note))


def page_theme() -> Literal["light", "dark"]:
    """The theme in this browser, for colours inside charts."""
    return st.context.theme.type or "light"


def compared(one: GoldenComparison | Preflight, about: str) -> None:
    """The verdict on two versions, and which these are."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        show(chip_of(GOLDEN, one.verdict))
        st.markdown(
            f"**{label(one.model or 'model unknown', 80)} "
            f"{figures.version(one.control_version)} → {figures.version(one.candidate_version)}**",
            width="content",
        )
        st.caption(label(about), width="content")
