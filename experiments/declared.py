"""What do the files of a folder declare together: which experiments, and which settings?

Text in, values out. All files are read before anything is said, so that every problem of every file is told
at once. Knows nothing of what is running.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

import yaml

from .config import CODE as WRONG_SETTINGS
from .config import Declared, read_config
from .decision import EVALUATORS_FILE, SETTINGS_FILE
from .document import read_document, shown
from .errors import DocumentError, Problem
from .spec import ExperimentSpec, read_spec

#: What the evaluators' file may have at its top; the rest is theirs to check (evaluators.automation).
_EVALUATORS_FIELDS: Final = frozenset(("gate", "online"))
_SEE: Final = "See docs/reference/evaluators.md"
MAX_FILES: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file as it was sent: the path is for the messages, its last part says what it is."""

    path: str
    text: str

    @property
    def name(self) -> str:
        return PurePath(self.path).name


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredExperiment:
    """An experiment's file and what it declares."""

    file: File
    spec: ExperimentSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredSettings:
    """The settings' file and what it declares."""

    file: File
    declared: Declared


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredEvaluators:
    """The evaluators' file, and the golden sets that it names, by model."""

    file: File
    sets: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """What is to be. `settings` and `evaluators` are None where the folder has no turnout.yaml, and no
    evaluators.yaml: then they stay as they are."""

    settings: DeclaredSettings | None
    evaluators: DeclaredEvaluators | None
    experiments: tuple[DeclaredExperiment, ...]


def read_folder(files: Sequence[File]) -> Folder:
    """Read every file. Raises DocumentError with all problems: an empty folder is one, too."""
    if not files:
        raise _wrong(
            "", "no file", f"{SETTINGS_FILE} or experiments' files (*.yaml)", "Is it the right folder?"
        )
    problems: list[Problem] = []
    settings: DeclaredSettings | None = None
    evaluators: DeclaredEvaluators | None = None
    experiments: dict[str, DeclaredExperiment] = {}
    codes: set[str] = set()
    for file in files:
        try:
            if file.name == SETTINGS_FILE:
                if settings is not None:
                    raise _wrong(file.path, f"{SETTINGS_FILE} a second time", "it once", None)
                settings = DeclaredSettings(file=file, declared=read_config(file.text, file.path))
                continue
            if file.name == EVALUATORS_FILE:
                if evaluators is not None:
                    raise _wrong(file.path, f"{EVALUATORS_FILE} a second time", "it once", None)
                evaluators = _evaluators(file)
                continue
            one = DeclaredExperiment(file=file, spec=read_spec(file.text, file.path))
            first = experiments.setdefault(one.spec.experiment, one)
            if first is not one:
                raise _twice(one, first)
        except DocumentError as error:
            codes.add(WRONG_SETTINGS if file.name == SETTINGS_FILE else error.code)
            problems += error.problems
    if problems:
        raise DocumentError(tuple(problems), code=codes.pop() if len(codes) == 1 else "invalid_files")
    return Folder(settings=settings, evaluators=evaluators, experiments=tuple(experiments.values()))


def _evaluators(file: File) -> DeclaredEvaluators:
    """As far as it can be read here: not torn, not empty, nothing but what it may have."""
    document = read_document(file.text, file.path)
    value = document.value
    if not isinstance(value, dict) or not value:
        raise DocumentError((document.problem((), shown(value), "gate, online or both", _SEE),))
    strange = [name for name in value if name not in _EVALUATORS_FIELDS]
    if strange:
        problems = (document.problem((name,), shown(name), "gate or online", _SEE) for name in strange)
        raise DocumentError(tuple(problems))
    gates = value.get("gate")
    named = gates.items() if isinstance(gates, dict) else ()
    sets = [(str(model), gate.get("set")) for model, gate in named if isinstance(gate, dict)]
    return DeclaredEvaluators(file=file, sets={model: at for model, at in sets if isinstance(at, str)})


def _wrong(path: str, found: str, expected: str, mend: str | None) -> DocumentError:
    problem = Problem(file=path, line=None, field="", found=found, expected=expected, mend=mend)
    return DocumentError((problem,))


def _twice(one: DeclaredExperiment, first: DeclaredExperiment) -> DocumentError:
    problem = Problem(
        file=one.file.path,
        line=None,
        field="experiment",
        found=f"{one.spec.experiment!r} a second time",
        expected=f"it once (the first is in {first.file.path})",
        mend="Give one of the two another name",
    )
    return DocumentError((problem,))


# -- differences, for people -------------------------------------------------------------------------------


def difference(before: str, after: str, path: str) -> tuple[str, ...]:
    """A unified diff of what is in force and what a file says, line by line; a text may be empty."""
    names = "in force" if before else "nothing", path if after else "nothing"
    return tuple(difflib.unified_diff(before.splitlines(), after.splitlines(), *names, lineterm=""))


def canonical(text: str) -> str:
    """An experiment's file as it is compared: what is written in it, in the reference's order of fields,
    without comments and layout. Empty for no text.
    """
    value = yaml.safe_load(text) if text else None
    if not isinstance(value, dict):
        return ""
    order = dict.fromkeys((*ExperimentSpec.model_fields, *value))
    ordered: dict[str, Any] = {key: _sorted(value[key]) for key in order if key in value}
    return yaml.safe_dump(ordered, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value
