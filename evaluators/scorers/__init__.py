"""The scorers that checks can name. Importing this package registers those that come with Turnout."""

from evaluators.scorers import choice, closeness, limits, manner, numeric, query, structured, text
from evaluators.scorers.registry import (
    Answer,
    EvalContext,
    Evaluator,
    FunctionEvaluator,
    Options,
    PairEvaluator,
    evaluator_named,
    evaluator_of,
    register,
    registered,
    scorer,
)

__all__ = [
    "Answer",
    "EvalContext",
    "Evaluator",
    "FunctionEvaluator",
    "Options",
    "PairEvaluator",
    "choice",
    "closeness",
    "evaluator_named",
    "evaluator_of",
    "limits",
    "manner",
    "numeric",
    "query",
    "register",
    "registered",
    "scorer",
    "structured",
    "text",
]
