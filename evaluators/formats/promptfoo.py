"""Which golden items are the tests of a promptfoo configuration or CSV?

After promptfoo's documentation (configuration guide, test cases, assertions). Every test with every prompt is
one item. Checks that run code, call a service or weigh scores have no equal here and are listed; a
configuration's own files are read only below its folder, and never run.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from evaluators.formats import reading
from evaluators.formats.draft import ALL, Draft, ImportRefused
from evaluators.formats.messages import NotMessages, messages_of
from evaluators.formats.options import ImportOptions
from evaluators.formats.promptfoo_asserts import checks_of, csv_assertion
from evaluators.formats.templates import TemplateRefused, fill, filled

NAME: Final = "promptfoo"
_MOST_ITEMS: Final = 100_000
_CONFIG: Final = frozenset(("prompts", "tests", "defaultTest", "description", "$schema"))
_TEST: Final = frozenset(("vars", "assert", "description", "metadata", "options"))
#: Of a test's options, those that are heeded; and programs that change what its checks look at (the second
#: by its former name).
_OPTIONS: Final = frozenset(("prefix", "suffix", "disableVarExpansion", "transformVars"))
_TRANSFORMS: Final = ("transform", "postprocess")
ShapeT = TypeVar("ShapeT", dict[str, Any], list[Any])
_EXPECTED: Final = re.compile(r"__expected\d*")
#: A prompt that names a file; older configurations leave `file://` out.
_FILE: Final = re.compile(
    r"file://.*|[^\s{}]+\.(?:txt|md|json|jsonl|csv|j2|ya?ml|py|[cm]?[jt]s)(?::\w+)?", re.DOTALL
)
_TEXTS: Final = (".txt", ".json", ".md", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Test:
    """One test: what it is called, its variables, its assertions, its options, its tags."""

    name: str
    variables: Mapping[str, Any]
    assertions: Sequence[Any]
    options: Mapping[str, Any]
    tags: Sequence[str] = ()


def read(paths: Sequence[Path], options: ImportOptions) -> Draft:
    """The tests of configurations, or of CSV files (these need `--prompt`). Raises ImportRefused."""
    draft = Draft(format=NAME)
    for path in paths:
        if path.suffix.lower() == ".csv":
            if not options.prompt:
                raise ImportRefused(
                    f"{path} has variables but no prompt: give one with --prompt 'Answer: {{{{question}}}}'"
                )
            _add_all(path, draft, [options.prompt], _csv_tests(path, draft), {}, options)
        else:
            _read_config(path, draft, options)
    return draft


def _read_config(path: Path, draft: Draft, options: ImportOptions) -> None:
    config = reading.document(path)
    if not isinstance(config, Mapping) or "tests" not in config:
        raise ImportRefused(f"{path} is no promptfoo configuration: it has no tests")
    for name in config.keys() - _CONFIG:
        draft.refuse(
            ALL,
            str(name),
            "is no part of questions and checks" if name != "scenarios" else "scenarios are not imported",
        )
    defaults = config.get("defaultTest")
    if isinstance(defaults, str):
        defaults = _file(path, defaults, draft, "defaultTest")
    defaults = dict(defaults) if isinstance(defaults, Mapping) else {}
    defaults |= {
        "vars": _shaped(draft, ALL, "defaultTest.vars", defaults.get("vars"), {}),
        "assert": _shaped(draft, ALL, "defaultTest.assert", defaults.get("assert"), []),
        "options": _options(draft, ALL, "defaultTest.options", defaults.get("options")),
    }
    for name in defaults.keys() - {"vars", "assert", "options"}:
        draft.refuse(ALL, f"defaultTest.{name}", "is not imported")
    prompts = [options.prompt] if options.prompt else list(_prompts(path, config.get("prompts"), draft))
    if not prompts:
        raise ImportRefused(f"{path} has no prompt that can be read; give one with --prompt")
    _add_all(path, draft, prompts, _tests(path, config["tests"], draft), defaults, options)


def _add_all(
    path: Path,
    draft: Draft,
    prompts: Sequence[Any],
    tests: Iterator[_Test],
    defaults: Mapping[str, Any],
    options: ImportOptions,
) -> None:
    for test in tests:
        base = {**defaults.get("vars", {}), **test.variables}
        if empty := [name for name, value in base.items() if value == []]:
            draft.read += 1
            draft.refuse(test.name, f"vars.{empty[0]}", "not imported: an empty list stands for no question")
        how = {**defaults.get("options", {}), **test.options}
        each = [base] if how.get("disableVarExpansion") else _expanded(base)
        combined = ((raw, *one) for raw in each for one in enumerate(prompts, start=1))
        for raw, number, prompt in combined:
            draft.read += 1
            if draft.read > _MOST_ITEMS:
                raise ImportRefused(f"more than {_MOST_ITEMS} combinations of tests, variables and prompts")
            item = draft.new_id(f"{test.name}-p{number}" if len(prompts) > 1 else test.name, "test")
            try:
                if how.get("transformVars"):
                    raise TemplateRefused("options.transformVars runs code on its variables")
                variables = _rendered(raw, path)
                asked = filled(prompt, variables)
                if isinstance(asked, int | float):  # a prompt that is nothing but a number's slot
                    asked = fill(prompt, variables)
                if isinstance(asked, str):
                    asked = f"{how.get('prefix') or ''}{asked}{how.get('suffix') or ''}"
                messages = messages_of(asked, system=options.system)
            except (TemplateRefused, NotMessages) as error:
                draft.refuse(item, "item", f"not imported: {error}")
                continue
            checks, lost = checks_of([*defaults.get("assert", ()), *test.assertions], variables)
            if code := next((name for name in _TRANSFORMS if how.get(name)), None):
                checks = []
                lost = [
                    (f"options.{code}", "runs code on the answer before it is checked: no check is taken")
                ]
            for where, why in lost:
                draft.refuse(item, where, why)
            if not checks and not options.checks:
                draft.refuse(item, "item", "not imported: no check is left")
                continue
            draft.add(
                item,
                messages,
                checks=[*checks, *options.checks],
                tags=list(test.tags),
                source={"kind": NAME, "test": test.name, "prompt": number},
            )


def _expanded(variables: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A variable that is a list stands for each of its values in turn, as the guide says."""
    names = [name for name, value in variables.items() if isinstance(value, list)]
    for values in itertools.product(*(variables[name] for name in names)):
        yield {**variables, **dict(zip(names, values, strict=True))}


def _rendered(variables: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Variables may be texts in files, and use each other, one level deep. Raises TemplateRefused."""
    found = {name: _from_file(name, value, path) for name, value in variables.items()}
    return {name: filled(value, found) for name, value in found.items()}


def _from_file(name: str, value: Any, path: Path) -> Any:
    if not isinstance(value, str) or not value.startswith("file://"):
        return value
    text = _text_below(path, value)
    if text is None:
        raise TemplateRefused(f"the variable {name} is in {value}, no text below the configuration's folder")
    return text.strip()


def _prompts(path: Path, declared: Any, draft: Draft) -> Iterator[Any]:
    for index, prompt in enumerate(declared if isinstance(declared, list) else [declared]):
        where = f"prompts[{index}]"
        given = prompt if isinstance(prompt, Mapping) else {"raw": prompt}
        for name in given.keys() - {"raw", "id", "label", "display"}:
            draft.refuse(ALL, f"{where}.{name}", "is not imported")
        raw = given.get("raw", given.get("id"))
        if isinstance(raw, list):
            yield raw
        elif not isinstance(raw, str):
            draft.refuse(ALL, where, "is neither a text nor a file of one")
        elif _FILE.fullmatch(raw.strip()):
            found = _text(path, raw.strip(), draft, where)
            if found is not None:
                yield from (_chat(one) for one in re.split(r"(?m)^---\s*$", found) if one.strip())
        else:
            yield _chat(raw)


def _chat(text: str) -> Any:
    """A prompt in JSON is a list of messages, before its variables are filled in; any other is a text."""
    try:
        found = json.loads(text) if text.lstrip().startswith("[") else None
    except ValueError:
        found = None
    return found if isinstance(found, list) else text.strip("\n")


def _tests(path: Path, declared: Any, draft: Draft) -> Iterator[_Test]:
    for index, test in enumerate(declared if isinstance(declared, list) else [declared]):
        where = f"tests[{index}]"
        if isinstance(test, str):
            yield from _tests_in_file(path, test, draft, where)
        elif isinstance(test, Mapping):
            yield _test(test, where, draft)
        else:
            draft.refuse(where, "test", f"{type(test).__name__} is no test")


def _tests_in_file(path: Path, reference: str, draft: Draft, where: str) -> Iterator[_Test]:
    local = _below(path, reference)
    if local is None:
        draft.refuse(where, "test", f"{reference} is no file below the configuration's folder")
    elif local.suffix.lower() == ".csv":
        yield from _csv_tests(local, draft)
    elif local.suffix.lower() in (".yaml", ".yml", ".json", ".jsonl"):
        found = reading.objects(local) if local.suffix.startswith(".json") else reading.document(local)
        yield from _tests(local, found, draft)
    else:
        draft.refuse(where, "test", f"{reference} is a program or a table that is not read here")


def _test(test: Mapping[str, Any], where: str, draft: Draft) -> _Test:
    name = str(test.get("description") or where.replace("[", "-").rstrip("]"))
    for field in test.keys() - _TEST:
        draft.refuse(name, str(field), "is not imported")
    given = test.get("metadata")
    metadata = given if isinstance(given, Mapping) else {}
    return _Test(
        name=name,
        variables=_shaped(draft, name, "vars", test.get("vars"), {}),
        assertions=_shaped(draft, name, "assert", test.get("assert"), []),
        options=_options(draft, name, "options", test.get("options")),
        tags=_tags(metadata),
    )


def _options(draft: Draft, name: str, field: str, given: Any) -> dict[str, Any]:
    """What a test's options say; those that are not heeded are listed."""
    found = _shaped(draft, name, field, given, {})
    for option in found.keys() - _OPTIONS - set(_TRANSFORMS):
        draft.refuse(name, f"{field}.{option}", "is not imported")
    return found


def _shaped(draft: Draft, name: str, field: str, given: Any, none: ShapeT) -> ShapeT:
    """What is given, if it is of the kind of `none`; else `none`, and the refusal is listed."""
    if isinstance(given, type(none)):
        return given
    if isinstance(given, str):
        draft.refuse(name, field, f"{given} has it elsewhere; write it out here")
    elif given is not None:
        draft.refuse(name, field, f"{type(given).__name__} is no {type(none).__name__}")
    return none


def _csv_tests(path: Path, draft: Draft) -> Iterator[_Test]:
    """Columns are variables; `__expected...` are assertions (test cases: 'Special CSV columns')."""
    for number, row in enumerate(reading.table(path), start=1):
        name = row.get("__description") or f"{path.stem}-{number}"
        assertions, metadata, variables = [], {}, {}
        for column, value in row.items():
            if _EXPECTED.fullmatch(column):
                if value.strip():
                    assertions.append(csv_assertion(value))
            elif column.startswith("__metadata:"):
                metadata[column.partition(":")[2].removesuffix("[]")] = value
            elif column in ("__description", "__prefix", "__suffix"):
                continue
            elif column.startswith("__"):
                if value:
                    draft.refuse(name, column, "is not imported")
            else:
                variables[column] = value
        yield _Test(
            name=name,
            variables=variables,
            assertions=assertions,
            options={name: row[f"__{name}"] for name in ("prefix", "suffix") if row.get(f"__{name}")},
            tags=_tags(metadata),
        )


def _tags(metadata: Mapping[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in metadata.items() if value not in (None, "")]


def _file(path: Path, reference: str, draft: Draft, where: str) -> Any:
    local = _below(path, reference)
    if local is None:
        draft.refuse(ALL, where, f"{reference} is no file below the configuration's folder")
        return None
    return reading.document(local)


def _text(path: Path, reference: str, draft: Draft, where: str) -> str | None:
    text = _text_below(path, reference)
    if text is None:
        draft.refuse(ALL, where, f"{reference} is no text below the configuration's folder")
    return text


def _text_below(path: Path, reference: str) -> str | None:
    """What stands in such a file, if it is a text."""
    local = _below(path, reference)
    return None if local is None or local.suffix.lower() not in _TEXTS else reading.text_of(local)


def _below(path: Path, reference: str) -> Path | None:
    """The file that a `file://` reference names, if it lies in the configuration's folder."""
    base = path.resolve().parent
    found = (base / reference.removeprefix("file://")).resolve()
    return found if found.is_file() and found.is_relative_to(base) else None
