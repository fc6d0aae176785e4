"""A spec is either a declaration that can be run, or every problem at once with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.errors import DocumentError, Problem
from experiments.spec import AbTraffic, CanaryTraffic, ShadowTraffic, analysis_of, read_spec

EXAMPLES = Path(__file__).parents[2] / "examples" / "experiments"

CANARY = """\
experiment: faster-chat
model: chat
mode: canary
candidate: 3
traffic: {ramp: [5, 25%, 50], min_units: 100, min_duration: 10m}
metrics:
  guardrails:
    - {metric: error_rate, tolerated_ratio: 1.25}
    - {metric: latency, margin: 10%}
analysis: {horizon: 2000, min_duration: 1h30m}
golden: {require: pass, set: support}
"""


def problems(text: str) -> list[Problem]:
    with pytest.raises(DocumentError) as caught:
        read_spec(text, "spec.yaml")
    return list(caught.value.problems)


def only(text: str) -> Problem:
    found = problems(text)
    assert len(found) == 1, found
    return found[0]


def test_a_canary_is_read_with_its_defaults() -> None:
    spec = read_spec(CANARY)
    assert isinstance(spec.traffic, CanaryTraffic)
    assert spec.traffic.ramp == [5.0, 25.0, 50.0]
    assert spec.traffic.min_duration == 600
    assert spec.plan[0].weights_ppm == (50_000, 250_000, 500_000)
    assert (spec.control, spec.candidate, spec.unit, spec.on_ship) == ("production", 3, "user", "hold")
    assert spec.metrics.guardrails[1].margin == pytest.approx(0.1)
    assert spec.analysis.min_duration == 5400
    assert spec.golden is not None
    assert spec.golden.set == "support"


@pytest.mark.parametrize(
    ("mode", "traffic", "weights"),
    [
        ("ab", AbTraffic, (500_000,)),
        ("shadow", ShadowTraffic, (1_000_000,)),
        ("canary", CanaryTraffic, (10_000, 50_000, 100_000, 250_000, 500_000)),
    ],
)
def test_each_mode_has_its_own_traffic(mode: str, traffic: type, weights: tuple[int, ...]) -> None:
    text = f"experiment: x\nmodel: chat\nmode: {mode}\ncandidate: 2\nmetrics:\n  success: [metric: latency]\n"
    spec = read_spec(text)
    assert isinstance(spec.traffic, traffic)
    assert spec.plan[0].weights_ppm == weights


def test_every_problem_is_reported_at_once_in_the_order_of_the_lines() -> None:
    text = """\
experiment: Faster Chat
modle: chat
mode: canary
candidate: production
traffic: {ramp: [5, 150], min_unit: 10, min_duration: 10}
metrics:
  success: [{metric: latancy, mde: 5}]
  guardrails: [{metric: error_rate, tolerated_ratio: 0.9}, {metric: latency}]
analysis: {looks: 2.5, max_duration: 1h, min_duration: 2h}
golden: {require: "maybe"}
"""
    found = [(problem.line, problem.field) for problem in problems(text)]
    assert found == [
        (1, "experiment"),
        (1, "model"),
        (2, "modle"),
        (4, "candidate"),
        (5, "traffic.min_duration"),
        (5, "traffic.min_unit"),
        (5, "traffic.ramp[1]"),
        (7, "metrics.success[0].mde"),
        (7, "metrics.success[0].metric"),
        (8, "metrics.guardrails[0].tolerated_ratio"),
        (8, "metrics.guardrails[1]"),
        (9, "analysis.looks"),
        (10, "golden.require"),
        (10, "golden.set"),
    ]


def test_an_unknown_key_comes_with_the_key_that_was_meant() -> None:
    found = problems(CANARY.replace("model: chat", "modle: chat"))
    assert [problem.mend for problem in found] == ["Add the key 'model'", "Did you mean 'model'?"]


@pytest.mark.parametrize("slip", ["stage", "Stages", "steges"])
def test_a_chain_whose_stages_are_misspelt_is_taken_for_a_chain(slip: str) -> None:
    text = CANARY.partition("traffic")[0].replace("mode: canary\n", "") + CANARY.partition("10m}\n")[2]
    found = problems(f"{text}{slip}: {{ab: {{weight: 50}}}}\n")
    assert [problem.mend for problem in found] == ["Add the key 'stages'", "Did you mean 'stages'?"]


def test_an_unknown_metric_comes_with_the_metric_that_was_meant() -> None:
    problem = only(CANARY.replace("metric: error_rate", "metric: eror_rate"))
    assert (problem.line, problem.field) == (8, "metrics.guardrails[0].metric")
    assert problem.found == "'eror_rate'"
    assert problem.mend == "Did you mean 'error_rate'?"


@pytest.mark.parametrize(
    ("old", "new", "field", "line"),
    [
        ("candidate: 3", "candidate: 0", "candidate", 4),
        ("candidate: 3", "candidate: true", "candidate", 4),
        ("candidate: 3", "candidate: [3]", "candidate", 4),
        ("model: chat", "model: a/b", "model", 2),
        ("model: chat", "model: 7", "model", 2),
        ("mode: canary", "mode: canarie", "mode", 3),
        ("[5, 25%, 50]", "[5, 5, 50]", "traffic.ramp", 5),
        ("[5, 25%, 50]", "[0, 5]", "traffic.ramp", 5),
        ("[5, 25%, 50]", "[]", "traffic.ramp", 5),
        ("[5, 25%, 50]", "[5, 25%, 100]", "traffic.ramp", 5),
        ("min_units: 100", "min_units: -1", "traffic.min_units", 5),
        ("min_duration: 10m", "min_duration: 10 apples", "traffic.min_duration", 5),
        ("horizon: 2000", "horizon: 1", "analysis.horizon", 10),
        ("set: support", "set: ''", "golden.set", 11),
        ("metric: latency, margin: 10%", "metric: error_rate", "metrics.guardrails[1].metric", 9),
        ("metric: latency, margin: 10%", "metric: ttft, tolerated_ratio: 2", "metrics.guardrails[1]", 9),
        (
            "metric: latency, margin: 10%",
            "metric: 'feedback:', margin: 10%",
            "metrics.guardrails[1].metric",
            9,
        ),
        ("require: pass", "require: pass, require: pass", "golden.require", 11),
    ],
)
def test_a_bad_value_is_found_in_its_line(old: str, new: str, field: str, line: int) -> None:
    assert old in CANARY
    problem = only(CANARY.replace(old, new))
    assert (problem.field, problem.line) == (field, line)
    assert problem.expected
    assert str(problem).startswith(f"spec.yaml:{line}: {field}: found ")


def test_a_doubled_key_names_both_lines() -> None:
    problem = only(CANARY + "candidate: 4\n")
    assert (problem.line, problem.field) == (12, "candidate")
    assert "line 4" in problem.expected


def test_a_comparison_of_a_version_with_itself_is_refused() -> None:
    assert only(CANARY.replace("candidate: 3", "control: '3'\ncandidate: 3")).field == "candidate"


def test_an_experiment_that_measures_nothing_is_refused() -> None:
    text = "experiment: x\nmodel: chat\nmode: ab\ncandidate: 2\n"
    assert "at least one" in only(text).expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a list\n",
        "just text",
        "a: [1, 2",
        "a: b: c",
        "a: &x 1\nb: *x\n",
        "a: !!python/object/apply:os.system ['true']",
        "\ta: 1",
        "[" * 5000,
        "a: 2026-99-99",
        "? [a]\n: 1\n",
        "a: " + "x" * 200_001,
        "a: 1\n---\nb: 2\n",
        "a: \x00",
    ],
)
def test_what_is_no_spec_is_refused_without_a_traceback(text: str) -> None:
    assert problems(text)


def test_the_digest_is_of_what_is_declared_not_of_how_it_is_written() -> None:
    other = CANARY.replace("25%", "25").replace("1h30m", "90m") + "# a comment\n"
    assert read_spec(other).digest() == read_spec(CANARY).digest()
    assert read_spec(CANARY.replace("2000", "2001")).digest() != read_spec(CANARY).digest()


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.name)
def test_the_examples_are_valid(file: Path) -> None:
    spec = read_spec(file.read_text(), file.name)
    assert spec.mode == file.stem


def test_there_is_an_example_for_every_mode() -> None:
    assert {file.stem for file in EXAMPLES.glob("*.yaml")} == {"ab", "canary", "chain", "shadow"}


CHAIN = (EXAMPLES / "chain.yaml").read_text()


def test_a_chain_has_its_stages_in_their_order_each_with_its_own_plan() -> None:
    spec = read_spec(CHAIN)
    assert [(stage.mode, stage.analysis.horizon, stage.last) for stage in spec.plan] == [
        ("shadow", 500, False),
        ("canary", 2000, False),
        ("ab", 5000, True),
    ]
    assert spec.gate is not None
    first, last = (analysis_of(spec, control_version=1, candidate_version=3, stage=n) for n in (0, 2))
    assert [goal.role for goal in first.goals] == ["guardrail"]
    assert [goal.role for goal in last.goals] == ["success", "guardrail"]


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("ab: {weight: 50}", "ab: {wait: 50}", "stages.ab.wait"),
        ("ab: {weight: 50}", "ab: {weight: 100}", "stages.ab.weight"),
        ("  guardrails:\n    - {metric: error_rate, tolerated_ratio: 1.25}\n", "", "stages.shadow"),
        ("ramp: [1, 5, 25]", "ramp: [1, 5, 25], hold_at: [7]", "stages.canary"),
        ("no_traffic: hold", "no_traffic: pray", "policies.no_traffic"),
        ("on_ship: promote", "exclusive: {group: a, units: [50, 20]}", "exclusive"),
        ("on_ship: promote", "exclude: {}", "exclude"),
        ("on_ship: promote", "holdout: 100", "holdout"),
    ],
)
def test_a_bad_chain_is_told_where(old: str, new: str, field: str) -> None:
    assert old in CHAIN
    assert only(CHAIN.replace(old, new)).field == field


def test_a_chain_without_traffic_is_none() -> None:
    text = "experiment: x\nmodel: chat\ncandidate: 2\nstages: {golden: {require: pass, set: s}}\n"
    assert only(text + "metrics: {guardrails: [metric: error_rate]}\n").field == "stages"


def test_what_is_only_looked_at_and_what_tokens_cost() -> None:
    priced = CANARY.replace(
        "metrics:\n",
        "metrics:\n"
        "  exploratory: [{metric: cost}, {metric: latency.p95}, {metric: latency>800ms}]\n"
        "  prices: {control: {prompt: 1, completion: 2}, candidate: {prompt: 0.5, completion: 1}}\n",
    )
    spec = analysis_of(read_spec(priced), control_version=1, candidate_version=2)
    cost, p95, slow = spec.named("exploratory")
    assert "WHEN x.assigned_arm = 'candidate'" in cost.metric.value_sql
    assert (p95.metric.quantile, slow.metric.kind) == (0.95, "binary")


def test_cost_asks_for_prices() -> None:
    problem = only(CANARY.replace("metrics:\n", "metrics:\n  exploratory: [{metric: cost}]\n"))
    assert "prices" in problem.expected


def test_what_only_a_shadow_can_measure_is_not_asked_of_the_stage_after_it() -> None:
    """A preference is of pairs: were the A/B stage asked for it too, it could never ship."""
    text = """\
experiment: faster
model: chat
candidate: 2
stages: {shadow: {share: 20}, ab: {weight: 50}}
metrics:
  guardrails: [{metric: error_rate}, {metric: preference:judge, margin: 10%}]
  exploratory: [{metric: feedback:stars}]
"""
    spec = read_spec(text, "faster.yaml")
    names = [
        [
            goal.metric.name
            for goal in analysis_of(spec, control_version=1, candidate_version=2, stage=n).goals
        ]
        for n in (0, 1)
    ]
    assert names == [["error_rate", "preference:judge"], ["error_rate", "feedback:stars"]]
