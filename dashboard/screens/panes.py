"""How is a text that a model wrote shown, with what differs from another marked?

The one place that writes HTML; every character that is not ours is escaped.
"""

from collections.abc import Sequence

import streamlit as st

from ..worddiff import Stretch, as_html

# Transparent, so that they do on both grounds.
REMOVED, ADDED = "rgba(204, 61, 74, 0.22)", "rgba(26, 138, 90, 0.24)"
# A page with megabytes of text helps nobody and stalls the browser: the rest is in the ledger.
MAX_SHOWN = 20_000
_STYLE = (
    "white-space:pre-wrap;overflow-wrap:anywhere;font-size:0.9rem;line-height:1.5;padding:0.6rem 0.75rem;"
    "border:1px solid rgba(128, 140, 158, 0.28);border-radius:0.5rem"
)


def pane(stretches: Sequence[Stretch], colour: str = ADDED) -> None:
    """The text, with what is its own on `colour`."""
    st.html(f'<div style="{_STYLE}">{as_html(stretches, colour)}</div>')
