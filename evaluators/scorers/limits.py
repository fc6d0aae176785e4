"""Does the answer keep to what it may be and cost: its length, its time, its price?

A time is the time of a golden run: behind the proxy, with the run's own concurrency. It is good for a limit
that must never be passed, not for comparing two versions (that is what experiments are for).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from evaluators.golden import GoldenItem, Reference
from evaluators.score import Output, Score
from evaluators.scorers.registry import Options, scorer


class LengthOptions(Options):
    """From `min` to `max` `unit`s: chars, words, lines, or tokens (as the engine counts them)."""

    min: int | None = Field(default=None, ge=0)
    max: int | None = Field(default=None, ge=0)
    unit: Literal["chars", "words", "lines", "tokens"] = "chars"

    def expects(self, reference: tuple[Reference, ...]) -> str:
        return f"{_range(self.min, self.max)} {self.unit}"

    @model_validator(mode="after")
    def _a_limit(self) -> LengthOptions:
        if self.min is None and self.max is None:
            raise ValueError("give min or max, or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class LatencyOptions(Options):
    """At most `max_ms` milliseconds from the question's sending to the last byte of the answer."""

    max_ms: float = Field(gt=0)

    def expects(self, reference: tuple[Reference, ...]) -> str:
        return f"an answer within {self.max_ms:g} ms"


class CostOptions(Options):
    """At most `max_usd` at these prices, in US dollars for a million tokens of each kind."""

    max_usd: float = Field(gt=0)
    usd_per_million_input: float = Field(ge=0)
    usd_per_million_output: float = Field(ge=0)

    def expects(self, reference: tuple[Reference, ...]) -> str:
        return f"a price of at most {self.max_usd:g} USD"


@scorer("length", version="1", options=LengthOptions)
def length(item: GoldenItem, output: Output, options: LengthOptions) -> tuple[bool, str] | Score:
    """The text is as long as it may be."""
    if options.unit == "tokens":
        tokens = (output.usage or {}).get("completion_tokens")
        if not isinstance(tokens, int):
            return Score.unscored("length", "the engine does not say how many tokens the answer has")
        found = tokens
    elif options.unit == "words":
        found = len(output.text.split())
    elif options.unit == "lines":
        found = len(output.text.splitlines())
    else:
        found = len(output.text)
    passed = (options.min is None or found >= options.min) and (options.max is None or found <= options.max)
    return passed, f"expected {options.expects(())}, got {found}"


@scorer("latency", version="1", options=LatencyOptions)
def latency(item: GoldenItem, output: Output, options: LatencyOptions) -> tuple[bool, str]:
    """The answer came in time."""
    passed = output.latency_ms <= options.max_ms
    return passed, f"expected {options.expects(())}, it took {output.latency_ms:.0f} ms"


@scorer("cost", version="1", options=CostOptions)
def cost(item: GoldenItem, output: Output, options: CostOptions) -> tuple[bool, str] | Score:
    """The answer's tokens, in and out, cost no more than they may."""
    usage = output.usage or {}
    sent, made = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not (isinstance(sent, int) and isinstance(made, int)):
        return Score.unscored("cost", "the engine does not say how many tokens were used")
    usd = (sent * options.usd_per_million_input + made * options.usd_per_million_output) / 1e6
    return usd <= options.max_usd, f"expected {options.expects(())}, got {usd:.6g} USD"


def _range(low: int | None, high: int | None) -> str:
    if low is None:
        return f"at most {high}"
    return f"at least {low}" if high is None else f"{low} to {high}"
