"""Which golden items are the samples of an Inspect dataset?

After Inspect's documentation (Datasets; Scorers; the reference of `Sample`): input, target, choices, id,
metadata, and a sandbox with files and a setup. How they are scored is the task's: `--scorer` names it
(includes, match, exact or choice). Samples that need a sandbox are refused.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from evaluators.formats import reading, wording
from evaluators.formats.draft import Draft, ImportRefused
from evaluators.formats.messages import NotMessages, messages_of
from evaluators.formats.options import ImportOptions

NAME: Final = "inspect"
_NEEDS_SANDBOX: Final = ("sandbox", "files", "setup")
_SAMPLE: Final = ("input", "target", "choices", "id", "metadata")
_SCORERS: Final = ("includes", "match", "exact", "choice")


def read(paths: Sequence[Path], options: ImportOptions) -> Draft:
    """The samples of .json, .jsonl, .csv or .parquet files; `fields` maps Inspect's names to the file's
    (`target=answer`). Raises ImportRefused."""
    if options.scorer not in (None, *_SCORERS):
        raise ImportRefused(f"--scorer {options.scorer}: expected one of {', '.join(_SCORERS)}")
    draft = Draft(format=NAME)
    for path in paths:
        for number, row in enumerate(reading.table(path), start=1):
            draft.read += 1
            renamed = {name: row.get(options.fields.get(name, name)) for name in (*_SAMPLE, *_NEEDS_SANDBOX)}
            item = draft.new_id(renamed["id"], f"{path.stem}-{number}")
            for name in row.keys() - {options.fields.get(name, name) for name in renamed}:
                draft.refuse(item, str(name), "is no field of a sample")
            _add(draft, item, renamed, options)
    return draft


def _add(draft: Draft, item: str, sample: Mapping[str, Any], options: ImportOptions) -> None:
    if needs := [name for name in _NEEDS_SANDBOX if sample[name]]:
        draft.refuse(item, "item", f"not imported: it needs a sandbox ({', '.join(needs)})")
        return
    choices = sample["choices"] if isinstance(sample["choices"], list) else None
    try:
        messages = messages_of(sample["input"], system=options.system)
        targets = list(wording.texts(sample["target"])) if sample["target"] not in (None, "") else []
        checks = [_check(options.scorer, choices, targets)] if targets else []
    except (NotMessages, ValueError) as error:
        draft.refuse(item, "item", f"not imported: {error}")
        return
    if not checks and not options.checks:
        draft.refuse(item, "item", "not imported: no target")
        return
    if choices:
        messages = _with_choices(messages, choices)
    metadata = sample["metadata"] if isinstance(sample["metadata"], Mapping) else {}
    draft.add(
        item,
        messages,
        reference=targets if not choices else None,
        checks=[*checks, *options.checks],
        tags=[
            f"{name}={value}"
            for name, value in metadata.items()
            if isinstance(value, str | int | float | bool)
        ],
        source={"kind": NAME, "id": sample["id"], "metadata": dict(metadata)},
    )


def _check(scorer: str | None, choices: Sequence[Any] | None, targets: list[str]) -> wording.Check:
    if choices:
        return _choice(choices, targets)
    if scorer == "choice":
        raise ValueError("the scorer choice needs choices")
    if scorer == "exact":
        return wording.exact(*targets) | {"case_sensitive": False}
    if scorer == "match":  # Inspect's default location: the end
        return wording.ends_with(*targets)
    return wording.contains(*targets, ignore_case=True)


def _choice(choices: Sequence[Any], targets: list[str]) -> wording.Check:
    """The letter that the target is, or that the choice has whose text it is."""
    letters = string.ascii_uppercase[: len(choices)]
    right = [
        target if target in letters else letters[choices.index(target)]
        for target in targets
        if target in letters or target in choices
    ]
    if len(choices) > len(letters) or len(right) != len(targets) or len(right) != 1:
        raise ValueError("the target is not the letter or the text of exactly one choice")
    return {"type": "regex", "pattern": rf"(?i)ANSWER\s*:\s*\(?{right[0]}\b"}


def _with_choices(messages: list[dict[str, Any]], choices: Sequence[Any]) -> list[dict[str, Any]]:
    """The choices behind the question, and how to answer: what Inspect's multiple_choice solver does."""
    listed = "\n".join(
        f"{letter}) {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False)
    )
    ending = "End with a line that says ANSWER: and the letter of the right choice."
    content = messages[-1].get("content") or ""
    if isinstance(content, list):
        asked: Any = [*content, {"type": "text", "text": f"{listed}\n\n{ending}"}]
    else:
        asked = f"{content}\n\n{listed}\n\n{ending}"
    return [*messages[:-1], {**messages[-1], "content": asked}]
