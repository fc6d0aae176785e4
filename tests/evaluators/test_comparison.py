from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.comparison import Comparison, compare, decide, items_needed
from evaluators.estimates import Effect, PairedValue, paired_effect
from evaluators.golden import GoldenSet
from evaluators.results import ResultRow
from evaluators.summary import RunResults, summarise

from .sets import make_set, row

Value = float | None


def results(golden: GoldenSet, values: Mapping[str, Value | list[Value]], *, version: int = 1) -> RunResults:
    """A run with these values of the first check of each item; None is an unscored answer, by repeat."""
    rows = []
    repeats = 1
    for item in golden.items:
        if item.id not in values:
            continue
        given = values[item.id]
        series = given if isinstance(given, list) else [given]
        repeats = max(repeats, len(series))
        for repeat, value in enumerate(series):
            rows.extend(
                ResultRow(
                    item_id=item.id,
                    item_hash=item.hash,
                    repeat=repeat,
                    evaluator=check.key,
                    evaluator_version=f"{check.type}@{check.version}",
                    status="unscored" if value is None else "scored",
                    value=value,
                    outcome="overloaded" if value is None else "complete",
                    output={"text": f"v{version} said {value}"},
                )
                for check in item.checks
            )
    return RunResults.of(f"run-{version}", version, golden.hash, repeats, rows)


def versus(golden: GoldenSet, control: Mapping[str, Any], candidate: Mapping[str, Any]) -> Comparison:
    return compare(golden, results(golden, control), results(golden, candidate, version=2))


def numbered(folder: Path, n: int, set_yaml: str = "", **fields: Any) -> GoldenSet:
    return make_set(folder, [row(f"q{k}", **fields) for k in range(n)], set_yaml)


def passing(n: int, *, failing: int = 0, first: int = 0) -> dict[str, float]:
    """n items, of which `failing` fail from number `first` on."""
    return {f"q{k}": float(not first <= k < first + failing) for k in range(n)}


def test_an_identical_candidate_passes_when_the_set_is_large_enough(tmp_path: Path) -> None:
    found = versus(numbered(tmp_path, 80), passing(80, failing=3), passing(80, failing=3))
    assert found.verdict == "pass"
    assert found.gate.effect is not None
    assert found.gate.effect.estimate == 0.0
    assert found.gate.effect.method == "paired-bounded"
    assert (found.gate.both, found.gate.neither, found.coverage) == (77, 3, 1.0)


def test_a_small_set_cannot_pass_and_says_what_it_takes(tmp_path: Path) -> None:
    found = versus(numbered(tmp_path, 20), passing(20), passing(20))
    assert found.verdict == "inconclusive"
    assert found.more_items is not None
    assert 20 < found.more_items < 120
    assert f"needs about {found.more_items} more items" in found.sentence
    assert [reason.code for reason in found.reasons] == ["underpowered"]


def test_a_worse_candidate_fails_and_every_newly_failing_item_is_shown(tmp_path: Path) -> None:
    found = versus(
        numbered(tmp_path, 60, tags=["t"]), passing(60, failing=2), passing(60, failing=20, first=1)
    )
    assert found.verdict == "fail"
    assert found.gate.effect is not None
    assert found.gate.effect.upper < 0
    assert (found.gate.only_control, found.gate.only_candidate) == (19, 1)
    assert [change.item_id for change in found.newly_failing] == [f"q{k}" for k in range(2, 21)]
    change = found.newly_failing[0]
    assert (change.tags, change.expected, change.got) == (("t",), "'right'", "v2 said 0.0")
    assert [change.item_id for change in found.newly_passing] == ["q0"]


def test_worse_but_within_the_declared_margin_passes_and_says_so(tmp_path: Path) -> None:
    golden = numbered(tmp_path, 400, "margin: 0.08\n")
    found = versus(golden, passing(400), passing(400, failing=14))
    assert found.verdict == "pass"
    assert "It is worse, but within what is tolerated." in found.sentence


def test_a_rate_is_never_rounded_to_all_or_nothing_and_thousands_are_set_apart(tmp_path: Path) -> None:
    golden = numbered(tmp_path, 4000, "min_pass_rate: 0.9999\n")
    result = versus(golden, passing(4000), passing(4000, failing=1))
    assert result.sentence == "Fail: 3,999 of 4,000 answers passed (99.975 %), below the floor of 99.990 %."
    golden = numbered(tmp_path, 4000)
    result = versus(golden, passing(4000), passing(4000, failing=1))
    assert "99.975 % of 4,000 items pass with the candidate, 100.0 % with the control" in result.sentence
    assert "difference -0.025 points" in result.sentence


def test_the_sets_own_floor_fails_a_candidate_that_is_as_bad_as_production(tmp_path: Path) -> None:
    golden = numbered(tmp_path, 100, "min_pass_rate: 0.9\n")
    found = versus(golden, passing(100, failing=20), passing(100, failing=20))
    assert (found.verdict, [reason.code for reason in found.reasons]) == ("fail", ["below_floor"])


def test_too_little_coverage_is_inconclusive_however_good_the_rest(tmp_path: Path) -> None:
    golden = numbered(tmp_path, 100)
    candidate = {**passing(100), "q1": None, "q2": None, "q3": None}
    found = versus(golden, passing(100), candidate)
    assert (found.verdict, [reason.code for reason in found.reasons]) == ("inconclusive", ["coverage"])
    assert (found.gate.n, found.gate.missing, found.coverage) == (97, 3, 0.97)
    assert all(change.item_id not in ("q1", "q2", "q3") for change in found.newly_failing)


def test_missing_answers_that_could_flip_the_decision_make_it_inconclusive(tmp_path: Path) -> None:
    golden = numbered(tmp_path, 80, "coverage_floor: 0.9\n")
    whole = versus(golden, passing(80), passing(80))
    assert whole.verdict == "pass"
    one_missing = versus(golden, passing(80), {**passing(80), "q1": None})
    assert (one_missing.verdict, [r.code for r in one_missing.reasons]) == (
        "inconclusive",
        ["missing_decides"],
    )
    large = make_set(tmp_path / "large", [row(f"q{k}") for k in range(200)], "coverage_floor: 0.9\n")
    harmless = versus(large, passing(200), {**passing(200), "q1": None})
    assert harmless.verdict == "pass"


def test_a_fail_stands_only_if_the_best_case_fails_too(tmp_path: Path) -> None:
    golden = numbered(tmp_path, 60, "coverage_floor: 0.5\n")
    candidate: dict[str, Value] = {**passing(60, failing=8)}
    assert versus(golden, passing(60), candidate).verdict == "fail"
    lucky = versus(golden, {**passing(60), **{f"q{k}": None for k in range(50, 60)}}, candidate)
    assert [reason.code for reason in lucky.reasons][-1] == "missing_decides"


def test_changed_items_are_told_and_not_compared(tmp_path: Path) -> None:
    old = numbered(tmp_path / "old", 80)
    new = make_set(
        tmp_path / "new", [row(f"q{k}", reference="other" if k < 3 else "right") for k in range(1, 82)]
    )
    control = results(old, passing(80, failing=2, first=1))
    candidate = results(new, passing(82), version=2)
    found = compare(new, control, candidate)
    assert found.changed == ("q1", "q2")
    assert (found.only_control, found.only_candidate) == (("q0",), ("q80", "q81"))
    assert found.gate.n == 77
    assert found.newly_passing == ()
    assert found.reasons[0].code == "changed_items"


def test_items_of_this_set_without_any_row_are_missing_not_dropped(tmp_path: Path) -> None:
    golden = numbered(tmp_path, 100)
    found = versus(golden, passing(100), {key: 1.0 for key in passing(100) if key not in ("q1", "q2", "q3")})
    assert (found.verdict, found.coverage, found.gate.missing) == ("inconclusive", 0.97, 3)


def test_repeats_are_averaged_first_and_clusters_widen_the_interval(tmp_path: Path) -> None:
    rng = Random(1)
    rows = [row(f"q{k}", cluster_id=f"c{k // 5}") for k in range(60)]
    clustered = make_set(tmp_path / "c", rows)
    alone = numbered(tmp_path / "a", 60)
    bad = {k: rng.random() < 0.2 for k in range(12)}  # whole clusters go wrong together
    candidate = {f"q{k}": [float(not bad[k // 5]), 1.0, float(not bad[k // 5])] for k in range(60)}
    control = {f"q{k}": [1.0, 1.0, 1.0] for k in range(60)}
    wide, narrow = versus(clustered, control, candidate), versus(alone, control, candidate)
    for found in (wide, narrow):
        assert found.gate.effect is not None
        assert found.gate.effect.method == "paired-bounded"
        assert found.gate.effect.estimate == pytest.approx(-sum(bad.values()) * 5 / 60 * 2 / 3)
    assert wide.gate.effect is not None
    assert narrow.gate.effect is not None
    width = [e.upper - e.lower for e in (narrow.gate.effect, wide.gate.effect)]
    assert width[1] > 1.5 * width[0]


def test_of_clusters_without_a_difference_each_may_be_lost_whole(tmp_path: Path) -> None:
    for clusters, verdict in ((71, "inconclusive"), (72, "pass")):
        rows = [row(f"q{k}", cluster_id=f"c{k // 3}") for k in range(3 * clusters)]
        golden = make_set(tmp_path / verdict, rows)
        found = versus(golden, passing(3 * clusters, failing=2), passing(3 * clusters, failing=2))
        assert found.gate.effect is not None
        assert found.gate.effect.lower == pytest.approx(-0.05, abs=0.001)
        assert found.verdict == verdict
    assert found.more_items is None


def test_a_control_that_does_not_answer_is_warned_of(tmp_path: Path) -> None:
    golden = numbered(tmp_path, 60)
    control = results(golden, passing(60))
    silent = [
        ResultRow(
            **{**{f: getattr(r, f) for f in r.__dataclass_fields__}, "value": 0.0, "outcome": "timeout"}
        )
        for rows in control.rows.values()
        for r in rows
    ]
    down = RunResults.of("run-1", 1, golden.hash, 1, silent)
    found = compare(golden, down, results(golden, passing(60), version=2))
    assert found.verdict == "pass"
    assert [reason.code for reason in found.reasons] == ["control_failing"]


def test_an_item_passes_by_its_gating_checks_alone_and_missing_needs_no_failure(tmp_path: Path) -> None:
    checks = [{"type": "exact"}, {"type": "contains", "gate": False}, {"type": "regex", "pattern": "r"}]
    golden = make_set(tmp_path, [row("a", checks=checks)])
    item = golden.items[0]

    def tally(**statuses: Value) -> tuple[int, float]:
        rows = [
            ResultRow(
                item_id="a", item_hash=item.hash, repeat=0, evaluator=key, evaluator_version=f"{key}@1",
                status="error" if value is None else "scored", value=value,
            )
            for key, value in statuses.items()
        ]  # fmt: skip
        found = RunResults.of("r", 1, golden.hash, 1, rows).tally(item)
        assert found is not None
        return found.observed, found.total

    assert tally(exact=1.0, contains=0.0, regex=1.0) == (1, 1.0)
    assert tally(exact=1.0, contains=1.0, regex=0.0) == (1, 0.0)
    assert tally(exact=1.0, contains=1.0, regex=None) == (0, 0.0)
    assert tally(exact=0.0, contains=1.0, regex=None) == (1, 0.0)
    assert tally(exact=1.0, contains=1.0) == (0, 0.0)


@pytest.mark.parametrize(
    ("yaml", "values", "gate"),
    [
        ("", passing(100, failing=60), "pass"),
        ("", {**passing(100), "q0": None, "q1": None, "q2": None}, "inconclusive"),
        ("min_pass_rate: 0.9\n", passing(100, failing=10), "pass"),
        ("min_pass_rate: 0.9\n", passing(100, failing=11), "fail"),
        ("min_pass_rate: 0.9\n", {**passing(100, failing=10), "q50": None}, "inconclusive"),
    ],
)
def test_the_gate_of_a_single_run(tmp_path: Path, yaml: str, values: dict[str, Value], gate: str) -> None:
    golden = numbered(tmp_path, 100, yaml)
    summary = summarise(golden, results(golden, values))
    assert summary.gate == gate
    assert summary.planned == summary.scored + summary.missing == 100
    json.dumps(summary.to_json(), allow_nan=False)


def effect(lower: float, upper: float, p: float | None = 0.001) -> Effect:
    return Effect(
        estimate=(lower + upper) / 2,
        lower=lower,
        upper=upper,
        level=0.95,
        method="m",
        method_version="1",
        p_value=p,
    )


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (effect(-0.04, 0.02), "pass"),
        (effect(-0.05, 0.02), "inconclusive"),
        (effect(0.01, 0.2), "pass"),
        (effect(-0.2, -0.01), "fail"),
        (effect(-0.2, -0.01, p=0.06), "inconclusive"),
        (effect(-0.2, 0.0), "inconclusive"),
        (effect(-0.2, 0.2), "inconclusive"),
        (None, "inconclusive"),
    ],
)
def test_the_decision_by_an_interval(given: Effect | None, verdict: str) -> None:
    assert decide(given, 0.05) == verdict


def test_the_number_of_items_that_would_decide_is_about_right() -> None:
    small = paired_effect(
        [PairedValue(control=1, candidate=1, cluster=str(k)) for k in range(20)], alpha=0.05
    )
    assert small is not None
    more = items_needed(small, 20, 0.05)
    assert more is not None
    n = 20 + more
    large = paired_effect([PairedValue(control=1, candidate=1, cluster=str(k)) for k in range(n)], alpha=0.05)
    assert decide(large, 0.05) == "pass"
    assert items_needed(effect(-0.2, 0.2), 50, 0.0) is None


score = st.sampled_from([0.0, 1.0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(score, score), min_size=1, max_size=40), st.integers(1, 4))
def test_swapping_the_versions_mirrors_the_effect(pairs: list[tuple[float, float]], size: int) -> None:
    def found(swap: bool) -> Effect | None:
        values = [
            PairedValue(control=b if swap else a, candidate=a if swap else b, cluster=str(k // size))
            for k, (a, b) in enumerate(pairs)
        ]
        return paired_effect(values, alpha=0.05)

    one, other = found(False), found(True)
    assert one is not None
    assert other is not None
    assert one.estimate == pytest.approx(-other.estimate)
    assert (one.lower, one.upper) == (pytest.approx(-other.upper), pytest.approx(-other.lower))
    assert one.lower < one.upper
    assert one.lower <= one.estimate <= one.upper


@pytest.mark.parametrize(("n", "size"), [(30, 1), (50, 1), (60, 3)])
def test_at_the_null_it_fails_seldom_and_the_interval_covers(n: int, size: int) -> None:
    rng = Random(7)
    fails = covered = 0
    for _ in range(500):
        values = [
            PairedValue(
                control=float(rng.random() < 0.9), candidate=float(rng.random() < 0.9), cluster=str(k // size)
            )
            for k in range(n)
        ]
        found = paired_effect(values, alpha=0.05)
        assert found is not None
        fails += decide(found, 0.05) == "fail"
        covered += found.lower <= 0.0 <= found.upper
    assert fails / 500 <= 0.05
    assert covered / 500 >= 0.94


def test_a_comparison_is_json(tmp_path: Path) -> None:
    golden = numbered(tmp_path, 60)
    found = versus(golden, passing(60, failing=1), {**passing(60, failing=2, first=1), "q9": None})
    value = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert value["items"] == {
        "planned": 60, "compared": 59, "missing": 1, "changed": [], "only_control": [], "only_candidate": []
    }  # fmt: skip
    assert value["gate"]["effect"]["level"] == 0.95
    assert value["newly_failing"][0]["item_id"] == "q1"
    assert value["metrics"][0]["evaluator"] == "exact"


@pytest.mark.parametrize(
    ("statuses", "worth"),
    [
        ({"exact": 1.0, "contains": 0.0}, (1, 0.75)),
        ({"exact": 0.0, "contains": 1.0}, (1, 0.25)),
        ({"exact": 1.0, "contains": None}, (0, 0.0)),
    ],
)
def test_with_item_score_mean_an_item_is_worth_the_weighted_mean_of_its_checks(
    tmp_path: Path, statuses: dict[str, Value], worth: tuple[int, float]
) -> None:
    checks = [{"type": "exact", "weight": 3.0}, {"type": "contains"}]
    golden = make_set(tmp_path, [row("a", checks=checks)], "item_score: mean\n")
    item = golden.items[0]
    rows = [
        ResultRow(
            item_id="a", item_hash=item.hash, repeat=0, evaluator=key, evaluator_version=f"{key}@1",
            status="error" if value is None else "scored", value=value,
        )
        for key, value in statuses.items()
    ]  # fmt: skip
    found = RunResults.of("r", 1, golden.hash, 1, rows).tally(item, score=golden.policy.item_score)
    assert found is not None
    assert (found.observed, found.total) == worth
