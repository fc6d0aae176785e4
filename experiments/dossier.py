"""What must be kept of a verdict, so that somebody else reaches it again, to the same byte?

A folder: what was declared (`spec.yaml`, `spec.json`), the looks before (`looks.json`), the sums
(`evidence.json`), the rows that they are of (`*.parquet`), the verdict (`verdict.json`), and by which code
it was reached (`code.json`).
`replay` makes the sums from the rows and the verdict from the sums, and says whether they are the same.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson
from pydantic import TypeAdapter, ValidationError

from .evidence import AnalysisSpec, Evidence, Look
from .ledger.dossier import regather
from .verdict import Verdict, conclude

T = TypeVar("T")

CODE: Final = "code.json"
_PACKAGES: Final = ("turnout-llm", "numpy", "scipy", "duckdb")


class DossierError(Exception):
    """The folder is none that `turnout report` wrote, or a file in it is missing or was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was compared, whether it was the same, and what differs if not."""

    what: str
    same: bool
    detail: str = ""


def documents(
    spec: AnalysisSpec, evidence: Evidence, looks: tuple[Look, ...], verdict: Verdict
) -> dict[str, bytes]:
    """The folder's JSON files but `code.json`, by name."""
    return {
        "spec.json": _bytes(asdict(spec)),
        "evidence.json": _bytes(asdict(evidence)),
        "looks.json": _bytes([asdict(look) for look in looks]),
        "verdict.json": verdict.to_json(),
    }


def seal(folder: Path) -> None:
    """Write `code.json`: by which code the verdict was reached, and the digest of every other file."""
    files = {file.name: _digest(file) for file in sorted(folder.iterdir()) if file.name != CODE}
    (folder / CODE).write_bytes(_bytes({"files": files, **code()}))


def code() -> dict[str, Any]:
    """The versions of what computes a verdict, and a digest of the statistics' own source."""
    source = sha256()
    room = Path(__file__).parent
    for file in sorted(room.rglob("*.py")):
        source.update(file.relative_to(room).as_posix().encode() + b"\0" + file.read_bytes())
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "experiments": source.hexdigest(),
    }


def replay(folder: Path) -> list[Check]:
    """Sums from the rows, the verdict from the sums, and whether each is what the folder says.

    Raises DossierError if the folder cannot be read.
    """
    sealed = _json(folder, CODE)
    files = sealed.get("files")
    if not isinstance(files, dict) or not files:
        raise DossierError(f"{folder / CODE} is not as it was written: it has no digests of the other files")
    changed = [name for name, digest in files.items() if not _is(folder / name, digest)]
    spec = _read(folder, "spec.json", TypeAdapter(AnalysisSpec))
    evidence = _read(folder, "evidence.json", TypeAdapter(Evidence))
    looks = _read(folder, "looks.json", TypeAdapter(tuple[Look, ...]))
    again = regather(folder, spec, evidence)
    differing = [name for name in asdict(evidence) if getattr(evidence, name) != getattr(again, name)]
    stored, written = _content(folder, "verdict.json"), _json(folder, "verdict.json")
    reached = conclude(spec, again, past_looks=looks).to_json()
    after = orjson.loads(reached)
    fields = [name for name in sorted({*written, *after}) if written.get(name) != after.get(name)]
    return [
        Check(what="files as they were written", same=not changed, detail=", ".join(changed)),
        _computed("sums from the rows", not differing, differing, sealed),
        _computed("verdict from the sums", reached == stored, fields, sealed),
    ]


def written_by(folder: Path) -> str | None:
    """By which code a folder was written, in words, with what this one is; None where it is this one."""
    sealed, here = _json(folder, CODE), code()
    if all(sealed.get(name) == value for name, value in here.items()):
        return None
    return f"{_in_words(sealed)}; this is {_in_words(here)}"


def _in_words(code: Mapping[str, Any]) -> str:
    packages = code.get("packages")
    known = packages if isinstance(packages, dict) else {}
    named = ", ".join(f"{name} {number}" for name, number in known.items() if number)
    return f"{named}, Python {code.get('python')}, rules {str(code.get('experiments'))[:12]}"


def _computed(what: str, same: bool, differing: Sequence[str], sealed: Mapping[str, Any]) -> Check:
    """What was computed again, and where it differs: in which fields, and whether by another code."""
    if same:
        return Check(what=what, same=True)
    other = [name for name, value in code().items() if sealed.get(name) != value]
    by_another = f"; another code computes it ({', '.join(other)})" if other else ""
    return Check(what=what, same=False, detail=", ".join(differing) + by_another)


def _bytes(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)


def _is(file: Path, digest: str) -> bool:
    return file.is_file() and _digest(file) == digest


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        found = sha256()
        while block := opened.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def _content(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        message = f"{folder / name} cannot be read ({error}): name a folder that `turnout report` wrote"
        raise DossierError(message) from None


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        found = orjson.loads(_content(folder, name))
    except orjson.JSONDecodeError as error:
        raise DossierError(f"{folder / name} is no JSON: {error}") from None
    return found if isinstance(found, dict) else {}


def _read(folder: Path, name: str, shape: TypeAdapter[T]) -> T:
    try:
        return shape.validate_json(_content(folder, name))
    except ValidationError as error:
        first = error.errors()[0]
        where = f", at {'.'.join(map(str, first['loc']))}" if first["loc"] else ""
        raise DossierError(f"{folder / name} is not as it was written{where}: {first['msg']}") from None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
