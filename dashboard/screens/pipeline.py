"""Where on its way from the golden set to production is a candidate, and what let it in there?"""

import streamlit as st

from .. import chips, figures
from ..answers import Experiment, Step
from ..inert import label

TITLES = {"golden": "Golden set", "shadow": "Shadow", "canary": "Canary", "ab": "A/B", "promote": "Promote"}
STEPS = {
    "passed": chips.Chip("passed", ":material/check:", "green"),
    "to_come": chips.Chip("to come", ":material/more_horiz:", "gray"),
}
NOT_REACHED = chips.Chip("not reached", ":material/block:", "gray")


def draw(one: Experiment) -> None:
    """A box for each stage, in their order; nothing for an experiment of one stage."""
    if len(one.pipeline) <= 2:
        return
    for place, (column, step) in enumerate(zip(st.columns(len(one.pipeline)), one.pipeline, strict=True)):
        with column, st.container(border=True, gap="xxsmall", height="stretch"):
            _box(step, first=place == 0, over=one.state in chips.OVER)


def _box(step: Step, *, first: bool, over: bool) -> None:
    title = label(TITLES.get(step.stage, step.stage), 40)
    st.markdown(f"**{title}**" if first else f"→ **{title}**")
    if over and step.state == "to_come":
        chips.show(NOT_REACHED)
    else:
        chips.show(STEPS.get(step.state) or chips.chip_of(chips.STATES, step.state))
    if step.verdict is not None:
        chips.show(chips.verdict_chip(step.verdict))
    if step.time_s is not None:
        st.caption(f"{figures.span(step.time_s)} in it")
    if step.permission is not None and step.permission.reason:
        st.caption(label(f"let in: {step.permission.reason}", 160))
