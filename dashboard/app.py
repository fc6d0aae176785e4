"""The entry script that Streamlit runs: which pages there are, and the line of state above each of them."""

from pathlib import Path

import streamlit as st

from dashboard.screens import decisions, experiment, golden, grading, health, overview, preflight, status

HERE = Path(__file__).parent
# Our own files: a `:material/…:` page icon would be fetched from a server on the internet.
MARK, ICON = HERE / "mark.svg", HERE / "icon.svg"


def main() -> None:
    """Draw the page that the URL names."""
    st.set_page_config(page_title="Turnout", page_icon=str(ICON), layout="wide", menu_items={})
    st.logo(str(MARK), size="medium")
    pages = [
        st.Page(
            overview.page, title="Overview", icon=":material/dashboard:", url_path="overview", default=True
        ),
        st.Page(experiment.page, title="Experiment", icon=":material/science:", url_path="experiment"),
        st.Page(golden.page, title="Golden runs", icon=":material/grading:", url_path="golden"),
        grading.here(),
        st.Page(preflight.page, title="Preflight", icon=":material/flight_takeoff:", url_path="preflight"),
        st.Page(decisions.page, title="Decisions", icon=":material/gavel:", url_path="decisions"),
        st.Page(health.page, title="Health", icon=":material/monitor_heart:", url_path="health"),
    ]
    current = st.navigation(pages, position="top")
    status.strip(current.title)
    current.run()


main()
