"""A control API per test, and the pages driven without a browser."""

import sys
from collections.abc import Callable, Iterator

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from dashboard.start import CONTROL_URL, TOKEN, TOKEN_FILE

from .fake_control_api import FakeControlApi
from .nasty import hostile, nulls
from .stories import empty, rich

STORIES = {"rich": rich, "empty": empty, "nulls": nulls, "hostile": hostile}
PAGES = ("overview", "experiment", "golden", "preflight", "decisions", "health")

# AppTest runs the default page only: the page under test is made the default one.
SCRIPT = """
import streamlit as st
from dashboard.screens import decisions, experiment, golden, grading, health, overview, preflight, status
modules = dict(
    overview=overview, experiment=experiment, golden=golden, preflight=preflight,
    decisions=decisions, health=health, grading=grading,
)
chosen = st.navigation([
    st.Page(module.page, title=name, url_path=name, default=name == {page!r})
    for name, module in modules.items()
])
status.strip(chosen.title)
chosen.run()
"""

OpenPage = Callable[..., AppTest]


@pytest.fixture
def control(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeControlApi]:
    """A control API that tells the story named by the marker's parameter, `rich` by default."""
    with FakeControlApi(STORIES[getattr(request, "param", "rich")]()) as api:
        monkeypatch.setenv(CONTROL_URL, api.url)
        monkeypatch.delenv(TOKEN, raising=False)
        monkeypatch.delenv(TOKEN_FILE, raising=False)
        yield api
    st.cache_resource.clear()


@pytest.fixture(autouse=True)
def own_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """AppTest puts its script in the place of `__main__`, which processes spawned later would run."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture
def open_page() -> OpenPage:
    """Draw a page with the given query parameters; fails if it shows a traceback."""

    def draw(page: str, **query: str) -> AppTest:
        app = AppTest.from_string(SCRIPT.format(page=page), default_timeout=60)
        for name, value in query.items():
            app.query_params[name] = value
        return redraw(app)

    return draw


def redraw(app: AppTest) -> AppTest:
    """Run the page again; no exception may have reached it, and no part may have failed to draw."""
    app.run()
    assert not app.exception, [error.value for error in app.exception]
    assert not [error.value for error in app.error if "could not be drawn" in error.value]
    return app


def texts(app: AppTest) -> str:
    """All that a page says, in one string."""
    kinds = (
        app.text,
        app.markdown,
        app.caption,
        app.subheader,
        app.title,
        app.info,
        app.warning,
        app.success,
        app.error,
        app.code,
    )
    said = [str(element.value) for kind in kinds for element in kind]
    return "\n".join([*said, *(str(block.value) for block in app.get("html"))])
