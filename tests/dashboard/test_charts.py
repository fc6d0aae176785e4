"""What is drawn over time is drawn as what it is."""

from datetime import UTC, datetime, timedelta
from typing import Literal

from dashboard.answers import EffectAt, Metric, TrafficBucket
from dashboard.charts import PALETTES, effect_over_time, over_time
from dashboard.screens.overtime import total


def test_stages_of_a_chain_are_not_joined_as_if_they_were_one_measurement() -> None:
    start = datetime(2026, 11, 1, tzinfo=UTC)
    stages = ["shadow", "shadow", "canary", "canary", "ab"]
    effects = [
        EffectAt(at=start + timedelta(hours=n), stage=stage, metric="latency", estimate=n, lower=-9, upper=9)
        for n, stage in enumerate(stages)
    ]
    chart = effect_over_time(effects, (), Metric(metric="latency"), PALETTES["light"]).to_dict()
    joining = [one for one in chart["layer"] if one["mark"]["type"] in ("line", "area")]
    assert len(joining) == 3
    assert {one["encoding"]["detail"]["field"] for one in joining} == {"stage"}
    points = next(one for one in chart["layer"] if one["mark"].get("filled"))
    assert [row["stage"] for row in chart["datasets"][points["data"]["name"]]] == stages


def test_a_request_and_its_copy_are_not_added_up() -> None:
    at = datetime(2026, 11, 1, tzinfo=UTC)
    shadow = [
        TrafficBucket(at=at, arm="control", phase=1, requests=9, failures=3, mirrored=True),
        TrafficBucket(at=at, arm="candidate", phase=1, requests=8, failures=2),
    ]
    canary = [TrafficBucket(at=at, arm=arm, phase=2, requests=5, failures=0) for arm in ("control", "b")]
    assert total(shadow) == "8 copies"
    assert total(canary) == "10 requests"
    assert total([*shadow, *canary]) == "10 requests and 8 copies"
    assert drawn(shadow, "requests") == {"candidate": 8}
    assert drawn(shadow, "failures") == {"control": 3 / 9, "candidate": 2 / 8}
    assert drawn(shadow[:1], "requests") is None


def drawn(traffic: list[TrafficBucket], what: Literal["requests", "failures"]) -> dict[str, float] | None:
    chart = over_time(traffic, (), PALETTES["light"], what, 10)
    if chart is None:
        return None
    rows = [row for rows in chart.to_dict()["datasets"].values() for row in rows]
    return {row["arm"]: row["value"] for row in rows if "arm" in row}
