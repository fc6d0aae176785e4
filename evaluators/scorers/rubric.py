"""What grade does a judge give the answer by a rubric?

The judge is asked once an answer, at temperature 0, for a verdict in JSON. What is no verdict (no JSON, a
grade that is not on the menu, a cut or refused reply) is unscored: never a pass, never a fail. An answer that
says nothing at all gets the lowest grade without anybody being asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydantic import Field, field_validator

from evaluators.golden import GoldenItem, Kind
from evaluators.judges.asking import ask, judged, no_verdict, seed_of
from evaluators.judges.question import rubric_question, says_nothing
from evaluators.score import Output, Score
from evaluators.scorers.judged import AsksJudge, RubricText
from evaluators.scorers.registry import EvalContext, ValueType, register

_DEFAULT: Final = {"fail": 0.0, "pass": 1.0}


class RubricOptions(RubricText):
    """`rubric` says what makes an answer good; `grades` are the menu, each with its worth in [0, 1]."""

    grades: dict[str, float] = Field(default=_DEFAULT, min_length=2, max_length=20)

    @property
    def menu(self) -> tuple[str, ...]:
        """The grades from worst to best."""
        return tuple(sorted(self.grades, key=lambda grade: self.grades[grade]))

    @field_validator("grades")
    @classmethod
    def _worths(cls, grades: dict[str, float]) -> dict[str, float]:
        if not all(grade.strip() and 0.0 <= worth <= 1.0 for grade, worth in grades.items()):
            raise ValueError("each grade has a name and a worth from 0 to 1")
        if len(set(grades.values())) < 2:
            raise ValueError("grades of the same worth tell nothing apart")
        return grades


@dataclass(frozen=True, slots=True, kw_only=True)
class Rubric(AsksJudge):
    """The evaluator `judge`."""

    name: str = "judge"
    kind: Kind = "judge"
    value_type: ValueType = "float"
    threshold: float = 1.0
    options: type[RubricText] = RubricOptions

    async def score(self, item: GoldenItem, output: Output, context: EvalContext) -> Score:
        """The grade's worth. Raises ModelUnavailable when the judge does not answer."""
        options: RubricOptions = context.options
        if context.services.judge is None:
            return Score.skipped(context.name, "there is no judge")
        if says_nothing(output):
            lowest = options.menu[0]
            return Score(
                name=context.name,
                status="scored",
                value=options.grades[lowest],
                label=lowest,
                explanation="the answer says nothing; no judge was asked",
            )
        question = rubric_question(
            item, output, rubric=options.rubric, grades=options.menu, nonce=self.nonce()
        )
        judge = context.services.judge
        heard = await ask(judge, question, seed=seed_of(item, context.repeat))
        if heard.verdict is None:
            return no_verdict(context.name, [heard], judge.identity)
        grade = heard.verdict.grade
        why = heard.verdict.reason
        return judged(context.name, options.grades[grade], grade, why, [heard], judge.identity)


register(Rubric())
