"""The pages against the real control API, and the fake one held to the real one's shapes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from dashboard.answers import Experiment
from dashboard.start import CONTROL_URL, TOKEN, TOKEN_FILE
from experiments.steering.control import Author
from tests.experiments.plane import AB, Plane
from tests.experiments.plane import TOKEN as SECRET

from .conftest import PAGES, OpenPage, redraw, texts
from .fake_control_api import FakeControlApi
from .real_control import RUNS, real_control
from .stories import rich

Json = dict[str, Any]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, stocked_mlflow: Path) -> Iterator[tuple[Plane, str]]:
    with real_control(tmp_path_factory.mktemp("control"), stocked_mlflow) as both:
        yield both


@pytest.fixture
def real(served: tuple[Plane, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Plane]:
    plane, url = served
    monkeypatch.setenv(CONTROL_URL, url)
    monkeypatch.setenv(TOKEN, SECRET)
    monkeypatch.delenv(TOKEN_FILE, raising=False)
    monkeypatch.setattr("experiments.steering.control.RECORD_S", 0.2)
    yield plane
    st.cache_resource.clear()


def documents(base: str, experiment: str, run: str) -> dict[str, Any]:
    """One document of every kind that the pages read."""
    with httpx.Client(base_url=f"{base}/api", trust_env=False) as http:

        def get(route: str) -> Any:
            answer = http.get(route)
            assert answer.is_success, answer.text
            return answer.json()

        overview, view = get("/overview"), get(f"/experiments/{experiment}")
        timeline, full = get(f"/experiments/{experiment}/timeline"), get(f"/golden/runs/{run}")
        shadow = next(one["name"] for one in overview["experiments"] if one["mode"] == "shadow")
        sheet = get(f"/golden/worksheet?evaluator=kind&control_run={RUNS[1]}&candidate_run={RUNS[2]}")
        pair = get(f"/experiments/{shadow}/pairs?limit=1")["pairs"][0]
        metric = next(one for one in view["verdict"]["metrics"] if one["band"] and one["effect"])
        model = next(one for one in overview["models"] if one["production"])
        return {
            "overview": overview,
            "health": overview["health"],
            "collector": overview["health"]["collector"],
            "worker": next(iter(overview["health"]["workers"]), None),
            "registry": overview["health"]["registry"],
            "ledger": overview["health"]["ledger"],
            "model": model,
            "version": model["versions"][0],
            "endpoint": model["versions"][0]["endpoint"],
            "summary": next(one for one in get("/experiments") if one["name"] == experiment),
            "experiment": view,
            "accounting": view["accounting"],
            "account": view["accounting"]["by_arm"]["control"],
            "phase": view["phases"][0],
            "verdict": view["verdict"],
            "look": view["verdict"]["look"],
            "srm": view["verdict"]["srm"],
            "metric": metric,
            "arm": metric["arms"][0],
            "effect": metric["effect"],
            "band": metric["band"],
            "bucket": timeline["traffic"][0],
            "seen": timeline["effects"][0],
            "event": timeline["events"][0],
            "pair": pair,
            "side": pair["control"],
            "decision": get("/decisions")[0],
            "run": full["run"],
            "result": full["results"][0],
            "comparison": get("/golden/comparisons")[0],
            "worksheet": sheet,
            "task": sheet["tasks"][0],
            "task's label": sheet["tasks"][0]["label"],
            "preflight": get("/preflights")[0],
            "finding": get("/preflights")[0]["result"]["findings"][0],
        }


def test_the_fake_control_api_has_the_shapes_of_the_real_one(served: tuple[Plane, str]) -> None:
    real = documents(served[1], "faster", RUNS[1])
    with FakeControlApi(rich()) as api:
        fake = documents(api.url, "faster-chat", api.story["runs"][0]["run_id"])
    different = {
        kind: (sorted(set(real[kind]) - set(fake[kind])), sorted(set(fake[kind]) - set(real[kind])))
        for kind in real
        if real[kind] is not None and set(real[kind]) != set(fake[kind])
    }
    assert not different, "\n".join(f"{kind}: lacks, invents {both}" for kind, both in different.items())


@pytest.mark.parametrize("page", PAGES)
def test_every_page_draws_what_the_real_api_answers(real: Plane, open_page: OpenPage, page: str) -> None:
    said = texts(open_page(page)).replace("\\", "")
    assert "cannot be shown" not in said
    assert {"overview": "200 of 5,000", "experiment": "chat", "golden": "item-1", "decisions": "ada",
            "preflight": "another prompt"}.get(page, "") in said  # fmt: skip


@pytest.mark.parametrize("view", ["Scorecard", "Over time", "Outputs", "Accounting", "Spec"])
@pytest.mark.parametrize("name", ["faster", "mirror"])
def test_every_tab_draws_what_the_real_api_answers(
    real: Plane, open_page: OpenPage, name: str, view: str
) -> None:
    said = texts(open_page("experiment", name=name, view=view)).replace("\\", "")
    assert "cannot be shown" not in said
    if (name, view) == ("mirror", "Outputs"):
        assert "<mark" in said
    if view == "Accounting":
        assert "the accounting closes" in said


def test_a_band_is_on_the_scale_of_its_effect(served: tuple[Plane, str]) -> None:
    document = httpx.get(f"{served[1]}/api/experiments/faster", trust_env=False).json()
    one = Experiment.model_validate(document)
    assert one.verdict is not None
    scales = {metric.metric: (metric.effect, metric.band) for metric in one.verdict.metrics}
    effect, band = scales["latency"]
    assert effect is not None
    assert band is not None
    assert (effect.scale, band.scale) == ("ratio", "ratio")


def press(app: AppTest, key: str, reason: str) -> None:
    """Open the dialog, fill it in and confirm. AppTest draws the whole page, which closes a dialog."""
    app.button(key=f"do-{key}").click()
    redraw(app)
    app.text_input(key=f"typed-{key}").input("chat")
    app.text_input(key=f"reason-{key}").input(reason)
    app.button(key=f"do-{key}").click()
    redraw(app)
    app.button(key=f"confirm-{key}").click()
    app.run()


def test_pause_and_resume_really_happen(real: Plane, open_page: OpenPage) -> None:
    press(open_page("experiment", name="faster"), "pause", "a look first")
    assert real.controller.junction.experiment("faster").state == "paused"
    assert not real.candidate_has_traffic
    press(open_page("experiment", name="faster"), "resume", "all is well")
    assert real.controller.junction.experiment("faster").state == "running"
    assert real.candidate_has_traffic
    real.settle()
    said = texts(open_page("decisions"))
    assert "a look first" in said
    assert "all is well" in said


@pytest.mark.parametrize("name", ["mirror", "drafted"])
def test_the_page_of_one_that_routes_nobody_offers_no_rollback(
    real: Plane, open_page: OpenPage, name: str
) -> None:
    if name == "drafted" and not real.controller.junction.has("drafted"):
        spec = AB.replace("experiment: faster", "experiment: drafted")
        real.controller.control.start(spec, "drafted.yaml", Author(actor="ada"), draft=True)
    app = open_page("experiment", name=name)
    assert "do-stop" in [button.key for button in app.button]
    assert "do-rollback" not in [button.key for button in app.button]


def test_a_rollback_is_rehearsed_in_words_that_do_not_contradict_each_other(
    real: Plane, open_page: OpenPage
) -> None:
    app = open_page("experiment", name="faster")
    app.button(key="do-rollback").click()
    said = texts(redraw(app))
    assert "version 2 of 'chat' would get no traffic" in said
    assert "Production stays –" not in said
