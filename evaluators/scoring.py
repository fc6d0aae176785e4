"""What do all checks of an item say about one output, under the set's policy?

An answer that failed (engine error, timeout, cut, empty) is scored 0 by every check unless policy says
otherwise; an answer that was never had (overload, no engine reached, refused by Turnout) is missing; an
exception in a scorer is missing too. Nothing here turns an error of an instrument into a number.
"""

from __future__ import annotations

from typing import Final

from evaluators.golden import Check, GoldenItem, Policy
from evaluators.score import Output, Score
from evaluators.scorers import EvalContext, Evaluator, evaluator_named
from evaluators.scorers.patterns import PatternTimeout
from evaluators.scorers.registry import Need, Options

#: The version was asked and failed: what users would have got.
TARGET_ERRORS: Final = frozenset(("truncated", "empty", "upstream_error", "upstream_rejected", "timeout"))


async def score_output(
    item: GoldenItem, output: Output, policy: Policy, *, repeat: int = 0
) -> list[tuple[Check, Score]]:
    """One score per check of the item, in the order of its checks."""
    return [(check, await _score_check(check, item, output, policy, repeat)) for check in item.checks]


async def _score_check(check: Check, item: GoldenItem, output: Output, policy: Policy, repeat: int) -> Score:
    without_answer = _by_outcome(check, output, policy)
    if without_answer is not None:
        return without_answer
    evaluator = evaluator_named(check.type)
    if lacking := lacking_needs(evaluator, check.options, item):
        return Score.skipped(check.key, f"the item has no {', '.join(lacking)}")
    context = EvalContext(name=check.key, options=check.options, repeat=repeat)
    try:
        score = await evaluator.score(item, output, context)
    except PatternTimeout as error:
        return Score.failed(check.key, "pattern_timeout", str(error))
    except Exception as error:  # a scorer's fault, whatever it is, is missing data and not the end of the run
        return Score.failed(check.key, type(error).__name__, f"the scorer {check.type!r} failed: {error}")
    return _negated(score) if check.negate else score


def lacking_needs(evaluator: Evaluator, options: Options, item: GoldenItem) -> list[Need]:
    """What the evaluator requires and neither the check's options nor the item give, sorted."""
    given = set(options.supplies())
    if item.reference:
        given.add("reference")
    if item.tools:
        given.add("tools")
    if item.response_format is not None:
        given.add("schema")
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


def _negated(score: Score) -> Score:
    if score.value is None:
        return score
    return Score(
        name=score.name,
        status="scored",
        value=1.0 - score.value,
        label=score.label,
        explanation=f"not: {score.explanation}" if score.explanation else None,
        metadata=score.metadata,
    )
