"""Which part of a long list is on the screen, and how does one turn the page?"""

from collections.abc import Sequence
from typing import TypeVar

import streamlit as st

from .. import figures

T = TypeVar("T")


def number(place: str, total: int, per_page: int) -> int:
    """The page that was turned to at `place`, from 1; the last one if the list has become shorter."""
    return min(max(1, int(st.session_state.get(place, 1))), max(1, -(-total // per_page)))


def part(items: Sequence[T], place: str, per_page: int) -> Sequence[T]:
    """What stands on that page."""
    page = number(place, len(items), per_page)
    return items[(page - 1) * per_page : page * per_page]


def newest(found: int, limit: int) -> str:
    """What is said beside a count where only the newest `limit` were asked for: there may be older ones."""
    return f" (the newest {limit})" if found >= limit else ""


def tell_newest(found: int, limit: int, what: str) -> None:
    """A line that says so below a list that has only the newest `limit`."""
    if older := newest(found, limit):
        st.caption(f"{figures.count(found)} {what}{older}")


def turn(place: str, total: int, per_page: int) -> None:
    """What turns the page; nothing where all stands on one."""
    if total > per_page:
        st.pagination(-(-total // per_page), key=place)
