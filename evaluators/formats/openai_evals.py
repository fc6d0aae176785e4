"""Which golden items are the samples of an OpenAI eval (the open-source registry's JSONL)?

After the registry's documentation (github.com/openai/evals, docs/build-eval.md and docs/eval-templates.md):
a sample has `input` (chat messages, or a text) and `ideal` (a text or a list). How they are compared is the
eval's class, which stands in the registry's YAML: give that file, or the class by `--scorer`. Without either
it is Match, as in the documentation's first example.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from evaluators.formats import reading, wording
from evaluators.formats.draft import ALL, Draft
from evaluators.formats.messages import NotMessages, messages_of
from evaluators.formats.options import ImportOptions

NAME: Final = "openai-evals"
_KNOWN: Final = frozenset(("input", "ideal", "id"))


def read(paths: Sequence[Path], options: ImportOptions) -> Draft:
    """The samples of .jsonl files, or of those that a registry YAML names. Raises ImportRefused."""
    draft = Draft(format=NAME)
    for path in paths:
        if path.suffix.lower() in (".yaml", ".yml"):
            _read_registry(path, options, draft)
        else:
            _read_samples(path, options.scorer or "Match", options, draft)
    return draft


def _read_registry(path: Path, options: ImportOptions, draft: Draft) -> None:
    """Entries with `class` and `args.samples_jsonl`; the others are names that point to them."""
    found = reading.document(path)
    for name, entry in (found if isinstance(found, Mapping) else {}).items():
        if not isinstance(entry, Mapping) or "class" not in entry:
            continue
        given = entry.get("args")
        arguments = given if isinstance(given, Mapping) else {}
        class_name = str(entry["class"]).rpartition(":")[2]
        for argument, value in arguments.items():
            if argument != "samples_jsonl":
                draft.refuse(
                    ALL,
                    f"{name}.args.{argument}",
                    f"{value!r} is an argument of {class_name}, not of a sample",
                )
        samples = arguments.get("samples_jsonl")
        data = _samples_file(path, str(samples)) if samples else None
        if data is None:
            draft.refuse(
                ALL, f"{name}.args.samples_jsonl", f"{samples!r} is not below the folder of the YAML file"
            )
            continue
        _read_samples(data, options.scorer or class_name, options, draft)


def _samples_file(registry: Path, samples: str) -> Path | None:
    """The samples: relative to registry/data of the documentation's layout, or beside the YAML file."""
    for base in (registry.parent, registry.parent.parent / "data"):
        found = (base / samples).resolve()
        if found.is_file() and found.is_relative_to(base.resolve()):
            return found
    return None


def _read_samples(path: Path, class_name: str, options: ImportOptions, draft: Draft) -> None:
    check_of = _CLASSES.get(class_name.rpartition(":")[2].lower())
    if check_of is None:
        why = f"the class {class_name} is a program; {', '.join(sorted(_CLASSES))} have a check of ours"
        draft.refuse(ALL, "class", f"{why}. Give one with --scorer, or checks of your own with --check")
    for number, sample in reading.numbered(path):
        draft.read += 1
        fallback = f"{path.stem}-{number}"
        if not isinstance(sample, Mapping):
            draft.refuse(fallback, "sample", f"{type(sample).__name__} is no object")
            continue
        item = draft.new_id(sample.get("id"), fallback)
        for name in sample.keys() - _KNOWN:
            draft.refuse(item, str(name), "is no part of a question or its answer here")
        try:
            messages = messages_of(sample.get("input"), system=options.system)
            ideal = list(wording.texts(sample["ideal"])) if "ideal" in sample else None
        except (NotMessages, ValueError) as error:
            draft.refuse(item, "item", f"not imported: {error}")
            continue
        if ideal is None and not options.checks:
            draft.refuse(item, "item", "not imported: no ideal")
            continue
        checks = [] if check_of is None or ideal is None else _checks(item, check_of, ideal, draft)
        if not checks and not options.checks:
            draft.refuse(item, "item", "not imported: no check is left")
            continue
        source = {"kind": NAME, "file": path.name, "line": number, "class": class_name}
        draft.add(item, messages, reference=ideal, checks=[*checks, *options.checks], source=source)


def _checks(
    item: str, check_of: Callable[[list[str]], wording.Check], ideal: list[str], draft: Draft
) -> list[wording.Check]:
    try:
        return [check_of(ideal)]
    except ValueError as error:
        draft.refuse(item, "ideal", str(error))
        return []


def _json_match(ideal: list[str]) -> wording.Check:
    try:
        return wording.json_is(*map(json.loads, ideal))
    except ValueError as error:
        raise ValueError(f"JsonMatch compares JSON, and the ideal is none ({error})") from None


#: The basic classes of docs/eval-templates.md. FuzzyMatch (either text in the other) has no equal here.
_CLASSES: Final[dict[str, Callable[[list[str]], wording.Check]]] = {
    "match": lambda ideal: wording.begins_with(*ideal),
    "includes": lambda ideal: wording.contains(*ideal),
    "jsonmatch": _json_match,
}
