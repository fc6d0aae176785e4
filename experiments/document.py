"""What does a YAML document hold, and on which line does each value stand?

Reads text into plain values and keeps the line of every field, so that whoever checks the values can say
where the bad one is. `check` runs a pydantic model over it and reports every problem at once. Knows
nothing of experiments.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from .errors import DocumentError, Problem

Path = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

#: A spec is a page of text. More, or deeper, is a wrong file or an attack: the parser's time grows with
#: the square of the depth.
MAX_CHARACTERS: Final = 200_000
MAX_DEPTH: Final = 32
#: What PyYAML's constructors raise at 2026-13-45, !!bool perhaps and !!timestamp soon.
NOT_OF_ITS_KIND: Final = (ValueError, LookupError, AttributeError)
_SHOWN: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A parsed document: its value, and the line (from 1) of every path in it."""

    file: str
    value: Any
    lines: Mapping[Path, int]

    def line(self, path: Path) -> int | None:
        """The line of a path, or of the nearest thing around it that is there."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None

    def problem(self, path: Path, found: str, expected: str, mend: str | None = None) -> Problem:
        """A problem at a path of this document."""
        return Problem(
            file=self.file,
            line=self.line(path),
            field=dotted(path),
            found=found,
            expected=expected,
            mend=mend,
        )


def dotted(path: Sequence[str | int]) -> str:
    """`("traffic", "ramp", 1)` as `traffic.ramp[1]`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def shown(value: object) -> str:
    """A value as a message shows it: short, printable, one line."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return f"a mapping with {', '.join(map(repr, list(value)[:4]))}" if value else "an empty mapping"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def read_document(text: str, file: str) -> Document:
    """Parse one YAML document. Raises DocumentError on broken YAML, duplicate keys, anchors and aliases."""
    if len(text) > MAX_CHARACTERS:
        raise _broken(file, None, f"{len(text)} characters", f"at most {MAX_CHARACTERS}")
    try:
        _look_through(text, file)
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            reader = _Reader(loader, file)
            value = None if node is None else reader.value(node, ())
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        why = error.problem or error.context
        found = "text that is no YAML" + (f" ({why})" if why else "")
        raise _broken(file, mark.line + 1 if mark else None, found, "valid YAML") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise _broken(file, None, str(error).split("\n")[0], "valid YAML") from None
    if reader.problems:
        raise DocumentError(tuple(reader.problems))
    return Document(file=file, value=value, lines=reader.lines)


def _look_through(text: str, file: str) -> None:
    """Refuse what the parser would take and nobody should write, before anything is built from it."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else None
        if isinstance(event, yaml.AliasEvent):
            raise _broken(file, line, f"the alias *{event.anchor}", "values written out in full")
        if isinstance(event, yaml.ScalarEvent) and not _is_text(event.value):
            raise _broken(file, line, f"half a character in {shown(event.value)}", "text in UTF-8")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _broken(file, line, f"more than {MAX_DEPTH} levels", "a few levels")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # "\ud83d", say
        return False
    return True


def _broken(file: str, line: int | None, found: str, expected: str) -> DocumentError:
    return DocumentError((Problem(file=file, line=line, field="", found=found, expected=expected),))


class _Reader:
    """Walks the YAML nodes once: values, lines, and keys that are doubled or no text."""

    def __init__(self, loader: yaml.SafeLoader, file: str) -> None:
        self.lines: dict[Path, int] = {}
        self.problems: list[Problem] = []
        self._loader = loader
        self._file = file

    def value(self, node: yaml.Node, path: Path) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        line, mend = node.start_mark.line + 1, "Put it in quotes if it is text"
        try:
            value = self._loader.construct_object(node)
        except NOT_OF_ITS_KIND:
            kind = node.tag.rpartition(":")[2]
            self._add(path, line, node.value[:_SHOWN], f"what YAML takes for {kind}", mend)
            return None
        if isinstance(value, int) and value.bit_length() > 63:  # no database and no JSON holds it
            self._add(path, line, node.value[:_SHOWN], "a number that 64 bits hold", mend)
        return value

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = str(getattr(key_node, "value", "?")), key_node.start_mark.line + 1
            here = (*path, key)
            if key in values:
                first = self.lines[here]
                self._add(
                    here,
                    line,
                    "the key a second time",
                    f"it once (the first is in line {first})",
                    "Remove one of the two",
                )
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self._add(path, line, "a key that is no text", "a name", None)
                continue
            self.lines[here] = line
            values[key] = self.value(value_node, here)
        return values

    def _add(self, path: Path, line: int, found: str, expected: str, mend: str | None) -> None:
        problem = Problem(
            file=self._file, line=line, field=dotted(path), found=found, expected=expected, mend=mend
        )
        self.problems.append(problem)


def check(document: Document, model: type[Model]) -> Model:
    """The document as the model. Raises DocumentError with every problem, in the order of the lines.

    The model speaks through its fields' descriptions: they are what a message says was expected.
    """
    if not isinstance(document.value, dict):
        found = shown(document.value)
        raise DocumentError((document.problem((), found, f"a mapping with {_fields(model)}"),))
    try:
        return model.model_validate(document.value)
    except ValidationError as error:
        problems = [_translated(document, model, detail) for detail in error.errors(include_url=False)]
        raise DocumentError(in_order(problems)) from None


def in_order(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    """Problems from the top of the file to its bottom, none twice."""
    return tuple(dict.fromkeys(sorted(problems, key=lambda problem: (problem.line or 0, problem.field))))


def _translated(document: Document, root: type[BaseModel], detail: ErrorDetails) -> Problem:
    path: Path = tuple(detail["loc"])
    parent, name = _model_at(root, path[:-1]), path[-1] if path else ""
    context = detail.get("ctx", {})
    if detail["type"] == "extra_forbidden":
        known = list(parent.model_fields) if parent else []
        # A key that is not there yet is likelier to be meant than one that is.
        absent = [key for key in known if (*path[:-1], key) not in document.lines]
        near = [
            *difflib.get_close_matches(str(name), absent, n=1),
            *difflib.get_close_matches(str(name), known, n=1),
        ]
        mend = f"Did you mean {near[0]!r}?" if near else "Remove it, or see which keys there are"
        return document.problem(path, f"the unknown key {name!r}", f"one of {', '.join(known)}", mend)
    here = _model_at(root, path)
    expected = context.get("expected") or _description(root, path)
    expected = str(expected or (f"a mapping with {_fields(here)}" if here else detail["msg"]))
    advice = str(context["mend"]) if "mend" in context else None
    if detail["type"] == "missing":
        return document.problem(path, "nothing", expected, advice or f"Add the key {name!r}")
    found = str(context.get("found") or shown(detail["input"]))
    return document.problem(path, found, expected, advice)


def _description(root: type[BaseModel], path: Path) -> str | None:
    """The description of the field at a path; of the list around it, for an item of a list."""
    for length in range(len(path), 0, -1):
        if isinstance(path[length - 1], int):
            continue
        parent = _model_at(root, path[: length - 1])
        field = parent.model_fields.get(str(path[length - 1])) if parent else None
        return field.description if field else None
    return None


def _model_at(root: type[BaseModel], path: Path) -> type[BaseModel] | None:
    """The model class that describes the mapping at a path."""
    here: type[BaseModel] | None = root
    key_follows = False  # the next step is a key of a mapping, which no class names
    for step in path:
        if isinstance(step, int) or key_follows:
            key_follows = False
            continue
        field = here.model_fields.get(step) if here else None
        here = next(_models(field.annotation), None) if field else None
        key_follows = field is not None and get_origin(field.annotation) is dict
    return here


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, list, tuple, dict):
        for inner in get_args(annotation):
            yield from _models(inner)


def _fields(model: type[BaseModel]) -> str:
    return ", ".join(model.model_fields)
