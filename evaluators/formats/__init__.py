"""How does a golden set come from other tools' files and from the ledger, and how do results go to them?

One module per foreign format; `IMPORTS` and `EXPORTS` name them. What cannot be imported is listed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from evaluators.formats import inspect_samples, mlflow_records, openai_evals, openai_hosted, promptfoo, tables
from evaluators.formats.draft import Draft, ImportRefused, Refusal, settled, write_set
from evaluators.formats.options import ImportOptions

Importer = Callable[[Sequence[Path], ImportOptions], Draft]

IMPORTS: Final[dict[str, Importer]] = {
    module.NAME: module.read
    for module in (openai_evals, openai_hosted, promptfoo, mlflow_records, inspect_samples, tables)
}


def import_files(format_: str, paths: Sequence[Path], options: ImportOptions) -> Draft:
    """What the files hold as golden items, settled. Raises ImportRefused."""
    if format_ not in IMPORTS:
        raise ImportRefused(f"no format {format_!r}; there are {', '.join(sorted(IMPORTS))}")
    return settled(IMPORTS[format_](paths, options))


__all__ = [
    "IMPORTS",
    "Draft",
    "ImportOptions",
    "ImportRefused",
    "Refusal",
    "import_files",
    "settled",
    "write_set",
]
