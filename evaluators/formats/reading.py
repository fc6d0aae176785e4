"""Which JSON objects, rows or documents does a foreign file hold? Files only, no meaning."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
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
    """YAML 1.2, which other tools read: 12:30 and yes are texts there, and 010 is ten. A date is the text
    that stands there, as in the JSON that the items become. A key that is there twice is refused."""

    def whole_number(self, node: yaml.ScalarNode) -> int:
        """0x1F, 0o17, 0b11, and else a decimal number, whatever it begins with."""
        text = self.construct_scalar(node).replace("_", "")
        return int(text, 0) if _OF_ANOTHER_BASE.match(text) else int(text)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping. Raises yaml.constructor.ConstructorError for a key that is there twice."""
        seen = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is there twice", key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


_OF_ANOTHER_BASE: Final = re.compile(r"[-+]?0[xob]")
_READ_OTHERWISE: Final = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("timestamp", "bool", "int", "float"))
_Plain.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag not in _READ_OTHERWISE]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+|[0-9][0-9_]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
):
    _Plain.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_pattern})\\Z"), list(_first))
_Plain.add_constructor("tag:yaml.org,2002:int", _Plain.whole_number)


def text_of(path: Path) -> str:
    """The file's text. Raises ImportRefused."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ImportRefused(f"{path} has more than {_MAX_BYTES} bytes; split it")
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ImportRefused(
            f"{path}:{line} is no text in UTF-8 (byte 0x{error.object[error.start]:02x}): "
            "save it as UTF-8, with `iconv -f ISO-8859-1 -t UTF-8` for instance"
        ) from None
    except OSError as error:
        raise ImportRefused(f"{path} cannot be read: {error}") from None


def objects(path: Path) -> list[Any]:
    """The values of a .json (one value, or the members of its list) or .jsonl file. Raises ImportRefused."""
    return [value for _, value in numbered(path)]


def numbered(path: Path) -> list[tuple[int, Any]]:
    """The values of such a file with their lines, from 1; in a .json file with their places in its list.
    Raises ImportRefused."""
    text = text_of(path)
    try:
        whole = json.loads(text)
        return list(enumerate(whole if isinstance(whole, list) else [whole], start=1))
    except (ValueError, RecursionError) as error:
        fault = error
    found: list[tuple[int, Any]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                found.append((number, json.loads(line)))
            except (ValueError, RecursionError) as error:
                # One document over many lines has its fault elsewhere than in its first line.
                if found or path.suffix.lower() == ".jsonl" or not isinstance(fault, json.JSONDecodeError):
                    fault, at = error, number
                else:
                    at = fault.lineno
                raise ImportRefused(f"{path}:{at} is no JSON ({fault})") from None
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
        return _cells(path, "\t" if kind == ".tsv" else ",")
    rows = objects(path)
    for row in rows:
        if not isinstance(row, Mapping):
            raise ImportRefused(f"{path} holds {type(row).__name__} where rows (JSON objects) are expected")
    return [dict(row) for row in rows]


def _cells(path: Path, delimiter: str) -> list[dict[str, Any]]:
    """The rows of a table in text. Strict: a quote that nothing closes would take in all rows below it."""
    reader = csv.DictReader(io.StringIO(text_of(path), newline=""), delimiter=delimiter, strict=True)
    rows: list[dict[str, Any]] = []
    line = 1
    try:
        names = [name for name in reader.fieldnames or () if name]
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            raise ImportRefused(f"{path}:1 has the column {twice[0]!r} twice; name one of the two otherwise")
        while True:
            line = reader.line_num + 1
            row = next(reader, None)
            if row is None:
                return rows
            rows.append(_whole_row(path, line, row))
    except csv.Error as error:
        raise ImportRefused(f"{path}:{line} is no table: in the record that begins here, {error}") from None


def _whole_row(path: Path, line: int, row: Mapping[Any, Any]) -> dict[str, Any]:
    if None in row:
        raise ImportRefused(f"{path}:{line} has more cells than the header has columns")
    return {str(name): value if value is not None else "" for name, value in row.items()}
