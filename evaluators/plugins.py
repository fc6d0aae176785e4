"""Which evaluators come from outside: from installed packages, and from a golden set's own file?

Both are code that runs with the rights of whoever runs the golden set: neither is confined. A package
registers under the entry point group `turnout.evaluators` (a module that uses `@scorer`, or an `Evaluator`);
a set names files beside its set.yaml. The version of a file's evaluators carries a hash of the file, so that
scores before and after an edit are never compared.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Final

from evaluators.errors import EvaluatorUnusable
from evaluators.scorers.registry import (
    Evaluator,
    FunctionEvaluator,
    collecting,
    register,
    register_version,
    registered,
)

GROUP: Final = "turnout.evaluators"


@cache
def load_installed() -> None:
    """Register the evaluators of installed packages, once. Raises EvaluatorUnusable for a broken one."""
    register_entry_points(entry_points(group=GROUP))


def register_entry_points(points: Iterable[EntryPoint]) -> None:
    """Register what these entry points name. Raises EvaluatorUnusable with the one that is broken."""
    for point in points:
        try:
            loaded = point.load()  # a module registers its scorers as it is imported
            if not isinstance(loaded, ModuleType):
                register(loaded)
        except Exception as error:
            package = "a package" if point.dist is None else point.dist.name
            raise EvaluatorUnusable(
                f"the evaluators {point.value!r} of {package} cannot be loaded "
                f"({type(error).__name__}: {error}); mend or uninstall it"
            ) from error


def load_file(folder: Path, name: str) -> dict[str, Evaluator]:
    """Run the file `name` in `folder`, and make the scorers that it registers available to this set's checks.

    Raises EvaluatorUnusable when it lies elsewhere, cannot be run, or takes a name that every set has.
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or path.suffix != ".py":
        raise EvaluatorUnusable(f"{name!r}, which is no .py file in the folder of the set")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise EvaluatorUnusable(f"{name!r}, which cannot be read: {error.strerror}") from None
    digest = hashlib.sha256(source).hexdigest()[:12]
    with collecting() as found:
        _run(path, f"turnout_golden_{digest}")
    if not found:
        raise EvaluatorUnusable(f"{name!r}, which registers no scorer; put @scorer(...) above a function")
    own: dict[str, Evaluator] = {}
    for evaluator in found:
        if evaluator.name in registered() or evaluator.name in own:
            raise EvaluatorUnusable(
                f"{name!r}: there is a scorer {evaluator.name!r} already; rename this one"
            )
        if not isinstance(evaluator, FunctionEvaluator):
            raise EvaluatorUnusable(f"{name!r}: evaluators of a file are made with @scorer")
        own[evaluator.name] = replace(evaluator, version=f"{evaluator.version}+{digest}")
    for evaluator in own.values():
        register_version(evaluator)
    return own


def _run(path: Path, module_name: str) -> None:
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise EvaluatorUnusable(f"{path.name!r}, which is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pydantic look their module up while it runs
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a script's end is not ours: its code 0 would read as a pass
        del sys.modules[module_name]
        raise EvaluatorUnusable(
            f"{path.name!r}, which does not run ({type(error).__name__}: {error})"
        ) from error
