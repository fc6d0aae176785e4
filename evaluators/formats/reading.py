"""Which JSON objects, rows or documents does a foreign file hold? Files only, no meaning."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as parquet
import yaml

from evaluators.formats.draft import ImportRefused
from experiments.document import NOT_OF_ITS_KIND

_MAX_BYTES: Final = 256 * 1024 * 1024
csv.field_size_limit(max(csv.field_size_limit(), _MAX_BYTES))  # a cell may be a document


class _Plain(yaml.SafeLoader):
    """YAML without moments: a date is the text that stands there, as in the JSON that the items become."""


_Plain.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def text_of(path: Path) -> str:
    """The file's text. Raises ImportRefused."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ImportRefused(f"{path} has more than {_MAX_BYTES} bytes; split it")
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ImportRefused(f"{path} cannot be read: {error}") from None


def objects(path: Path) -> list[Any]:
    """The values of a .json (one value, or the members of its list) or .jsonl file."""
    text = text_of(path)
    try:
        whole = json.loads(text)
        return whole if isinstance(whole, list) else [whole]
    except (ValueError, RecursionError):
        pass
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise ImportRefused(f"{path}:{number} is no JSON ({error})") from None
    return found


def document(path: Path) -> Any:
    """The value of a YAML (or JSON) document; tags that would make Python objects are refused."""
    try:
        return yaml.load(text_of(path), _Plain)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ImportRefused(f"{path}{line} is no YAML ({error.problem})") from None
    except (yaml.YAMLError, RecursionError, *NOT_OF_ITS_KIND) as error:
        raise ImportRefused(f"{path} is no YAML: {error!r}") from None


def table(path: Path) -> list[dict[str, Any]]:
    """The rows of a .csv, .tsv, .parquet, .json or .jsonl file by column."""
    kind = path.suffix.lower()
    if kind == ".parquet":
        try:
            found: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
        except (OSError, ValueError) as error:  # pyarrow's own errors are among these
            raise ImportRefused(f"{path} is no Parquet file: {error}") from None
        return found
    if kind in (".csv", ".tsv"):
        reader = csv.DictReader(
            io.StringIO(text_of(path), newline=""), delimiter="\t" if kind == ".tsv" else ","
        )
        try:
            return [_whole_row(path, number, row) for number, row in enumerate(reader, start=2)]
        except csv.Error as error:
            raise ImportRefused(f"{path} is no table: {error}") from None
    rows = objects(path)
    for row in rows:
        if not isinstance(row, Mapping):
            raise ImportRefused(f"{path} holds {type(row).__name__} where rows (JSON objects) are expected")
    return [dict(row) for row in rows]


def _whole_row(path: Path, number: int, row: Mapping[Any, Any]) -> dict[str, Any]:
    if None in row:
        raise ImportRefused(f"{path}: record {number} has more cells than the header has columns")
    return {str(name): value if value is not None else "" for name, value in row.items()}
