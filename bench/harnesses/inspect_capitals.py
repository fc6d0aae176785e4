"""A task for Inspect that needs no download: four questions in a file beside this one."""

from inspect_ai import Task, task  # type: ignore[import-not-found]
from inspect_ai.dataset import FieldSpec, json_dataset  # type: ignore[import-not-found]
from inspect_ai.scorer import includes  # type: ignore[import-not-found]
from inspect_ai.solver import generate  # type: ignore[import-not-found]


@task  # type: ignore[untyped-decorator]
def capitals() -> Task:
    """Four capitals."""
    fields = FieldSpec(input="question", target="answer")
    return Task(dataset=json_dataset("capitals.jsonl", fields), solver=generate(), scorer=includes())
