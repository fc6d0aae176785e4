"""The scorers that checks can name. Importing this package registers those that come with Turnout."""

from evaluators.scorers import numeric, structured, text
from evaluators.scorers.registry import (
    EvalContext,
    Evaluator,
    FunctionEvaluator,
    Options,
    evaluator_named,
    register,
    registered,
    scorer,
)

__all__ = [
    "EvalContext",
    "Evaluator",
    "FunctionEvaluator",
    "Options",
    "evaluator_named",
    "numeric",
    "register",
    "registered",
    "scorer",
    "structured",
    "text",
]
