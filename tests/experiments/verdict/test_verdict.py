"""The rule of the verdict on evidence made by hand: which kind it is, when, and how long until it is."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.evidence import Account, Instrument
from experiments.metrics import metric
from experiments.statistics import group_sequential
from experiments.verdict import Evidence, Goal, Look, MetricSums, PairSums, conclude, look_taken
from experiments.verdict.weighing import weigh

from ..handmade import GOALS, SECOND, arms, codes, evidence, failing, said, spec, timed


class TestRollBack:
    def test_a_failing_canary_is_named_with_its_numbers(self) -> None:
        verdict = conclude(spec(), evidence(n=(1341, 149), x=(26, 15), share=0.1))
        assert verdict.kind == "roll_back"
        assert verdict.sentence == (
            "Candidate v3 fails more often than v1: 10.1 % against 1.9 % of users "
            "(rate ratio 5.2, tolerated 1.25), after 149 users on the candidate."
        )
        guardrail = verdict.metrics[1]
        assert guardrail.state == "crossed"
        assert guardrail.threshold == pytest.approx(200.0)  # two guardrails share 1 %

    def test_needs_no_look_and_no_minimum(self) -> None:
        verdict = conclude(spec(goals=GOALS[1:2]), evidence(n=(90, 12), x=(0, 8), share=0.1))
        assert verdict.kind == "roll_back"
        assert not verdict.look.scheduled

    def test_as_many_failures_as_tolerated_do_not_count(self) -> None:
        verdict = conclude(spec(), evidence(n=(2000, 2000), x=(200, 250)))
        assert verdict.kind == "keep_running"

    def test_latency_far_beyond_the_margin(self) -> None:
        verdict = conclude(spec(), evidence(means=(6.0, 6.3)))
        assert verdict.kind == "roll_back"
        assert "latency" in verdict.sentence

    def test_latency_worse_but_within_the_margin_is_not_rolled_back(self) -> None:
        assert conclude(spec(), evidence(means=(6.0, 6.09))).kind == "inconclusive"

    def test_few_values_that_happen_to_be_alike_are_not_taken_for_harm(self) -> None:
        """The candidate's first 22 answers are all scored 1, and control's few of 5 are not among them:
        without a spread of their own that would look like a certain harm."""
        goal = Goal(metric=metric("score:judge"), role="guardrail", margin=0.05)
        rare = said("control", 1000, mean=1.2, sd=0.87), said("candidate", 22, mean=1.0, sd=1e-6)
        few = evidence(arms=arms(1000, 22, 0.02), sums=rare)
        judged = conclude(spec(goals=(goal,)), few)
        assert judged.kind == "keep_running"
        assert judged.metrics[0].log_e is not None
        assert judged.metrics[0].log_e < 2.0
        worse = said("control", 1000, mean=1.2, sd=0.87), said("candidate", 300, mean=0.8, sd=1e-6)
        assert (
            conclude(spec(goals=(goal,)), evidence(arms=arms(1000, 300, 0.23), sums=worse)).kind
            == "roll_back"
        )

    def test_phases_with_a_drifting_base_rate_are_not_pooled(self) -> None:
        # Pooled: 6.5 % against 2.2 %. Within each phase the arms fail alike.
        drifting = evidence(
            arms=(*arms(9000, 1000, 0.1, 0), *arms(1000, 1000, 0.5, 1)),
            sums=(
                failing("control", 9000, 90, 0),
                failing("candidate", 1000, 10, 0),
                failing("control", 1000, 120, 1),
                failing("candidate", 1000, 120, 1),
            ),
        )
        verdict = conclude(spec(goals=GOALS[1:2], horizon=100_000), drifting)
        assert verdict.kind == "keep_running"
        effect = verdict.metrics[0].effect
        assert effect is not None
        assert effect.estimate == pytest.approx(0.0, abs=1e-12)

    @pytest.mark.parametrize(
        ("goal", "sums", "says"),
        [
            (
                GOALS[1],
                (
                    *(failing("control", 9500, 950, 0), failing("candidate", 500, 50, 0)),
                    *(failing("control", 5000, 50, 1), failing("candidate", 5000, 150, 1)),
                ),
                "4.1 % against 2.4 % of users (rate ratio 1.7,",
            ),
            (
                GOALS[2],
                (
                    *(timed("control", 9500, 7.0, phase=0), timed("candidate", 500, 7.2, phase=0)),
                    *(timed("control", 5000, 5.0, phase=1), timed("candidate", 5000, 5.2, phase=1)),
                ),
                "249 ms against 204 ms, +22.1 %",
            ),
        ],
        ids=["error_rate", "latency"],
    )
    def test_a_candidate_that_is_worse_in_every_phase_is_not_shown_as_the_better_one(
        self, goal: Goal, sums: tuple[MetricSums, ...], says: str
    ) -> None:
        """Most of the candidate's units came when failures had become rare and answers short: pooled, it
        would have half of the control's."""
        ramp = (*arms(9500, 500, 0.05, 0), *arms(5000, 5000, 0.5, 1))
        verdict = conclude(spec(goals=(goal,), horizon=100_000), evidence(arms=ramp, sums=sums))
        assert verdict.kind == "roll_back"
        assert says in verdict.sentence
        (card,) = verdict.metrics
        control, candidate = (arm.value for arm in card.arms)
        assert card.effect is not None
        assert control is not None
        assert candidate is not None
        apart = candidate / control if card.effect.scale == "ratio" else candidate - control
        assert apart == pytest.approx(card.effect.estimate)


class TestShip:
    def test_better_and_safe_at_the_horizon(self) -> None:
        verdict = conclude(spec(), evidence(means=(6.0, 5.9)))
        assert verdict.kind == "ship"
        assert verdict.look.final
        assert "v3 can replace v1" in verdict.sentence

    def test_not_between_looks(self) -> None:
        past = (Look(at_ns=0, units=4000, effective=4000.0),)
        verdict = conclude(spec(), evidence(n=(2200, 2200), means=(6.0, 5.5)), past_looks=past)
        assert verdict.kind == "keep_running"
        assert codes(verdict) == ["next_look"]

    @pytest.mark.parametrize(
        ("asked", "share", "when"),
        [
            ({"mode": "canary", "full_share": 0.5}, 0.1, "at the last step of the ramp; its units have come"),
            ({"min_duration_s": 7200.0}, 0.5, "2h after the begin (min_duration); its units have come"),
            ({}, 0.5, "at 2,000 of 10,000 units; there are 700"),
        ],
    )
    def test_a_look_whose_units_have_come_says_what_it_waits_for(
        self, asked: dict[str, Any], share: float, when: str
    ) -> None:
        horizon = 1000 if asked else 10_000
        few = evidence(n=(630, 70) if share < 0.5 else (350, 350), x=(9, 1), share=share)
        verdict = conclude(spec(horizon=horizon, looks=5, **asked), few)
        assert [reason.text for reason in verdict.reasons] == [f"The next look is {when}."]

    def test_an_early_look_has_a_higher_bound(self) -> None:
        early = conclude(spec(), evidence(n=(500, 500), means=(6.0, 5.85)))
        assert early.look.scheduled
        assert early.look.z_bound == pytest.approx(4.877, abs=0.003)
        assert early.kind == "keep_running"

    def test_looks_spend_alpha(self) -> None:
        alone = conclude(spec(), evidence())
        past = tuple(Look(at_ns=0, units=k * 1000, effective=k * 1000.0) for k in range(1, 5))
        after = conclude(spec(), evidence(), past_looks=past)
        assert alone.look.z_bound == pytest.approx(1.95996, abs=1e-3)
        assert after.look.z_bound == pytest.approx(2.031, abs=0.003)

    def test_a_stored_look_is_not_taken_twice(self) -> None:
        first = conclude(spec(), evidence(n=(500, 500)))
        look = look_taken(json.loads(first.to_json()))
        assert look is not None
        again = conclude(spec(), evidence(n=(500, 500)), past_looks=(look,))
        assert not again.look.scheduled
        assert again.look.done == 1
        assert look_taken(again.document()) is None

    def test_the_end_is_a_look_although_no_unit_is_new(self) -> None:
        """Eighty tenants, all of them seen on the first day: what comes after is more of each."""
        goals = (Goal(metric=metric("latency"), role="success", mde=0.05),)
        asked = spec(unit="tenant", goals=goals, horizon=100, max_duration_s=7200.0)

        def seen(sd: float, **changes: Any) -> Evidence:
            sums = (timed("control", 40, 6.0, sd), timed("candidate", 40, 5.8, sd))
            return evidence(n=(40, 40), sums=sums, **changes)

        first = conclude(asked, seen(0.8))
        assert (first.kind, first.look.scheduled, first.look.done) == ("keep_running", True, 4)
        past = (look_taken(first.document()),)
        assert not conclude(asked, seen(0.2), past_looks=past).look.scheduled
        last = conclude(asked, seen(0.2, as_of_ns=7200 * SECOND), past_looks=past)
        assert (last.kind, last.look.final) == ("ship", True)
        same = conclude(asked, seen(0.8, as_of_ns=7200 * SECOND), past_looks=past)
        assert same.kind == "inconclusive"

    def test_waits_for_the_minimal_duration(self) -> None:
        verdict = conclude(spec(min_duration_s=7200.0), evidence(means=(6.0, 5.8)))
        assert verdict.kind == "keep_running"

    def test_a_replay_with_nothing_left_waits_for_it_too(self) -> None:
        """What a judge says of the last answers has this long to come."""
        asked = spec(min_duration_s=7200.0)
        early = conclude(asked, evidence(n=(700, 700), exhausted=True))
        assert (early.kind, early.look.final) == ("keep_running", False)
        late = conclude(asked, evidence(n=(700, 700), exhausted=True, as_of_ns=7200 * SECOND))
        assert (late.kind, late.look.final) == ("inconclusive", True)

    def test_a_replay_of_all_units_ends_with_its_last_request_not_with_each_units_first(self) -> None:
        asked = spec(recorded=True, horizon=1000, looks=2)
        first = conclude(asked, evidence(n=(300, 300)))
        past = (look_taken(first.document()),)
        all_met = conclude(asked, evidence(n=(500, 500)), past_looks=past)
        assert (all_met.kind, all_met.look.scheduled, all_met.look.final) == ("keep_running", False, False)
        assert all_met.reasons[0].text.startswith("The next look is at the end of the replay")
        end = conclude(asked, evidence(n=(500, 500), exhausted=True), past_looks=past)
        assert (end.kind, end.look.scheduled, end.look.final) == ("inconclusive", True, True)
        beyond = conclude(asked, evidence(n=(501, 500)), past_looks=past)
        assert (beyond.kind, beyond.look.final) == ("inconclusive", True), "a horizon of fewer units stands"
        live = conclude(spec(horizon=1000, looks=2), evidence(n=(500, 500)), past_looks=past)
        assert live.look.final

    def test_a_failed_golden_set_blocks(self) -> None:
        verdict = conclude(spec(), evidence(means=(6.0, 5.8), golden="fail"))
        assert verdict.kind == "inconclusive"
        assert "golden_not_passed" in codes(verdict)

    def test_a_guardrail_without_data_blocks(self) -> None:
        goals = (*GOALS, Goal(metric=metric("ttft"), role="guardrail", margin=0.1))
        verdict = conclude(spec(goals=goals), evidence(means=(6.0, 5.8)))
        assert verdict.kind == "inconclusive"
        assert verdict.metrics[3].state == "no_data"

    def test_an_end_with_data_that_never_varied_is_not_called_one_without_data(self) -> None:
        goals = (Goal(metric=metric("score:judge"), role="guardrail", margin=0.05),)
        alike = said("control", 2500, mean=1.0, sd=0.0), said("candidate", 2500, mean=1.0, sd=0.0)
        verdict = conclude(spec(goals=goals), evidence(sums=alike))
        assert verdict.label == "Inconclusive: no interval"
        assert "never varies" in verdict.sentence
        verdict = conclude(spec(goals=goals), evidence(sums=alike[:1]))
        assert verdict.label == "Inconclusive: no data"

    def test_no_success_metric_means_do_no_harm(self) -> None:
        assert conclude(spec(goals=GOALS[1:]), evidence()).kind == "ship"

    def test_nothing_declared_is_never_shipped(self) -> None:
        verdict = conclude(spec(goals=()), evidence())
        assert verdict.kind == "inconclusive"
        assert codes(verdict)[0] == "nothing_declared"


class TestInvalid:
    def test_sample_ratio_mismatch_comes_before_harm(self) -> None:
        verdict = conclude(spec(), evidence(n=(600, 400), x=(5, 80)))
        assert verdict.kind == "invalid"
        assert codes(verdict)[:2] == ["sample_ratio_mismatch", "guardrail_crossed"]

    def test_uneven_weights_are_no_mismatch(self) -> None:
        assert conclude(spec(), evidence(n=(900, 100), x=(9, 1), share=0.1)).srm.state == "ok"

    def test_units_in_two_arms(self) -> None:
        assert conclude(spec(), evidence(units_in_two_arms=51)).kind == "invalid"
        assert conclude(spec(), evidence(units_in_two_arms=50)).kind != "invalid"

    def test_a_changed_judge_or_golden_set_ends_the_comparison(self) -> None:
        judges = (
            Instrument(metric="error_rate", version="judge@1:aa", scores=90, counted=True),
            Instrument(metric="error_rate", version="judge@1:bb", scores=10, counted=False),
        )
        found = conclude(spec(), evidence(instruments=judges))
        assert (found.kind, codes(found)) == ("invalid", ["judge_changed"])
        assert "judge@1:aa (90), judge@1:bb (10)" in found.sentence
        assert next(card for card in found.metrics if card.metric == "error_rate").instrument == "judge@1:aa"
        again = (replace(judges[0], complete=True), judges[1])  # one version has scored all of them
        assert conclude(spec(), evidence(instruments=again)).kind != "invalid"
        looked = spec(goals=(*GOALS[:1], Goal(metric=metric("error_rate"), role="exploratory")))
        found = conclude(looked, evidence(instruments=judges))
        assert found.kind != "invalid"
        assert "judge_changed" in codes(found)

    def test_a_changed_golden_set_counts_where_one_is_required(self) -> None:
        sets = tuple(
            Instrument(metric="golden:support", version=digest, scores=1, counted=digest == "aa")
            for digest in ("aa", "bb")
        )
        required = conclude(spec(golden_required=True), evidence(instruments=sets, golden="pass"))
        assert (required.kind, codes(required)) == ("invalid", ["judge_changed"])
        assert conclude(spec(), evidence(instruments=sets)).kind != "invalid"

    def test_missing_values_in_one_arm(self) -> None:
        sums = (failing("control", 2500, 20), failing("candidate", 2500, 20, missing_units=60))
        verdict = conclude(spec(goals=GOALS[1:2]), evidence(sums=sums))
        assert verdict.kind == "invalid"
        assert codes(verdict)[0] == "missing_differs"


class TestShadow:
    def pair(self, n11: int, n10: int, n01: int, n00: int) -> PairSums:
        n = n11 + n10 + n01 + n00
        return PairSums(
            metric="error_rate",
            phase=0,
            clusters=n,
            pairs=n,
            missing=0,
            d=n01 - n10,
            dd=n01 + n10,
            md=n01 - n10,
            mm=n,
            n11=n11,
            n10=n10,
            n01=n01,
            n00=n00,
        )

    def test_a_worse_shadow_is_stopped(self) -> None:
        verdict = conclude(
            spec(mode="shadow", goals=GOALS[1:2]),
            Evidence(experiment="e", as_of_ns=SECOND, started_ns=0, pairs=(self.pair(2, 1, 30, 167),)),
        )
        assert verdict.kind == "roll_back"

    def test_a_sound_shadow_passes_at_its_horizon(self) -> None:
        verdict = conclude(
            spec(mode="shadow", goals=GOALS[1:2], horizon=1000),
            Evidence(experiment="e", as_of_ns=SECOND, started_ns=0, pairs=(self.pair(5, 4, 4, 987),)),
        )
        assert verdict.kind == "ship"
        assert "may go on to real traffic" in verdict.sentence
        assert verdict.srm.state == "not_applicable"

    def alike(self, name: str, n: int, *, control: float, candidate: float, **asked: Any) -> Any:
        """The verdict on n users' pairs that all say the same, of which the horizon is n."""
        apart = candidate - control
        pairs = PairSums(
            metric=name,
            phase=0,
            clusters=n,
            pairs=2 * n,
            missing=0,
            d=2 * n * apart,
            dd=4 * n * apart * apart,
            md=4 * n * apart,
            mm=4 * n,
            control_y=2 * n * control,
        )
        goal = Goal(metric=metric(name), role="guardrail", margin=0.05, **asked)
        seen = Evidence(experiment="e", as_of_ns=SECOND, started_ns=0, pairs=(pairs,))
        return conclude(spec(mode="shadow", goals=(goal,), horizon=n), seen)

    @pytest.mark.parametrize("name", ["score:judge", "preference:judge"])
    def test_a_long_shadow_without_any_difference_passes(self, name: str) -> None:
        level = 0.5 if name.startswith("preference") else 0.9
        verdict = self.alike(name, 400, control=level, candidate=level)
        assert verdict.kind == "ship"
        card = verdict.metrics[0]
        assert (card.state, card.effect.method) == ("ok", "paired-bounded")
        assert -0.01 < card.effect.lower < -0.004
        assert card.log_e < 0.0
        assert "interval" in card.text
        short = self.alike(name, 40, control=level, candidate=level)
        assert short.label == "Inconclusive: underpowered"

    def test_one_that_is_worse_by_the_same_in_every_pair_is_stopped(self) -> None:
        assert self.alike("score:judge", 400, control=0.9, candidate=0.8).kind == "roll_back"
        assert self.alike("score:judge", 400, control=0.9, candidate=0.87).kind == "ship"
        assert self.alike("score:judge", 400, control=0.8, candidate=0.9).kind == "ship"

    def test_where_nothing_limits_a_difference_that_was_not_seen_it_says_why(self) -> None:
        verdict = self.alike("completion_tokens", 400, control=120.0, candidate=125.0)
        assert verdict.label == "Inconclusive: no interval"
        assert verdict.metrics[0].text == (
            "tokens per answer: 125 tokens against 120 tokens, the same difference in every pair; "
            "one that is rare may be of any size, so that there is no interval"
        )
        assert self.alike("score:stars", 400, control=4.0, candidate=4.0).label == "Inconclusive: no interval"


class TestTotality:
    def test_no_evidence_at_all(self) -> None:
        verdict = conclude(spec(), Evidence(experiment="e", as_of_ns=0, started_ns=0))
        assert verdict.kind == "keep_running"
        assert {card.state for card in verdict.metrics} == {"no_data"}
        assert verdict.days_left is None

    def test_the_same_bytes_twice(self) -> None:
        assert conclude(spec(), evidence()).to_json() == conclude(spec(), evidence()).to_json()
        document = json.loads(conclude(spec(), evidence()).to_json())
        assert document["digest"] == conclude(spec(), evidence()).digest()

    @settings(max_examples=150, deadline=None)
    @given(
        counts=st.lists(st.integers(0, 10**9), min_size=4, max_size=4),
        sums=st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=10, max_size=10),
        share=st.floats(0.0, 1.0),
        mode=st.sampled_from(["ab", "canary", "shadow"]),
    )
    def test_any_sums_give_a_verdict(
        self, counts: list[int], sums: list[float], share: float, mode: Any
    ) -> None:
        n0, n1, x0, x1 = counts

        def row(arm: str, n: int, x: int, name: str, at: int) -> MetricSums:
            y, m, yy, mm, ym = sums[at : at + 5]
            return MetricSums(
                metric=name,
                phase=0,
                arm=arm,
                units=n,
                exchanges=n,
                missing=x,
                y=y,
                m=m,
                yy=yy,
                mm=mm,
                ym=ym,
                failing_units=x,
                missing_units=x,
            )

        rows = tuple(
            row(arm, n, x, name, at)
            for name in ("latency", "error_rate", "completion_tokens")
            for arm, n, x, at in (("control", n0, x0, 0), ("candidate", n1, x1, 5))
        )
        pairs = PairSums(
            metric="latency",
            phase=0,
            clusters=n0,
            pairs=n1,
            missing=x0,
            d=sums[0],
            dd=sums[1],
            md=sums[2],
            mm=sums[3],
            control_y=sums[4],
            n11=n0,
            n10=n1,
            n01=x0,
            n00=x1,
        )
        goals = (*GOALS, Goal(metric=metric("completion_tokens"), role="guardrail", margin=0.1))
        verdict = conclude(
            spec(mode=mode, goals=goals),
            evidence(arms=arms(n0, n1, share), sums=rows, pairs=(pairs,)),
        )
        assert verdict.kind in ("invalid", "roll_back", "ship", "keep_running", "inconclusive")
        for card in verdict.metrics:
            for shown in (card.effect, card.band):
                if shown is not None:
                    assert math.isfinite(shown.estimate)
                    assert not math.isnan(shown.lower)
                    assert shown.lower <= shown.estimate <= shown.upper
        json.loads(verdict.to_json())


def test_a_look_hangs_together_with_the_former_ones_by_what_was_known_of_the_failures() -> None:
    """In a ramp along which errors became frequent, the first look knew much less than its units say."""
    rails = spec(goals=(Goal(metric=metric("error_rate"), role="guardrail", margin=0.05),))
    first = evidence(n=(1000, 1000), x=(5, 5), as_of_ns=10**9)
    look = look_taken(conclude(rails, first).document())
    assert look is not None
    known = 1000 * 1000 * 10 * 1990 / (2000**2 * 1999)
    assert look.information == {"error_rate": pytest.approx(known)}
    later = evidence(n=(2500, 2500), x=(200, 200))
    now = 2500 * 2500 * 400 * 4600 / (5000**2 * 4999)
    bound = weigh(rails, later, (look,)).margin_bounds["error_rate"]
    expected = group_sequential.bounds([0.4, 1.0], alpha=0.05, sides=1, information=[known, now])[-1]
    assert bound == pytest.approx(expected)
    by_units = weigh(rails, later, (replace(look, information={}),)).margin_bounds["error_rate"]
    assert by_units != pytest.approx(expected, abs=1e-4)


def test_days_left_follow_from_what_is_still_unsure() -> None:
    rails = (Goal(metric=metric("latency"), role="guardrail", margin=0.1),)

    def left(sd: float) -> float | None:
        sums = (timed("control", 400, 6.0, sd), timed("candidate", 400, 6.0, sd))
        known = evidence(n=(400, 400), sums=sums)
        return conclude(spec(goals=rails, looks=25, max_duration_s=1e9), known).days_left

    hour = 1 / 24
    # (1.645 + 0.842)^2 (sd^2 (2/n)) / ln(1.1)^2 units an arm, at 800 an hour; looks every 200.
    needed = 2 * (1.6449 + 0.8416) ** 2 * 2 * 0.8**2 / math.log(1.1) ** 2
    assert left(0.8) == pytest.approx((math.ceil(needed / 200) * 200 - 800) / 800 * hour, rel=1e-6)
    assert left(3.0) == pytest.approx((5000 - 800) / 800 * hour)
    assert left(0.3) == pytest.approx(200 / 800 * hour)


class TestCopiesThatAProviderRefused:
    """A 429 to a copy is no quality of the candidate, but what it leaves of a shadow has to be said."""

    @staticmethod
    def shadow(limited: int, answered: int) -> Any:
        ends = (("complete", answered), ("shed", limited))
        account = Account(place="candidate", outcomes=ends, shed=(("rate_limited", limited),))
        return conclude(
            spec(mode="shadow", goals=GOALS[1:2]), evidence(arms=(), sums=(), accounts=(account,))
        )

    def test_where_none_is_left_that_is_what_is_said(self) -> None:
        verdict = self.shadow(40, 0)
        assert verdict.kind == "keep_running"
        assert verdict.sentence.startswith("No data yet: keep running. The candidate's provider answered 429")
        assert "40 of 40 copies" in verdict.sentence
        assert "copies_rate_limited" in codes(verdict)

    def test_a_key_that_is_wanting_is_told_from_the_first_on(self) -> None:
        shed = (("breaker_open", 9), ("provider_credential_missing", 1))
        account = Account(place="candidate", outcomes=(("shed", 10),), shed=shed)
        verdict = conclude(
            spec(mode="shadow", goals=GOALS[1:2]), evidence(arms=(), sums=(), accounts=(account,))
        )
        assert "1 of 10 copies" in verdict.sentence
        assert "--credential" in verdict.sentence
        assert "copies_without_key" in codes(verdict)

    def test_a_few_are_not_worth_a_word(self) -> None:
        assert "copies_rate_limited" in codes(self.shadow(6, 94))
        assert "copies_rate_limited" not in codes(self.shadow(5, 95))
        assert "copies_rate_limited" not in codes(self.shadow(0, 0))
