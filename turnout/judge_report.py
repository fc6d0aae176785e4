"""How do judges, and what people's labels make of them, look in a terminal?

Sentences only: everything shown was worked out by `evaluators`.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from evaluators.judges.health import JudgeHealth
from evaluators.labels.agreement import Agreement
from evaluators.labels.correction import Correction
from experiments.figures import percent, points

from .terminal import plain


def print_judges(console: Console, judges: Sequence[JudgeHealth]) -> None:
    """A line a judge: what came of asking it."""
    for one in judges:
        parts = [f"asked {one.asked} times", f"{one.unparseable} without a verdict"]
        parts += [f"{one.errors} not answered"] if one.errors else []
        parts += [f"{one.cached} known from before"] if one.cached else []
        if one.latency_p50_ms is not None and one.latency_p95_ms is not None:
            parts.append(f"{one.latency_p50_ms:.0f} ms (p95 {one.latency_p95_ms:.0f})")
        parts += [f"{one.tokens} tokens"] if one.tokens else []
        parts += [f"{one.cost_usd:.4f} USD"] if one.cost_usd else []
        _say(console, f"Judge {one.judge or 'unreached'} of {one.evaluator}: {', '.join(parts)}.")


def print_correction(console: Console, found: Correction, alpha: float) -> None:
    """What people's labels say of a check: how many, how the judge agrees with them, the corrected effect."""
    if not found.drawn:
        return
    labels = f"{found.labelled} of {found.drawn} drawn items are labelled (of {found.open} that differ)"
    parts = [labels, *([f"by {', '.join(found.labellers)}"] if found.labellers else [])]
    _say(console, f"Labels of {found.evaluator}: {' '.join(parts)}.")
    for one in (found.agreement, *found.among):
        if one is not None:
            _say(console, f"  {_agreement(one)}")
    if found.effect is None:
        return
    effect = found.effect
    ends = f"{points(effect.lower, 1)} to {points(effect.upper, 1)}"
    again = f", for it is look {found.declarations}" if effect.level > 1 - alpha + 1e-9 else ""
    _say(
        console,
        f"  Corrected difference {points(effect.estimate, 1)} points, {100 * effect.level:.4g} % interval "
        f"{ends}{again} ({effect.method}).",
    )


def _agreement(found: Agreement) -> str:
    one, other = found.raters
    text = f"{one} and {other} agree on {percent(found.raw or 0.0)} of {found.n:,} answers"
    if found.kappa is None:
        return f"{text}; kappa is not defined where one grade is all there is."
    if found.lower is None or found.upper is None:
        return f"{text}, kappa {found.kappa:.2f}."
    return f"{text}, kappa {found.kappa:.2f} (95 % interval {found.lower:.2f} to {found.upper:.2f})."


def _say(console: Console, text: str) -> None:
    console.print(Text(plain(text)))
