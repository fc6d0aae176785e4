"""Which files beside the weights decide how a version answers, and what are their hashes?

Known from tags of the version (`artefact.tokenizer.json` = `sha256:...`), or from a folder that the operator
names. Files are hashed, and JSON settings are compared by name; nothing is ever loaded as code or unpickled,
and weights are not touched.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from evaluators.errors import EvaluatorError
from evaluators.preflight.drift import changed

TAG: Final = "artefact."
FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "config.json",
)
_MAX_SETTINGS: Final = 1024 * 1024


class NoFolder(EvaluatorError):
    """The folder that was named is none, or has none of the files."""


def of_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    """File name to hash, from a version's tags."""
    return {
        name.removeprefix(TAG): str(value)
        for name, value in tags.items()
        if name.startswith(TAG) and str(value)
    }


def of_folder(folder: Path) -> dict[str, str]:
    """File name to `sha256:...` of the known files in a folder. Raises NoFolder. Links that lead out of the
    folder are not followed."""
    root = folder.resolve()
    found = {}
    for name in FILES:
        path = (root / name).resolve()
        if path.is_file() and path.is_relative_to(root):
            with path.open("rb") as file:
                found[name] = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    if not found:
        raise NoFolder(
            f"{folder} has none of {', '.join(FILES)}: name the folder that the engine serves from"
        )
    return found


def changed_settings(control: Path | None, candidate: Path | None) -> dict[str, list[str]]:
    """By JSON file that is small enough to be settings: which of them differ, as `name one -> other`."""
    if control is None or candidate is None:
        return {}
    found = {}
    for name in FILES:
        left, right = _settings(control / name), _settings(candidate / name)
        if left is not None and right is not None and (changes := changed(left, right)):
            found[name] = changes
    return found


def _settings(path: Path) -> dict[str, Any] | None:
    try:
        if path.suffix != ".json" or path.stat().st_size > _MAX_SETTINGS:
            return None
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
