"""What can go wrong with a golden set or a run of it, and how is it told?

    EvaluatorError
    ├── GoldenSetError      the files are not a golden set: every problem, with file, line and field
    ├── UnknownEvaluator    a check names a scorer that is not registered
    ├── EvaluatorUnusable   an evaluator cannot be loaded: a broken plugin or file, a missing extra
    ├── ModelUnavailable    a judge or an embedder gives no answer
    ├── RunError            the run cannot go on
    │   ├── ProxyUnreachable    nothing answers at the proxy's address
    │   ├── RunRefused          Turnout refuses the questions: key, model or version
    │   │   └── TokenRefused        it is the admin token that the proxy refuses
    │   ├── RunBusy             another process makes this very run
    │   └── ResultsLost         the ledger does not take the results
    └── UnknownVersion      the model has no such version or alias (evaluators.ledger)

A model that fails to answer is none of these: that is an outcome, and it is scored.
"""

from __future__ import annotations

from collections.abc import Iterable

from experiments.errors import Problem


class EvaluatorError(Exception):
    """The root of this package's errors."""


class GoldenSetError(EvaluatorError):
    """A golden set that cannot be read; `problems` names all that is wrong, not only the first."""

    SHOWN = 20

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        shown = "\n".join(f"  {problem}" for problem in self.problems[: self.SHOWN])
        more = len(self.problems) - self.SHOWN
        tail = f"\n  ... and {more} more" if more > 0 else ""
        noun = "problem" if len(self.problems) == 1 else "problems"
        super().__init__(f"the golden set has {len(self.problems)} {noun}:\n{shown}{tail}")


class UnknownEvaluator(EvaluatorError):
    """No scorer is registered under this name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"no scorer is called {name!r}; there are {', '.join(sorted(known))}")


class EvaluatorUnusable(EvaluatorError):
    """An evaluator that is there cannot be used; the message says what to install or to mend."""


class MissingExtra(EvaluatorUnusable):
    """An optional package is not installed."""

    def __init__(self, scorer: str, package: str, extra: str) -> None:
        super().__init__(
            f"the scorer {scorer!r} needs {package}, which is not installed: "
            f"pip install 'turnout-llm[{extra}]'"
        )


class ModelUnavailable(EvaluatorError):
    """A judge or an embedder gives no answer: an error of the instrument, never a score."""


class ModelRefused(ModelUnavailable):
    """It refuses this very question (too long, against its policy): asking again would be of no use."""


class RunError(EvaluatorError):
    """The run cannot go on. What was stored stays, and the same command resumes from there."""


class ProxyUnreachable(RunError):
    """Nothing answers at the proxy's address."""


class RunRefused(RunError):
    """Turnout itself refuses the questions, so that asking on would be of no use."""


class TokenRefused(RunRefused):
    """The proxy does not take the admin token."""


class RunBusy(RunError):
    """Another process makes this very run."""


class ResultsLost(RunError):
    """The ledger does not take the results."""
