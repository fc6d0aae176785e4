"""What may be changed in a running experiment changes no verdict, and nobody's arm."""

from __future__ import annotations

from experiments.amendment import AMENDABLE, amendments
from experiments.document import dotted
from experiments.lifecycle import begin
from experiments.spec import ExperimentSpec, analysis_of, read_spec

from .plane import CANARY, CHAIN, SHADOW

PRICES = "prices: {prompt: 1, completion: 1}"
#: Each field that may change: a file, what stands there, and what else may.
OTHERWISE = {
    "on_ship": (CANARY, "mode: canary", "mode: canary\non_ship: promote"),
    "policies": (CANARY, "mode: canary", "mode: canary\npolicies: {sample_ratio: warn}"),
    "traffic.min_units": (CANARY, "min_units: 10", "min_units: 20"),
    "traffic.min_duration": (CANARY, "min_duration: 1m", "min_duration: 1h"),
    "traffic.hold_at": (CANARY, "min_units: 10", "min_units: 10, hold_at: [25]"),
    "traffic.max_tokens": (SHADOW, "share: 20", "share: 20, max_tokens: 5"),
    "traffic.max_cost": (SHADOW, "share: 20", f"share: 20, max_cost: 5, {PRICES}"),
    "traffic.prices": (SHADOW, "share: 20", f"share: 20, {PRICES}"),
    "stages.canary.min_units": (CHAIN, "min_units: 10", "min_units: 20"),
    "stages.canary.min_duration": (CHAIN, "min_duration: 1m", "min_duration: 1h"),
    "stages.canary.hold_at": (CHAIN, "min_units: 10", "min_units: 10, hold_at: [25]"),
    "stages.shadow.max_tokens": (CHAIN, "share: 20", "share: 20, max_tokens: 5"),
    "stages.shadow.max_cost": (CHAIN, "share: 20", f"share: 20, max_cost: 5, {PRICES}"),
    "stages.shadow.prices": (CHAIN, "share: 20", f"share: 20, {PRICES}"),
}


def measured(spec: ExperimentSpec) -> list[object]:
    """Everything that a verdict follows from, and that decides who is in it."""
    stages = range(len(spec.plan))
    return [
        begin(spec, "", control_version=1, candidate_version=2, now_ns=1_000).split(),
        [analysis_of(spec, control_version=1, candidate_version=2, stage=stage) for stage in stages],
        [stage.weights_ppm for stage in spec.plan],
        (spec.control, spec.candidate, spec.gate, spec.exclude, spec.exclusive, spec.holdout),
    ]


def test_no_verdict_follows_from_what_may_change() -> None:
    assert set(OTHERWISE) == set(map(dotted, AMENDABLE))
    for path, (text, before, after) in OTHERWISE.items():
        spec, other = read_spec(text), read_spec(text.replace(before, after))
        found = [dotted(one) for one in amendments(spec, other)]
        assert [one for one in found if one.startswith(path)], (path, found)
        assert measured(other) == measured(spec), path


def test_the_same_declaration_has_nothing_to_change() -> None:
    for text in (CANARY, SHADOW, CHAIN):
        assert amendments(read_spec(text), read_spec("# a comment\n" + text)) == ()
