"""`turnout plan` and `turnout selftest --aa`: what an operator reads before the start, of every stage."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from experiments.client import ControlClient
from experiments.history import History
from tests.experiments.test_planning import every_kind
from turnout.plan_command import plan_app
from turnout.selftest_command import selftest_app

SPEC = """\
experiment: faster
model: chat
candidate: 2
stages:
  shadow: {share: 20, analysis: {horizon: 1600}}
  ab: {weight: 50}
metrics:
  success: [{metric: tokens_per_second, mde: 10%}]
  guardrails:
    - {metric: error_rate, margin: 3%}
    - {metric: latency, margin: 10%}
    - {metric: latency.p95, margin: 20%}
    - {metric: "score:helpful<0.5", margin: 5%}
    - {metric: feedback:thumbs, margin: 20%}
    - {metric: preference:judge, margin: 20%}
analysis: {horizon: 4000, looks: 4}
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TURNOUT_TOKEN", "t")
    monkeypatch.setenv("TURNOUT_DATA", str(tmp_path))
    knows(monkeypatch, every_kind())
    file = tmp_path / "faster.yaml"
    file.write_text(SPEC, "utf-8")
    return file


def knows(monkeypatch: pytest.MonkeyPatch, history: History) -> None:
    told = json.loads(orjson.dumps(asdict(history), option=orjson.OPT_SERIALIZE_NUMPY))
    monkeypatch.setattr(ControlClient, "post", lambda self, path, body: told)


def run(app: Any, *arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_a_plan_has_every_stage_and_every_metric_of_it(spec: Path) -> None:
    found = run(plan_app, str(spec))
    assert found.exit_code == 0, found.output
    assert "faster, shadow: horizon 1,600 units, 20 % mirrored to the candidate." in found.output
    assert "faster, ab: horizon 4,000 units, 50 % on the candidate." in found.output
    assert "(max_duration 7.0 d)" in found.output
    shadow, ab = found.output.split("faster, ab")
    assert "preference:judge" in shadow
    assert "no pair has been judged" in shadow
    assert "feedback:thumbs" not in shadow  # nobody sees a copy's answer
    for name in ("latency.p95", "score:helpful<0.5", "feedback:thumbs", "tokens_per_second"):
        assert name in ab
    assert "preference:judge" not in ab


def test_the_strangest_risks_and_effects_have_a_plan(spec: Path) -> None:
    spec.write_text("""\
experiment: faster
model: chat
mode: ab
candidate: 2
metrics:
  success: [{metric: tokens_per_second, mde: 0.0000001%}]
  guardrails: [{metric: error_rate, margin: 0.0000001%}]
analysis: {alpha: 0.0000001%, rollback_alpha: 0.0000001%, power: 99.99%, horizon: 1000000000}
""")
    found = run(plan_app, str(spec))
    assert found.exit_code == 1, found.output
    assert "are needed" in found.output
    spec.write_text(SPEC.replace("looks: 4", "looks: 4, alpha: 0.00000001%, power: 99.999%"))
    found = run(plan_app, str(spec))
    assert found.exit_code == 2
    assert all(f"analysis.{field}: found" in found.output for field in ("alpha", "power"))


def test_units_that_cannot_enter_do_not_shorten_the_wait(spec: Path) -> None:
    whole = json.loads(run(plan_app, str(spec), "--json").output)
    spec.write_text(SPEC + "holdout: 20\nexclusive: {group: g, units: [0, 25]}\n", "utf-8")
    part = json.loads(run(plan_app, str(spec), "--json").output)
    for all_units, some in zip(whole, part, strict=True):
        assert some["units_a_day"] == pytest.approx(all_units["units_a_day"] / 5)
        assert some["days"] == pytest.approx(5 * all_units["days"])
    assert "(20 % of production's: " in run(plan_app, str(spec)).output


def test_a_margin_that_cannot_be_shown_ends_it_with_1(spec: Path) -> None:
    spec.write_text(SPEC.replace("error_rate, margin: 3%", "error_rate, margin: 0.1%"), "utf-8")
    found = run(plan_app, str(spec), "--json")
    assert found.exit_code == 1
    shadow, ab = json.loads(found.stdout)
    assert (shadow["mode"], ab["mode"]) == ("shadow", "ab")
    assert any("error_rate" in warning and "units are needed" in warning for warning in ab["warnings"])


def test_a_self_test_tells_each_rule_of_each_stage(spec: Path) -> None:
    found = run(selftest_app, str(spec), "--aa", "--runs", "8", "--looks", "2", "--units", "400", "--json")
    assert found.exit_code in (0, 1), found.output
    rates = json.loads(found.stdout)
    told = {(rate["stage"], rate["metric"]) for rate in rates if rate["rule"] == "interval"}
    assert ("shadow", "preference:judge") in told
    assert ("shadow", "latency.p95") in told
    assert ("ab", "latency.p95") in told
    assert ("ab", "feedback:thumbs") in told
    assert ("ab", "score:helpful<0.5") in told
    for rate in rates:
        assert rate["runs"] == 8
        assert 0.0 <= rate["lower"] <= rate["alarms"] / 8 <= rate["upper"] <= 1.0


def test_what_no_unit_has_is_named_and_left_out(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = every_kind()
    some = {name: totals for name, totals in known.totals.items() if name != "latency.p95"}
    knows(monkeypatch, History(**{**asdict(known), "totals": some}))
    found = run(selftest_app, str(spec), "--aa", "--runs", "2", "--looks", "1", "--units", "200")
    assert "latency.p95: no unit has it" in found.output
    planned = run(plan_app, str(spec))
    assert "latency.p95: production has none of it" in planned.output


def test_a_seed_below_zero_is_wrong_usage(spec: Path) -> None:
    result = run(selftest_app, str(spec), "--aa", "--seed", "-5")
    assert result.exit_code == 2
    assert "--seed" in result.stderr


def test_a_self_test_of_more_units_than_fit_is_refused(spec: Path) -> None:
    assert run(selftest_app, str(spec), "--aa", "--units", "1000000000").exit_code == 2
    spec.write_text(SPEC.replace("horizon: 4000", "horizon: 1000000000"))
    found = run(selftest_app, str(spec), "--aa")
    assert found.exit_code == 2
    assert "give fewer by --units" in found.stderr


def test_a_self_test_must_say_which(spec: Path) -> None:
    assert run(selftest_app, str(spec)).exit_code == 2
