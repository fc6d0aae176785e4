"""How does a page get its figures, keep the last good ones, and say how old they are?

The only module that holds the connection. It must not know what a page shows.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Generic, ParamSpec, TypeVar

import streamlit as st

from . import figures
from .client import ControlApi, ControlApiError, Refused, Unreachable
from .inert import label
from .start import CONTROL_URL, TOKEN, TOKEN_FILE

T = TypeVar("T")
P = ParamSpec("P")

log = logging.getLogger("turnout.dashboard")

REFRESH_S = 5
# The collector seals a segment every half second: half a minute without news is not normal.
STALE_AFTER_S = 30.0
DEFAULT_URL = "http://127.0.0.1:8081"
NO_TOKEN = (
    "This dashboard was started without a token, so it only reads. Start it with `turnout up` or "
    "`turnout dashboard`, or set TURNOUT_TOKEN to the content of the token file in the data folder."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Generic[T]):
    """The newest answer there is. `error` is set if it could not be renewed; `age_s` is its age then."""

    value: T | None
    error: ControlApiError | None = None
    age_s: float = 0.0


@st.cache_resource(show_spinner=False, on_release=ControlApi.close)
def _connection(base_url: str, token: str | None) -> ControlApi:
    return ControlApi(base_url, token)


def api() -> ControlApi:
    """The connection to the controller that the environment names."""
    return _connection(os.environ.get(CONTROL_URL) or DEFAULT_URL, token())


def token() -> str | None:
    """The token for buttons that change something, or None. Read anew each time: it may be written later."""
    given = os.environ.get(TOKEN, "").strip()
    if given:
        return given
    file = os.environ.get(TOKEN_FILE, "").strip()
    if not file:
        return None
    try:
        return Path(file).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def load(
    shape: type[T],
    route: str,
    query: Mapping[str, str | int] | None = None,
) -> Loaded[T]:
    """GET `route`; if that fails, what this browser session saw last, with the error beside it."""
    kept: dict[str, tuple[float, T]] = st.session_state.setdefault("_last_good", {})
    name = f"{route}?{sorted((query or {}).items())}"
    try:
        value: T = api().get(shape, route, query)
    except ControlApiError as error:
        if isinstance(error, Refused) or name not in kept:
            return Loaded(value=None, error=error)
        seen, old = kept[name]
        return Loaded(value=old, error=error, age_s=time.monotonic() - seen)
    kept[name] = (time.monotonic(), value)
    return Loaded(value=value)


def usable(loaded: Loaded[T], what: str) -> T | None:
    """The value to draw, after saying what is wrong with it. None: nothing to draw, and the page says so."""
    if loaded.error is None:
        return loaded.value
    if loaded.value is not None:
        why = str(loaded.error).rstrip(".")
        st.warning(
            label(f"{what} as it was {figures.span(loaded.age_s)} ago. {why}.", 600),
            icon=":material/history:",
        )
        return loaded.value
    refuse(loaded.error, what)
    return None


def refuse(error: ControlApiError, what: str) -> None:
    """Say in the page that `what` cannot be shown, and why."""
    away = isinstance(error, Unreachable)
    with st.container(border=True, gap="xsmall"):
        st.badge(
            "Controller away" if away else "No answer to show",
            icon=":material/cloud_off:" if away else ":material/error:",
            color="orange" if away else "red",
        )
        st.text(f"{what} cannot be shown now.")
        st.text(str(error)[:600])
        if away:
            st.caption(
                "Traffic is not affected: the proxies go on with their last snapshot. "
                "This page tries again by itself."
            )


def guarded(draw: Callable[P, None]) -> Callable[P, None]:
    """`draw`, but a fault in it becomes a sentence in the page and a log entry, never a traceback."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            draw(*args, **kwargs)
        except Exception:  # the last barrier: whatever it is, the rest of the page shall stand
            log.exception("drawing %s failed", draw.__qualname__)
            st.error(
                "This part of the page could not be drawn. The dashboard's log has the cause; "
                "`turnout experiment status` shows the same figures.",
                icon=":material/error:",
            )

    return drawn


def refreshed(draw: Callable[P, None]) -> Callable[P, None]:
    """`draw` as a fragment of its own that is drawn anew every few seconds without moving the rest."""
    return st.fragment(run_every=REFRESH_S)(guarded(draw))
