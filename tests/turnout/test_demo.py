"""The demo's parts: its folder, its customers, its words. `make demo` itself is a step of CI."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.ledger.exchange import ExchangeRecord, FeedbackRecord
from proxy.roster import Roster, RosterFile
from tests.proxy.harness import running_proxy, snapshot
from turnout.demo.shop import Shop, read_questions
from turnout.demo.stage import VERSIONS, DemoImpossible, fresh_folder, golden_set
from turnout.demo.stories import AB, CANARY, SHADOW
from turnout.scorecard import effect_text, metric_text, scorecard_row
from turnout.simulation import AnswerKey, Profile, SimulatedEngine


def test_only_what_a_demo_made_is_removed(tmp_path: Path) -> None:
    data = tmp_path / "demo"
    (fresh_folder(data) / "rest").write_text("of the last run")
    assert [path.name for path in fresh_folder(data).iterdir()] == [".turnout-demo"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("precious")
    with pytest.raises(DemoImpossible, match="not touched"):
        fresh_folder(mine)
    assert (mine / "thesis.tex").exists()


def test_a_demo_that_runs_keeps_its_folder(tmp_path: Path) -> None:
    data = fresh_folder(tmp_path / "demo")
    running = RosterFile(data)
    running.note(Roster(pid=4711))
    with pytest.raises(DemoImpossible, match="a demo runs on"):
        fresh_folder(data)
    running.close()
    assert list(fresh_folder(data).iterdir()) == [data / ".turnout-demo"]


def test_a_folder_that_cannot_be_made_is_told() -> None:
    with pytest.raises(DemoImpossible, match="--data"):
        fresh_folder(Path("/dev/null/demo"))


@pytest.mark.parametrize("spec", [CANARY, SHADOW, AB])
def test_the_specs_can_be_run(spec: str) -> None:
    from experiments.spec import read_spec

    text = spec.format(name="x", model="support-chat", version=2)
    assert read_spec(text, "x.yaml").model == "support-chat"


def test_the_versions_are_what_the_stories_need() -> None:
    quality = {version: profile.quality for version, profile in VERSIONS.items()}
    assert quality[2] < quality[1] < quality[3] < quality[4]


async def test_customers_say_whether_they_were_helped(tmp_path: Path) -> None:
    """A perfect engine helps everyone, streaming and not; a hopeless one nobody; a dead one is a failure."""
    items = golden_set() / "items.jsonl"
    questions = read_questions(items)
    assert len(questions) == 60
    for quality, helped in ((1.0, 40), (0.0, 0)):
        profile = Profile(name="chat", quality=quality)
        async with SimulatedEngine(profile, key=AnswerKey.read([items])) as engine:
            async with running_proxy(tmp_path / str(quality), snapshot({1: engine.url})) as proxy:
                shop = Shop(f"http://127.0.0.1:{proxy.port}", "chat", questions, at_once=4)
                await shop.open(lambda: False, 40)
                await shop.close()
                assert (shop.traffic.helped, shop.traffic.failed) == (helped, 0)
                assert dict(shop.traffic.served) == {"1": 40}
                records = proxy.records()
                said = {r.request_id: r.value for r in records if isinstance(r, FeedbackRecord)}
                rows = [r for r in records if isinstance(r, ExchangeRecord)]
                assert said.keys() == {row.request_id for row in rows}
                assert {row.stream for row in rows} == {True, False}
                assert sum(said.values()) == helped


async def test_a_dead_engine_is_counted_and_the_shop_goes_on(tmp_path: Path) -> None:
    async with running_proxy(tmp_path, snapshot({1: "http://127.0.0.1:9"})) as proxy:
        shop = Shop(f"http://127.0.0.1:{proxy.port}", "chat", read_questions(golden_set() / "items.jsonl"))
        await shop.open(lambda: False, 6)
        await shop.close()
        assert shop.traffic.failed == 6


def metric(kind: str, scale: str, estimate: float, lower: float, upper: float) -> dict[str, object]:
    arms = [{"arm": "control", "value": 0.1, "n": 5}, {"arm": "candidate", "value": 0.2, "n": 5}]
    effect = {"scale": scale, "estimate": estimate, "lower": lower, "upper": upper}
    return {"metric": "m", "kind": kind, "display_unit": "", "arms": arms, "effect": effect, "band": None}


def test_a_margin_is_told_in_the_unit_of_its_effect() -> None:
    def margin(kind: str, scale: str, value: float | None) -> object:
        return scorecard_row({**metric(kind, scale, 1.0, 1.0, 1.0), "role": "guardrail", "state": "ok",
                              "margin": value})[-2]  # fmt: skip

    assert margin("log_mean", "ratio", 1.1) == "+10.0 %"
    assert margin("binary", "difference", 0.02) == "+2.0 points"
    assert margin("mean", "difference", -0.0747) == "-0.0747"
    assert margin("mean", "difference", None) == "-"
    unknown = {**metric("quantile", "ratio", 1.0, 1.0, 1.0), "effect": None, "margin": 1.1}
    assert scorecard_row({**unknown, "role": "guardrail", "state": "no_data"})[-2] == "+10.0 %"


def test_what_is_small_is_not_told_as_nothing() -> None:
    rare = metric("binary", "difference", 0.00002, -0.00001, 0.00005)
    assert effect_text(rare) == ("+0.0020 points", "[-0.0010, +0.0050]")


def test_effects_are_told_in_one_unit() -> None:
    assert effect_text(metric("binary", "difference", 0.1, 0.05, 0.15)) == ("+10.0 points", "[+5.0, +15.0]")
    assert effect_text(metric("log_mean", "ratio", 0.8, 0.75, 0.85)) == ("-20.0 %", "[-25.0, -15.0]")
    assert effect_text(metric("mean", "difference", 0.26, 0.2, 0.3)) == ("+0.26", "[+0.2, +0.3]")
    assert effect_text({**metric("mean", "difference", 0, 0, 0), "effect": None}) == ("-", "-")
    assert metric_text(metric("binary", "difference", 0.1, 0.05, 0.15)).startswith(
        "m 10.0 % to 20.0 %: +10.0"
    )
