"""What is drawn over time is drawn as what it is."""

from datetime import UTC, datetime, timedelta

from dashboard.answers import EffectAt, Metric
from dashboard.charts import PALETTES, effect_over_time


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
