"""In a real browser: the verdict is to be seen, nothing foreign runs, and nothing leaves the machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from dashboard.start import TOKEN, command, environment
from tests.experiments.plane import TOKEN as REAL_SECRET
from tests.experiments.plane import Plane
from turnout.processes import free_port

from .fake_control_api import TOKEN as SECRET
from .fake_control_api import FakeControlApi
from .nasty import hostile
from .real_control import real_control
from .stories import rich

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CHROMIUM = next(
    (path for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(path).exists()), None
)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
LOOPBACK = ("127.0.0.1", "localhost")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium at /usr/bin/chromium: the pages are tested without a browser only")
    playwright = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is missing")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


def serve(url: str, secret: str = SECRET) -> Iterator[str]:
    """The dashboard as `turnout up` starts it, against a control API."""
    port = free_port()
    process = subprocess.Popen(
        command(port, url),
        env={**os.environ, **environment(url), TOKEN: secret},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    base = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while not alive(base):
            assert process.poll() is None, "the dashboard did not start"
            assert time.monotonic() < deadline, "the dashboard did not answer within a minute"
            time.sleep(0.1)
        yield base
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)


def alive(base: str) -> bool:
    try:
        return httpx.get(f"{base}/_stcore/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def calm_api(browser: Any) -> Iterator[FakeControlApi]:
    with FakeControlApi(rich()) as api:
        yield api


@pytest.fixture(scope="module")
def calm(calm_api: FakeControlApi) -> Iterator[str]:
    yield from serve(calm_api.url)


@pytest.fixture(scope="module")
def attacked(browser: Any) -> Iterator[str]:
    with FakeControlApi(hostile()) as api:
        yield from serve(api.url)


class Watched:
    """A page that notes every request, dialog and script error."""

    def __init__(self, browser: Any) -> None:
        self.page = browser.new_page(viewport={"width": 1440, "height": 1200})
        self.requests: list[str] = []
        self.dialogs: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))
        self.page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))

    def open(self, url: str) -> Any:
        self.page.goto(url)
        self.page.wait_for_selector("h1")
        self.page.wait_for_function("() => !document.querySelector('[data-testid=stStatusWidget]')")
        self.page.wait_for_timeout(700)  # charts are drawn after the script has ended
        return self.page

    def outside(self) -> list[str]:
        return [
            url
            for url in self.requests
            if urlsplit(url).scheme not in ("data", "blob") and urlsplit(url).hostname not in LOOPBACK
        ]


@pytest.fixture
def watched(browser: Any) -> Iterator[Watched]:
    page = Watched(browser)
    yield page
    page.page.close()


def test_the_verdict_is_to_be_seen_and_its_url_can_be_pasted(calm: str, watched: Watched) -> None:
    page = watched.open(f"{calm}/experiment?name=support-canary")
    page.get_by_text("Roll back: v2 fails 7.2 points more often").wait_for()
    page.get_by_role("tab", name="Over time").click()
    page.get_by_text("What was done", exact=True).wait_for()
    page.wait_for_function("() => document.querySelectorAll('canvas, svg.marks').length > 0")
    assert "name=support-canary" in page.url
    assert "view=Over" in page.url
    assert watched.outside() == []


def test_from_the_overview_to_the_experiment(calm: str, watched: Watched) -> None:
    page = watched.open(calm)
    page.get_by_role("link", name="tone-of-voice").last.click()
    page.get_by_text("the arms hold control 1,410, candidate 1,122 units").wait_for()
    assert page.url.endswith("/experiment?name=tone-of-voice")


def test_a_dialog_outlives_the_refresh_and_the_deed_is_done_once(calm: str, watched: Watched) -> None:
    page = watched.open(f"{calm}/experiment?name=faster-chat")
    page.get_by_role("button", name="Promote v3").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("alias production v1 → v3").wait_for()
    page.wait_for_timeout(6500)  # longer than one refresh
    dialog.get_by_label("Reason").fill("latency is better")
    dialog.get_by_label("Reason").press("Tab")
    dialog.get_by_label("Model name").fill("chat")
    dialog.get_by_label("Model name").press("Tab")
    confirm = dialog.get_by_role("button", name="Promote v3")
    ready = ".st-key-confirm-promote button"
    page.wait_for_function(f"() => !document.querySelector('{ready}').disabled")
    confirm.click()
    dialog.get_by_text("It stands in the audit trail").wait_for()
    confirm.wait_for(state="detached")  # Streamlit takes away what was there once the page has run to its end
    dialog.get_by_role("button", name="Close", exact=True).last.click()
    dialog.wait_for(state="detached")


@pytest.fixture(scope="module")
def plane_and_url(
    browser: Any, tmp_path_factory: pytest.TempPathFactory, stocked_mlflow: Path
) -> Iterator[tuple[Plane, str]]:
    with real_control(tmp_path_factory.mktemp("real"), stocked_mlflow) as both:
        yield both


@pytest.fixture(scope="module")
def true(plane_and_url: tuple[Plane, str]) -> Iterator[str]:
    yield from serve(plane_and_url[1], REAL_SECRET)


def confirm(page: Any, key: str, opens: str, reason: str) -> None:
    """The dialog from its button to its end."""
    page.get_by_role("button", name=opens).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill(reason)
    dialog.get_by_label("Reason").press("Tab")
    dialog.get_by_label("Model name").fill("chat")
    dialog.get_by_label("Model name").press("Tab")
    ready = f".st-key-confirm-{key} button"
    page.wait_for_function(f"() => !document.querySelector('{ready}').disabled")
    page.locator(ready).click()
    dialog.get_by_text("It stands in the audit trail").wait_for()


def test_promote_and_roll_back_really_move_production(
    plane_and_url: tuple[Plane, str], true: str, watched: Watched
) -> None:
    plane = plane_and_url[0]
    plane.conclude("ship")
    confirm(watched.open(f"{true}/experiment?name=faster"), "promote", "Promote v2", "it is faster")
    assert plane.controller.junction.model("chat").production == 2
    assert plane.snapshot.models["chat"].production == 2
    confirm(watched.open(f"{true}/experiment?name=faster"), "rollback", "Roll back to v1", "a complaint")
    assert plane.controller.junction.model("chat").production == 1
    assert plane.snapshot.models["chat"].production == 1
    plane.settle()
    page = watched.open(f"{true}/decisions")
    page.get_by_text("it is faster", exact=True).wait_for()
    page.get_by_text("a complaint", exact=True).wait_for()
    page.get_by_text("production v1 → v2", exact=True).wait_for()
    page.get_by_text("production v2 → v1", exact=True).wait_for()
    assert watched.outside() == []


def test_a_page_that_found_no_controller_comes_back_by_itself(
    calm_api: FakeControlApi, calm: str, watched: Watched
) -> None:
    calm_api.fault = "500"
    page = watched.open(f"{calm}/experiment?name=tone-of-voice")
    page.get_by_text("The list of experiments cannot be shown now").wait_for()
    calm_api.fault = None
    page.get_by_text("Invalid: the arms do not hold the share").first.wait_for(timeout=20_000)


PLACES = [
    "/", "/experiment", "/experiment?view=Over+time", "/experiment?view=Outputs",
    "/experiment?view=Accounting", "/experiment?view=Spec", "/golden", "/preflight", "/decisions", "/health",
]  # fmt: skip


# Whatever in the page points elsewhere: frames, images, links, style sheets, scripts.
FOREIGN = """() => [...document.querySelectorAll('[src], [href]')]
  .map(element => element.src || element.href)
  .filter(address => typeof address === 'string' && !/^(data|blob):/.test(address))
  .filter(address => !['127.0.0.1', 'localhost'].includes(new URL(address, location.href).hostname))"""


@pytest.mark.parametrize("place", PLACES)
def test_200_payloads_run_nothing_and_call_nobody(attacked: str, watched: Watched, place: str) -> None:
    page = watched.open(attacked + place)
    body = page.inner_text("body")
    assert "evil.test" in body or "pwned" in body or place in ("/decisions", "/experiment?view=Accounting")
    assert "could not be drawn" not in body
    assert page.evaluate("() => window.__pwned") is None
    assert page.evaluate(FOREIGN) == []
    assert watched.dialogs == []
    assert watched.outside() == []


def test_hostile_answers_are_graded_by_keys_alone(attacked: str, watched: Watched) -> None:
    page = watched.open(f"{attacked}/grading?control_run=run-1&candidate_run=run-3&check=better")
    page.get_by_label("Who grades?").fill("ann 1")  # a digit in a text is no grade
    page.get_by_label("Who grades?").press("Enter")
    for graded in range(3):
        page.get_by_text(f"{graded} of 3 answers graded").wait_for()
        page.wait_for_function("() => !document.querySelector('[data-testid=stStatusWidget]')")
        assert page.evaluate("() => window.__pwned") is None
        page.wait_for_timeout(500)  # sooner than that it is no grade
        page.keyboard.press("12u"[graded])
    page.get_by_text("The sample is whole").wait_for()
    assert page.evaluate(FOREIGN) == []
    assert watched.dialogs == []
    assert watched.outside() == []


def test_every_page_of_hostile_outputs(attacked: str, watched: Watched) -> None:
    page = watched.open(f"{attacked}/experiment?view=Outputs")
    for number in range(2, 21):
        page.get_by_role("button", name="Next page").click()
        page.locator(f"[aria-label='Page {number}'][aria-current]").wait_for()
        page.wait_for_timeout(300)
    assert page.evaluate("() => window.__pwned") is None
    assert watched.outside() == []


def test_python_is_the_one_of_the_environment() -> None:
    assert command(8501, "http://127.0.0.1:8081")[0] == sys.executable
