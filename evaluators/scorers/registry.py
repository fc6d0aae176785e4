"""Which scorers are there, and what does a check have to say to use one?

A scorer is a small function from item, output and options to a `Score`, registered with a name, a version,
what it needs, and a pydantic model of its options. Raise its version when the same answer could get another
score: scores of different versions are not compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from evaluators.errors import UnknownEvaluator
from evaluators.golden import GoldenItem, Reference
from evaluators.score import Output, Score

Kind = Literal["code", "judge", "pairwise"]
ValueType = Literal["bool", "float", "label"]
Need = Literal["reference", "schema", "tools", "tokenizer"]


class Options(BaseModel):
    """The options of a check. An option that the scorer does not know is an error, not a comment."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def supplies(self) -> frozenset[Need]:
        """What the check itself gives, so that the item need not."""
        return frozenset()

    def suits(self, reference: tuple[Reference, ...]) -> None:
        """Raise ValueError when the item's reference is of no use to this scorer."""

    def expects(self, reference: tuple[Reference, ...]) -> str:
        """What the check asks for, for people: shown beside what was got."""
        return "an answer that the check accepts"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalContext:
    """What an evaluator is given besides item and output: the name to report under, its check's options,
    which repeat of the question this is."""

    name: str
    options: Any
    repeat: int = 0


class Evaluator(Protocol):
    """Anything that scores one output of one item. What it `requires` and the item lacks makes it `skipped`,
    never 0."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def direction(self) -> Literal["max", "min"]: ...
    @property
    def value_type(self) -> ValueType: ...
    @property
    def requires(self) -> frozenset[Need]: ...
    @property
    def options(self) -> type[Options]: ...

    async def score(self, item: GoldenItem, output: Output, context: EvalContext) -> Score: ...


OptionsT = TypeVar("OptionsT", bound=Options)
ScorerFunction = Callable[[GoldenItem, Output, OptionsT], tuple[bool, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionEvaluator:
    """A scorer made of a plain function that answers (passed, why)."""

    name: str
    version: str
    options: type[Options]
    function: Callable[[GoldenItem, Output, Any], tuple[bool, str]]
    requires: frozenset[Need] = frozenset()
    kind: Kind = "code"
    direction: Literal["max", "min"] = "max"
    value_type: ValueType = "bool"

    async def score(self, item: GoldenItem, output: Output, context: EvalContext) -> Score:
        """The function's answer as a score of 1 or 0."""
        passed, why = self.function(item, output, context.options)
        return Score.verdict(context.name, passed, why)


_REGISTRY: Final[dict[str, Evaluator]] = {}


def scorer(
    name: str, *, version: str, options: type[OptionsT], requires: frozenset[Need] = frozenset()
) -> Callable[[ScorerFunction[OptionsT]], ScorerFunction[OptionsT]]:
    """Register the decorated function as the scorer `name`; the function itself stays callable."""

    def register_function(function: ScorerFunction[OptionsT]) -> ScorerFunction[OptionsT]:
        register(
            FunctionEvaluator(
                name=name, version=version, options=options, function=function, requires=requires
            )
        )
        return function

    return register_function


def register(evaluator: Evaluator) -> None:
    """Make an evaluator available to checks. Raises ValueError when its name is taken."""
    if evaluator.name in _REGISTRY:
        raise ValueError(f"a scorer called {evaluator.name!r} is registered already")
    _REGISTRY[evaluator.name] = evaluator


def evaluator_named(name: str) -> Evaluator:
    """The scorer of that name. Raises UnknownEvaluator, which lists those there are."""
    try:
        return _REGISTRY[name]
    except KeyError:
        raise UnknownEvaluator(name, _REGISTRY) from None


def registered() -> tuple[str, ...]:
    """The names of all scorers, sorted."""
    return tuple(sorted(_REGISTRY))
