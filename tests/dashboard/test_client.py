"""The client turns every way of failing into one of four errors, in words for the page."""

import httpx
import pytest

from dashboard.answers import Experiment, Health, Overview
from dashboard.client import ControlApi, ControllerFault, Malformed, Refused, Unreachable, path

from .fake_control_api import FAULTS, TOKEN, FakeControlApi


def test_reads_an_overview_of_every_kind_of_experiment(control: FakeControlApi) -> None:
    with ControlApi(control.url) as api:
        overview = api.get(Overview, path("overview"))
    assert [one.verdict.kind if one.verdict else None for one in overview.experiments] == [
        "ship", "roll_back", "keep_running", "invalid", None, "inconclusive",
    ]  # fmt: skip
    assert overview.models[0].versions[0].endpoint is not None


def test_nothing_at_the_address() -> None:
    with ControlApi("http://127.0.0.1:1") as api, pytest.raises(Unreachable, match="turnout up"):
        api.get(Health, path("health"))


def test_an_address_that_is_none() -> None:
    with pytest.raises(Unreachable, match="TURNOUT_CONTROL_URL"):
        ControlApi("http://[::1")


def test_a_timeout_says_how_long_it_waited() -> None:
    def late(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("late", request=request)

    with (
        ControlApi("http://127.0.0.1:1", transport=httpx.MockTransport(late)) as api,
        pytest.raises(Unreachable, match="5 s"),
    ):
        api.get(Health, path("health"))


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_faults(control: FakeControlApi, fault: str) -> None:
    control.fault = fault
    expected = ControllerFault if fault == "500" else Malformed
    with ControlApi(control.url) as api, pytest.raises(expected):
        api.get(Overview, path("overview"))


def test_a_shape_that_is_wrong_is_named_by_field(control: FakeControlApi) -> None:
    control.fault = "wrong_shape"
    with ControlApi(control.url) as api, pytest.raises(Malformed, match=r"models"):
        api.get(Overview, path("overview"))


def test_a_refusal_carries_its_code(control: FakeControlApi) -> None:
    with ControlApi(control.url) as api, pytest.raises(Refused) as caught:
        api.get(Experiment, path("experiments", "no-such"))
    assert (caught.value.status, caught.value.code) == (404, "not_found")


def test_the_token_goes_out_with_changes_only(control: FakeControlApi) -> None:
    seen: list[tuple[str, str | None]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.headers.get("authorization")))
        return httpx.Response(200, json={})

    with ControlApi("http://127.0.0.1:1", TOKEN, transport=httpx.MockTransport(answer)) as api:
        api.get(dict, path("health"))
        api.post(dict, path("models", "chat", "promote"), {})
    assert seen == [("GET", None), ("POST", f"Bearer {TOKEN}")]


def test_a_name_cannot_reach_another_route() -> None:
    assert path("experiments", "../models/x?y#z") == "/api/experiments/..%2Fmodels%2Fx%3Fy%23z"


@pytest.mark.parametrize("header", [{"content-encoding": "gzip"}, {}])
def test_half_an_answer_is_not_called_no_answer(header: dict[str, str]) -> None:
    def half(request: httpx.Request) -> httpx.Response:
        if header:
            return httpx.Response(200, headers=header, content=b"no gzip")
        raise httpx.RemoteProtocolError("peer closed connection", request=request)

    with (
        ControlApi("http://127.0.0.1:1", transport=httpx.MockTransport(half)) as api,
        pytest.raises(Unreachable, match="broke off") as caught,
    ):
        api.get(Health, path("health"))
    assert caught.value.sent


def test_a_time_that_is_no_number_is_malformed_and_holds_up_nobody(control: FakeControlApi) -> None:
    control.fault = "no_time"
    with ControlApi(control.url) as api, pytest.raises(Malformed, match="finite"):
        api.get(Health, path("health"))
