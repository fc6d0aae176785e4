"""Which evaluators are there, and what does a check have to say to use one?

A scorer is a small function from item, output and options to a verdict or a number in [0, 1], registered with
a name, a version, what it needs, and a pydantic model of its options. Raise its version when the same answer
could get another score: scores of different versions are not compared. Evaluators of other packages come by
entry point, those of a golden set from a file of its own (`evaluators.plugins`).
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from evaluators.errors import UnknownEvaluator
from evaluators.golden import Check, GoldenItem, Kind, Reference
from evaluators.models import NO_SERVICES, Services
from evaluators.score import Output, PairScore, Score

Direction = Literal["max", "min"]
ValueType = Literal["bool", "float", "label"]
Need = Literal["reference", "schema", "tools", "tokenizer", "judge", "embedder"]


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
    which repeat of the question this is, and the models it may ask."""

    name: str
    options: Any
    repeat: int = 0
    services: Services = NO_SERVICES


class Evaluator(Protocol):
    """Anything that scores one output of one item. What it `requires` and the item lacks makes it `skipped`,
    never 0. Its values lie in [0, 1]; with direction `min` the less is the better, and 1 - value is stored.
    A value of at least `threshold` passes, unless the check says another."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def direction(self) -> Direction: ...
    @property
    def value_type(self) -> ValueType: ...
    @property
    def threshold(self) -> float: ...
    @property
    def requires(self) -> frozenset[Need]: ...
    @property
    def options(self) -> type[Options]: ...

    async def score(self, item: GoldenItem, output: Output, context: EvalContext) -> Score: ...


class PairEvaluator(Evaluator, Protocol):
    """An evaluator of kind `pairwise`: it sees both versions' answers at once, in both orders. Its `score` of
    a single answer is `skipped`."""

    async def compare(
        self, item: GoldenItem, control: Output, candidate: Output, context: EvalContext
    ) -> PairScore: ...


#: What a scorer's function may answer: yes or no, or a number in [0, 1], each with the reason; or a Score.
Answer = tuple[bool | float, str] | Score

OptionsT = TypeVar("OptionsT", bound=Options)
ScorerFunction = Callable[[GoldenItem, Output, OptionsT], Answer | Awaitable[Answer]]
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionEvaluator:
    """A scorer made of a plain function, or of a coroutine function."""

    name: str
    version: str
    options: type[Options]
    function: Callable[[GoldenItem, Output, Any], Answer | Awaitable[Answer]]
    requires: frozenset[Need] = frozenset()
    kind: Kind = "code"
    direction: Direction = "max"
    value_type: ValueType = "bool"
    threshold: float = 1.0

    async def score(self, item: GoldenItem, output: Output, context: EvalContext) -> Score:
        """The function's answer as a score."""
        answer = self.function(item, output, context.options)
        if inspect.isawaitable(answer):
            answer = await answer
        if isinstance(answer, Score):
            return answer
        value, why = answer
        return Score.graded(context.name, float(value), why)


_REGISTRY: Final[dict[str, Evaluator]] = {}
_COLLECTING: Final[ContextVar[list[Evaluator] | None]] = ContextVar("collecting", default=None)


def scorer(
    name: str,
    *,
    version: str,
    options: type[Options] = Options,
    requires: frozenset[Need] = frozenset(),
    direction: Direction = "max",
    value_type: ValueType = "bool",
    threshold: float = 1.0,
) -> Callable[[FunctionT], FunctionT]:
    """Register the decorated function (a `ScorerFunction` of `options`) as the scorer `name`; the function
    itself stays callable."""

    def register_function(function: FunctionT) -> FunctionT:
        evaluator = FunctionEvaluator(
            name=name,
            version=version,
            options=options,
            function=function,
            requires=requires,
            direction=direction,
            value_type=value_type,
            threshold=threshold,
        )
        register(evaluator)
        return function

    return register_function


def register(evaluator: Evaluator) -> None:
    """Make an evaluator available to checks. Raises ValueError when its name is taken."""
    collected = _COLLECTING.get()
    if collected is not None:
        collected.append(evaluator)
        return
    if evaluator.name in _REGISTRY:
        raise ValueError(f"a scorer called {evaluator.name!r} is registered already")
    _REGISTRY[evaluator.name] = evaluator


def register_version(evaluator: Evaluator) -> None:
    """Make an evaluator available to checks of this very version only: that of a golden set's own file."""
    _REGISTRY[f"{evaluator.name}@{evaluator.version}"] = evaluator


@contextmanager
def collecting() -> Iterator[list[Evaluator]]:
    """Within the block, `register` and `scorer` put evaluators into the list, and nowhere else."""
    found: list[Evaluator] = []
    token = _COLLECTING.set(found)
    try:
        yield found
    finally:
        _COLLECTING.reset(token)


def evaluator_named(name: str) -> Evaluator:
    """The scorer of that name. Raises UnknownEvaluator, which lists those there are."""
    try:
        return _REGISTRY[name]
    except KeyError:
        raise UnknownEvaluator(name, registered()) from None


def evaluator_of(check: Check) -> Evaluator:
    """The evaluator that a check uses: its set's own, else the one of that name. Raises UnknownEvaluator."""
    own = _REGISTRY.get(check.evaluator_version)
    return evaluator_named(check.type) if own is None else own


def registered() -> tuple[str, ...]:
    """The names of all evaluators that every set may use, sorted."""
    return tuple(sorted(name for name in _REGISTRY if "@" not in name))
