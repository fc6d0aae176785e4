"""The line above every page: which page this is, and whether its figures are live, old or out of reach."""

import time

import streamlit as st

from .. import figures
from ..answers import Health
from ..client import Unreachable, path
from ..live import STALE_AFTER_S, Loaded, load, refreshed


@refreshed
def strip(title: str) -> None:
    """Page title on the left, state of the controller and of its data on the right."""
    health: Loaded[Health] = load(Health, path("health"))
    with st.container(
        horizontal=True, vertical_alignment="center", horizontal_alignment="distribute", gap="small"
    ):
        st.title(title, anchor=False, width="content")
        with st.container(
            horizontal=True,
            horizontal_alignment="right",
            vertical_alignment="center",
            gap="xsmall",
            width="content",
        ):
            _state(health)


def _state(health: Loaded[Health]) -> None:
    if health.error is not None:
        since = f" for {figures.span(health.age_s)}" if health.value is not None else ""
        if isinstance(health.error, Unreachable):
            st.badge(f"Controller away{since}", icon=":material/cloud_off:", color="red")
        else:
            st.badge(f"No usable answer{since}", icon=":material/error:", color="red")
        return
    if health.value is None:
        return
    losses = health.value.losses
    if losses:
        st.badge(
            f"{figures.count(losses)} records lost", icon=":material/data_loss_prevention:", color="orange"
        )
    registry = health.value.registry
    if registry is not None and registry.ok is False:
        st.badge("Registry away", icon=":material/inventory_2:", color="orange")
    age = data_age(health.value)
    if age is None:
        st.badge("Live · no data yet", icon=":material/sensors:", color="gray")
    elif age > STALE_AFTER_S and idle(health.value):
        st.badge(f"Live · no traffic for {figures.span(age)}", icon=":material/sensors:", color="gray")
    elif age > STALE_AFTER_S:
        st.badge(f"Data {figures.span(age)} old", icon=":material/history:", color="orange")
    else:
        st.badge(f"Live · as of {figures.span(age)} ago", icon=":material/sensors:", color="green")


def idle(health: Health) -> bool:
    """Is everything collected that was spooled? Then old data means no traffic, not a late collector."""
    return health.collector is not None and health.collector.segments_waiting == 0


def data_age(health: Health) -> float | None:
    """Seconds by which the page lags behind the traffic: the collector's lag plus the answer's own age."""
    lag = health.collector.lag_s if health.collector is not None else None
    if lag is None:
        return None
    answered = max(0.0, time.time_ns() / 1e9 - health.as_of.timestamp()) if health.as_of is not None else 0.0
    return lag + answered
