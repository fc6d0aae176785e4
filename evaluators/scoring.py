"""What do all checks of an item say about one output, under the set's policy?

An answer that failed (engine error, timeout, cut, empty) is scored 0 by every check unless policy says
otherwise; an answer that was never had (overload, no engine reached, refused by Turnout) is missing; an
exception in a scorer, a silent judge or a value that is none is missing too. Nothing here turns an error of
an instrument into a number.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, cast

import orjson

from evaluators.errors import EvaluatorError, ModelRefused, ModelUnavailable
from evaluators.golden import Check, GoldenItem, Policy
from evaluators.judges.cache import score_key
from evaluators.models import NO_SERVICES, Services
from evaluators.score import Output, PairScore, Score
from evaluators.scorers import EvalContext, Evaluator, evaluator_of
from evaluators.scorers.patterns import PatternTimeout
from evaluators.scorers.registry import Need, Options, PairEvaluator
from evaluators.wellformed import well_formed

#: The version was asked and failed: what users would have got.
TARGET_ERRORS: Final = frozenset(("truncated", "empty", "upstream_error", "upstream_rejected", "timeout"))
_EDGE: Final = 1e-9  # a cosine of 1.0000000002 is 1


async def score_output(
    item: GoldenItem, output: Output, policy: Policy, *, repeat: int = 0, services: Services = NO_SERVICES
) -> list[tuple[Check, Score]]:
    """One score per check of the item, in the order of its checks."""
    return [
        (check, await score_check(check, item, output, policy, repeat=repeat, services=services))
        for check in item.checks
    ]


async def score_check(
    check: Check,
    item: GoldenItem,
    output: Output,
    policy: Policy,
    *,
    repeat: int = 0,
    services: Services = NO_SERVICES,
) -> Score:
    """What one check says. Never raises for what a scorer does."""
    evaluator = evaluator_of(check)
    if evaluator.kind == "pairwise":
        return Score.skipped(check.key, "judged in pairs, when two versions are compared")
    without_answer = _by_outcome(check, output, policy)
    if without_answer is not None:
        return without_answer
    if lacking := lacking_needs(evaluator, check.options, item, services):
        return Score.skipped(check.key, f"there is no {', '.join(lacking)}")
    context = EvalContext(name=check.key, options=check.options, repeat=repeat, services=services)
    try:
        score = storable(await _score(evaluator, check, item, output, context))
    except Exception as error:  # a scorer's fault, whatever it is, is missing data and not the end of the run
        return _fault(check, error)
    return _settled(check, evaluator, score)


async def score_pair(
    check: Check,
    item: GoldenItem,
    control: Output,
    candidate: Output,
    *,
    repeat: int = 0,
    services: Services = NO_SERVICES,
) -> PairScore:
    """What a check of kind `pairwise` prefers, from the cache where these very answers were judged before.
    Never raises for what an evaluator or its judge does."""
    evaluator = cast(PairEvaluator, evaluator_of(check))
    if lacking := lacking_needs(evaluator, check.options, item, services):
        return PairScore(score=Score.skipped(check.key, f"there is no {', '.join(lacking)}"))
    context = EvalContext(name=check.key, options=check.options, repeat=repeat, services=services)
    cache, judge = services.cache, services.judge
    try:
        if cache is None or judge is None:
            found = await evaluator.compare(item, control, candidate, context)
            storable(found.score)
            return found
        key = score_key(check, item, (control, candidate), repeat, judge.identity)
        if (kept := cache.get(key)) is not None:
            return PairScore.of(replace(kept, name=check.key))
        found = await evaluator.compare(item, control, candidate, context)
        cache.put(key, storable(found.score))
    except Exception as error:
        return PairScore(score=_fault(check, error))
    return found


def storable(score: Score) -> Score:
    """The score itself. Raises TypeError for one that could not be kept: what an evaluator of somebody's own
    puts beside its value must be texts, and JSON."""
    for name, text in (("label", score.label), ("explanation", score.explanation)):
        if not isinstance(text, str | None):
            raise TypeError(f"{name} is {type(text).__name__}, expected a text")
    orjson.dumps((score.label, score.explanation, score.detail))
    return score


def _fault(check: Check, error: Exception) -> Score:
    """What kept an instrument from its score: missing data."""
    if isinstance(error, PatternTimeout):
        return Score.failed(check.key, "pattern_timeout", str(error))
    if isinstance(error, ModelRefused):
        return Score.failed(check.key, "model_refused", str(error))
    if isinstance(error, ModelUnavailable):
        return Score.failed(check.key, "model_unavailable", str(error))
    if isinstance(error, EvaluatorError):
        return Score.failed(check.key, "unusable", str(error))
    why = well_formed(f"the scorer {check.type!r} failed: {error}")
    return Score.failed(check.key, type(error).__name__, why)


async def _score(
    evaluator: Evaluator, check: Check, item: GoldenItem, output: Output, context: EvalContext
) -> Score:
    cache, judge = context.services.cache, context.services.judge
    if cache is None or judge is None or evaluator.kind != "judge":
        return await evaluator.score(item, output, context)
    key = score_key(check, item, (output,), context.repeat, judge.identity)
    found = cache.get(key)
    if found is None:
        found = await evaluator.score(item, output, context)
        cache.put(key, found)
    return replace(found, name=check.key)


def requires(check: Check) -> frozenset[Need]:
    """What the check's evaluator needs of its item, its set or its caller."""
    return evaluator_of(check).requires


def lacking_needs(
    evaluator: Evaluator, options: Options, item: GoldenItem, services: Services | None = None
) -> list[Need]:
    """What the evaluator requires and neither the check's options nor the item give, sorted. Models are
    looked for where `services` are given."""
    given = set(options.supplies())
    if item.reference:
        given.add("reference")
    if item.tools:
        given.add("tools")
    if item.response_format is not None:
        given.add("schema")
    if services is None or services.judge is not None:
        given.add("judge")
    if services is None or services.embedder is not None:
        given.add("embedder")
    return sorted(evaluator.requires - given)


def _by_outcome(check: Check, output: Output, policy: Policy) -> Score | None:
    """The score that follows from how the answer ended, or None when there is an answer to look at."""
    outcome, why = output.outcome, output.error or ""
    if outcome == "complete" or (outcome == "length" and policy.length == "score"):
        return None
    if outcome == "length":
        return Score.of_outcome(check.key, "length", "the answer ran into max_tokens")
    if outcome in TARGET_ERRORS:
        if (check.target_errors or policy.target_errors) == "zero":
            return Score.of_outcome(check.key, outcome, f"no answer: {outcome}. {why}".strip())
        return Score.unscored(check.key, f"no answer: {outcome}. {why}".strip(), label=outcome)
    if outcome == "overloaded":
        # Overload is a state of the moment, which the run itself may have caused: no quality of the version.
        return Score.unscored(check.key, f"the engine was overloaded. {why}".strip(), label=outcome)
    return Score.failed(check.key, outcome or "unreached", why or "no answer was obtained")


def _settled(check: Check, evaluator: Evaluator, score: Score) -> Score:
    """The score as it is stored: in [0, 1], the more the better, `not` applied."""
    if score.value is None:
        return score
    if not -_EDGE <= score.value <= 1.0 + _EDGE:
        return Score.failed(
            check.key, "out_of_range", f"the scorer {check.type!r} gave {score.value:g}; scores lie in [0, 1]"
        )
    value = min(1.0, max(0.0, score.value))
    value = settled_value(check, 1.0 - value if evaluator.direction == "min" else value)
    if check.negate:
        explanation = f"not: {score.explanation}" if score.explanation else None
        return replace(score, value=value, explanation=explanation)
    return score if value == score.value else replace(score, value=value)


def settled_value(check: Check, value: float) -> float:
    """What the check makes of its scorer's value in [0, 1], the more the better: `not` applied."""
    if not check.negate:
        return value
    # The opposite of a mere number means nothing: `not` asks that the check does not pass.
    return 1.0 - value if value in (0.0, 1.0) else float(not check.passes(value))
